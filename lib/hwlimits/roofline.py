"""The roofline: how fast something can run that does so many operations on so many bytes.

Two ceilings (Williams, Waterman and Patterson 2009): the arithmetic's peak, and for each level of memory
the line bandwidth x intensity. Where they meet, at peak / bandwidth, is that level's ridge point:
to the left of it memory bounds, to the right arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from hwlimits.counting import Cost


class RooflineError(ValueError):
    """A roofline that can't be, or a level that it doesn't have; the text says which there are."""


@dataclass(frozen=True)
class Roofline:
    """One machine at one precision: FLOP/s, and bytes/s of each level from the nearest to the farthest.

    Where a method takes a `level`, None is the farthest: the memory that all data come from.

    Raises RooflineError for a peak or a bandwidth that is not above 0, and without any level.

    >>> laptop = Roofline("laptop", peak_flops_per_s=1e11, bandwidths={"L2": 1e11, "DRAM": 2e10})
    >>> laptop.ridge_point(), laptop.ridge_point("L2")
    (5.0, 1.0)
    >>> laptop.attainable_flops_per_s(2.0)
    40000000000.0
    """

    name: str
    peak_flops_per_s: float
    bandwidths: Mapping[str, float]

    def __post_init__(self):
        if not self.bandwidths:
            raise RooflineError(f"roofline {self.name!r} needs the bandwidth of at least one level of memory")
        for what, value in {"peak": self.peak_flops_per_s, **self.bandwidths}.items():
            if not 0 < value < float("inf"):
                raise RooflineError(f"roofline {self.name!r}: {what} is {value}; it must be a number above 0")
        object.__setattr__(self, "bandwidths", MappingProxyType(dict(self.bandwidths)))

    @classmethod
    def of_device(cls, device, precision: str) -> Roofline:
        """The roofline of a device of the registry (`hwlimits.devices.device`) at its published numbers."""
        peak = device.peak_flops_per_s(precision)
        return cls(f"{device.title}, {precision}", peak, {"memory": device.memory_bytes_per_s})

    def bandwidth(self, level: str | None = None) -> float:
        """Bytes/s of a level. Raises RooflineError for a level that is not there."""
        if level is None:
            return list(self.bandwidths.values())[-1]
        if level not in self.bandwidths:
            raise RooflineError(f"roofline {self.name!r} has no level {level!r}; it has {', '.join(self.bandwidths)}")
        return self.bandwidths[level]

    def ridge_point(self, level: str | None = None) -> float:
        """The intensity in FLOP/byte from which on the peak can be had: peak / bandwidth."""
        return self.peak_flops_per_s / self.bandwidth(level)

    def attainable_flops_per_s(self, intensity, level: str | None = None):
        """min(peak, bandwidth x intensity), for one intensity in FLOP/byte or an array of them."""
        attainable = np.minimum(self.peak_flops_per_s, self.bandwidth(level) * np.asarray(intensity, float))
        return attainable if np.ndim(intensity) else float(attainable)

    def time_s(self, cost: Cost, level: str | None = None) -> float:
        """The least time: the longer of computing and moving, as if each hid the other entirely.

        >>> Roofline("laptop", 1e11, {"DRAM": 2e10}).time_s(Cost(macs=10**9, bytes_read=10**9))
        0.05
        """
        return max(cost.flops / self.peak_flops_per_s, cost.bytes / self.bandwidth(level))

    def bound(self, cost: Cost, level: str | None = None) -> str:
        """'compute' or 'memory': which of the two takes longer. On the ridge point it is 'compute'."""
        return "memory" if cost.bytes / self.bandwidth(level) > cost.flops / self.peak_flops_per_s else "compute"

    def times_s(self, flops: float, level_bytes: Mapping[str, float]) -> dict[str, float]:
        """Seconds for the arithmetic ('compute') and for the bytes through each level: the longest one bounds.

        level_bytes   level -> bytes through it. A cache that is used well shows in fewer bytes
                      through the farther levels: the hierarchical roofline (Yang, Kurth and Williams 2020).

        >>> laptop = Roofline("laptop", 1e11, {"L2": 1e11, "DRAM": 2e10})
        >>> laptop.times_s(flops=2e9, level_bytes={"L2": 4e9, "DRAM": 1e8})
        {'compute': 0.02, 'L2': 0.04, 'DRAM': 0.005}
        """
        moved = {level: amount / self.bandwidth(level) for level, amount in level_bytes.items()}
        return {"compute": flops / self.peak_flops_per_s, **moved}
