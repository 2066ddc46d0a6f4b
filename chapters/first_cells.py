"""Write what opens a chapter elsewhere: links to Colab, Kaggle and Binder, and the first cell, which gets the library.

`python chapters/first_cells.py` writes them into chapters/text/*.md and chapters/*.ipynb, and data/chapters.json, which
says what packages each chapter needs; with --check it says in one sentence what is out of step. The course's public
home stands in one place, [project.urls] of pyproject.toml: `--home https://github.com/OWNER/NAME` writes it there.
Without a home there are no links, and the first cell takes a wheel of the library that lies beside the notebook.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from hwlimits import runtime

ROOT = Path(__file__).resolve().parents[1]
TAG = "hwlimits-runtime"
METADATA = {"jupyter": {"source_hidden": True}, "tags": ["hide-input", "nbval-ignore-output", TAG]}
HOME = re.compile(r"https://github\.com/([\w-]+/[\w.-]+)")
LINKS = re.compile(r"\n\n\*\*Open in\*\* .*")
# What a chapter's processes took at most, in GB, rounded up; chapter 08 starts as many of them as find room.
MEMORY_GB = {
    "00": 0.4, "01": 2.2, "02": 1.3, "03": 1.4, "04": 1.3, "05": 1.5, "06": 1.8, "07": 1.3, "08": 2.0, "09": 1.6,
    "10": 6.5,
}  # fmt: skip

CELL = """\
import glob, importlib.util, os, subprocess, sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("This course needs Python 3.11, 3.12 or 3.13, and this is %d.%d." % sys.version_info[:2])
if not importlib.util.find_spec("hwlimits"):  # in Colab and Kaggle: get the library alone, and replace nothing
    sources = [*glob.glob("hwlimits-*.whl"), *glob.glob("/kaggle/input/**/hwlimits-*.whl", recursive=True){source}]
    if not sources or not {{"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"}} & set(os.environ):
        sys.exit("hwlimits is not installed here: {advice}.")
    print("Getting", sources[0])
    if subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", sources[0]]).returncode:
        sys.exit("pip could not get the library, and says above why (in Kaggle, Internet must be on under Settings).")
from hwlimits import runtime

runtime.check("{chapter}")"""


def home(root: Path = ROOT) -> str:
    """The course's public home, '' if pyproject.toml names none. Raises ValueError for one that is not on GitHub."""
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    return checked_home(urls["Repository"]) if "Repository" in urls else ""


def checked_home(url: str) -> str:
    """The address without a slash at its end. Raises ValueError where Colab, Kaggle and Binder can't open it."""
    if not HOME.fullmatch(url.rstrip("/")):
        raise ValueError(f"the home {url!r} is not of the form https://github.com/OWNER/NAME, which Colab can open")
    return url.rstrip("/")


def write_home(url: str, root: Path = ROOT) -> None:
    """Set the home in pyproject.toml. Raises ValueError as `checked_home` does."""
    path = root / "pyproject.toml"
    line, text = f'[project.urls]\nRepository = "{checked_home(url)}"\n', path.read_text(encoding="utf-8")
    text = re.sub(r"\[project\.urls\]\n(.+\n)*\n", "", text)
    path.write_text(text.replace("[project.scripts]\n", f"{line}\n[project.scripts]\n"), encoding="utf-8")


def supported(minor: str) -> bool:
    """Whether the course runs on a version of Python, such as "3.12", by pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return runtime.requirement(f"python{project['requires-python']}").specifier.contains(minor)


def cell(chapter: str, address: str) -> str:
    """The source of a chapter's first cell."""
    source, advice = f', "git+{address}"' if address else "", "say make lab in the course's folder"
    if not address:
        advice += "; in Colab put its wheel (make wheel) beside this notebook, in Kaggle among its inputs"
    return CELL.format(source=source, advice=advice, chapter=chapter)


def links(chapter: str, address: str) -> str:
    """The line that opens a chapter elsewhere; '' without a home."""
    if not address:
        return ""
    file, name = f"chapters/{chapter}.ipynb", HOME.fullmatch(address)[1]
    there = {
        "Colab": f"https://colab.research.google.com/github/{name}/blob/main/{file}",
        "Kaggle": f"https://www.kaggle.com/kernels/welcome?src={address}/blob/main/{file}",
        "Binder": f"https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/{file}",
    }
    return "**Open in** " + " · ".join(f"[{place}]({url})" for place, url in there.items())


