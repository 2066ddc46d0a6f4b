"""A class of five hands in lab 01: released, marked, given back and exported by nbgrader; and what is built."""

import csv
import importlib.util
import re
import subprocess
import sys

import nbformat
import pytest
from lab_notebooks import ROOT, SOURCES, failures, graded, read, released, with_answer
from wrong_answers.lab_01_compute import WRONG

spec = importlib.util.spec_from_file_location("labs_make", ROOT / "labs" / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

LAB = "01_compute"
SOURCE = ROOT / "labs" / "source" / LAB / f"{LAB}.ipynb"


def everything_right():
    return read(SOURCE)


def nothing_done():
    return released(read(SOURCE))


def one_wrong():
    """A MAC counted as a FLOP."""
    (wrong,) = [wrong for wrong in WRONG if wrong.name == "a MAC counted as a FLOP"]
    return with_answer(read(SOURCE), wrong)


def made_for_the_check():
    """The value that the visible check wants, and nothing else."""
    notebook = read(SOURCE)
    (cell,) = [c for c in notebook.cells if graded(c).get("grade_id") == "conv_macs"]
    cell.source = "def conv_macs(height, width, channels, filters, kernel):\n    return 324"
    return notebook


def changed_the_checks():
    """Nothing done, and each check replaced by one that passes; the last one deleted."""
    notebook = nothing_done()
    checks = [c for c in notebook.cells if graded(c).get("grade") and c.cell_type == "code"]
    for cell in checks:
        cell.source = "pass"
    notebook.cells.remove(checks[-1])
    return notebook


STUDENTS = {
    "ada": everything_right, "ben": nothing_done, "chen": one_wrong, "dana": made_for_the_check,
    "eve": changed_the_checks,
}  # fmt: skip
POINTS = {what: points for what, points, who in make.checks(LAB) if who == "itself"}
BY_HAND = {what: points for what, points, who in make.checks(LAB) if who == "you"}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A class of nbgrader, from release to export, with one explanation marked by hand."""
    from conftest import card_of_round_numbers
    from nbgrader.api import Gradebook

    folder = make.copy_of_course(tmp_path_factory.mktemp("course"))
    card = folder / "card.json"
    card_of_round_numbers().write(card)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWLIMITS_CARD", str(card))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        make.run(folder, "generate_assignment", LAB)
        for student, hand_in in STUDENTS.items():
            place = folder / "submitted" / student / LAB
            place.mkdir(parents=True)
            nbformat.write(hand_in(), place / f"{LAB}.ipynb")
        make.run(folder, "autograde", LAB, "--create")
        with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
            (grade,) = [g for g in book.find_submission_notebook(LAB, LAB, "ada").grades if g.cell.name in BY_HAND]
            grade.manual_score = 5
            book.db.commit()
        make.run(folder, "generate_feedback", LAB)
        make.run(folder, "export", "--to", str(folder / "marks.csv"))
    return folder


@pytest.fixture(scope="module")
def marks(course):
    with (course / "marks.csv").open(encoding="utf-8", newline="") as file:
        return {row["student_id"]: row for row in csv.DictReader(file)}


def expected(student) -> float:
    """The points of the checks that do not fail, run in this process with the source's own checks."""
    notebook, own = STUDENTS[student](), {graded(c).get("grade_id"): c for c in read(SOURCE).cells}
    answers = {graded(c).get("grade_id"): c for c in notebook.cells if graded(c)}
    for cell in (whole := read(SOURCE)).cells:
        name = graded(cell).get("grade_id")
        if name in answers and not graded(own[name]).get("grade"):
            cell.source = answers[name].source
    failed = failures(whole)
    return sum(points for what, points in POINTS.items() if what not in failed)


@pytest.mark.parametrize("student", STUDENTS)
def test_marks_are_the_points_of_the_checks_that_pass(student, marks, planted_card_file):
    by_hand = 5 if student == "ada" else 0
    assert float(marks[student]["score"]) == expected(student) + by_hand
    assert float(marks[student]["max_score"]) == sum(POINTS.values()) + sum(BY_HAND.values())


def test_five_of_different_quality_get_different_marks(marks):
    score = {student: float(row["score"]) for student, row in marks.items()}
    assert score["ada"] == sum(POINTS.values()) + 5
    assert score["ben"] == score["eve"] == 0
    assert 0 < score["dana"] < score["ada"], "what is made for the visible check fails the hidden one"
    assert 0 < score["chen"] < score["ada"]


def test_feedback_says_what_the_student_should_look_at(course):
    pages = {s: (course / "feedback" / s / LAB / f"{LAB}.html").read_text(encoding="utf-8") for s in STUDENTS}
    assert "one multiply-add is two FLOPs" in pages["chen"]
    assert "one multiply-add is two FLOPs" not in pages["ada"]
    assert all(re.search(r"Score: \d", page) for page in pages.values())


def test_a_changed_check_is_put_back(course):
    notebook = nbformat.read(course / "autograded" / "eve" / LAB / f"{LAB}.ipynb", as_version=4)
    checks = {graded(c)["grade_id"]: c.source for c in notebook.cells if graded(c).get("grade")}
    assert "labs.number" in checks["conv_macs_check"]
    assert "HIDDEN TESTS" in checks["conv_macs_check"], "the grader sees hidden tests"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    place = tmp_path_factory.mktemp("labs") / "release"
    place.mkdir()
    (place / "old.txt").write_text("of an earlier release")
    assert make.release(place) == [path.stem for path in SOURCES]
    return place


def test_the_release_is_nbgrader_s_and_has_no_text_with_solutions(release):
    files = sorted(str(path.relative_to(release)) for path in release.rglob("*") if path.is_file())
    assert files == sorted(f"{path.stem}/{path.stem}.ipynb" for path in SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_what_was_tested_is_what_is_released(path, release):
    """nbgrader's command gives the cells that the other tests look at, and those that are committed."""
    made = read(release / path.stem / path.name)
    assert [c.source for c in made.cells] == [c.source for c in released(read(path)).cells]
    committed = read(ROOT / "labs" / "release" / path.stem / path.name)
    assert [c.source for c in made.cells] == [c.source for c in committed.cells], "say `make labs`"


def test_the_pages_for_teachers_are_built_and_show_the_points(tmp_path):
    first = make.teaching(tmp_path / "pages")
    assert "01 · Compute" in first.read_text(encoding="utf-8")
    for path in SOURCES:
        page = (tmp_path / "pages" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert all(what in page for what, _, _ in make.checks(path.stem))
        assert not re.search(r'(?:src|href)="https?://[^"]*\.(?:js|css)', page), "nothing is fetched from elsewhere"


def test_a_command_that_is_none_is_said():
    done = subprocess.run([sys.executable, "labs/make.py", "lab"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "labs/make.py lab: say `release` or `teaching`" in done.stderr


def test_what_nbgrader_says_is_shown_if_it_fails(tmp_path):
    course = make.copy_of_course(tmp_path)
    with pytest.raises(SystemExit, match=r"nbgrader generate_assignment none failed:\n.*No such assignment|none"):
        make.run(course, "generate_assignment", "none")
