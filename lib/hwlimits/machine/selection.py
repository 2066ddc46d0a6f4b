"""Choosing hardware: which devices of the registry hold and run a model, and why the others do not.

fit(cost(model), limits=Limits(latency_s=0.01, power_w=15)).fits[0].device.name   # the cheapest

The four questions of section 9.2: compute (does the least time keep to a limit), storage (does the
device hold weights and activations), network (does a link carry the data, and does the device wait
for it), budget (price, power). All times are least times: a device that is refused can't do it, one
that fits may still fail, for no run reaches its data sheet. What the registry lacks is said, with the
reason, and never guessed: a device whose price is not published is not cheap, it comes last.

Energy is left out: least time times printed power bounds it neither from above nor from below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from hwlimits import devices as registry
from hwlimits.counting import ModelCost
from hwlimits.devices import Device, Link
from hwlimits.machine.predict import Factors, Prediction, cache_bytes, not_known, on_device, precision_of
from hwlimits.units import quantity

EXPORTS = ("fp32", "fp16", "bf16", "int8")  # what a Keras model can be exported in
REASONS = ("precision", "memory", "latency", "throughput", "network", "power", "price", "not known")
DAY_S = 24 * 60 * 60
_INTO_DEVICE = ("pcie", "ethernet", "infiniband", "usb")  # the links that data come in by; others join devices


class SelectionError(ValueError):
    """A limit or a load that can't be; the text says what to give."""


@dataclass(frozen=True)
class Limits:
    """What is asked of a device; None asks nothing.

    latency_s        most seconds for one call, of however many examples
    examples_per_s   least throughput of calls one after another
    power_w          most watts, by the data sheet
    price_usd        most dollars

    Raises SelectionError for a number that is not above 0.
    """

    latency_s: float | None = None
    examples_per_s: float | None = None
    power_w: float | None = None
    price_usd: float | None = None

    def __post_init__(self):
        _check_positive(self)


@dataclass(frozen=True)
class Load:
    """The data that come every day, and the link that they come over. Of the three numbers two give the third.

    >>> Load(examples_per_day=86_400, bytes_per_example=150e3).bytes_per_day
    12960000000.0
    """

    bytes_per_day: float | None = None
    examples_per_day: float | None = None
    bytes_per_example: float | None = None
    link: Link | None = None

    def __post_init__(self):
        _check_positive(self)
        day, examples, each = self.bytes_per_day, self.examples_per_day, self.bytes_per_example
        if None not in (day, examples, each):
            raise SelectionError(
                "the data of a day are given twice: give two of bytes_per_day, examples_per_day and bytes_per_example"
            )
        if examples and each:
            object.__setattr__(self, "bytes_per_day", float(examples * each))
        elif day and each:
            object.__setattr__(self, "examples_per_day", day / each)
        elif day and examples:
            object.__setattr__(self, "bytes_per_example", day / examples)
        if self.link is not None and self.bytes_per_day is None and self.bytes_per_example is None:
            raise SelectionError(f"nothing is said of the data over {self.link.name}: give bytes a day or an example")

    def link_share(self) -> float | None:
        """Share of the link that a day's data take, above 1 where it can't carry them; None without either."""
        if self.link is None or self.bytes_per_day is None:
            return None
        return self.bytes_per_day / (DAY_S * self.link.bytes_per_s)


def _check_positive(given) -> None:
    for name in given.__dataclass_fields__:
        value = getattr(given, name)
        if value is None or isinstance(value, Link):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise SelectionError(f"{type(given).__name__}({name}={value!r}): must be a number above 0")


@dataclass(frozen=True)
class Reason:
    """Why a device does not fit: of a kind (`REASONS`), in words."""

    kind: str
    text: str


@dataclass(frozen=True)
class Candidate:
    """One device, at the precision that serves best there.

    prediction     its least time and the memory needed; None where it has no peak for the precision
    reasons        why it does not fit; none: it does
    unknown        numbers that the registry lacks, with the reason
    feed_bytes_per_s   what the network and the device's own links bring in at most; None without a network
    fed            share of its throughput that those keep up with: below 1 it waits for data; None if not known
    """

    device: Device
    precision: str
    prediction: Prediction | None
    reasons: tuple[Reason, ...] = ()
    unknown: tuple[str, ...] = ()
    feed_bytes_per_s: float | None = None
    fed: float | None = None

    @property
    def fits(self) -> bool:
        """Nothing that is known speaks against it."""
        return not self.reasons

    @property
    def price_usd(self) -> float | None:
        """The published price; None where none is."""
        return _value(self.device, "price")

    @property
    def power_w(self) -> float | None:
        """The published power; None where none is."""
        return _value(self.device, "power")

    def record(self) -> dict:
        """Everything but the layers, as JSON can hold it."""
        predicted = self.prediction and self.prediction.record()
        if predicted:
            del predicted["layers"]
        return {
            "device": self.device.name, "title": self.device.title, "kind": self.device.kind,
            "fits": self.fits, "reasons": [asdict(reason) for reason in self.reasons],
            "precision": self.precision, "price_usd": self.price_usd, "power_w": self.power_w,
            "feed_bytes_per_s": self.feed_bytes_per_s, "fed": self.fed,
            "unknown": list(self.unknown), "prediction": predicted,
        }  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """Every device of the registry once: those that fit, cheapest first, and the others."""

    model: str
    batch: int
    limits: Limits
    load: Load | None
    fits: tuple[Candidate, ...]
    others: tuple[Candidate, ...]

    def record(self) -> dict:
        """Everything, as JSON can hold it."""
        load = self.load and {
            **{name: getattr(self.load, name) for name in ("bytes_per_day", "examples_per_day", "bytes_per_example")},
            "link": self.load.link and self.load.link.name,
            "link_bytes_per_s": self.load.link and self.load.link.bytes_per_s,
            "link_share": self.load.link_share(),
        }
        return {
            "model": self.model,
            "batch": self.batch,
            "limits": asdict(self.limits),
            "load": load,
            "fits": [each.record() for each in self.fits],
            "others": [each.record() for each in self.others],
        }


