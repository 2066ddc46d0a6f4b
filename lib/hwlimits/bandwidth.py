"""Links and pipelines: how long data are on their way, and what waits for them. Chapter 03's formulas.

A link has two numbers: the time of a message of m bytes is latency + m / bandwidth (Hockney 1994;
alpha and 1 / beta in the literature). `fit` finds both from measured messages and says where the
two do not suffice. A pipeline is as fast as its slowest section, or as its processor can be. What
many links do together, an all-reduce, is in `hwlimits.collectives`.

>>> LinkModel(latency_s=50e-6, bytes_per_s=1e9).time_s(1_000_000)
0.00105
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np

from hwlimits.units import quantity, seconds

OUTSIDE = 0.25  # a size whose time is farther from the model than this is named


class BandwidthError(ValueError):
    """A link, a message or a pipeline that can't be; the text says what to do."""


def whole(function: str, name: str, value, least: int = 1) -> int:
    """`value` as an int. Raises BandwidthError for what is not a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise BandwidthError(f"{function}({name}={value!r}): must be a whole number, at least {least}")
    return int(value)


def _number(function: str, name: str, value, zero: bool = False) -> None:
    if not (0 <= value < math.inf) or (value == 0 and not zero):
        raise BandwidthError(f"{function}({name}={value}): must be a number {'of at least' if zero else 'above'} 0")


@dataclass(frozen=True)
class LinkModel:
    """A link with a latency in s (alpha) and a bandwidth in B/s (1 / beta), in one direction.

    Raises BandwidthError for a negative latency, and for a bandwidth that is not above 0.
    """

    latency_s: float
    bytes_per_s: float
    name: str = "link"

    def __post_init__(self):
        _number("LinkModel", "latency_s", self.latency_s, zero=True)
        _number("LinkModel", "bytes_per_s", self.bytes_per_s)

    @classmethod
    def of_link(cls, link, latency_s: float | None = None) -> LinkModel:
        """A link of the registry (`hwlimits.devices.link`), with its published latency or the one given.

        Raises BandwidthError if there is neither: a latency that nobody published is not zero.
        """
        if latency_s is None:
            if "latency" not in link.numbers:
                raise BandwidthError(
                    f"no latency of {link.name} is published, and it is not zero: measure half a round trip of a "
                    "small message between the two ends, programs included, and give it as latency_s"
                )
            latency_s = link.latency_s
        return cls(latency_s, link.bytes_per_s, link.title)

    def time_s(self, size_bytes):
        """Seconds for one message, or an array of them for an array of sizes."""
        found = self.latency_s + np.asarray(size_bytes, float) / self.bytes_per_s
        return found if np.ndim(size_bytes) else float(found)

    def effective_bytes_per_s(self, size_bytes):
        """Bytes of a message over its time: what a program sees of the bandwidth."""
        return np.asarray(size_bytes, float) / self.time_s(size_bytes)

    @property
    def half_size_bytes(self) -> float:
        """n_1/2: the message that sees half of the bandwidth, latency x bandwidth (Hockney 1994).

        >>> link = LinkModel(1e-4, 1e9)
        >>> link.half_size_bytes, float(link.effective_bytes_per_s(link.half_size_bytes))
        (100000.0, 500000000.0)
        """
        return self.latency_s * self.bytes_per_s

    def __str__(self) -> str:
        rate = quantity(self.bytes_per_s, "B/s")
        return f"{self.name}: {seconds(self.latency_s)} + bytes / ({rate}), half of it at {self.half_size_bytes:,.0f} B"


@dataclass(frozen=True)
class LinkFit:
    """A link fitted to measured messages, with 95 % intervals.

    ratios   size in bytes -> measured over fitted time, the median where a size was measured several times
    """

    link: LinkModel
    latency_interval_s: tuple[float, float]
    bandwidth_interval: tuple[float, float]
    ratios: Mapping[int, float]

    @property
    def outside(self) -> dict[int, float]:
        """The sizes at which two numbers do not suffice: their time is more than OUTSIDE off, either way."""
        return {size: r for size, r in self.ratios.items() if not 1 / (1 + OUTSIDE) <= r <= 1 + OUTSIDE}

    def __str__(self) -> str:
        low, high = self.latency_interval_s
        slow, fast = (quantity(b, "B/s") for b in self.bandwidth_interval)
        text = f"{self.link}; latency {seconds(low)} to {seconds(high)}, bandwidth {slow} to {fast}"
        if not self.outside:
            return f"{text}; every size within {OUTSIDE:.0%}"
        odd = ", ".join(f"{size:,} B ({ratio:.2f} times the model)" for size, ratio in self.outside.items())
        return f"{text}; does not hold at {odd}"


def fit(sizes_bytes: Sequence[int], times_s: Sequence[float], name: str = "fitted link", draws: int = 1000) -> LinkFit:
    """The latency and the bandwidth that explain the times of messages, the relative errors being as small as can be.

    Plain least squares would only see the largest messages: a microsecond is nothing beside their
    milliseconds, and all of the smallest one. So each error is taken relative to its time; and one
    that is far beyond the others counts less (Huber's weights). The intervals are a bootstrap over
    the messages: they say how well the two are known if the model holds; `outside` says where not.

    Raises BandwidthError for fewer than 3 different sizes, for a time that is not above 0, and if
    the times give no latency or no bandwidth above 0.

    >>> sizes = [1, 100, 10_000, 1_000_000, 100_000_000]
    >>> found = fit(sizes, [2e-5 + size / 5e9 for size in sizes])
    >>> round(found.link.latency_s, 9), round(found.link.bytes_per_s)
    (2e-05, 5000000000)
    """
    sizes, times = np.asarray(sizes_bytes, float), np.asarray(times_s, float)
    if sizes.ndim != 1 or sizes.shape != times.shape or len(set(sizes.tolist())) < 3:
        raise BandwidthError(
            f"fit: {sizes.size} sizes and {times.size} times; give one time for each of at least 3 different sizes"
        )
    if not (np.all(np.isfinite(times) & (times > 0)) and np.all(np.isfinite(sizes) & (sizes >= 0))):
        raise BandwidthError("fit: every time must be above 0 s, and no size below 0 bytes")
    alpha, beta = _relative_least_squares(sizes, times)
    if not (alpha > 0 and beta > 0):
        raise BandwidthError(
            f"fit: these times give a latency of {alpha:.3g} s and {beta:.3g} s a byte, and both must be above 0: "
            "measure messages both much smaller and much larger than latency x bandwidth"
        )
    drawn = np.random.default_rng(0).integers(len(sizes), size=(draws, len(sizes)))
    drawn = drawn[np.ptp(sizes[drawn], axis=1) > 0]  # one size alone gives no line
    found = np.stack(_relative_least_squares(sizes[drawn], times[drawn], rounds=5))
    low, high = np.percentile(np.maximum(found, 0), [2.5, 97.5], axis=1)
    link = LinkModel(float(alpha), float(1 / beta), name)
    ratios = times / link.time_s(sizes)
    with np.errstate(divide="ignore"):
        rates = float(1 / high[1]), float(np.divide(1, low[1]))
    by_size = {int(size): float(np.median(ratios[sizes == size])) for size in np.unique(sizes)}
    return LinkFit(link, (float(low[0]), float(high[0])), rates, by_size)


def _relative_least_squares(sizes: np.ndarray, times: np.ndarray, rounds: int = 20):
    """(latency, s per byte) that make the sum of ((model - time) / time)^2 least, outliers weighing less.

    Along the last axis: several sets of messages are fitted at once.
    """
    a, b = 1 / times, sizes / times  # the model over the time is latency x a + beta x b, and should be 1
    weights = np.ones_like(times)
    for _ in range(rounds):
        aa, ab, bb, ra, rb = ((weights * product).sum(axis=-1) for product in (a * a, a * b, b * b, a, b))
        determinant = aa * bb - ab * ab
        alpha, beta = (ra * bb - rb * ab) / determinant, (rb * aa - ra * ab) / determinant
        errors = np.abs(alpha[..., None] * a + beta[..., None] * b - 1)
        usual = 1.345 * 1.4826 * np.median(errors, axis=-1, keepdims=True)  # Huber's constant x a normal law's sigma
        weights = np.minimum(1, np.maximum(usual, 1e-9) / np.maximum(errors, 1e-12))
    return alpha, beta


def pipelined_s(compute_s: float, link: LinkModel, size_bytes: float, pieces: int = 1) -> float:
    """Seconds to move data and compute on them, in pieces: one piece is computed while the next one moves.

    With one piece nothing overlaps; with many the shorter of the two hides behind the longer, and
    each piece pays the latency.

    >>> link = LinkModel(0.0, 1e9)
    >>> pipelined_s(1.0, link, 1e9), pipelined_s(1.0, link, 1e9, pieces=10)
    (2.0, 1.1)
    """
    _number("pipelined_s", "compute_s", compute_s, zero=True)
    _number("pipelined_s", "size_bytes", size_bytes, zero=True)
    pieces = whole("pipelined_s", "pieces", pieces)
    moving, computing = link.time_s(size_bytes / pieces), compute_s / pieces
    return moving + (pieces - 1) * max(moving, computing) + computing


@dataclass(frozen=True)
class Stage:
    """A step that every item passes: seconds for one item, and how many of them a processor works on it.

    cpu_s   seconds of processor time (over all threads; more than item_s if several work at once, less
            if it waits for a disk, a network or an accelerator). None: it computes all the time.
    """

    name: str
    item_s: float
    cpu_s: float | None = None

    def __post_init__(self):
        _number(f"Stage {self.name!r}", "item_s", self.item_s, zero=True)
        _number(f"Stage {self.name!r}", "cpu_s", self.processor_s, zero=True)

    @property
    def processor_s(self) -> float:
        return self.item_s if self.cpu_s is None else self.cpu_s

    @classmethod
    def of_batch(cls, name: str, fixed_s: float, item_s: float, batch: int) -> Stage:
        """A stage that works on batches, at a fixed cost each: its seconds for one item fall with the batch.

        >>> Stage.of_batch("train", fixed_s=0.01, item_s=0.001, batch=10).item_s
        0.002
        """
        return cls(name, fixed_s / whole("of_batch", "batch", batch) + item_s)


@dataclass(frozen=True)
class Section:
    """Stages that the same threads do one after the other; a buffer stands between sections.

    Stages without a buffer between them are one section: their times add up. `workers` items are in
    the section at a time.
    """

    stages: tuple[Stage, ...]
    workers: int = 1

    def __post_init__(self):
        object.__setattr__(self, "stages", tuple(self.stages))
        whole("Section", "workers", self.workers)
        if not self.stages:
            raise BandwidthError("Section: give at least one stage")

    @property
    def name(self) -> str:
        return " + ".join(stage.name for stage in self.stages)

    @property
    def item_s(self) -> float:
        """Seconds between two items at its end, if it never waits and each worker has a processor."""
        return sum(stage.item_s for stage in self.stages) / self.workers


@dataclass(frozen=True)
class Pipeline:
    """Sections that work at the same time on different items, and the cores that they share.

    The last section is the consumer: a training step, say.

    >>> read, decode, train = Stage("read", 1.0, cpu_s=0.0), Stage("decode", 3.0), Stage("train", 2.0)
    >>> one_after_the_other = Pipeline([Section([read, decode, train])], cores=2)
    >>> one_after_the_other.item_s
    6.0
    >>> prefetched = Pipeline([Section([read, decode]), Section([train])], cores=2)
    >>> prefetched.item_s, prefetched.bound
    (4.0, 'read + decode')
    >>> parallel = Pipeline([Section([read]), Section([decode], workers=4), Section([train])], cores=2)
    >>> parallel.item_s, parallel.bound
    (2.5, '2 cores')
    """

    sections: tuple[Section, ...]
    cores: int

    def __post_init__(self):
        object.__setattr__(self, "sections", tuple(self.sections))
        whole("Pipeline", "cores", self.cores)
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise BandwidthError(f"Pipeline: give at least one stage, and each a name of its own; got {names}")

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(stage for section in self.sections for stage in section.stages)

    @property
    def limits(self) -> dict[str, float]:
        """Seconds an item for each section, and for all cores together: work is not lost, it has to be done by one."""
        work = sum(stage.processor_s for stage in self.stages) / self.cores
        return {section.name: section.item_s for section in self.sections} | {self._cores: work}

    @property
    def _cores(self) -> str:
        return f"{self.cores} core{'s' if self.cores > 1 else ''}"

    @property
    def item_s(self) -> float:
        """Seconds between two items when the buffers have filled: the largest of the limits."""
        return max(self.limits.values())

    @property
    def bound(self) -> str:
        """The section that is never idle, or the cores."""
        return max(self.limits, key=self.limits.get)

    @property
    def items_per_s(self) -> float:
        return 1 / self.item_s

    @property
    def starved(self) -> float:
        """Share of the time in which the consumer's section has nothing of its own to do."""
        return 1 - self.sections[-1].stages[-1].item_s / self.sections[-1].workers / self.item_s

    def epoch_s(self, items: int, batch: int = 1) -> float:
        """Seconds for so many items, which the consumer takes `batch` at a time.

        At first the consumer waits until the sections before it have made one batch; then a batch
        leaves every batch x `item_s`; and the last one is consumed with nothing beside it.

        >>> Pipeline([Section([Stage("read", 2.0)]), Section([Stage("train", 3.0)])], cores=2).epoch_s(8, batch=4)
        32.0
        """
        batch = whole("epoch_s", "batch", batch)
        items = whole("epoch_s", "items", items, batch)
        *before, last = self.sections
        if not before:
            return items * self.item_s
        feeding = Pipeline(before, self.cores)
        first_s = sum(stage.item_s for stage in feeding.stages) + (batch - 1) * feeding.item_s
        return first_s + (items - batch) * self.item_s + batch * last.item_s

    def cached(self, after: str, from_cache: Stage | None = None) -> Pipeline:
        """The pipeline of the second epoch, if what leaves the stage `after` was kept in the first.

        from_cache   the stage in place of all those: reading what was kept; None costs nothing

        Raises BandwidthError for a stage that is not there, or is the last.
        """
        names = [stage.name for stage in self.stages]
        if after not in names[:-1]:
            raise BandwidthError(f"cached(after={after!r}): the stages before the last are {', '.join(names[:-1])}")
        gone, sections = set(names[: names.index(after) + 1]), []
        for section in self.sections:
            kept = tuple(stage for stage in section.stages if stage.name not in gone)
            if kept:
                sections.append(replace(section, stages=kept))
        first = from_cache or Stage("cache", 0.0)
        sections[0] = replace(sections[0], stages=(first, *sections[0].stages))
        return replace(self, sections=tuple(sections))

    def rows(self) -> Iterable[dict]:
        """The limits as a table: what, seconds an item, items a second, and whether it bounds."""
        return [
            {"what": name, "item_s": s, "items_per_s": 1 / s if s else math.inf, "bounds": name == self.bound}
            for name, s in self.limits.items()
        ]
