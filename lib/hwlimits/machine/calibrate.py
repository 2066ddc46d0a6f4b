"""Calibration: measure this computer, about two minutes, and give its machine card.

    hwlimits calibrate

It goes part by part: arithmetic and memory, what LiteRT and TensorFlow cost per operator (in a
process of its own: nothing here loads TensorFlow), disk, network with itself, starting a process,
handing out tasks.
A part that can't be measured here is left out with its reason; the others are kept.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hwlimits.data import cache_folder
from hwlimits.machine.latency import Point, point_of
from hwlimits.machine.processor import available_memory_bytes, caches, describe, usable_cores
from hwlimits.machine.provenance import provenance
from hwlimits.machine.record import Card, Number
from hwlimits.progress import bar as bar_of

OPERATORS_LIMIT_S = 300  # a process that hangs must not hold up the rest; these take a minute
PROCESS_LIMIT_S = 60
KEPT_S = 1800  # parts of an interrupted calibration that are older describe another afternoon
Found = tuple[list[Number | Point], dict[str, str]]  # what was measured; what was left out, and why
Tick = Callable[[str], None]  # told what is being measured now


@dataclass(frozen=True)
class Part:
    """A part of the calibration: what it gives, the seconds it is expected to take, and the call that measures."""

    gives: tuple[str, ...]
    expected_s: float
    measure: Callable[[Tick], Found]


Kept = dict[int, tuple[float, Found]]  # the place of a part among all -> when it was measured, and what it found
_kept: dict[bool, Kept] = {False: {}, True: {}}  # of a calibration that was interrupted, quick or not


def calibrate(quick: bool = False, progress: bool = True) -> Card:
    """Measure this computer and return its card; nothing is written (`Card.write` and `card()` do that).

    quick     about 30 s: fewer and shorter samples, a smaller file, and TensorFlow imported once
    progress  a bar on stderr that names what is being measured

    Never fails for one part: what can't be measured is in `left_out`, with the reason. Interrupted, it keeps the parts
    that were done, and the next call in the same program goes on after them, for half an hour.
    """
    record = provenance(f"hwlimits calibrate{' --quick' if quick else ''}")  # before the work: what is going to do it
    record["machine"] |= describe()
    found, left_out = run(parts(quick), progress, kept=_kept[quick])
    _kept[quick].clear()  # the next one measures everything
    numbers, operators = (tuple(x for x in found if isinstance(x, kind)) for kind in (Number, Point))
    return Card(numbers, record, left_out, operators)


def parts(quick: bool = False) -> list[Part]:
    """What a calibration measures, in order."""
    cores = usable_cores()
    processes = ("overhead process_start", "overhead numba_import", "overhead tensorflow_import")
    handing = ("overhead threads", "overhead processes", "overhead dask")
    return [
        Part(("peak", "bandwidth"), 8 if quick else 32, lambda tick: _rates(cores, quick, tick)),
        Part(("overhead litert", "overhead tensorflow"), 4 if quick else 6, lambda tick: _overheads(quick, tick)),
        Part(("operators", "memory litert"), 18 if quick else 45, lambda tick: _operators(quick, tick)),
        Part(("bandwidth disk",), 1 if quick else 6, lambda tick: _disk(quick, tick)),
        Part(("overhead loopback", "bandwidth loopback"), 1 if quick else 3, lambda tick: _loopback(quick, tick)),
        Part(processes, 5 if quick else 15, lambda tick: _processes(quick, tick)),
        Part(handing, 6 if quick else 16, lambda tick: _handing_out(quick, tick)),
    ]


def not_measured(card: Card) -> list[str]:
    """What a calibration gives that a card neither has nor says why not: an earlier version did not measure it.

    What is there counts for the longest name that it begins with: 'bandwidth disk_read' is no level of memory.
    """
    names = [name for part in parts() for name in part.gives]
    there = [f"{number.quantity} {number.of}" for number in card.numbers] + ["operators"] * bool(card.operators)
    found = {max((n for n in names if one.startswith(n)), key=len, default="") for one in [*there, *card.left_out]}
    return [name for name in names if name not in found]


def run(
    todo: list[Part],
    progress: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    kept: Kept | None = None,
) -> Found:
    """Measure the parts one after the other, with a progress bar in expected seconds.

    What a part promised and did not give is left out with the reason why it failed; so is a number
    that is not a positive one (a slope lost in noise). What is in `kept`, not older than KEPT_S, is taken from there;
    each part that was measured is put there.
    """
    kept = {} if kept is None else kept
    numbers: list[Number | Point] = []
    left_out: dict[str, str] = {}
    begun_s = 0.0
    form = "{desc:<32}{percentage:3.0f}% |{bar}| {elapsed}, about {remaining} left"
    total_s = sum(part.expected_s for part in todo)
    with bar_of(desc="", total=total_s, bar_format=form, shown=progress, mininterval=0.2) as bar:
        for place, part in enumerate(todo):
            started = clock()

            def tick(what: str, part=part, started=started, begun_s=begun_s) -> None:
                bar.set_description_str(what, refresh=False)
                # a part that takes longer than expected waits at its end, one that is faster jumps there
                bar.update(begun_s + min(clock() - started, part.expected_s) - bar.n)

            try:
                measured_s, before = kept.get(place, (-math.inf, None))
                if before is None or started - measured_s > KEPT_S:
                    before = part.measure(tick)
                    kept[place] = clock(), before
                found, missing = before[0], dict(before[1])
            except Exception as error:  # whatever it is, the other parts can still be measured
                found, missing = [], {name: reason(error) for name in part.gives}
            for number in found:
                if isinstance(number, Point) or math.isfinite(number.value) and number.value > 0:
                    numbers.append(number)
                else:
                    missing[f"{number.quantity} {number.of}"] = f"it came out as {number.value:.3g} {number.unit}"
            left_out |= missing
            begun_s += part.expected_s
            bar.update(begun_s - bar.n)
    return numbers, left_out


def reason(error: BaseException) -> str:
    """Why something failed, in one line that names neither a folder nor the computer nor its user.

    >>> reason(PermissionError(13, "Permission denied", "/home/someone/.cache"))
    'PermissionError: Permission denied'
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _private(f"{type(error).__name__}: {text}")


