"""One timer for the whole course, and one way to compare two things.

A single time says little: caches are cold at first, the clock has a resolution, other programs
run, and a processor changes its frequency. So `measure` warms up, repeats, and gives the median
with its interquartile range. And two medians taken one after the other compare the computer at
two moments; `compare` therefore interleaves the two in a palindrome, with one of them in it
twice under different names: if that A/A control does not read 1.00, neither does anything else.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwlimits.units import seconds

AA_TOLERANCE = 0.03  # an A/A control outside 1.00 +- this makes a comparison void
EQUAL_WITHIN = 0.05  # two times closer than this are called equal
NOISY_ABOVE = 0.10  # interquartile range over median


@dataclass(frozen=True)
class Timing:
    """Repeated times of one call: `samples_s` in seconds per call, each the mean of `loops` calls."""

    samples_s: tuple[float, ...]
    loops: int = 1

    @property
    def median_s(self) -> float:
        return statistics.median(self.samples_s)

    @property
    def iqr_s(self) -> float:
        """Interquartile range: the middle half of the samples lies within it."""
        low, high = np.percentile(self.samples_s, [25, 75])
        return float(high - low)

    @property
    def noisy(self) -> bool:
        return self.iqr_s > NOISY_ABOVE * self.median_s

    def __str__(self) -> str:
        mark = " NOISY" if self.noisy else ""
        return f"{seconds(self.median_s)} (IQR {seconds(self.iqr_s)}, n = {len(self.samples_s)}){mark}"


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `ratio` is time of a over time of b: above 1, b is the faster.

    `low` and `high` bound the ratio with 95 % confidence; `aa_ratio` is a against itself.
    """

    a: Timing
    b: Timing
    ratio: float
    low: float
    high: float
    aa_ratio: float
    attempts: int = 1

    @property
    def void(self) -> bool:
        """True if the A/A control shows that the machine did not hold still."""
        return abs(self.aa_ratio - 1) > AA_TOLERANCE

    @property
    def verdict(self) -> str:
        """'faster', 'slower' or 'equal' (b against a), or 'VOID'."""
        if self.void:
            return "VOID"
        if self.low > 1 and self.ratio > 1 + EQUAL_WITHIN:
            return "faster"
        if self.high < 1 and self.ratio < 1 - EQUAL_WITHIN:
            return "slower"
        return "equal"

    def __str__(self) -> str:
        control = f"A/A control {self.aa_ratio:.3f}"
        if self.void:
            return f"VOID after {self.attempts} attempts: {control} is outside 1.00 ± {AA_TOLERANCE}"
        interval = f"{self.ratio:.2f}x [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.verdict}: {interval}, {control}"


def measure(
    fn: Callable[[], Any],
    *,
    repeats: int = 30,
    min_sample_s: float = 1e-3,
    sync: Callable[[Any], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time a call: warm up, then `repeats` samples of at least `min_sample_s` seconds each.

    `sync` gets what the last call returned and waits until it is there; an engine that
    returns before its work is done (a GPU's, JAX's) needs one, or only the launch is timed.

    Raises ValueError if `repeats` is below 3: a median needs something to be the middle of.

    >>> measure(lambda: sum(range(1000)), repeats=5).median_s > 0
    True
    """
    if repeats < 3:
        raise ValueError(f"measure(repeats={repeats}): ask for at least 3 samples")
    loops = _loops_for(fn, min_sample_s, sync, clock)
    return Timing(tuple(_sample(fn, loops, sync, clock) for _ in range(repeats)), loops)


def compare(
    a: Callable[[], Any],
    b: Callable[[], Any],
    *,
    rounds: int = 20,
    attempts: int = 3,
    min_sample_s: float = 2e-3,
    sync: Callable[[Any], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Compare the times of two calls, interleaved, with an A/A control.

    Each round runs a, a', b, b, a', a, where a' is a again: a machine that drifts steadily
    through the round treats all three alike. Before each sample the call runs once untimed, so
    that it does not pay for what the other left in the caches. The ratio is the median over the rounds; its
    interval is a bootstrap over them. A void or noisy comparison is tried again, `attempts`
    times in all; the last is returned as it is, for the caller to show.

    >>> work = lambda: sum(range(20_000))
    >>> compare(work, lambda: (work(), work()), rounds=5).ratio < 1
    True
    """
    if rounds < 3:
        raise ValueError(f"compare(rounds={rounds}): ask for at least 3 rounds")
    loops_a = _loops_for(a, min_sample_s, sync, clock)
    loops_b = _loops_for(b, min_sample_s, sync, clock)
    for attempt in range(1, attempts + 1):
        found = _compare_once(
            lambda: (_sample(a, 1, sync, clock), _sample(a, loops_a, sync, clock))[1],
            lambda: (_sample(b, 1, sync, clock), _sample(b, loops_b, sync, clock))[1],
            rounds,
            (loops_a, loops_b, attempt),
        )
        if not (found.void or found.a.noisy or found.b.noisy):
            break
    return found


def _compare_once(sample_a, sample_b, rounds: int, labels: tuple[int, int, int]) -> Comparison:
    times = np.array(
        [[s() for s in (sample_a, sample_a, sample_b, sample_b, sample_a, sample_a)] for _ in range(rounds)]
    )
    a = times[:, [0, 5]].mean(axis=1)
    a_again = times[:, [1, 4]].mean(axis=1)
    b = times[:, [2, 3]].mean(axis=1)
    ratios = a / b
    draws = np.random.default_rng(0).choice(ratios, size=(2000, rounds))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    loops_a, loops_b, attempt = labels
    return Comparison(
        a=Timing(tuple(a.tolist()), loops_a),
        b=Timing(tuple(b.tolist()), loops_b),
        ratio=float(np.median(ratios)),
        low=float(low),
        high=float(high),
        aa_ratio=float(np.median(a / a_again)),
        attempts=attempt,
    )


def _sample(fn, loops: int, sync, clock) -> float:
    start = clock()
    for _ in range(loops):
        result = fn()
    if sync is not None:
        sync(result)
    return (clock() - start) / loops


def _loops_for(fn, min_sample_s: float, sync, clock) -> int:
    """Calls needed for one sample; finding it out is the warm-up as well.

    The first call is not judged by: it may compile, load or fill a cache.
    """
    _sample(fn, 1, sync, clock)
    loops = 1
    while True:
        sample_s = min(_sample(fn, loops, sync, clock) for _ in range(2)) * loops
        if sample_s >= min_sample_s or loops >= 1 << 20:
            return loops
        grow = min_sample_s / max(sample_s, 1e-9)
        loops = max(loops + 1, int(loops * min(grow * 1.2, 10)))
