"""A model's time and memory, predicted: what every prediction holds, and the predictions from data sheets.

on_device(cost(model), "t4", "fp16").time_s
on_this_computer("my model", works(file), card()).low_s

A layer of a published device takes the longer of computing, at the dense peak of one precision, and
of moving its bytes through main memory. Data sheets print peaks, which no run reaches, so this is the
least time of layers that run one by one with all data from memory. What a launch of an operator
costs is on no data sheet: it is named as left out. Predictions on this computer, whose rates are
measured, use the same dataclasses.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import exp, sqrt
from pathlib import Path
from statistics import median

from hwlimits import data
from hwlimits.counting import ModelCost
from hwlimits.devices import Device, DeviceError
from hwlimits.devices import device as find_device
from hwlimits.machine.latency import Work, reuse_distances
from hwlimits.machine.record import Card, CardError

BOUNDS = ("compute", "memory", "overhead", "")
RESULTS = "results/prediction_errors.csv"
CPU_KINDS = ("laptop-cpu", "desktop-cpu", "server-cpu")  # where the stored measurements were taken, too

# Bytes of a number in memory. tf32 is fp32 there, and rounded on its way into the matrix unit.
_BYTES = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "fp6": 0.75, "fp4": 0.5,
          "int16": 2, "int8": 1, "int4": 0.5}  # fmt: skip
_PRECISIONS = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16",
               "uint8": "int8"}  # fmt: skip

LEFT_OUT = (
    "left out: what launching an operator costs, which no data sheet has; the runtime's own memory; "
    "the KV cache of a model that generates text (chapter 10)"
)


class PredictionError(ValueError):
    """Something that can't be predicted as asked; the text says what can."""


@dataclass(frozen=True)
class LayerPrediction:
    """One layer: seconds for one call, and what bounds them.

    bound   'compute', 'memory' or 'overhead'; '' for what takes no time, and where a rate is not known
    """

    name: str
    kind: str
    time_s: float
    bound: str

    def __post_init__(self):
        if self.bound not in BOUNDS:
            raise PredictionError(
                f"layer {self.name!r}: bound {self.bound!r} is none of {', '.join(map(repr, BOUNDS))}"
            )
        if not 0 <= self.time_s < float("inf"):
            raise PredictionError(f"layer {self.name!r}: time_s is {self.time_s}; it must be a number from 0 up")


@dataclass(frozen=True)
class Prediction:
    """One call of a model on one device.

    batch           examples in the call
    overhead_s      what the call takes beside its layers; None where that is not known, and left out
    low_s, high_s   the interval; None where an end is not known, with a note that says why
    memory_bytes    weights and what is alive beside them at the worst moment; None where not known
    weight_bytes, activation_bytes   its two parts, for a device that keeps them apart
    notes           what was left out, and what is not known, with the reason
    """

    model: str
    device: str
    precision: str
    batch: int
    layers: tuple[LayerPrediction, ...]
    overhead_s: float | None
    low_s: float | None
    high_s: float | None
    memory_bytes: int | None
    notes: tuple[str, ...] = ()
    weight_bytes: int | None = None
    activation_bytes: int | None = None

    @property
    def time_s(self) -> float:
        """Seconds for one call: the layers, and the overhead where it is known."""
        return sum(layer.time_s for layer in self.layers) + (self.overhead_s or 0.0)

    @property
    def examples_per_s(self) -> float:
        """Throughput of calls one after another; 0 where nothing takes time and so nothing is known."""
        return self.batch / self.time_s if self.time_s else 0.0

    def shares(self) -> dict[str, float]:
        """What each bound has of the time: its layers, and for 'overhead' the call's own overhead, too."""
        times = {name: sum(x.time_s for x in self.layers if x.bound == name) for name in BOUNDS}
        times["overhead"] += self.overhead_s or 0.0
        return {name: time / self.time_s for name, time in times.items() if time} if self.time_s else {}

    @property
    def bound(self) -> str:
        """What bounds most of the time; '' where it takes none, or where a rate is not known."""
        shares = self.shares()
        return max(shares, key=shares.get) if shares else ""

    def record(self) -> dict:
        """Everything, as JSON can hold it."""
        derived = {name: getattr(self, name) for name in ("time_s", "examples_per_s", "bound")}
        return asdict(self) | derived | {"shares": self.shares(), "notes": list(self.notes)}


