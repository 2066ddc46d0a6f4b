"""Make what students get, and the pages for teachers, from the labs' sources: `make labs` and `make teaching`.

labs/source/NN_name holds a lab with its solutions, and beside it its text for review. nbgrader takes the solutions and
the hidden tests out and writes labs/release/NN_name. The pages of labs/teaching become HTML, with the points and checks
of each lab, as they stand in its source, added.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

LABS = Path(__file__).resolve().parent
GENERATED = "release"


def run(folder: Path, *command: str) -> str:
    """A command of nbgrader in a course's folder; what it printed. Its tools are those beside this Python.

    Raises SystemExit with what it said if it failed.
    """
    tools = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    whole = [sys.executable, "-m", "nbgrader", *command]
    done = subprocess.run(whole, cwd=folder, env=os.environ | tools, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"nbgrader {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def names() -> list[str]:
    """The labs, in their order."""
    return sorted(path.name for path in (LABS / "source").iterdir() if path.is_dir())


def release(into: Path = LABS / GENERATED) -> list[str]:
    """Generate what students get, all labs anew; returns their names.

    It is made in a folder of its own first: nothing of an earlier release stays, and none is lost if one lab fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        course = copy_of_course(Path(folder))
        for name in names():
            run(course, "generate_assignment", name)
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(course / GENERATED, into)
    return names()


def copy_of_course(folder: Path) -> Path:
    """nbgrader's configuration and the sources, in another folder."""
    shutil.copy(LABS / "nbgrader_config.py", folder)
    shutil.copytree(LABS / "source", folder / "source")
    return folder


def checks(name: str) -> list[tuple[str, int, str]]:
    """(what, points, by whom it is marked) of a lab, in its order."""
    notebook = nbformat.read(LABS / "source" / name / f"{name}.ipynb", as_version=4)
    found = []
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("grade"):
            found.append((marks["grade_id"], marks["points"], "itself" if cell.cell_type == "code" else "you"))
    return found


def teaching(into: Path) -> Path:
    """Build the pages for teachers as HTML, and return the first one."""
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        shutil.copytree(LABS / "teaching", pages)
        for name in names():
            rows = "\n".join(f"| {what} | {points} | {who} |" for what, points, who in checks(name))
            total = sum(points for _, points, _ in checks(name))
            with (pages / f"{name}.md").open("a", encoding="utf-8") as page:
                page.write(f"\n## Points\n\n{total} in all.\n\n| what | points | marked by |\n|---|---|---|\n{rows}\n")
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(pages), str(into)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the pages can't be built:\n{done.stdout}{done.stderr}")
    return into / "index.html"


def main() -> None:
    if sys.argv[1:] == ["release"]:
        print(f"labs/{GENERATED}: {', '.join(release())}")
    elif sys.argv[1:] == ["teaching"]:
        print(f"the pages for teachers: {teaching(LABS.parent / 'build' / 'teaching').relative_to(LABS.parent)}")
    else:
        raise SystemExit(f"labs/make.py {' '.join(sys.argv[1:])}: say `release` or `teaching`")


if __name__ == "__main__":
    main()
