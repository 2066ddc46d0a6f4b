"""What runs in the workers' processes: one task at a time, its result written before anything else is told."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import signal
import time
import traceback
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

import hwlimits
import hwlimits.sweep.results as results
from hwlimits.data import cache_folder
from hwlimits.machine.provenance import provenance
from hwlimits.sweep.settings import SweepError, find_task, one_line

POOLS = ("OMP", "OPENBLAS", "MKL", "NUMBA")
ONE_THREAD = {f"{pool}_NUM_THREADS": "1" for pool in POOLS} | {
    "VECLIB_MAXIMUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}


@functools.cache
def about() -> dict[str, str]:
    """What must be the same here and on a worker, so that its results are this code's."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {
        "Python": python,
        "hwlimits": f"{hwlimits.__version__} (code {_code()})",
        "distributed": version("distributed"),
    }


def _code() -> str:
    """A hash of the library's source, the same on every system."""
    here = Path(hwlimits.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(here.rglob("*.py"), key=lambda path: path.relative_to(here).as_posix()):
        digest.update(path.relative_to(here).as_posix().encode() + b"\0" + path.read_text("utf-8").encode() + b"\0")
    return digest.hexdigest()[:8]


def differences(theirs: dict, ours: dict) -> str:
    """What is not the same, or ''.

    >>> differences({"Python": "3.11"}, {"Python": "3.12"})
    'Python 3.11, and here 3.12'
    """
    return "; ".join(
        f"{what} {theirs.get(what)}, and here {ours[what]}" for what in ours if theirs.get(what) != ours[what]
    )


def scratch() -> Path:
    """Where a worker that has no part in the sweep's folder keeps what it does."""
    return cache_folder() / "sweeps"


def execute(name: str, settings: dict, key: str, folder: str | None, expected: dict) -> dict:
    """Run a task, or find that it is finished; how it went, as a dict that travels.

    Its result is kept in `folder`; without one, in the worker's own and in the answer. An exception is an answer, too.
    """
    root = Path(folder) if folder else scratch()
    try:
        if folder is None and (wrong := differences(about(), expected)):
            return {"fatal": f"the worker {platform.node()} has {wrong}"}
        work = results.prepare(root)
        with FileLock(str(work / f"{key}.lock")):  # another sweep may be computing it: then wait, and find it
            done = _finished(root, key, name, settings)
            if done is None:
                try:
                    task = find_task(name)
                except SweepError as error:
                    return {"fatal": str(error)}
                with _log(work / f"{key}.log") if folder else nullcontext():
                    _compute(task, name, settings, root, key)
                done = results.look(root, key, name, settings)
        return {} if folder else _parcel(done)
    # A task can raise anything, and sys.exit() in it must not end the worker.
    except BaseException as error:
        return {"error": one_line(error), "traceback": traceback.format_exc()}


def _finished(root: Path, key: str, name: str, settings: dict) -> results.Done | None:
    try:
        return results.look(root, key, name, settings)
    except results.DamagedError:
        results.set_aside(root, key, name, settings)
        return None


def _compute(task, name: str, settings: dict, root: Path, key: str) -> None:
    own = root / "work" / key
    own.mkdir(exist_ok=True)
    start_s = time.perf_counter()
    try:
        result = results.checked(task(dict(settings), own), name)
    except BaseException:
        traceback.print_exc()  # for the log
        raise
    record = {
        "task": name,
        "settings": settings,
        "row": result.row,
        "seconds": time.perf_counter() - start_s,
        "made_by": provenance(f"hwlimits.sweep, task {name}"),
    }
    results.keep(root, key, record, result.files)


def _parcel(done: results.Done) -> dict:
    return {"row": done.row, "seconds": done.seconds, "files": results.read_files(done), "made_by": done.made_by}


@contextmanager
def _log(path: Path):
    """What this process and those that it starts print, in a file: results go to stdout, and progress to stderr."""
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with open(path, "a", encoding="utf-8", errors="replace", buffering=1) as file:
            for number in (1, 2):  # of libraries in C, and of processes that the task starts
                os.dup2(file.fileno(), number)
            with redirect_stdout(file), redirect_stderr(file):
                yield
    finally:
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def greet(points: list[tuple[str, str, dict]]) -> dict:
    """What this worker is, and which points (key, task, settings) it has finished for a sweep that was cut off."""
    found = []
    for key, name, settings in points:
        with suppress(SweepError):
            if results.look(scratch(), key, name, settings):
                found.append(key)
    return {"about": about(), "finished": found}


def hand_over(key: str, name: str, settings: dict) -> dict:
    """A result that this worker has finished, to be written where the sweep's folder is."""
    return _parcel(results.look(scratch(), key, name, settings))


def forget(keys: list[str]) -> None:
    """Remove what this worker kept of results that have been written elsewhere."""
    root = scratch()
    for key in keys:
        if (root / "work" / f"{key}.lock").exists():
            with suppress(Timeout, OSError), FileLock(str(root / "work" / f"{key}.lock"), timeout=0):
                shutil.rmtree(root / key, ignore_errors=True)
                shutil.rmtree(root / "work" / key, ignore_errors=True)


def settle() -> None:
    """Make this process a quiet worker of a local cluster: one thread, and Ctrl-C is for the sweep to handle."""
    import logging

    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)  # libraries that were loaded before ONE_THREAD was there to be read
    for logger in ("distributed", "distributed.worker", "distributed.core"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
