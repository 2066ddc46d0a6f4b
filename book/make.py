"""Make the book, the course as a web site that works without a network: `make book`.

What Sphinx reads is put together in build/book/source: the notebooks as they were executed (they are not run again),
the pages of this folder, the glossary from data/glossary.yaml, a page for each module of the library, and what a
browser runs. Then Sphinx writes build/book/html. A warning is an error, and the last site stays until the new one is
whole.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import glossary
import nbformat
import not_run
import web_files
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from hwlimits import errata

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
BUILD = ROOT / "build" / "book"
LIBRARY = ROOT / "lib"
# A lab is worked in, not read: it has no page, and its link fetches the notebook.
LAB = re.compile(r"\[([^\]]+)\]\((\.\./labs/[^)\s]+\.ipynb)\)")
# Packages by what they are for, in the order of the pages; what is in none of them needs no more than NumPy and SciPy.
PARTS = {
    "Formulas and algorithms, in NumPy (a few with SciPy)": None,
    "hwlimits.kernels: loops compiled by numba": "kernels",
    "hwlimits.machine: this computer": "machine",
    "hwlimits.training: networks, in TensorFlow": "training",
    "hwlimits.widgets, and other things to look at: explorers, questions, figures": "widgets",
    "hwlimits.sweep: many runs": "sweep",
    "hwlimits.pytorch: the appendix's network": "pytorch",
    "hwlimits.xla: JAX's device": "xla",
    "hwlimits.cli: the command": "cli",
}
# Modules that are in no package, and stand beside one.
BESIDE = {"plots": "widgets", "quiz": "widgets", "runtime": "machine"}


class BookError(RuntimeError):
    """A book that can't be made; the text says what to do."""


def chapters() -> list[Path]:
    """The notebooks in the order of the course; an index comes first, and an appendix last."""
    found = sorted((ROOT / "chapters").glob("*.ipynb"))
    return sorted(found, key=lambda path: (path.stem.startswith("appendix_"), path.stem[:1].isdigit()))


def modules(library: Path = LIBRARY) -> list[str]:
    """The library's modules by their dotted names; __main__ is what a command runs, and no module to read."""
    paths = [path for path in sorted((library / "hwlimits").rglob("*.py")) if path.stem != "__main__"]
    return [".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__") for path in paths]


