"""What opens a chapter elsewhere: its links and first cell are the script's, from the one home that pyproject names."""

import ast
import json
import runpy
import shutil
import subprocess
import sys
from importlib import metadata

import jupytext
import pytest
from chapters import ROOT, faults_of_execution, read

sys.path.insert(0, str(ROOT / "chapters"))
import first_cells

from hwlimits import runtime

HOME = "https://github.com/owner/name"
CHAPTERS = [path.stem for path in sorted((ROOT / "chapters" / "text").glob("*.md"))]


execute_first = first_cells.execute_first


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The files that the script reads and writes, elsewhere; no cell is run."""
    monkeypatch.setattr(first_cells, "execute_first", lambda path: None)
    for name in ("pyproject.toml", "data/chapters.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "chapters", tmp_path / "chapters")
    return tmp_path


def test_the_chapters_are_in_step_with_the_script():
    first_cells.main(["--check"])


def test_writing_twice_changes_nothing_and_leaves_all_other_cells(copy):
    before = {path: read(path).cells for path in sorted((copy / "chapters").glob("[0-9]*.ipynb"))}
    first_cells.main([], copy)
    once = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    first_cells.main([], copy)
    assert once == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for path, cells in before.items():
        others = [c for c in cells[1:] if first_cells.TAG not in c.metadata.get("tags", [])]
        assert read(path).cells[2:] == others


def test_a_first_cell_that_was_changed_is_run_again_and_no_other(copy):
    path = copy / "chapters" / "00_start_here.ipynb"
    before = read(path).cells
    first_cells.main(["--home", HOME], copy)
    assert faults_of_execution(read(path)) == ["cell 0 was never executed"]
    execute_first(path)
    after = read(path)
    assert faults_of_execution(after) == []
    (said,) = after.cells[1].outputs
    assert said.text.startswith("Python 3.")
    assert after.cells[2:] == before[2:]
    once = path.read_bytes()
    execute_first(path)
    first_cells.main([], copy)
    assert path.read_bytes() == once


def test_a_home_is_in_every_chapter_and_in_one_place(copy):
    first_cells.main(["--home", f"{HOME}/"], copy)
    assert f'Repository = "{HOME}"\n' in (copy / "pyproject.toml").read_text()
    texts = [*(copy / "chapters" / "text").glob("*.md")]
    assert len(texts) == len(CHAPTERS) >= 12
    for path in texts:
        opening, cell = jupytext.read(path).cells[:2]
        file = f"chapters/{path.stem}.ipynb"
        assert opening.source.count("**Open in**") == 1
        assert f"(https://colab.research.google.com/github/owner/name/blob/main/{file})" in opening.source
        assert f"(https://www.kaggle.com/kernels/welcome?src={HOME}/blob/main/{file})" in opening.source
        assert f"(https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/{file})" in opening.source
        assert f', "git+{HOME}"]' in cell.source
    first_cells.main(["--home", "https://github.com/other/place"], copy)
    assert [path for path in copy.rglob("*.*") if b"owner/name" in path.read_bytes()] == []


def test_the_book_takes_the_same_home(copy, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("HWLIMITS_HOME", raising=False)
    (copy / "book").mkdir()
    shutil.copy(ROOT / "book" / "conf.py", copy / "book")
    first_cells.write_home(HOME, copy)
    conf = copy / "book" / "conf.py"
    assert runpy.run_path(str(conf))["html_theme_options"]["repository_url"] == HOME
    monkeypatch.setenv("HWLIMITS_HOME", "https://github.com/a/fork/")
    assert runpy.run_path(str(conf))["html_theme_options"]["repository_url"] == "https://github.com/a/fork"
    monkeypatch.setenv("HWLIMITS_HOME", "")
    assert "repository_url" not in runpy.run_path(str(conf))["html_theme_options"]


def test_without_a_home_nothing_points_anywhere(copy):
    text = first_cells.re.sub(r"\[project\.urls\]\n(.+\n)*\n", "", (copy / "pyproject.toml").read_text())
    (copy / "pyproject.toml").write_text(text)
    first_cells.main([], copy)
    for path in (copy / "chapters" / "text").glob("*.md"):
        opening, cell = jupytext.read(path).cells[:2]
        assert "Open in" not in opening.source
        assert "git+" not in cell.source
        assert "put its wheel (make wheel) beside this notebook, in Kaggle among its inputs" in cell.source


@pytest.mark.parametrize(
    "url", ["", "github.com/a/b", "https://example.org/a/b", "https://github.com/a", 'https://github.com/a/b"']
)
def test_a_home_that_colab_can_t_open_is_refused_before_anything_is_written(copy, url):
    before = (copy / "pyproject.toml").read_bytes()
    with pytest.raises(SystemExit, match="is not of the form https://github.com/OWNER/NAME, which Colab can open"):
        first_cells.main(["--home", url], copy)
    assert (copy / "pyproject.toml").read_bytes() == before


def test_a_cell_that_was_edited_by_hand_is_found(copy):
    first_cells.main([], copy)
    path = copy / "chapters" / "text" / "04_pruning.md"
    path.write_text(path.read_text().replace('runtime.check("04_pruning")', 'runtime.check("05_quantization")'))
    with pytest.raises(
        SystemExit, match=r"04_pruning.md: out of step with chapters/first_cells.py; run make first-cells"
    ):
        first_cells.main(["--check"], copy)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_cell_is_short_and_knows_its_chapter(chapter):
    for address in ("", HOME):
        source = first_cells.cell(chapter, address)
        assert len(source.splitlines()) <= 14
        assert ast.parse(source, feature_version=(3, 8))
        assert '"pip", "install", "-q", "--no-deps", sources[0]' in source
        assert source.endswith(f'runtime.check("{chapter}")')


# What a chapter needs


def test_the_packages_of_a_chapter_are_those_that_its_imports_load():
    """Against Python itself: import what chapter 00 imports, and look at what was loaded."""
    notebook = jupytext.read(ROOT / "chapters" / "text" / "00_start_here.md")
    lines = [n for c in notebook.cells if c.cell_type == "code" for n in ast.parse(c.source).body]
    lines = [ast.unparse(n) for n in lines if isinstance(n, ast.Import | ast.ImportFrom)]
    program = "\n".join([*lines, "import sys", "print(*sys.modules)"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    listed = metadata.packages_distributions()
    loaded = {d.lower().replace("_", "-") for m in loaded for d in listed.get(m, [])}
    asked = {runtime.requirement(text).name for text in runtime.project()[1]} - {"ipywidgets"}
    wanted = set(runtime.needs("00_start_here")["packages"])
    assert loaded & asked <= wanted
    assert {"numpy", "numba", "matplotlib"} <= loaded & wanted
    assert "tensorflow" not in wanted


def test_every_chapter_s_needs_are_in_the_file_and_are_requirements_of_the_project():
    found = json.loads((ROOT / "data" / "chapters.json").read_text())
    assert list(found) == CHAPTERS
    asked = {runtime.requirement(text).name for text in runtime.project()[1]}
    for chapter, needs in found.items():
        assert set(needs["packages"]) <= asked, chapter
        assert {"numpy", "psutil", "matplotlib"} <= set(needs["packages"]), chapter


def test_importing_a_part_imports_its_package():
    """hwlimits.cli.options itself imports typer alone; its package loads what the commands use."""
    assert {"typer", "psutil"} <= set(first_cells.packages("from hwlimits.cli.options import json"))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import yaml", {"pyyaml"}),
        ("from hwlimits.training.keras import tfmot", {"tensorflow", "tf-keras", "tensorflow-model-optimization"}),
        ("from hwlimits.training.keras import keras", {"tensorflow", "tf-keras"}),
        ("def f():\n    from dask import delayed", {"dask"}),
        ("try:\n    import tqdm\nexcept ImportError:\n    pass", {"tqdm"}),
        ("try:\n    import torch, cupy\nexcept ImportError:\n    pass", set()),
        ("import os, IPython", set()),
        ("from hwlimits import fleet", {"scipy", "numpy"}),
    ],
)  # fmt: skip
def test_packages_are_found_where_they_are_imported(code, found):
    packages = set(first_cells.packages(code))
    assert found <= packages
    assert packages <= found | ({"numpy", "pyyaml"} if "hwlimits" in code else set())