def _private(text: str) -> str:
    text = re.sub(r"(?:[A-Za-z]:\\|~?/)[^\s'\",:;]+", "…", " ".join(text.split()))
    for private in (platform.node(), Path.home().name):
        if len(private) > 2:
            text = text.replace(private, "…")
    return text[:300]


def _rates(cores: int, quick: bool, tick: Tick) -> Found:
    from hwlimits.machine.throughput import arithmetic, bandwidth, sample

    peaks, no_instruction = arithmetic(cores)
    triads, no_room = bandwidth(caches(), cores, available_memory_bytes())
    repeats, sample_s = (5, 0.01) if quick else (15, 0.1)
    numbers, failed = sample(peaks + triads, repeats=repeats, sample_s=sample_s, tick=tick)
    left_out = no_instruction | no_room
    return numbers, left_out | {name: reason(error) for name, error in failed.items()}


def _overheads(quick: bool, tick: Tick) -> Found:
    """Run `hwlimits.training.overhead`: TensorFlow is loaded there and not here."""
    found = _child("hwlimits.training.overhead", "LiteRT and TensorFlow overheads", quick, tick)
    return [Number(**row) for row in found["numbers"]], _reasons(found)


def _operators(quick: bool, tick: Tick) -> Found:
    """Run `hwlimits.training.operator_rates`: LiteRT is loaded there and not here."""
    found = _child("hwlimits.training.operator_rates", "LiteRT operators", quick, tick)
    memory = [Number(**row) for row in found["numbers"]]
    return [*(point_of(row) for row in found["operators"]), *memory], _reasons(found)


def _handing_out(quick: bool, tick: Tick) -> Found:
    """Run `hwlimits.sweep.handing_out`: it starts processes and a Dask cluster, and Dask is loaded there."""
    found = _child("hwlimits.sweep.handing_out", "handing out tasks", quick, tick)
    return [Number(**row) for row in found["numbers"]], _reasons(found)


def _reasons(found: dict) -> dict[str, str]:
    return {name: _private(why) for name, why in found["left_out"].items()}


def _child(module: str, what: str, quick: bool, tick: Tick) -> dict:
    """What a module that is run as a process of its own says in its last line, which is JSON."""
    command = [sys.executable, "-m", module, *(["--quick"] if quick else [])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, start_new_session=True) as child:
        said, end_s = None, time.monotonic() + OPERATORS_LIMIT_S
        try:
            while said is None:
                if time.monotonic() > end_s:
                    raise TimeoutError(f"the process that measures them had not ended after {OPERATORS_LIMIT_S:g} s")
                tick(what)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    said, complaint = child.communicate(timeout=0.3)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # and whom it has started
    if child.returncode:
        raise RuntimeError(" ".join(complaint.strip().splitlines()[-1:]) or f"it ended with status {child.returncode}")
    try:
        return json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        raise RuntimeError("the process that measures them gave no result") from None


def _disk(quick: bool, tick: Tick) -> Found:
    from hwlimits.machine.disk import measure_disk

    return measure_disk(
        cache_folder(), size_bytes=2**26 if quick else 2**28, repeats=3 if quick else 5, limit_s=6, tick=tick
    )


def _loopback(quick: bool, tick: Tick) -> Found:
    from hwlimits.machine.loopback import measure_loopback

    numbers = measure_loopback(
        repeats=3 if quick else 9, round_trips=500 if quick else 3000, size_bytes=2**25 if quick else 2**28, tick=tick
    )
    return numbers, {}


def _processes(quick: bool, tick: Tick) -> Found:
    """Time from starting Python to its end, with nothing to do and with an import; what nothing takes is subtracted."""
    tick("process start")
    _process_s("pass")
    start = [_process_s("pass") for _ in range(5 if quick else 20)]
    how = "Start to end of `python -c pass` with the course's own Python, site packages on its path."
    numbers, left_out = [Number.from_samples("overhead", "process_start", "s", start, how)], {}
    for package, repeats in (("numba", 1 if quick else 5), ("tensorflow", 1 if quick else 3)):
        try:
            samples = []
            for _ in range(repeats + (not quick)):  # the first reads the disk, and is not counted
                tick(f"import {package}")
                samples.append(_process_s(f"import {package}") - statistics.median(start))
            how = f"Start to end of `python -c 'import {package}'`, less process_start; files in the system's memory."
            numbers.append(Number.from_samples("overhead", f"{package}_import", "s", samples[-repeats:], how))
        except Exception as error:
            left_out[f"overhead {package}_import"] = reason(error)
    return numbers, left_out


def _process_s(program: str) -> float:
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=quiet, timeout=PROCESS_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"python -c '{program}' had not ended after {PROCESS_LIMIT_S:g} s") from None
    elapsed_s = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.strip().splitlines()[-1:]) or f"status {done.returncode}")
    return elapsed_s
