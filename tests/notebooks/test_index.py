"""The index: it has what the chapters say of themselves, its links lead somewhere, and its sums are right."""

import importlib.util
import re
import sys

import nbformat
import pytest
from chapters import CHAPTERS, ROOT, read
from nbformat.v4 import new_markdown_cell, new_notebook

spec = importlib.util.spec_from_file_location("chapters_make", ROOT / "chapters" / "make.py")
make = importlib.util.module_from_spec(spec)
sys.modules["chapters_make"] = make  # dataclasses look their module up
spec.loader.exec_module(make)

OPENING = (
    "# {n} · Title {n}: why?\n\n**You need** {needs}\n\n**Time** {t} minutes; your computer works for about 2 of them."
)


@pytest.fixture
def course(tmp_path):
    """Four chapters: 00, 01 after it, 02 after nothing, 03 after 01 and 02."""
    needs = {"00": "Python.", "01": "chapter 00.", "02": "Python.", "03": "chapters 01 to 02, and 1024 things."}
    for (n, what), minutes in zip(needs.items(), (10, 20, 40, 80), strict=True):
        opening = OPENING.format(n=n, needs=what, t=minutes)
        nbformat.write(new_notebook(cells=[new_markdown_cell(opening)]), tmp_path / f"{n}_name.ipynb")
    return tmp_path


def test_the_index_is_what_the_chapters_say():
    assert (ROOT / "chapters" / "index.ipynb").read_text() == nbformat.writes(make.index()) + "\n", "make index"


def test_an_index_out_of_step_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["make.py", "--check"])
    make.main()
    monkeypatch.setattr(make, "INDEX", tmp_path / "index.ipynb")
    with pytest.raises(SystemExit, match="index.ipynb is not what the chapters say: run make index"):
        make.main()
    monkeypatch.setattr(sys, "argv", ["make.py"])
    make.main()
    monkeypatch.setattr(sys, "argv", ["make.py", "--check"])
    make.main()
    written = (tmp_path / "index.ipynb").read_text()
    (tmp_path / "index.ipynb").write_text(written.replace("35 min", "34 min"))
    with pytest.raises(SystemExit, match="run make index"):
        make.main()


def test_every_link_leads_somewhere_and_every_chapter_is_linked():
    text = "\n".join(cell.source for cell in read(make.INDEX).cells)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all((make.INDEX.parent / link).is_file() for link in links), links
    assert {path.name for path in CHAPTERS} <= set(links)
    labs = {path.name for path in (ROOT / "labs" / "release").iterdir()} & {path.stem for path in CHAPTERS}
    assert {f"../labs/release/{name}/{name}.ipynb" for name in labs} <= set(links)


def test_each_chapter_stands_there_in_its_own_words():
    cells = [cell.source for cell in read(make.INDEX).cells]
    for path in CHAPTERS:
        first = read(path).cells[0].source
        title, question = re.search(r"^# \d\d · (.+?): (.*)$", first, re.MULTILINE).groups()
        needs = re.search(r"\*\*You need\*\* (.*)", first)[1]
        (row,) = [line for line in cells[1].splitlines() if line.startswith(f"| [{path.stem[:2]} ")]
        assert f"[{path.stem[:2]} {title}]({path.name}) | {question} |" in row
        assert f"({path.name})** {needs}" in cells[2]


def test_the_readme_has_the_same_chapters_questions_and_minutes():
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| \[(\d\d) [^\]]+\]\(chapters/(\w+)\.ipynb\) \| (.+) \| (\d+) \|$", readme, re.MULTILINE)
    assert rows == [(c.number, c.stem, c.question, str(c.minutes)) for c in make.chapters()]


def test_minutes_are_added_up_over_all_that_is_needed(course):
    found = make.chapters(course)
    ways = [[c.number for c in make.way_to(chapter, found)] for chapter in found]
    assert ways == [["00"], ["00", "01"], ["02"], ["00", "01", "02", "03"]]
    cells = make.index(course, course).cells
    assert "All 4 chapters take about 2 h 30, of which the computer works for 8 min." in cells[0].source
    rows = cells[1].source.splitlines()[2:]
    assert [row.split(" | ")[-1].split(":")[0] for row in rows] == ["10 min", "30 min", "40 min", "2 h 30"]
    assert rows[0].endswith("10 min: nothing before it |")
    assert rows[3].endswith("2 h 30: [00](00_name.ipynb), [01](01_name.ipynb), [02](02_name.ipynb) |")


APPENDIX = OPENING.replace("{n} · Title {n}", "Appendix · Other tools").format(needs="chapter 01, and a tool.", t=35)