@dataclass(frozen=True)
class Factors:
    """How far measured times lay above least times, model by model: measured / least."""

    values: tuple[float, ...]
    source: str

    @property
    def largest(self) -> float:
        """The worst of them."""
        return max(self.values)

    def __str__(self) -> str:
        """As a sentence has it."""
        return (
            f"{len(self.values)} models measured at {min(self.values):.3g} to {self.largest:.3g} times their least "
            f"time, median {median(self.values):.3g} ({self.source})"
        )


def precision_of(dtype: str) -> str:
    """What a type of NumPy or TensorFlow is called in the registry; a precision stays what it is.

    >>> precision_of("bfloat16"), precision_of("int8-dla")
    ('bf16', 'int8-dla')
    """
    return _PRECISIONS.get(dtype.lower(), dtype.lower())


def bytes_per_number(precision: str) -> float:
    """Bytes that a number of this precision takes in memory; a suffix names a unit, not another number.

    Raises PredictionError where no size is known: 'npu' is a rate whose maker does not say at which precision.

    >>> bytes_per_number("bf16"), bytes_per_number("int8-dla"), bytes_per_number("float32")
    (2, 1, 4)
    """
    base = precision_of(precision).partition("-")[0]
    if base not in _BYTES:
        raise PredictionError(f"precision {precision!r} has no known size; known are {', '.join(_BYTES)}")
    return _BYTES[base]


def largest_layer_bytes(count: ModelCost) -> int:
    """Input and output of the layer where they are largest, in bytes of the count's own type.

    No run needs less: a layer's input and output are there together. What waits for a later layer (a
    residual) comes on top, so give a prediction the peak by liveness (`hwlimits.storage`) where you have it.
    The weights of a layer that is called again count as its input, for the count does not tell them apart.

    >>> from hwlimits.compute import Cost, LayerCost
    >>> layer = LayerCost("dense", "Dense", (1, 3), Cost(parameters=6, bytes_read=(2 + 6) * 4, bytes_written=3 * 4))
    >>> largest_layer_bytes(ModelCost("one layer", (layer,)))
    20
    """
    size = bytes_per_number(count.dtype)
    costs = (layer.cost for layer in count.layers)
    return max((round(c.bytes_read - _weights_read(c, size)) + c.bytes_written for c in costs), default=0)


def _weights_read(cost, size: float) -> float:
    """Bytes of a layer's weights that a call reads; of an embedding's table the rows that are looked up."""
    return min(cost.parameters * size, cost.bytes_read)


