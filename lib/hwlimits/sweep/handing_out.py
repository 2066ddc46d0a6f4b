"""What it costs to have tasks done by others, whatever they compute: numbers for the machine card.

    python -m hwlimits.sweep.handing_out [--quick]      as JSON

For threads, processes and Dask, with a worker on each core: starting them, until each has its kernel compiled; a call
that hands out one task with nothing to do; and every further task of a call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict

from hwlimits.machine import tasks
from hwlimits.machine.processor import usable_cores
from hwlimits.machine.record import Number
from hwlimits.sweep.ways import WAYS, Do, started

KIND = "compute"
EMPTY = 200  # tasks with nothing to do in a call: so many, and what a call costs beside them is little
SETTLE = 3  # calls that are not counted


def measure(way: str, *, starts: int, calls: int) -> list[Number]:
    """'{way}_start', '{way}_call' and '{way}_task', in s, from so many starts and calls.

    Raises TaskError for an unknown way.
    """
    cores = usable_cores()
    tasks.prepare(KIND)  # numba is imported here, so that threads have only themselves to be started
    start: list[float] = []
    for _ in range(starts):
        begun_s = time.perf_counter()
        with started(way, cores, KIND) as do:
            start.append(time.perf_counter() - begun_s)
            if len(start) == starts:
                one, many = ([_seconds(do, count) for _ in range(SETTLE + calls)][SETTLE:] for count in (1, EMPTY))
    call_s = statistics.median(one)
    each = [(s - call_s) / (EMPTY - 1) for s in many]
    those = f"{cores} workers, {way}"
    return [
        Number.from_samples("overhead", f"{way}_start", "s", start, f"From nothing to {those}, each ready to compute."),
        Number.from_samples("overhead", f"{way}_call", "s", one, f"A call with one empty task, {those}."),
        Number.from_samples(
            "overhead", f"{way}_task", "s", each, f"One more of {EMPTY} empty tasks of a call, {those}."
        ),
    ]


def _seconds(do: Do, count: int) -> float:
    begun_s = time.perf_counter()
    do([[]] * count)
    return time.perf_counter() - begun_s


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hwlimits.sweep.handing_out", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer starts and calls")
    quick = parser.parse_args(arguments).quick
    numbers, left_out = [], {}
    for way in WAYS[1:]:
        try:
            numbers += measure(way, starts=1 if quick else 3, calls=3 if quick else 9)
        except Exception as error:  # the other ways can still be measured
            left_out[f"overhead {way}"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    print(json.dumps({"numbers": [asdict(number) for number in numbers], "left_out": left_out}))


if __name__ == "__main__":
    main()