def test_an_appendix_has_its_line_and_no_number(course):
    without = make.index(course, course).cells
    nbformat.write(new_notebook(cells=[new_markdown_cell(APPENDIX)]), course / "appendix_tools.ipynb")
    cells = make.index(course, course).cells
    assert "appendix" not in "".join(cell.source for cell in without).lower()
    assert "All 4 chapters take about 2 h 30, of which the computer works for 8 min. The appendix is not" in (
        cells[0].source
    )
    *rows, last = cells[1].source.splitlines()
    assert rows == without[1].source.splitlines()
    assert last == (
        "| [Appendix: Other tools](appendix_tools.ipynb) | why? | 35 min | 2 min | "
        "1 h 05: [00](00_name.ipynb), [01](01_name.ipynb) |"
    )
    assert cells[2].source.splitlines()[-1] == "- **[Appendix](appendix_tools.ipynb)** chapter 01, and a tool."
    assert cells[3].source.splitlines()[-1] == "- **[Appendix](appendix_tools.ipynb)** problems with answers"
    assert [c.number for c in make.chapters(course)] == ["00", "01", "02", "03"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# Appendix · Other", "# 04 · Other", "appendix_tools: its first cell has no line of the form '# Appendix ·"),
        ("**Time**", "Time", r"appendix_tools: its first cell has no line of the form '\*\*Time\*\* ...'"),
        ("chapter 01", "chapter 07", "appendix_tools: it needs chapter 07, which is not there"),
    ],
)
def test_an_appendix_that_does_not_say_it_is_said(course, old, new, message):
    assert old in APPENDIX
    opening = new_markdown_cell(APPENDIX.replace(old, new))
    nbformat.write(new_notebook(cells=[opening]), course / "appendix_tools.ipynb")
    with pytest.raises(ValueError, match=message):
        make.index(course, course)


def test_the_real_appendices_are_in_the_index():
    text = "\n".join(cell.source for cell in read(make.INDEX).cells)
    for path in (ROOT / "chapters").glob("appendix_*.ipynb"):
        assert text.count(f"({path.name})") == 3


def test_the_real_way_to_the_frontier():
    """By brute force: a chapter is on the way if following needs from 09 ever comes by it."""
    found = {c.number: c for c in make.chapters()}
    reached = {"09"}
    for _ in found:
        reached |= {before for number in reached for before in found[number].before}
    assert [c.number for c in make.way_to(found["09"], list(found.values()))] == sorted(reached)
    assert reached >= {"00", "01", "04", "05", "09"}


@pytest.mark.parametrize(
    ("needs", "wanted"),
    [
        ("Python and a little NumPy.", ()),
        ("chapters 00 to 02, NumPy, and Keras", ("00", "01", "02")),
        ("chapters 01 (rooflines, 128 products) and 03 (links).", ("01", "03")),
        ("chapter 00 and Python 3.11", ("00",)),
        ("chapter 01, 16 GB of memory and 10 minutes", ("01",)),
        ("16 GB of memory and 10 minutes.", ()),
        ("Chapter 04; 32 cores do no harm.", ("04",)),
        (
            "chapters 01 to 03 (rooflines, 16 GB), 05 and 06; 08 for the network at the end.",
            ("01", "02", "03", "05", "06", "08"),
        ),
        ("chapters 01 (rooflines), 06 (load balance) and 08 (the report)", ("01", "06", "08")),
        ("Rooflines (01), codes (04 to 06, 08) and 12 images (28 by 28)", ("01", "04", "05", "06", "08")),
        ("chapters 01, 04 and 05, and PyTorch: `make pytorch` brings it", ("01", "04", "05")),
    ],
)
def test_chapters_named_in_a_sentence(needs, wanted):
    assert make.named(needs) == wanted


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "# 03 · Title 03: why?",
            "# Title",
            "03_name: its first cell has no line of the form '# NN · Title: question'",
        ),
        ("**You need**", "You need", r"no line of the form '\*\*You need\*\* ...'"),
        ("80 minutes", "an hour", r"no line of the form '\*\*Time\*\* ...'"),
        ("chapters 01 to 02", "chapters 01 to 03", "it needs chapter 03, which does not come before it"),
        ("chapters 01 to 02", "chapter 04", "it needs chapter 04, which does not come before it"),
    ],
)
def test_a_chapter_that_does_not_say_it_is_said(course, old, new, message):
    path = course / "03_name.ipynb"
    notebook = read(path)
    assert old in notebook.cells[0].source
    notebook.cells[0].source = notebook.cells[0].source.replace(old, new)
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match=message):
        make.chapters(course)


def test_a_chapter_that_needs_one_that_is_not_there_is_said(course):
    (course / "00_name.ipynb").unlink()
    with pytest.raises(ValueError, match="01_name: it needs chapter 00, which is not there"):
        make.chapters(course)


def test_the_index_is_no_chapter_and_has_nothing_to_run():
    notebook = read(make.INDEX)
    assert make.INDEX not in CHAPTERS
    assert all(cell.cell_type == "markdown" for cell in notebook.cells)
    assert notebook.metadata["jupytext"] == {"formats": "ipynb"}, "JupyterLab would make a text beside it"
    makefile = (ROOT / "Makefile").read_text()
    assert "chapters/[0-9][0-9]_*.ipynb" in makefile
    assert "chapters/index.ipynb" in re.search(r"^lab:.*\n\t(.*)", makefile, re.MULTILINE)[1]