def fit(
    count: ModelCost,
    *,
    precision: str | None = None,
    exports: Sequence[str] = EXPORTS,
    limits: Limits | None = None,
    load: Load | None = None,
    activation_bytes: int | None = None,
    weight_bytes: int | None = None,
    factors: Factors | None = None,
    among: Iterable[Device] | None = None,
) -> Fit:
    """Which devices hold and run a model: cheapest first, then less power, then less time.

    precision   the one to run in; None: of `exports` the one that a device is fastest in (without
                breaking a limit, if there is one), the wider one of two that are as fast
    among       None: the whole registry

    The other arguments are those of `machine.predict.on_device`. A device whose price or power is
    not published comes after those with one, and does not fit where that is limited. What
    does not fit is in the order of `REASONS`.

    Raises SelectionError for a precision that no device has a peak for.
    """
    devices = registry.devices() if among is None else list(among)
    precision = precision and precision_of(precision)
    wanted = (precision,) if precision else tuple(exports)
    if precision and not any(precision in device.precisions for device in devices):
        there = dict.fromkeys(name for device in devices for name in device.precisions)
        raise SelectionError(f"no device has a published peak for {precision!r}; there are {', '.join(there)}")
    sizes = {"activation_bytes": activation_bytes, "weight_bytes": weight_bytes, "factors": factors}
    judge = _Judge(count, limits or Limits(), load, sizes)
    found = [judge.best(device, wanted, exactly=precision is not None) for device in devices]
    others = sorted((c for c in found if not c.fits), key=lambda c: REASONS.index(c.reasons[0].kind))
    return Fit(
        count.name, count.batch, judge.limits, load, tuple(sorted(filter(_fits, found), key=_cost)), tuple(others)
    )


def _fits(candidate: Candidate) -> bool:
    return candidate.fits


def _cost(candidate: Candidate) -> tuple:
    """The order of those that fit: a number that is not known comes after every one that is."""
    price, power = candidate.price_usd, candidate.power_w
    return (price is None, price or 0, power is None, power or 0, candidate.prediction.time_s, candidate.device.name)


def _value(device: Device, field: str) -> float | None:
    return device.numbers[field].value if field in device.numbers else None


