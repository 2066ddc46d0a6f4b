"""The peak memory of a piece of work, measured in a process of its own.

A process that has done other things keeps the memory they took, so a peak is only honest in a
fresh one: it prepares, its high-water mark is reset, it works, and the mark is read again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil


def peak_bytes(prepare: str, work: str, environment: Mapping[str, str] | None = None) -> int:
    """Bytes by which resident memory rose at most while `work` ran, after `prepare` had.

    Both are Python source, run one after the other in one namespace of a fresh process, which
    has the variables of `environment` beside this one's.
    Raises RuntimeError with what the process said if it fails.

    >>> peak_bytes("import numpy as np", "x = np.ones(50_000_000, np.uint8)") > 45_000_000
    True
    """
    command = [sys.executable, "-m", __name__, prepare, work]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | dict(environment or {}))
    if done.returncode:
        raise RuntimeError(f"peak_bytes: the measured process failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _child(prepare: str, work: str) -> None:
    namespace: dict = {}
    exec(prepare, namespace)
    before = psutil.Process().memory_info().rss
    peak = _peak_of_mark if _reset_mark() else _peak_of_samples
    print(json.dumps(max(0, peak(lambda: exec(work, namespace)) - before)))


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _reset_mark() -> bool:
    """Set this process's high-water mark to what it has now; False where the system has no such mark (not Linux)."""
    if os.environ.get("HWLIMITS_TEST_NO_PROC"):
        return False
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _peak_of_mark(work: Callable[[], None]) -> int:
    work()
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _peak_of_samples(work: Callable[[], None]) -> int:
    """A thread looks every millisecond: what is shorter than that is missed."""
    seen, over = [psutil.Process().memory_info().rss], threading.Event()

    def look():
        process = psutil.Process()
        while not over.wait(0.001):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    work()
    over.set()
    watcher.join()
    return max(seen)


if __name__ == "__main__":
    _child(*sys.argv[1:])
