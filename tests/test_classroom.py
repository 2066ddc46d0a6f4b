"""Kernels of a class: their memory, what they say, and the table of a class."""

import csv
import os

import psutil
import pytest
from test_repository import ROOT

from hwlimits import data
from hwlimits.machine import classroom
from hwlimits.machine.classroom import COLUMNS, ClassroomError, Student, cells, rows


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    with Student(tmp_path_factory.mktemp("home")) as one:
        yield one


def told(student, code):
    student.say(code)
    return student.hear(60)


def test_a_student_keeps_what_it_was_told_and_says_what_it_prints(student):
    told(student, "kept = 6")
    assert told(student, "print(kept * 7)\n1 / 3").split() == ["42"]


def test_a_failure_is_said_and_the_kernel_goes_on(student):
    student.say("1 / 0")
    with pytest.raises(ClassroomError, match="a kernel failed: ZeroDivisionError: division by zero"):
        student.hear(60)
    assert told(student, "print('still here')") == "still here\n"


def test_a_kernel_that_does_not_end_is_not_waited_for(student):
    student.say("import time; time.sleep(5)")
    with pytest.raises(ClassroomError, match=r"not done after 0.2 s"):
        student.hear(0.2)
    student.hear(60)


def test_memory_grows_by_what_is_held(student):
    """100 MB that are written to; and those of a process that the kernel has started, too."""
    before = student.memory_bytes
    told(student, "held = bytearray(100_000_000)\nheld[::4096] = bytes(len(held[::4096]))")
    assert student.memory_bytes - before == pytest.approx(100e6, rel=0.05)
    between = student.memory_bytes
    told(student, "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', "
                  "'x = bytearray(80_000_000); x[::4096] = bytes(len(x[::4096])); print(1, flush=True); input()'], "
                  "stdin=subprocess.PIPE, stdout=subprocess.PIPE)\nchild.stdout.readline()")  # fmt: skip
    assert student.memory_bytes - between > 80e6
    told(student, "child.stdin.close(); child.wait(); del held")


def test_a_system_that_does_not_tell_is_said(monkeypatch, student):
    monkeypatch.setattr(psutil.Process, "memory_full_info", lambda self: self.memory_info())
    with pytest.raises(ClassroomError, match="does not tell how much memory processes share"):
        _ = student.memory_bytes


def test_a_class_is_a_row(tmp_path):
    """Two students with 50 MB each."""
    code = ["held = bytearray(50_000_000)\nheld[::4096] = bytes(len(held[::4096]))"]
    one, two = rows("none", code, (1, 2), tmp_path)
    assert tuple(one) == tuple(two) == COLUMNS
    assert (one["students"], two["students"], one["product_ratio"]) == (1, 2, 1.0)
    assert two["memory_bytes_all"] > 2 * 50e6
    assert two["memory_bytes_each"] == pytest.approx(two["memory_bytes_all"] / 2, rel=0.1)
    assert 0 <= two["noisy_share"] <= 1
    assert two["product_s"] == pytest.approx(two["product_ratio"] * one["product_s"])


def test_no_kernel_is_left(tmp_path):
    with pytest.raises(ClassroomError, match="a kernel failed: NameError"):
        next(rows("none", ["nothing"], (2,), tmp_path))
    mine = psutil.Process(os.getpid()).children(recursive=True)
    assert not [p for p in mine if "ipykernel" in " ".join(p.cmdline()) and str(tmp_path) == p.cwd()]


def test_the_cells_are_those_of_the_source():
    found = cells(ROOT / "labs" / "source" / "01_compute" / "01_compute.ipynb")
    assert found[0].startswith("import numpy")
    assert any("BEGIN SOLUTION" in cell for cell in found)


def test_the_stored_class():
    with data.path("results/classroom.csv").open(encoding="utf-8", newline="") as file:
        stored = list(csv.DictReader(file))
    assert {row["lab"] for row in stored} == {"01_compute", "05_quantization", "capstone"}
    assert max(int(row["students"]) for row in stored) == 30
    for row in stored:
        assert float(row["memory_bytes_all"]) == pytest.approx(
            int(row["students"]) * float(row["memory_bytes_each"]), rel=0.2
        )
    assert tuple(stored[0]) == classroom.COLUMNS
