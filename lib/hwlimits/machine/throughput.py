"""Rates of this computer's arithmetic and memory, with one thread and with one on each core.

Peak: the kernels of `hwlimits.kernels.peak`, which stay in registers. Bandwidth: STREAM's triad,
out = a + s b (McCalpin 1995), over arrays sized to sit in one level of memory. STREAM counts three
arrays, two read and one written; that a cache may first read the line it is going to write
(write-allocate) is not counted.

All rates are sampled in turn, again and again, so that a machine that drifts treats them alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from hwlimits.machine.processor import Cache
from hwlimits.machine.record import Number

PRECISIONS = ("fp32", "fp64", "int8")
ITEM = np.dtype(np.float64)
LINE_BYTES, PAGE_BYTES = 64, 4096
SMALLEST_DRAM_BYTES = 2**28  # where caches are small or the system does not tell them
DRAM_OVER_CACHE = 4  # STREAM's rule: arrays at least this often the last cache
MEMORY_SHARE = 0.25  # of what is available, at most


@dataclass
class Probe:
    """A rate that can be sampled: each of `work`, one a thread, does a number of rounds and says how much that was."""

    quantity: str
    of: str
    unit: str
    how: str
    work: Sequence[Callable[[int], int]]
    rounds: int = 1
    samples: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        threads = len(self.work)
        return f"{self.quantity} {self.of}, {threads} thread{'s' if threads > 1 else ''}"

    def number(self) -> Number:
        """The median of the samples."""
        busy = sum(self.busy) / len(self.busy)
        return Number.from_samples(self.quantity, self.of, self.unit, self.samples, self.how, len(self.work), busy)


def together(
    work: Sequence[Callable[[], int]], clock: Callable[[], float] = time.perf_counter
) -> tuple[int, float, float]:
    """Run calls at the same time, each in a thread.

    Returns the sum of what they return, the seconds from the first start to the last end, and the
    share of their time for which they had a processor.

    >>> together([lambda: 3, lambda: 4])[0]
    7
    """
    barrier = threading.Barrier(len(work))

    def one(call):
        barrier.wait()
        start, ran = clock(), time.thread_time()
        amount = call()
        return amount, start, clock(), time.thread_time() - ran

    with ThreadPoolExecutor(len(work)) as pool:
        amounts, starts, ends, ran = zip(*pool.map(one, work), strict=True)
    took = sum(ends) - sum(starts)
    return sum(amounts), max(ends) - min(starts), sum(ran) / took if took else 1.0


def sample(probes: Sequence[Probe], *, repeats: int, sample_s: float, tick: Callable[[str], None],
           clock: Callable[[], float] = time.perf_counter) -> tuple[list[Number], dict[str, Exception]]:  # fmt: skip
    """Sample all probes in turn, `repeats` times, forwards and backwards, each sample at least `sample_s` seconds long.

    Returns their numbers, and for each probe that failed the reason. `tick` is told each
    probe's name before each of its samples and before its warm-up: 1 + repeats times in all.
    """
    failed: dict[str, Exception] = {}
    for turn in range(1 + repeats):
        for probe in probes if turn % 2 else reversed(probes):
            tick(probe.name)
            if probe.name in failed:
                continue
            try:
                if turn == 0:  # compiles, warms up, and finds how many rounds make a sample
                    probe.rounds = _rounds_for(probe, sample_s, clock)
                else:
                    amount, elapsed_s, busy = _once(probe, probe.rounds, clock)
                    probe.samples.append(amount / elapsed_s)
                    probe.busy.append(busy)
            except Exception as error:  # one number less; the others can still be measured
                failed[probe.name] = error
    return [probe.number() for probe in probes if probe.name not in failed], failed


def _once(probe: Probe, rounds: int, clock) -> tuple[int, float, float]:
    return together([lambda one=one: one(rounds) for one in probe.work], clock)


def _rounds_for(probe: Probe, sample_s: float, clock) -> int:
    """The first call may compile: it is not judged by."""
    _once(probe, 1, clock)
    rounds = 1
    while True:
        elapsed_s = _once(probe, rounds, clock)[1]
        if elapsed_s >= sample_s:
            return rounds
        rounds = max(rounds + 1, int(rounds * min(10, 1.2 * sample_s / max(elapsed_s, 1e-9))))


def arithmetic(cores: int) -> tuple[list[Probe], dict[str, str]]:
    """Probes of the peak rate of each precision, with one thread and with one a core; what is left out, why."""
    from hwlimits.kernels import peak  # numba, not before it is needed

    def work(precision: str) -> Callable[[int], int]:
        return lambda rounds: peak.run(precision, 10_000 * rounds)

    probes = []
    for precision in peak.PRECISIONS:
        unit = "OP/s" if precision.startswith("int") else "FLOP/s"
        for threads in sorted({1, cores}):
            how = f"Multiply-adds in vector registers, two operations each, {_on(threads)}."
            probes.append(Probe("peak", precision, unit, how, [work(precision)] * threads))
    missing = [precision for precision in PRECISIONS if precision not in peak.PRECISIONS]
    return probes, {f"peak {p}": "this processor has no instruction for it that the kernels know" for p in missing}


def _on(threads: int) -> str:
    return "on one thread" if threads == 1 else f"on each of {threads} threads, from the first start to the last end"


def working_set_bytes(caches: Sequence[Cache], level: int, threads: int) -> int | None:
    """Bytes with which each of `threads` threads stays in a cache level and out of the nearer one.

    Half of a thread's share of the level; or, where that is less than twice the nearer level, the
    middle between the two. None if a thread's share is no larger than the nearer level.

    >>> working_set_bytes([Cache("L1", 32_768, 1, 2), Cache("L2", 524_288, 1, 2)], 1, threads=2)
    262144
    """
    share = caches[level].bytes // min(threads, caches[level].cores)
    nearer = caches[level - 1].bytes // min(threads, caches[level - 1].cores) if level else 0
    if share <= nearer:
        return None
    return share // 2 if share // 2 >= 2 * nearer else (share + nearer) // 2


def dram_bytes(caches: Sequence[Cache], available_bytes: int) -> int:
    """Bytes of the arrays that measure DRAM: four times all the last caches, if memory allows.

    >>> dram_bytes([Cache("L1", 32_768, 1, 2), Cache("L2", 2**28, 2, 1)], available_bytes=2**34) == 2**30
    True
    """
    last = caches[-1].bytes * caches[-1].count if caches else 0
    return min(max(DRAM_OVER_CACHE * last, SMALLEST_DRAM_BYTES), int(MEMORY_SHARE * available_bytes))


def bandwidth(caches: Sequence[Cache], cores: int, available_bytes: int) -> tuple[list[Probe], dict[str, str]]:
    """Probes of the triad in each memory level, with one thread and with one a core; what is left out, and why."""
    probes, left_out = [], {}
    counts = sorted({1, cores})
    for level, cache in enumerate(caches):
        for threads in counts:
            size = working_set_bytes(caches, level, threads)
            if size is None:
                why = "a thread's share of this cache is no larger than the cache before it"
                left_out[f"bandwidth {cache.level}, {threads} threads"] = why
            else:
                probes.append(_triad(cache.level, size, threads, ""))
    total, last = dram_bytes(caches, available_bytes), caches[-1].bytes * caches[-1].count if caches else 0
    if total < 2 * last:
        left_out["bandwidth DRAM"] = (
            f"the memory available, {available_bytes:,} bytes, allows arrays of {total:,}; "
            f"they would partly sit in caches of {last:,}"
        )
        return probes, left_out
    beside = f"; in all {total / last:.1f} times the last caches ({last:,} bytes)" if last else ""
    probes += [_triad("DRAM", total // threads, threads, beside) for threads in counts]
    return probes, left_out


def _triad(level: str, size: int, threads: int, beside: str) -> Probe:
    n = size // 3 // ITEM.itemsize
    return Probe(
        "bandwidth", level, "B/s",
        f"STREAM triad, three arrays of {n * ITEM.itemsize:,} bytes (float64) {_on(threads)}{beside}; "
        "bytes of the three arrays over time, write-allocate not counted.",
        [_triad_work(n) for _ in range(threads)],
    )  # fmt: skip


def _triad_work(n: int) -> Callable[[int], int]:
    """Triad over arrays of its own, made when it is first run, by the thread that runs it."""
    arrays: list[np.ndarray] = []

    def work(rounds: int) -> int:
        from hwlimits.kernels import stream  # numba, not before it is needed

        if not arrays:
            arrays.extend(aligned(n, 3))
        a, b, out = arrays
        stream.LOOPS["triad"](a, b, 3.0, out, rounds)
        return 3 * a.nbytes * rounds

    return work


def aligned(n: int, count: int) -> list[np.ndarray]:
    """Arrays of n ones, each beginning on a cache line, and no two at the same place of a memory page.

    A vector that crosses a line costs two loads; and a load from the same place of another page as
    a store just before it waits for that store. Either would measure the layout, not the level.
    """
    line = LINE_BYTES // ITEM.itemsize
    page = PAGE_BYTES // ITEM.itemsize
    stride = -(-n // line) * line
    while any((i * stride) % page < 4 * line or (i * stride) % page > page - 4 * line for i in range(1, count)):
        stride += line
    block = np.ones(count * stride + line, ITEM)
    first = -block.ctypes.data % LINE_BYTES // ITEM.itemsize
    return [block[first + i * stride : first + i * stride + n] for i in range(count)]