def put(notebook, chapter: str, address: str) -> None:
    """Write links and first cell into a notebook, in place of those that are there; its other cells stay."""
    opening = LINKS.sub("", notebook.cells[0].source)
    notebook.cells[0].source = "\n\n".join(filter(None, [opening, links(chapter, address)]))
    source = cell(chapter, address)
    if TAG in notebook.cells[1].metadata.get("tags", []):
        if notebook.cells[1].source != source:
            notebook.cells[1] |= {"source": source, "outputs": [], "execution_count": None}
        notebook.cells[1].metadata = nbformat.from_dict(METADATA)
    else:
        notebook.cells.insert(1, new_code_cell(source, metadata=nbformat.from_dict(METADATA), id=TAG))


def packages(code: str, library: Path = ROOT / "lib") -> list[str]:
    """The requirements of the project that code imports, itself or through the parts of hwlimits that it uses.

    Those of an extra count only where code needs it: hwlimits.pytorch.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    seen, todo = set(), set(imports(code))
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        if module.startswith("hwlimits"):
            todo |= {module.rpartition(".")[0]} - {""}
            path = library.joinpath(*module.split("."))
            if found := next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None):
                todo |= imports(found.read_text(encoding="utf-8"))
            elif module.startswith("hwlimits.training.keras."):
                todo |= {later(library).get(module.rpartition(".")[2], "")} - {""}
    extra = project["optional-dependencies"].get("pytorch", []) if "hwlimits.pytorch" in seen else []
    known = {re.match(r"[\w.-]+", text)[0] for text in [*project["dependencies"], *extra]}
    names = {"yaml": "pyyaml"} | {name.replace("-", "_"): name for name in known}
    return sorted({names[m.split(".")[0]] for m in seen if m.split(".")[0] in names})


@cache
def imports(code: str) -> frozenset[str]:
    """Modules that code imports, in functions, too; `from a import b` names a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def later(library: Path) -> dict[str, str]:
    """What hwlimits.training.keras imports when it is asked for, by its name there."""
    tree = ast.parse((library / "hwlimits/training/keras.py").read_text(encoding="utf-8"))
    table = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "_LATER")
    return ast.literal_eval(table)


def written(root: Path = ROOT) -> dict[Path, str]:
    """Each file as it should be."""
    found, all_needs, address = {}, {}, home(root)
    for text in sorted((root / "chapters" / "text").glob("*.md")):
        notebook = jupytext.read(text)
        put(notebook, text.stem, address)
        found[text] = jupytext.writes(notebook, fmt="md:myst")
        wanted = packages("\n".join(c.source for c in notebook.cells if c.cell_type == "code"))
        all_needs[text.stem] = {"packages": wanted, "memory_bytes": 1e9 * MEMORY_GB.get(text.stem[:2], 2.0)}
        executed = root / "chapters" / f"{text.stem}.ipynb"
        if executed.exists():
            notebook = nbformat.read(executed, as_version=4)
            put(notebook, text.stem, address)
            found[executed] = nbformat.writes(notebook) + "\n"
    found[root / "data" / "chapters.json"] = json.dumps(all_needs, indent=1) + "\n"
    return found


def execute_first(path: Path) -> None:
    """Run the first cell of a notebook if that alone was changed: what it says stays with the others' outputs."""
    notebook = nbformat.read(path, as_version=4)
    first, *others = [c for c in notebook.cells if c.cell_type == "code"]
    if first.execution_count is None and others and others[0].execution_count == 2:
        alone = new_notebook(cells=[first])
        place = {"metadata": {"path": str(path.parent)}}
        NotebookClient(alone, kernel_name="python3", resources=place, record_timing=False).execute()
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    """Write the files, or with --check say which are out of step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--home", help="the course's public home, https://github.com/OWNER/NAME")
    options = parser.parse_args(arguments)
    try:
        if options.home is not None:
            write_home(options.home, root)
        files = written(root)
    except ValueError as error:
        sys.exit(f"{error}.")
    stale = {path: text for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text}
    if stale and options.check:
        names = ", ".join(str(path.relative_to(root)) for path in stale)
        sys.exit(f"{names}: out of step with chapters/first_cells.py; run make first-cells.")
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".ipynb":
            execute_first(path)


if __name__ == "__main__":
    main()
