"""The labs: solutions pass, releases fail, plausible wrong answers are told what is wrong, and nothing leaks."""

import importlib
import re

import jupytext
import pytest
from chapters import CHAPTERS
from lab_notebooks import (
    MARKERS,
    ROOT,
    SOURCES,
    failures,
    graded,
    imports,
    read,
    released,
    with_answer,
    without_hidden_tests,
)
from nbformat.v4 import new_code_cell, new_notebook

each_lab = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def wrong_answers(path):
    return importlib.import_module(f"wrong_answers.lab_{path.stem}").WRONG


CASES = [pytest.param(path, wrong, id=f"{path.stem}-{wrong.name}") for path in SOURCES for wrong in wrong_answers(path)]


def test_there_is_a_lab_for_each_of_chapters_01_to_07_and_a_capstone():
    chapters = [path.stem for path in CHAPTERS if "01" <= path.stem[:2] <= "07"]
    assert [path.stem for path in SOURCES] == [*chapters, "capstone"]
    assert all(path.parent.name == path.stem for path in SOURCES)


@each_lab
def test_the_solution_passes_everything(path, planted_card_file):
    assert failures(read(path)) == {}
    assert failures(without_hidden_tests(read(path))) == {}


@each_lab
def test_the_release_fails_at_each_check(path, planted_card_file):
    notebook = released(read(path))
    checks = {graded(c)["grade_id"] for c in notebook.cells if graded(c).get("grade") and c.cell_type == "code"}
    failed = failures(notebook)
    assert checks
    assert checks <= set(failed)


@each_lab
def test_the_release_holds_no_trace_of_a_solution(path):
    notebook, source = released(read(path)), read(path)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not MARKERS.search(text)
    for before, after in zip(source.cells, notebook.cells, strict=True):
        for line in hidden_lines(before):
            assert line not in after.source, f"{graded(before).get('grade_id')}: {line!r} is in the release"
        if graded(before).get("solution") and before.cell_type == "markdown":
            assert before.source not in text
    assert not any(cell.get("outputs") for cell in notebook.cells)


def hidden_lines(cell):
    """Lines between markers that say something: those of a solution or of a hidden test."""
    found, inside = [], False
    for line in cell.source.splitlines():
        if marker := MARKERS.search(line):
            inside = marker[1] == "BEGIN"
        elif inside and len(line.strip()) > 12:
            found.append(line.strip())
    return found


@pytest.mark.parametrize(("path", "wrong"), CASES)
def test_a_wrong_answer_is_told_what_is_wrong(path, wrong, planted_card_file):
    """By a check that the student sees, not only by a hidden one."""
    failed = failures(without_hidden_tests(with_answer(read(path), wrong)), go_on=False)
    assert wrong.cell in failed, f"{wrong.name}: failed were {failed}"
    assert isinstance(failed[wrong.cell], AssertionError)
    assert re.search(wrong.message, str(failed[wrong.cell]), re.DOTALL), str(failed[wrong.cell])


@each_lab
def test_there_are_three_wrong_answers_and_more_than_one_check_finds_them(path):
    found = wrong_answers(path)
    assert len({wrong.name for wrong in found}) >= 3
    assert len({wrong.cell for wrong in found}) > 1


@each_lab
def test_nothing_is_needed_that_has_not_been_taught(path):
    """A lab imports what its chapter or an earlier one imports, and the checks."""
    last = "09" if path.stem == "capstone" else path.stem[:2]
    taught = {"hwlimits.labs"} | ({"hwlimits.training.capstone"} if path.stem == "capstone" else set())
    for chapter in CHAPTERS:
        if chapter.stem[:2] <= last:
            for cell in read(chapter).cells:
                taught |= imports(cell.source) if cell.cell_type == "code" else set()
    used = set()
    for cell in read(path).cells:
        used |= imports(cell.source) if cell.cell_type == "code" else set()
    assert used - taught == set()


@each_lab
def test_a_lab_says_what_it_is_for_what_it_needs_and_how_long_it_takes(path):
    first = read(path).cells[0].source
    minutes = int(re.search(r"\*\*Time\*\* (\d+) minutes", first)[1])
    assert 45 <= minutes <= 90
    for word in ("**Aim**", "**You need**"):
        assert word in first
    points = sum(graded(cell).get("points", 0) for cell in read(path).cells)
    assert f"Points: {points}." in first


@each_lab
def test_a_lab_predicts_measures_and_explains(path):
    cells = read(path).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert "ledger.predict(" in code
    assert "ledger.measure(" in code
    explain = [c for c in cells if c.cell_type == "markdown" and graded(c).get("grade")]
    assert explain, "no residual is explained"
    assert all(len(cell.source) > 100 for cell in explain), "a model answer is a few sentences"


@each_lab
def test_each_check_is_worth_points_and_has_what_only_the_grader_sees(path):
    checks = [c for c in read(path).cells if graded(c).get("grade") and c.cell_type == "code"]
    assert all(graded(c)["points"] > 0 and graded(c)["locked"] for c in checks)
    assert sum("BEGIN HIDDEN TESTS" in c.source for c in checks) >= 2
    ids = [graded(c)["grade_id"] for c in read(path).cells if graded(c)]
    assert len(ids) == len(set(ids))


@each_lab
def test_a_lab_is_in_step_with_its_text_and_not_executed(path):
    text = jupytext.read(path.with_suffix(".md"))

    def cells(document):
        return [(c.cell_type, c.source.strip(), graded(c), c.metadata.get("tags", [])) for c in document.cells]

    assert cells(read(path)) == cells(text)
    assert not any(c.get("outputs") or c.get("execution_count") for c in read(path).cells)


def test_failures_are_found_by_their_cell():
    check = new_code_cell("assert one == 2", metadata={"nbgrader": {"grade_id": "one_check"}})
    found = failures(new_notebook(cells=[new_code_cell("one = 1"), check, new_code_cell("one / 0")]))
    assert [type(error) for error in found.values()] == [AssertionError, ZeroDivisionError]
    assert list(found) == ["one_check", "cell 2"]


def test_what_is_hidden_is_known():
    cell = new_code_cell("a = 1\n### BEGIN SOLUTION\nb = 'the secret answer'\n### END SOLUTION\nc = 'open to all eyes'")
    assert hidden_lines(cell) == ["b = 'the secret answer'"]


def test_the_pages_of_the_labs_have_the_same_names():
    teaching = {path.stem for path in (ROOT / "labs" / "teaching").glob("*.md")}
    assert {path.stem for path in SOURCES} <= teaching
