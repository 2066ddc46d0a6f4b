"""The chapters as committed: executed, in step with their text, in form, with no number that only was typed."""

import re
import subprocess
import sys

import jupytext
import nbformat
import pytest
from chapters import (
    APPENDICES,
    CHAPTERS,
    ROOT,
    code,
    compared,
    faults_of_execution,
    faults_of_form,
    read,
    typed_in_code,
    typed_measurements,
)

each_chapter = pytest.mark.parametrize("path", [*CHAPTERS, *APPENDICES], ids=lambda path: path.stem)


def test_there_are_chapters():
    assert [path.stem for path in [*CHAPTERS, *APPENDICES]] == sorted(
        p.stem for p in (ROOT / "chapters" / "text").glob("*.md")
    )
    assert "08_case_study" in [path.stem for path in CHAPTERS]
    assert "appendix_pytorch" in [path.stem for path in APPENDICES]


@each_chapter
def test_executed_in_order_and_compared(path):
    assert faults_of_execution(read(path)) == []


@each_chapter
def test_in_step_with_its_text(path):
    notebook = read(path)
    text = jupytext.read(ROOT / "chapters" / "text" / f"{path.stem}.md")
    assert in_step(notebook, text)


def in_step(notebook, text):
    def cells(document):
        return [(c.cell_type, c.source.strip(), c.metadata.get("tags", [])) for c in document.cells]

    return cells(notebook) == cells(text)


@each_chapter
def test_in_the_form_of_a_chapter(path):
    assert faults_of_form(read(path), appendix=path in APPENDICES) == []


@each_chapter
def test_no_measurement_is_typed(path):
    for cell in read(path).cells:
        assert (typed_in_code if cell.cell_type == "code" else typed_measurements)(cell.source) == [], cell.source


@each_chapter
def test_every_figure_has_a_text(path):
    for cell in code(read(path)):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(output.metadata.get("image/png", {}).get("alt", "")) > 40, cell.source


@each_chapter
def test_nothing_of_this_machine_is_in_it(path):
    assert not re.findall(r"/(?:home|Users|root|work|tmp|mnt)/\w+", path.read_text())


# What the checks above are for: each is seen failing on a chapter that has the fault.


@pytest.fixture
def chapter():
    return read(CHAPTERS[-1])


def test_a_stripped_notebook_is_caught_where_nbval_is_not(chapter, tmp_path):
    """nbval passes a notebook without execution counts, comparing nothing: the trap that the check is for."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1 + 1)")])
    assert nbval(notebook, tmp_path).returncode == 0, "stripped: it passes, and nothing was compared"
    assert "cell 0 was never executed" in faults_of_execution(notebook)
    notebook.cells[0].execution_count = 1
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text="3\n")]
    assert nbval(notebook, tmp_path).returncode == 1, "executed: a wrong output is seen"
    for cell in code(chapter):
        cell.execution_count = None
    assert faults_of_execution(chapter)


def nbval(notebook, folder):
    path = folder / "planted.ipynb"
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env", "-o", "addopts=", str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_cells_out_of_order_are_caught(chapter):
    cells = code(chapter)
    cells[1].execution_count, cells[2].execution_count = cells[2].execution_count, cells[1].execution_count
    assert any("in order" in fault for fault in faults_of_execution(chapter))


def test_a_notebook_that_compares_nothing_is_caught(chapter):
    for cell in compared(chapter):
        cell.metadata["tags"] = ["nbval-ignore-output"]
    assert any("are compared" in fault for fault in faults_of_execution(chapter))


def test_a_text_that_was_edited_alone_is_caught(chapter):
    text = jupytext.read(ROOT / "chapters" / "text" / f"{CHAPTERS[-1].stem}.md")
    assert in_step(chapter, text)
    text.cells[3].source += "\n"  # white space at the end is no difference
    assert in_step(chapter, text)
    text.cells[3].source += "one more word"
    assert not in_step(chapter, text)


@pytest.mark.parametrize(
    "prose",
    [
        "it is 3.4× smaller", "accuracy is 99.2 %", "takes 77 µs", "129,584 bytes raw", "at 20 GB/s", "in 12 seconds",
        "3.4 times smaller", "3.4-fold", "12 minutes", "77 microseconds", "77 \u03bcs", "2.4 GHz", "300 mW", "5 kJ",
        "2.4 Gbit/s", "20 images per second", "40 percent", "快 3 倍", "**Time** 50 minutes\nand 3 ms",
    ],
)  # fmt: skip
def test_a_typed_measurement_is_caught(prose):
    assert typed_measurements(prose)
    assert typed_in_code(f"print(f{prose!r})")


@pytest.mark.parametrize(
    "prose",
    [
        'goes "from 98 % to 99.2 %"',
        "with a 95 % interval",
        "`x = 3 s`",
        "five epochs",
        "3×3 convolution",
        "int8",
        "**Time** 50 minutes",
    ],
)
def test_a_quotation_or_a_count_is_no_measurement(prose):
    assert not typed_measurements(prose)


def test_a_chapter_without_its_parts_is_caught(chapter):
    for cell in chapter.cells:
        cell.source = cell.source.replace("## Problems", "## Questions").replace("**Time**", "Time")
    assert faults_of_form(chapter) == ["the opening lacks **Time**", "no heading '## Problems'"]
    assert faults_of_form(read(APPENDICES[0])) == [
        "no heading '## Check yourself'",
        "nothing that the article says is corrected",
    ]
