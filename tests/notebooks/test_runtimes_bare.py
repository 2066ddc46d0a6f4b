"""A chapter's first cell where the course is not: bare environments on each Python that is installed here.

Each has the versions of a published runtime (data/runtimes.yaml) and nothing else: the first cell gets the library and
what is missing, and changes no package that was there. Then the first cells of chapter 00 run. TensorFlow is not among
the packages, as it takes minutes and half a gigabyte each time; test_runtime.py has its versions planted.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jupytext
import pytest
import yaml
from chapters import ROOT

sys.path.insert(0, str(ROOT / "chapters"))
import first_cells

# What chapter 00 and its notebook need, but for two packages that the first cell has to find missing.
BARE = ("ipython", "matplotlib", "numba", "numpy", "psutil", "pyyaml", "scipy", "threadpoolctl")
LACKING = {"pooch", "tqdm"}
MINORS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


def python(minor: str) -> str:
    """A Python of that version; the test is left out, and says so, where there is none."""
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*folder.glob(f"{minor}.*/bin/python"), shutil.which(f"python{minor}")]
    found += [sys.executable] if minor == "{}.{}".format(*sys.version_info) else []
    for path in filter(None, found):
        done = subprocess.run([path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True)
        if done.stdout.decode().strip() == minor:
            return str(path)
    pytest.skip(f"Python {minor} is not installed here: what a chapter does on it was left out")


def runtime_of(minor: str) -> dict:
    """The first runtime of data/runtimes.yaml that has this Python."""
    found = yaml.safe_load((ROOT / "data" / "runtimes.yaml").read_text(encoding="utf-8"))
    return next(r for r in found if r["python"].startswith(f"{minor}."))


def run(command, folder, **variables):
    """Without what the test's own environment would lend; the reader's settings of pip count."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COLAB", "KAGGLE", "BINDER", "HWLIMITS"))
    }
    command = [str(part) for part in command]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=kept | variables, timeout=600)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("hwlimits-*.whl"))


def cells(chapter: str) -> list[str]:
    """The code of a chapter with the first cell as the script makes it, whether it is in the text yet or not."""
    notebook = jupytext.read(ROOT / "chapters" / "text" / f"{chapter}.md")
    first_cells.put(notebook, chapter, "")
    return [c.source for c in notebook.cells if c.cell_type == "code"]