def staged_notebook(path: Path) -> nbformat.NotebookNode:
    """A chapter as the book shows it: each figure with its words, and no state of widgets, which need a kernel.

    Raises BookError for a chapter that was not executed, or a cell with two figures: one of them would lose its words.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for at, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            cell.source = LAB.sub(r"{download}`\1 <\2>`", cell.source)
            continue
        if cell.source.strip() and cell.execution_count is None:
            raise BookError(f"{path.name}, cell {at}, was not executed: say `make execute`.")
        figures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        if len(figures) > 1:
            raise BookError(f"{path.name}, cell {at}, shows {len(figures)} figures: give each a cell.")
        for figure in figures:
            alt = figure.metadata.get("image/png", {}).get("alt")
            if not alt:
                raise BookError(f"{path.name}, cell {at}: a figure without words; show it by hwlimits.plots.show.")
            cell.metadata["mystnb"] = {"image": {"alt": alt}}
    return notebook


def linked_files(notebook: nbformat.NotebookNode, folder: Path) -> list[Path]:
    """Files of the repository that a chapter links, so that the links lead somewhere in the site too."""
    found = set()
    for cell in notebook.cells:
        for link, fetched in links(cell.source) if cell.cell_type == "markdown" else ():
            parts = urlsplit(link)
            path = (folder / unquote(parts.path)).resolve()
            if parts.path and not parts.scheme and not parts.netloc and (fetched or path.suffix != ".ipynb"):
                found.add(path)
    return sorted(found)


def links(text: str) -> Iterator[tuple[str, bool]]:
    """Where a Markdown text leads, as MyST reads it: (target, whether it is to be fetched, and has no page)."""
    for block in create_md_parser(MdParserConfig(enable_extensions={"dollarmath"}), RendererHTML).parse(text):
        for token in block.children or ():
            if target := token.attrGet("href") or token.attrGet("src"):
                yield target, False
            elif token.type == "myst_role" and token.meta["name"] == "download":
                yield token.content.partition("<")[2].removesuffix(">") or token.content, True


def api_page(module: str) -> str:
    title = module.replace("_", r"\_")
    return f"{title}\n{'=' * len(title)}\n\n.. automodule:: {module}\n"


def api_index(names: list[str]) -> str:
    """The list of modules, by part, each with the first line of its docstring."""
    lines = [
        "# The library",
        "",
        "Each page is made from the module's own docstrings; their examples are run as tests.",
    ]
    for title, part in PARTS.items():
        own = [name for name in names if part_of(name) == part]
        lines += ["", f"## {title}", "", "```{toctree}", ":hidden:", "", *own, "```", ""]
        for name in own:
            path = LIBRARY / Path(*name.split("."))
            source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
            first = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
            lines.append(f"- [{name}]({name}.rst): {markdown_escaped(first)}")
    return "\n".join([*lines, ""])


def part_of(module: str) -> str | None:
    package = module.split(".")[1] if "." in module else None
    package = BESIDE.get(package, package)
    return package if package in PARTS.values() else None


def markdown_escaped(text: str) -> str:
    return re.sub(r"([\\*_|<>$\[\]])", r"\\\1", text)


def written_pages() -> dict[str, str]:
    """Pages that are made from a table in data/, as MyST Markdown, by name."""
    names = [path.stem for path in chapters()]
    texts = {name: ROOT / "chapters" / "text" / f"{name}.md" for name in names}
    texts = {name: path.read_text(encoding="utf-8") for name, path in texts.items() if path.exists()}
    pages = {name[:2]: f"chapters/{name}.ipynb" for name in names}
    return {
        "errata": errata.markdown(pages.__getitem__),
        "glossary": glossary.page(glossary.read(), texts),
        "not-run-here": not_run.page(not_run.read(), set(names)),
        "reading": errata.reading_markdown(),
    }


def stage(into: Path) -> Path:
    """Put together what Sphinx reads, anew, and return the folder."""
    shutil.rmtree(into, ignore_errors=True)
    for folder in ("chapters", "api", "_static"):
        (into / folder).mkdir(parents=True)
    names = [path.stem for path in chapters()]
    for path in chapters():
        notebook = staged_notebook(path)
        nbformat.write(notebook, into / "chapters" / path.name)
        for file in linked_files(notebook, path.parent):
            if not file.is_relative_to(ROOT) or not file.is_file():
                raise BookError(f"{path.name} links {file.name}, and there is no such file in the repository.")
            target = into / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    for page in BOOK.glob("*.md"):
        if page.name not in ("README.md", "index.md"):
            shutil.copy(page, into)
    for name, text in written_pages().items():
        (into / f"{name}.md").write_text(text, encoding="utf-8")
    for module in modules():
        (into / "api" / f"{module}.rst").write_text(api_page(module), encoding="utf-8")
    (into / "api" / "index.md").write_text(api_index(modules()), encoding="utf-8")
    pages = [*sorted(path.stem for path in into.glob("*.md")), "api/index"]
    index = (BOOK / "index.md").read_text(encoding="utf-8")
    index = index.replace("{{ chapters }}", "\n".join(f"chapters/{name}" for name in names))
    (into / "index.md").write_text(index.replace("{{ pages }}", "\n".join(pages)), encoding="utf-8")
    shutil.copytree(BOOK / "_static", into / "_static", dirs_exist_ok=True)
    web = web_files.fetch(BUILD / "web")
    for name in web_files.packages():
        if name != "axe-core":
            shutil.copytree(web / name, into / "_static" / "web" / name)
    return into


def build(source: Path, into: Path) -> Path:
    """Have Sphinx write the site of a staged folder, and return its first page; a warning is an error.

    Raises BookError with what Sphinx said; then nothing is left in `into` but what was there.
    """
    new = into.with_name(f"{into.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    # As in the tests: kernels for a GPU are read where there is none, and TensorFlow says only what is wrong.
    quiet = {"NUMBA_ENABLE_CUDASIM": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    path = os.pathsep.join([str(LIBRARY), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", str(BOOK)]
    command += [
        "-D",
        f"html_static_path={source / '_static'}",
        "-d",
        str(into.with_name(f"{into.name}.doctrees")),
        "-E",
    ]
    command += [str(source), str(new)]
    done = subprocess.run(command, env=quiet | os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(new, ignore_errors=True)
        raise BookError(f"Sphinx can't build the book:\n{done.stdout}{done.stderr}")
    shutil.rmtree(into, ignore_errors=True)
    new.rename(into)
    return into / "index.html"


def main() -> None:
    """Build the book, or say in a sentence why not."""
    try:
        first = build(stage(BUILD / "source"), BUILD / "html")
    except (BookError, glossary.GlossaryError, not_run.NotRunError, web_files.WebFilesError) as error:
        raise SystemExit(str(error)) from None
    if not os.environ.get("HWLIMITS_HOME"):
        print("no buttons for Colab and Binder: HWLIMITS_HOME=https://github.com/OWNER/NAME says where they fetch from")
    print(f"the book: {first.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
