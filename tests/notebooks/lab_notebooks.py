"""What the tests of the labs share: labs as they are, as students get them, as somebody wrong would hand them in."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import nbformat

matplotlib.use("Agg")  # a lab is run in this process, without a window

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "labs" / "source").glob("*/*.ipynb"))
MARKERS = re.compile(r"###\s*(BEGIN|END) (SOLUTION|HIDDEN TESTS)")


@dataclass(frozen=True)
class Wrong:
    """A plausible wrong answer: what to put into the lab's solution instead, and what the student is told."""

    name: str
    old: str  # in a solution of the lab, once
    new: str
    cell: str  # the check that finds it
    message: str  # a regular expression


def read(path: Path):
    return nbformat.read(path, as_version=4)


def graded(cell) -> dict:
    return cell.metadata.get("nbgrader", {})


def released(notebook):
    """The notebook as `nbgrader generate_assignment` makes it, by nbgrader's own steps, as the labs configure them."""
    from nbgrader.preprocessors import ClearHiddenTests, ClearOutput, ClearSolutions, LockCells
    from traitlets.config import PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT / "labs")).load_config()
    for step in (LockCells(), ClearSolutions(config=config), ClearOutput(), ClearHiddenTests()):
        notebook, _ = step.preprocess(notebook, {})
    return notebook


def without_hidden_tests(notebook):
    """The solution with the checks that a student sees."""
    from nbgrader.preprocessors import ClearHiddenTests

    return ClearHiddenTests().preprocess(notebook, {})[0]


def with_answer(notebook, wrong: Wrong):
    """The lab with one wrong answer in a solution. The text to replace must be in exactly one solution, once."""
    places = [
        c for c in notebook.cells if graded(c).get("solution") and c.cell_type == "code" and wrong.old in c.source
    ]
    assert len(places) == 1, f"{wrong.name}: {wrong.old!r} is in {len(places)} solutions"
    assert places[0].source.count(wrong.old) == 1, f"{wrong.name}: {wrong.old!r} is there several times"
    places[0].source = places[0].source.replace(wrong.old, wrong.new)
    return notebook


def failures(notebook, *, go_on: bool = True) -> dict[str, BaseException]:
    """Run the code cells in this process, in order; what failed, by the cell's grade_id or its position."""
    names, found = {"__name__": "lab"}, {}
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        key = graded(cell).get("grade_id", f"cell {index}")
        try:
            exec(compile(ast.parse(cell.source), f"<{key}>", "exec"), names)
        except Exception as error:
            found[key] = error
            if not go_on:
                break
    return found


def imports(source: str) -> set[str]:
    """The modules of hwlimits that code imports; names imported from a package count as its modules."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("hwlimits")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hwlimits"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found