def on_device(
    count: ModelCost,
    device: Device | str,
    precision: str | None = None,
    *,
    activation_bytes: int | None = None,
    weight_bytes: int | None = None,
    factors: Factors | None = None,
) -> Prediction:
    """The least time and the memory of a counted model on a device of the registry.

    precision          that of peak, weights and activations; None: the one that was counted. The count's bytes
                       are scaled to it (the indices of an embedding with them: a few bytes too few)
    activation_bytes   peak of what is alive between the layers, in bytes of the count's own type;
                       None: `largest_layer_bytes`, which is less
    weight_bytes       of the count's own type; None: parameters times the size of a number
    factors            measured / least time, for the upper end; None: those that the course has
                       measured (`measured_factors`), on a CPU, and so for CPUs alone

    `low_s` is a time that no run can beat, if the registry has all of a chip's caches: all arithmetic at
    the peak, and beside it the weights that those caches can't keep from call to call; where it has
    none, the arithmetic alone. `high_s` is the least time times the largest factor. That factor is over
    measured peaks, which are below published ones, so a run may take longer still.

    Raises DeviceError for a precision without a published peak: none is ever put in for another.

    >>> from hwlimits.compute import Cost, LayerCost
    >>> layer = LayerCost("dense", "Dense", (1, 1000), Cost(macs=10**6, bytes_read=4 * 10**6, parameters=10**6))
    >>> found = on_device(ModelCost("one layer", (layer,)), "t4", "fp16")
    >>> found.time_s, found.bound  # 2 MB at 320 GB/s
    (6.25e-06, 'memory')
    """
    device = find_device(device) if isinstance(device, str) else device
    precision = precision_of(precision or count.dtype)
    peak = device.peak_flops_per_s(precision)
    scale = bytes_per_number(precision) / bytes_per_number(count.dtype)
    notes = [LEFT_OUT]
    bandwidth = None
    try:
        bandwidth = device.memory_bytes_per_s
    except DeviceError:
        notes.append(f"{not_known(device, 'memory.bandwidth')}: the times are those of the arithmetic alone")
    layers = tuple(
        LayerPrediction(x.name, x.kind, *_longer(x.cost.flops / peak, scale * x.cost.bytes, bandwidth))
        for x in count.layers
    )
    if activation_bytes is None:
        notes.append("activations: input and output of the largest layer, which is the least that they can be")
        activation_bytes = largest_layer_bytes(count)
    if weight_bytes is None:
        weight_bytes = round(count.total.parameters * bytes_per_number(count.dtype))
    if count.not_counted:
        notes.append(f"not counted, and so without time: {', '.join(count.not_counted)}")
    least_s = sum(layer.time_s for layer in layers)
    factors, why = (factors, "") if factors else _factors_for(device, precision)
    notes.append(f"upper end: {factors}" if factors else f"no upper end of the time is known: {why}")
    weights, activations = round(scale * weight_bytes), round(scale * activation_bytes)
    return Prediction(
        count.name, device.name, precision, count.batch, layers,
        overhead_s=None,
        low_s=min(_low_s(count, device, peak, bandwidth, scale), least_s),
        high_s=least_s * factors.largest if factors else None,
        memory_bytes=weights + activations,
        notes=tuple(notes),
        weight_bytes=weights,
        activation_bytes=activations,
    )  # fmt: skip


def on_this_computer(
    model: str,
    works: Sequence[Work],
    card: Card,
    *,
    batch: int = 1,
    weight_bytes: int | None = None,
    activation_bytes: int | None = None,
    notes: Sequence[str] = (),
) -> Prediction:
    """The time of a call on this computer, one thread, from its card's operator times; nothing is fitted to the model.

    works              the operators in order (`hwlimits.training.operator_work.works` of a LiteRT file)
    weight_bytes       the file and the copy of its weights that the kernels read; activation_bytes: the arena.
                       The runtime's own memory, which the card has, is added

    The interval is that of 19 calls in 20: operators miss as those of their family do when they are left out
    of the card and predicted from the others, each for itself, and all alike as this computer's speed wanders.

    Raises CardError for a card without operator times.
    """
    latency = card.latency
    estimates = [latency.estimate(w, d) for w, d in zip(works, reuse_distances(works), strict=True)]
    layers = tuple(LayerPrediction(w.name, w.kind, e.time_s, e.bound) for w, e in zip(works, estimates, strict=True))
    total_s = latency.invoke_s + sum(e.time_s for e in estimates)
    each = sum((e.error * e.time_s) ** 2 for e in estimates) / total_s**2
    spread = exp(1.96 * sqrt(each + latency.drift**2))
    guessed = sorted({w.kind for w, e in zip(works, estimates, strict=True) if not e.known})
    said = [*notes, *([f"no operator of their kind is measured: {', '.join(guessed)}"] if guessed else [])]
    sizes = None if weight_bytes is None or activation_bytes is None else weight_bytes + activation_bytes
    if sizes is not None:
        try:
            sizes += round(card.number("memory", "litert").value)
        except CardError:
            said.append("left out: the runtime's own memory, some MB, which this card does not have")
    return Prediction(
        model, card.name, _arithmetic(works), batch, layers,
        overhead_s=latency.invoke_s,
        low_s=total_s / spread,
        high_s=total_s * spread,
        memory_bytes=sizes,
        notes=tuple(said),
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
    )  # fmt: skip