def freeze(interpreter, folder) -> dict[str, str]:
    listed = run([interpreter, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"], folder)
    return dict(line.lower().split("==") for line in listed.stdout.splitlines())


# IPython is what runs cells there, in the version that is there; an error or an exit ends the program, as Run All does.
PROGRAM = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="NoColor")
for source in json.load(open("cells.json")):
    if not shell.run_cell(source).success:
        sys.exit(1)
print("all ran", len(shell.user_ns["article"].axes))
"""


@pytest.mark.parametrize("minor", ["3.11", "3.12", "3.13"])
def test_the_first_cell_adds_what_is_missing_and_changes_nothing(minor, wheel, tmp_path):
    known = runtime_of(minor)
    interpreter = tmp_path / "env" / "bin" / "python"
    assert run([python(minor), "-m", "venv", "env"], tmp_path).returncode == 0
    wanted = [f"{name}=={known['packages'][name]}" if name in known["packages"] else name for name in BARE]
    done = run([interpreter, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *wanted], tmp_path)
    if done.returncode and not os.environ.get("CI") and "Failed to establish a new connection" in done.stderr:
        pytest.skip("no package index can be reached: the first cell on a bare Python was left out")
    assert done.returncode == 0, done.stderr
    before = freeze(interpreter, tmp_path)
    assert not LACKING & set(before)
    published = {name: version for name, version in known["packages"].items() if name in BARE}
    assert {name: before[name] for name in published} == published

    code = cells("00_start_here")
    shown = next(i for i, source in enumerate(code) if "plots.show(article" in source)
    (tmp_path / "cells.json").write_text(json.dumps(code[: shown + 1]))
    shutil.copy(wheel, tmp_path)
    done = run(
        [interpreter, "-c", PROGRAM], tmp_path, COLAB_RELEASE_TAG="release", HWLIMITS_CACHE=str(tmp_path / "cache")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Getting {wheel.name}\n" in done.stdout
    assert re.search(rf"^Python {minor}\.\d+, in Colab, no TensorFlow, a CPU.*\.$", done.stdout, re.MULTILINE)
    assert "Installing what is missing, and nothing else: pooch, tqdm.\n" in done.stdout
    assert "all ran 1" in done.stdout

    after = freeze(interpreter, tmp_path)
    assert {name: after.get(name) for name in before} == before, "a package that was there has another version"
    added = set(after) - set(before)
    assert {"hwlimits", *LACKING} <= added
    assert not {"tensorflow", "keras", "dask"} & added, "the library came with its requirements"

    # The library is there now; what needs TensorFlow says so in one sentence, and nothing more.
    refused = cells("05_quantization")[0]
    (tmp_path / "cells.json").write_text(json.dumps([refused, "print('went on')"]))
    done = run([interpreter, "-c", PROGRAM], tmp_path, COLAB_RELEASE_TAG="release")
    assert done.returncode == 1
    said = "CannotRun: Chapter 05 needs TensorFlow, and there is none here: choose the latest runtime version under "
    assert f"{said}Runtime > Change runtime type.\n" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "went on" not in done.stdout
    assert freeze(interpreter, tmp_path) == after


@pytest.mark.parametrize("minor", [m for m in MINORS if not first_cells.supported(m)])
def test_another_python_is_refused_in_one_sentence_before_anything_is_fetched(minor, wheel, tmp_path):
    shutil.copy(wheel, tmp_path)
    done = run([python(minor), "-c", cells("01_compute")[0]], tmp_path, COLAB_RELEASE_TAG="release")
    assert done.returncode == 1
    assert done.stderr == f"This course needs Python 3.11, 3.12 or 3.13, and this is {minor}.\n"
    assert done.stdout == ""


def test_the_cell_names_the_pythons_that_the_project_supports():
    assert [m for m in MINORS if first_cells.supported(m)] == ["3.11", "3.12", "3.13"]
    assert "Python 3.11, 3.12 or 3.13" in first_cells.CELL
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in first_cells.CELL


def test_without_the_library_a_computer_of_ones_own_gets_nothing_installed(wheel, tmp_path):
    shutil.copy(wheel, tmp_path)
    assert run([sys.executable, "-m", "venv", "--without-pip", "env"], tmp_path).returncode == 0
    done = run([tmp_path / "env" / "bin" / "python", "-c", cells("01_compute")[0]], tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "hwlimits is not installed here: say make lab in the course's folder; "
        "in Colab put its wheel (make wheel) beside this notebook, in Kaggle among its inputs.\n"
    )
    there = run([tmp_path / "env" / "bin" / "python", "-c", cells("01_compute")[0]], tmp_path, COLAB_RELEASE_TAG="1")
    assert there.returncode == 1, "it has no pip"
    assert "pip could not get the library, and says above why" in there.stderr
    assert "Traceback" not in there.stderr


def test_a_wheel_has_every_file_that_chapters_read(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = set()
    for text in (ROOT / "chapters" / "text").glob("*.md"):
        wanted |= set(
            re.findall(r"(?<!f)\(\"((?:results/)?[\w./-]+\.(?:json|csv|yaml|npz|tflite|hwz))\"\)", text.read_text())
        )
    found = {name for name in wanted if (ROOT / "data" / name).exists()}
    assert len(found) >= 8, "the pattern finds what chapters read"
    assert {f"hwlimits/_data/{name}" for name in found | {"chapters.json"}} <= names
    stored = {
        f"hwlimits/_data/{p.relative_to(ROOT / 'data')}" for p in (ROOT / "data" / "results").rglob("*") if p.is_file()
    }
    assert stored <= names