@dataclass(frozen=True)
class _Judge:
    """A model, limits and load, held against one device after another."""

    count: ModelCost
    limits: Limits
    load: Load | None
    sizes: dict

    def best(self, device: Device, wanted: tuple[str, ...], exactly: bool) -> Candidate:
        """The device at the wanted precision with the fewest reasons against it, of these the fastest."""
        there = [name for name in device.precisions if name in wanted or not exactly and _runs(name, wanted)]
        unknown = tuple(
            not_known(device, field) for field in ("memory.capacity", "memory.bandwidth", "power", "price")
            if field not in device.numbers
        )  # fmt: skip
        if not there:
            has = ", ".join(device.precisions) or "none"
            asked = " or ".join(wanted)
            return Candidate(
                device, "", None, (Reason("precision", f"no published peak for {asked}; it has {has}"),), unknown
            )
        found = [self.held_against(device, name, unknown) for name in there]
        order = {name: i for i, name in enumerate(wanted)}
        return min(
            found,
            key=lambda c: (
                len(c.reasons),
                c.prediction.time_s,
                order.get(c.precision.partition("-")[0], 0),
                c.precision,
            ),
        )

    def held_against(self, device: Device, precision: str, unknown: tuple[str, ...]) -> Candidate:
        """One device at one precision, with everything that speaks against it."""
        found = on_device(self.count, device, precision, **self.sizes)
        reasons = [*_memory(device, found), *self._speed(device, found), *self._budget(device)]
        feed = self.load and self.load.link and _feed(device, self.load.link)
        each = self.load and self.load.bytes_per_example
        fed = min(1.0, feed / (found.examples_per_s * each)) if feed and each and found.time_s else None
        if feed:
            reasons += self._network(feed, each)
        reasons.sort(key=lambda reason: REASONS.index(reason.kind))
        return Candidate(device, precision, found, tuple(reasons), unknown, feed, fed)

    def _speed(self, device: Device, found: Prediction) -> list[Reason]:
        limits, time_s = self.limits, found.time_s
        reasons = []
        if limits.latency_s is not None and time_s > limits.latency_s:
            asked = quantity(limits.latency_s, "s")
            reasons.append(Reason("latency", f"too slow: at least {quantity(time_s, 's')} a call, asked {asked}"
                                  + _unless(found.low_s <= limits.latency_s, found)))  # fmt: skip
        rates = [(limits.examples_per_s, "asked")]
        if self.load and self.load.examples_per_day:
            rates.append((self.load.examples_per_day / DAY_S, "the day's examples come at"))
        for rate, why in rates:
            if rate is not None and found.examples_per_s < rate and time_s:
                low = found.low_s and found.batch / found.low_s >= rate
                text = f"too slow: at most {quantity(found.examples_per_s)} examples/s, {why} {quantity(rate)}/s"
                reasons.append(Reason("throughput", text + _unless(low, found)))
        timed = limits.latency_s is not None or any(rate is not None for rate, _ in rates)
        if timed and not reasons and "memory.bandwidth" not in device.numbers:
            why = not_known(device, "memory.bandwidth")
            reasons.append(Reason("not known", f"how fast can't be told: {why}"))
        return reasons

    def _budget(self, device: Device) -> list[Reason]:
        asked = (("power", self.limits.power_w, "too much power"), ("price", self.limits.price_usd, "too expensive"))
        reasons = []
        for field, limit, too_much in asked:
            value = _value(device, field)
            if limit is None:
                continue
            if value is None:
                reasons.append(Reason("not known", not_known(device, field)))
            elif value > limit:
                unit = device.number(field).unit
                reasons.append(Reason(field, f"{too_much}: {value:,.6g} {unit}, asked {limit:,.6g} {unit}"))
        return reasons

    def _network(self, feed: float, each: float | None) -> list[Reason]:
        load, reasons = self.load, []
        if load.bytes_per_day is not None and load.bytes_per_day > DAY_S * feed:
            took = quantity(load.bytes_per_day, "B")
            reasons.append(Reason("network", f"{took} a day do not come in at {quantity(feed, 'B/s')}"))
        wanted = self.limits.examples_per_s
        if wanted is not None and each and feed / each < wanted:
            text = f"starved: {quantity(feed, 'B/s')} bring {quantity(feed / each)} examples/s"
            reasons.append(Reason("network", f"{text}, asked {quantity(wanted)}/s"))
        return reasons


def _unless(possible: bool, found: Prediction) -> str:
    """What is said beside a least time that breaks a limit which caches may save."""
    return f" ({quantity(found.low_s, 's')} if its caches held what moves)" if possible else ""


def _runs(name: str, exports: tuple[str, ...]) -> bool:
    """Whether a unit computes in one of the formats as they are: one that adds fp16 in fp16 does not."""
    base, _, suffix = name.partition("-")
    return base in exports and suffix != "acc16"


def _feed(device: Device, link: Link) -> float:
    """Bytes/s that come over the network and into the device: no more than its own fastest link takes."""
    own = [each.bytes_per_s for each in map(registry.link, device.links) if each.kind in _INTO_DEVICE]
    return min(link.bytes_per_s, max(own, default=math.inf))


def _memory(device: Device, found: Prediction) -> list[Reason]:
    """Why a device does not hold a model, or why that can't be told."""
    capacity, flash = _value(device, "memory.capacity"), _value(device, "memory.flash")
    weights, activations, both = found.weight_bytes, found.activation_bytes, found.memory_bytes
    if device.kind == "microcontroller" and flash is not None:
        checks = (("weights", weights, "flash", flash), ("activations", activations, "SRAM", capacity))
        lacking = [
            f"{quantity(needs, 'B')} of {what} in {quantity(has, 'B')} of {where}"
            for what, needs, where, has in checks
            if needs > has
        ]
        return [Reason("memory", f"does not hold it: {', '.join(lacking)}")] if lacking else []
    if capacity is None:
        if both <= (cache_bytes(device) or 0):
            return []  # its caches alone would hold it, and its memory is no smaller
        why = not_known(device, "memory.capacity")
        return [Reason("not known", f"whether it holds {quantity(both, 'B')} can't be told: {why}")]
    if both <= capacity:
        return []
    if device.kind == "microcontroller":
        why = f"{quantity(capacity, 'B')} of SRAM do not, and the size of its flash is not known"
        return [Reason("not known", f"whether it holds {quantity(both, 'B')} can't be told: {why}")]
    beyond = "; what is too much comes over its link at every call" if device.memory_kind == "on-chip SRAM" else ""
    return [Reason("memory", f"does not hold it: {quantity(both, 'B')} in {quantity(capacity, 'B')}{beyond}")]