def _arithmetic(works: Sequence[Work]) -> str:
    """The precision that most of the arithmetic is done in: activations decide, for weights are widened to them."""
    amounts: dict[str, int] = {}
    for work in works:
        amounts[work.form] = amounts.get(work.form, 0) + work.amount
    form = max(amounts, key=amounts.get) if amounts else "float32"
    return {"float32": "fp32", "int8": "int8", "dynamic": "int8 weights"}[form]


def _longer(compute_s: float, moved_bytes: float, bandwidth: float | None) -> tuple[float, str]:
    """The longer of the two times and its name; on the ridge point it is 'compute'."""
    if bandwidth is None:
        return compute_s, ""
    memory_s = moved_bytes / bandwidth
    if memory_s > compute_s:
        return memory_s, "memory"
    return compute_s, "compute" if compute_s else ""


def _low_s(count: ModelCost, device: Device, peak: float, bandwidth: float | None, scale: float) -> float:
    compute_s = count.total.flops / peak
    cache = cache_bytes(device)
    if bandwidth is None or cache is None:
        return compute_s
    size = bytes_per_number(count.dtype)
    weights = scale * sum(_weights_read(layer.cost, size) for layer in count.layers)
    return max(compute_s, (weights - cache) / bandwidth)


def cache_bytes(device: Device) -> float | None:
    """All caches that the registry has of a device, over all its cores; None where it has none.

    >>> cache_bytes(find_device("t4"))
    4194304.0
    """
    found = [number for field, number in device.numbers.items() if field.startswith("caches.")]
    if not found:
        return None
    # A cluster has at least one core, so there are no more of its caches than cores.
    cores = device.numbers["cores"].value if "cores" in device.numbers else None
    if cores is None and any(number.per != "chip" for number in found):
        return None
    return sum(number.value * (1 if number.per == "chip" else cores) for number in found)


def not_known(device: Device, field: str) -> str:
    """That a number is not in the registry, and why, if the registry says so.

    >>> not_known(find_device("tpu-v5e"), "power")
    'power is not known: Google publishes none'
    """
    why = device.absent.get(field, "it is not in the registry")
    return f"{field} is not known: {why}"


def _factors_for(device: Device, precision: str) -> tuple[Factors | None, str]:
    if device.kind not in CPU_KINDS:
        return None, f"the course has measured CPUs alone, and {device.name} is none ({device.kind})"
    try:
        return measured_factors(precision), ""
    except PredictionError as error:
        return None, str(error)


def measured_factors(precision: str, path: str | Path | None = None) -> Factors:
    """Measured over least time of the models that the course measured at this precision.

    path   a CSV with the columns precision, measured_s and roofline_s (the least time, layer by layer, from
           measured peak and bandwidth); None: data/results/prediction_errors.csv

    Raises PredictionError where there is no such file, or nothing in it at this precision.
    """
    try:
        path = Path(path) if path is not None else data.path(RESULTS)
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except OSError:
        raise PredictionError(f"no measured errors are stored yet ({path or RESULTS})") from None
    lacking = [name for name in ("precision", "measured_s", "roofline_s") if rows and name not in rows[0]]
    if lacking:
        raise PredictionError(f"{path.name} has no column {lacking[0]!r}")
    base = precision_of(precision).partition("-")[0]
    values = tuple(_ratios(r for r in rows if precision_of(r["precision"]) == base))
    if not values:
        raise PredictionError(f"{path.name} has no model measured in {base}")
    return Factors(values, path.name)


def _ratios(rows: Iterable[dict]) -> Iterable[float]:
    return (float(row["measured_s"]) / float(row["roofline_s"]) for row in rows)
