"""The peak memory of a piece of work, measured in a process of its own.

A process that has done other things keeps the memory they took, so a peak is only honest in a
fresh one: it prepares, its high-water mark is reset, it works, and the mark is read again.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import psutil


def peak_bytes(prepare: str, work: str) -> int:
    """Bytes by which resident memory rose at most while `work` ran, after `prepare` had.

    Both are Python source, run one after the other in one namespace of a fresh process.
    Raises RuntimeError with what the process said if it fails.

    >>> peak_bytes("import numpy as np", "x = np.ones(50_000_000, np.uint8)") > 45_000_000
    True
    """
    done = subprocess.run([sys.executable, "-m", __name__, prepare, work], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"peak_bytes: the measured process failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def high_water_bytes() -> int:
    """The most resident memory that this process has had since the mark was reset."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reset_high_water() -> None:
    with contextlib.suppress(OSError):  # elsewhere than on Linux, a peak below that of the imports is missed
        Path("/proc/self/clear_refs").write_text("5")


def _child(prepare: str, work: str) -> None:
    namespace: dict = {}
    exec(prepare, namespace)
    _reset_high_water()
    before = psutil.Process().memory_info().rss
    exec(work, namespace)
    print(json.dumps(max(0, high_water_bytes() - before)))


if __name__ == "__main__":
    _child(*sys.argv[1:])
