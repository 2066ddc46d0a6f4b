"""A class on one server: memory for each student, and whether a timer notices that others work beside it.

    make results-classroom        # data/results/classroom.csv: labs in 1 to 30 kernels at once (20 minutes, Linux)

A student is a kernel of Jupyter that runs a lab to its end and stays, as notebooks do. Its memory is its proportional
set size (PSS): pages of its own, and of pages that several kernels share, its part. So the sum over all students is
what the server has to have for them. Then all kernels time the same product at once, with the course's timer.
"""

from __future__ import annotations

import json
import queue
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import nbformat
import psutil

from hwlimits import data
from hwlimits.machine.provenance import provenance, require_clean_commit, store_table

COLUMNS = (
    "lab", "students", "memory_bytes_each", "memory_bytes_all", "lab_s", "product_s", "product_ratio", "noisy_share",
)  # fmt: skip
LIMIT_S = 900.0
PROBE = """
import json as _json
import numpy as _np
from threadpoolctl import threadpool_limits as _limits
from hwlimits.machine import measure as _measure
_a = _np.ones((400, 400), _np.float32)
with _limits(1):
    _timing = _measure(lambda: _a @ _a, repeats=31, min_sample_s=5e-3)
print(_json.dumps([_timing.median_s, bool(_timing.noisy)]))
"""


class ClassroomError(RuntimeError):
    """A kernel of the class did not do what it was given; the text says which and what it said."""


def cells(notebook: str | Path) -> list[str]:
    """The code of a lab with its solutions, cell by cell."""
    found = nbformat.read(notebook, as_version=4)
    return [cell.source for cell in found.cells if cell.cell_type == "code"]


class Student:
    """A kernel. It is told something (`say`) and waited for (`hear`), so that many can work at the same time."""

    def __init__(self, folder: str | Path):
        from jupyter_client.manager import start_new_kernel

        self.manager, self.client = start_new_kernel(cwd=str(folder), startup_timeout=120)
        self.asked = ""

    def __enter__(self) -> Student:
        return self

    def __exit__(self, *_) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def say(self, code: str) -> None:
        self.asked = self.client.execute(code, stop_on_error=False)

    def hear(self, limit_s: float = LIMIT_S) -> str:
        """What it printed for what it was told last. Raises ClassroomError for an exception, or after the limit."""
        printed, failed, end_s = [], "", time.monotonic() + limit_s
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=max(0.1, end_s - time.monotonic()))
            except queue.Empty:
                raise ClassroomError(f"a kernel was not done after {limit_s:g} s") from None
            if message["parent_header"].get("msg_id") != self.asked:
                continue
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                printed.append(content["text"])
            elif message["msg_type"] == "error":
                failed = f"a kernel failed: {content['ename']}: {content['evalue']}"
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                if failed:
                    raise ClassroomError(failed)
                return "".join(printed)

    @property
    def memory_bytes(self) -> int:
        """Proportional set size of the kernel and of all processes that it has started and that still run."""
        kernel = psutil.Process(self.manager.provisioner.pid)
        return sum(_pss_bytes(process) for process in [kernel, *kernel.children(recursive=True)])


def _pss_bytes(process: psutil.Process) -> int:
    try:
        found = process.memory_full_info()
    except psutil.NoSuchProcess:
        return 0
    if not hasattr(found, "pss"):
        raise ClassroomError("this system does not tell how much memory processes share (PSS); Linux does")
    return found.pss


def rows(
    lab: str, code: list[str], counts: Iterable[int], folder: str | Path, alone_s: float | None = None
) -> Iterator[dict]:
    """For each number of students: a lab run by all of them at once, what they hold then, and a product timed by all.

    `product_ratio` is the median time over that of the first row, or over `alone_s`.
    """
    for count in counts:
        with ExitStack() as stack:
            students = [stack.enter_context(Student(folder)) for _ in range(count)]
            started = time.monotonic()
            for cell in code:
                _together(students, cell)
            lab_s = time.monotonic() - started
            memory = [student.memory_bytes for student in students]
            timed = [json.loads(said.splitlines()[-1]) for said in _together(students, PROBE)]
        product_s = statistics.median(median_s for median_s, _ in timed)
        alone_s = alone_s or product_s
        yield {
            "lab": lab, "students": count, "memory_bytes_each": statistics.median(memory),
            "memory_bytes_all": sum(memory), "lab_s": lab_s, "product_s": product_s,
            "product_ratio": product_s / alone_s, "noisy_share": sum(noisy for _, noisy in timed) / count,
        }  # fmt: skip


def _together(students: list[Student], code: str) -> list[str]:
    for student in students:
        student.say(code)
    return [student.hear() for student in students]


def main() -> None:
    import tempfile

    require_clean_commit()
    made_by, found = provenance("make results-classroom"), []
    sources = data.path("results").parents[1] / "labs" / "source"
    for lab, counts in (
        ("01_compute", (1, 2, 4, 8, 15, 30)),
        ("05_quantization", (1, 4, 15, 30)),
        ("capstone", (1, 4, 8)),
    ):
        code = cells(sources / lab / f"{lab}.ipynb")
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(lab, code, counts, folder):
                print({name: row[name] for name in COLUMNS}, flush=True)
                found.append(row)
    store_table(data.path("results") / "classroom.csv", COLUMNS, found, made_by)


if __name__ == "__main__":
    main()
