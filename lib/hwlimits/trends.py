"""Which limits of published hardware loosen, and how fast: growth by year, from the registry's own dates. Chapter 11.

The *memory wall* (Wulf and McKee 1995): arithmetic grows faster than the bandwidth that feeds it, so the ridge point
moves to the right, and what was bound by arithmetic becomes bound by memory. Looked at are the devices that set a
record (`records`), each by the year that the registry has of it; growth is a line through logarithms, with a 95 %
interval by Student's t.

>>> growth([2016, 2018, 2020], [1.0, 4.0, 16.0]).a_year
2.0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hwlimits import devices
from hwlimits.devices import Device

CONFIDENCE = 0.95


class TrendError(ValueError):
    """Years or values that no growth can be told of; the text says what to give."""


@dataclass(frozen=True)
class Growth:
    """A factor for each year, with the ends of its 95 % interval; `points` years were fitted.

    An end beyond all floating-point numbers is 0 or infinite: too little is known to tell it.
    """

    a_year: float
    low: float
    high: float
    points: int

    @property
    def doubling_years(self) -> float:
        """Years in which it doubles; infinite for what does not grow."""
        return math.log(2) / math.log(self.a_year) if self.a_year > 1 else math.inf

    def __str__(self) -> str:
        a_year, low, high = (f"{x:.2f}" if 0.1 <= x < 1e4 else f"{x:.3g}" for x in (self.a_year, self.low, self.high))
        return f"{a_year} times a year [{low}, {high}]"


def growth(years: Sequence[float], values: Sequence[float]) -> Growth:
    """The factor by which values grow in a year: least squares on their logarithms.

    Raises TrendError for fewer than 3 points, for all of one year, and for a value that is not above 0.

    >>> growth([2020, 2021, 2022], [5.0, 5.0, 5.0]).doubling_years
    inf
    """
    x, y = np.asarray(years, float), np.asarray(values, float)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3 or len(set(x.tolist())) < 2:
        raise TrendError(
            f"growth of {y.size} values in {x.size} years: give a value for each year, at least 3, of different years"
        )
    if not (np.all(np.isfinite(x)) and np.all((y > 0) & np.isfinite(y))):
        raise TrendError("growth: every year must be a number, and every value a number above 0")
    from scipy import stats  # takes longer to import than all else here

    from_mean, logs = x - x.mean(), np.log(y)
    slope = float(from_mean @ logs / (from_mean @ from_mean))
    residuals = logs - logs.mean() - slope * from_mean
    free = len(x) - 2
    error = math.sqrt(float(residuals @ residuals) / free / float(from_mean @ from_mean))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, free)) * error
    with np.errstate(over="ignore", under="ignore"):
        factors = np.exp([slope, slope - half, slope + half])
    return Growth(*(float(f"{factor:.12g}") for factor in factors), points=len(x))


def records(kind: str, precision: str, *, since: int = 0) -> list[Device]:
    """The devices of a kind that set a record: the largest published peak of their year, above that of all before.

    Of equal peaks the one of the larger bandwidth counts. Devices without that peak or without a published memory
    bandwidth are left out; a year without a record has none.
    Raises DeviceError for a kind that there is not, TrendError where no device has the precision.

    >>> [d.name for d in records("gpu", "fp16", since=2017)][:3]
    ['v100-sxm2', 'a100-80gb-sxm', 'mi250x']
    """
    there = [d for d in devices.devices(kind) if d.year >= since and precision in d.precisions]
    there = [d for d in there if "memory.bandwidth" in d.numbers]
    if not there:
        raise TrendError(f"no {kind} of {since or 'any year'} or later has a published peak for {precision!r}")
    found: list[Device] = []
    for year in sorted({d.year for d in there}):
        best = max(
            (d for d in there if d.year == year), key=lambda d: (d.peak_flops_per_s(precision), d.memory_bytes_per_s)
        )
        if not found or best.peak_flops_per_s(precision) > found[-1].peak_flops_per_s(precision):
            found.append(best)
    return found


def of_devices(among: Sequence[Device], value: Callable[[Device], float | None]) -> Growth:
    """Growth of one number of devices by their years; those where `value` is None are left out.

    >>> gpus = records("gpu", "fp16")
    >>> of_devices(gpus, lambda d: d.peak_flops_per_s("fp16")).a_year > of_devices(gpus, lambda d: d.power_w).a_year
    True
    """
    pairs = [(d.year, value(d)) for d in among]
    known = [(year, number) for year, number in pairs if number is not None]
    return growth([year for year, _ in known], [number for _, number in known])
