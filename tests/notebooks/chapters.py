"""What the checks of the notebooks share: which there are, and how a chapter is read."""

import ast
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))
APPENDICES = sorted((ROOT / "chapters").glob("appendix_*.ipynb"))

NOT_COMPARED = {"nbval-ignore-output", "nbval-skip"}


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def compared(notebook):
    """Cells whose stored output nbval compares: executed, with an output, and not marked as measured."""
    return [c for c in code(notebook) if c.execution_count and c.outputs and not tags(c) & NOT_COMPARED]


def faults_of_execution(notebook):
    """Why the stored run of a notebook proves nothing; empty if it does."""
    cells = code(notebook)
    counts = [cell.execution_count for cell in cells]
    found = [f"cell {i} was never executed" for i, count in enumerate(counts) if count is None]
    if not found and counts != list(range(1, len(cells) + 1)):
        found.append("the cells were not executed once, in order, from a fresh kernel")
    if any(o.output_type == "error" for cell in cells for o in cell.outputs):
        found.append("an error is stored")
    if len(compared(notebook)) < max(3, len(cells) // 4):
        found.append(f"only {len(compared(notebook))} of {len(cells)} cells are compared")
    return found


UNIT = (
    r"(?:%|×(?!\s?\d)|x\b|倍|times\b|percent\b|-?fold\b|points?\b"
    r"|[kMGT]i?B\b|bytes?\b|[kMGT]?bit/s|[kMGT]?B/s|[munµμ]?s\b|(?:micro|milli|nano)?seconds?\b|minutes?\b|hours?\b"
    r"|[kMGT]?FLOPs?\b|[kMG]?Hz\b|[mkM]?[WJ]\b|images per second)"
)
MEASUREMENT = re.compile(rf"\b\d[\d,.]*[ \u00a0]?{UNIT}")


def typed_measurements(markdown):
    """Numbers with a measured unit in prose. What is quoted or in code is somebody's words, not a claim."""
    prose = re.sub(r"```.*?```|`[^`]*`|“[^”]*”|\"[^\"]*\"|\$[^$]*\$", "", markdown, flags=re.DOTALL)
    prose = re.sub(r"95 % (?:interval|confidence)|\*\*Time\*\* .*", "", prose)  # a convention; how long to plan for
    return MEASUREMENT.findall(prose)


def typed_in_code(source):
    """The same in the strings of a code cell, which it shows as sentences."""
    tree = ast.parse(source)
    formats = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, ast.FormattedValue) and f.format_spec
        for n in ast.walk(f.format_spec)
    }  # the ".0%" of an f-string is no text
    strings = [
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in formats
    ]
    return [found for text in strings for found in typed_measurements(text)]


OPENING = ("**You will**", "**You will learn**", "**You need**", "**Time**")
CLOSING = ("## Take-aways", "## Problems", "## Recipe", "## What this chapter ignores", "## Check yourself", "## 小结")


def faults_of_form(notebook, appendix=False):
    """What a chapter's form lacks. An appendix is not of the article, and has no quiz."""
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    whole = "\n".join(prose)
    found = [f"the opening lacks {part}" for part in OPENING if part not in prose[0]]
    found += [f"no heading {part!r}" for part in CLOSING if f"\n{part}" not in f"\n{whole}"]
    if appendix:
        found = [fault for fault in found if "Check yourself" not in fault]
    if whole.count("<details>") < 3 or whole.count("<details>") != whole.count("</details>"):
        found.append("fewer than three problems with a folded answer, or one that does not close")
    if "> **What the article says.**" not in whole and not appendix:
        found.append("nothing that the article says is corrected")
    if not re.search(r"[\u4e00-\u9fff]{2,}", prose[0]):
        found.append("no term is given in Chinese at its first use")
    found += [f"a cell of {n} lines" for c in code(notebook) if (n := len(c.source.splitlines())) > 15]
    return found
