"""The book, built once for the tests that look at it, and what its sources say about it."""

import os
from pathlib import Path

import filelock
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
HOME = "https://github.com/example/hwlimits"  # for the buttons; nothing is fetched from there


def missing(what: str) -> None:
    """Leave a test out for what is not on this computer, and say so; where CI should have installed it, fail."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(f"left out: {what}")


def chapter_names() -> list[str]:
    return sorted(path.stem for path in (ROOT / "chapters").glob("*.ipynb"))


def api_modules() -> list[str]:
    """Dotted names from the files alone."""
    names = []
    for path in (ROOT / "lib" / "hwlimits").rglob("*.py"):
        dotted = str(path.relative_to(ROOT / "lib"))[: -len(".py")].replace("/", ".")
        if not dotted.endswith(".__main__"):
            names.append(dotted.removesuffix(".__init__"))
    return names


def markdown_of(notebook) -> list[str]:
    """What a notebook shows as Markdown: its cells, and what its code prints as such."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found.append(cell.source)
        elif cell.cell_type == "code":
            found += [o.data["text/markdown"] for o in cell.outputs if "text/markdown" in o.get("data", {})]
    return found


def formulas_of(name: str, count) -> int:
    notebook = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
    return sum(count(text) for text in markdown_of(notebook))


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the book, built once, also for several processes of tests beside each other."""
    import make
    import web_files

    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    folder = common / "book"
    with filelock.FileLock(f"{folder}.lock"):
        if not (folder / "html").exists():
            try:
                web_files.fetch(make.BUILD / "web")
            except web_files.WebFilesError as error:
                missing(f"the tests of the book. {error}")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HWLIMITS_HOME", HOME)
                make.build(make.stage(folder / "source"), folder / "html")
    return folder / "html"
