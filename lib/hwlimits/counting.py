"""What a layer costs, what a model costs, and how well a measured run used the machine.

Here stand the conventions of every count in the course; `hwlimits.compute` has the formulas.

- One MAC (multiply-accumulate) is two FLOPs. `macs` are those of convolutions, matrix products and
  recurrences, so that a CNN's total is the number its paper prints.
- `other_flops` is the rest, one per arithmetic operation: bias, activation, normalization, pooling,
  softmax, merge. Operations per element are in `ACTIVATION_FLOPS` and at each formula; where
  TensorFlow's profiler has a rule, it is the same rule. A comparison, an exponential and a square
  root are one operation each, 1/sqrt is two.
- Bytes are the compulsory traffic of a layer: every input and parameter read once, every output
  written once. What stays inside a layer (attention scores, a recurrent state, the image between
  the two halves of a separable convolution) moves nothing. Real engines move more, never less.
- A model is counted at inference, and all of the window counts where a window overlaps its padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral

DTYPES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}

# Operations per element, counted in the formula beside each.
ACTIVATION_FLOPS = {
    "linear": 0,
    "relu": 1,  # max(x, 0)
    "relu6": 2,  # min(max(x, 0), 6)
    "leaky_relu": 2,  # max(x, a x)
    "prelu": 2,  # x > 0 ? x : a x
    "thresholded_relu": 2,  # x > t ? x : 0, as a comparison and a product
    "elu": 4,  # x > 0 ? x : a (exp(x) - 1)
    "celu": 5,  # x > 0 ? x : a (exp(x / a) - 1)
    "selu": 5,  # s elu(x)
    "exponential": 1,
    "sigmoid": 4,  # 1 / (1 + exp(-x))
    "log_sigmoid": 5,  # -log(1 + exp(-x))
    "tanh": 5,  # (e - 1) / (e + 1) with e = exp(2 x)
    "softplus": 3,  # log(1 + exp(x))
    "softsign": 3,  # x / (1 + |x|)
    "silu": 5,  # x sigmoid(x)
    "swish": 5,  # the older name of silu
    "mish": 9,  # x tanh(softplus(x))
    "gelu": 5,  # 0.5 x (1 + erf(x / sqrt 2)), erf as one operation
    "gelu_tanh": 13,  # 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x x x)))
    "hard_sigmoid": 4,  # min(max(a x + b, 0), 1)
    "hard_silu": 5,  # x hard_sigmoid(x)
    "hard_swish": 5,
    "hard_tanh": 2,  # min(max(x, -1), 1)
    "softmax": 5,  # maximum, subtract, exp, sum, divide: TensorFlow's profiler says 5, too
    "log_softmax": 5,  # maximum, subtract, exp, sum, subtract the logarithm
}


class CountError(ValueError):
    """Something that can't be counted as asked; the text says what to do."""


def bytes_per_element(dtype: str) -> int:
    """Bytes that one number takes.

    Raises CountError for a type that is not in `DTYPES`.

    >>> bytes_per_element("bfloat16")
    2
    """
    if dtype not in DTYPES:
        raise CountError(f"dtype {dtype!r} is not one that is counted; choose from {', '.join(DTYPES)}")
    return DTYPES[dtype]


def activation_flops(name: str | None) -> int:
    """Operations per element of an activation function; None is none.

    Raises CountError for a name that is not in `ACTIVATION_FLOPS`.

    >>> activation_flops("relu"), activation_flops(None)
    (1, 0)
    """
    if name is None:
        return 0
    if name not in ACTIVATION_FLOPS:
        raise CountError(f"activation {name!r} has no count; known are {', '.join(ACTIVATION_FLOPS)}")
    return ACTIVATION_FLOPS[name]


def _is_whole(value, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def sizes(function: str, least: int = 1, /, **given) -> tuple:
    """The dimensions given, checked: a number as an int, one whose name ends in 'shape' as a tuple of them.

    NumPy's integers become Python's, which can't overflow in a product.
    Raises CountError for what is not a whole number of at least `least`; `function` is named in it.

    >>> sizes("conv", input_shape=[28, 28, 1], filters=32)
    ((28, 28, 1), 32)
    """
    found = []
    for name, value in given.items():
        several = name.endswith("shape")
        numbers = tuple(value) if several and isinstance(value, Iterable) else (value,)
        if not all(_is_whole(n, least) for n in numbers):
            need = f"whole numbers, each at least {least}" if several else f"a whole number, at least {least}"
            raise CountError(f"{function}({name}={value!r}): {name} must be {need}")
        found.append(tuple(int(n) for n in numbers) if several else int(value))
    return tuple(found)


def each(name: str, value, axes: int, least: int = 1) -> tuple[int, ...]:
    """One number for each axis: `value` itself if it has that many, else the one number repeated.

    Raises CountError for another number of them, and for one below `least`.

    >>> each("strides", 2, axes=3)
    (2, 2, 2)
    """
    values = tuple(value) if isinstance(value, Iterable) else (value,) * axes
    if len(values) != axes or not all(_is_whole(v, least) for v in values):
        need = f"one whole number of at least {least}, or {axes} of them"
        raise CountError(f"{name}={value!r} given for {axes} axes: give {need}")
    return tuple(int(v) for v in values)


def examples(batch: int) -> int:
    """The batch as an int. Raises CountError for what is not a whole number above 0.

    >>> examples(32)
    32
    """
    if not _is_whole(batch, 1):
        raise CountError(f"batch={batch!r}: a batch has at least one example")
    return int(batch)


@dataclass(frozen=True)
class Cost:
    """What something computes and moves. One MAC is two FLOPs; bytes as in the module's text.

    Costs add up, also with `sum`.

    >>> Cost(macs=100, other_flops=20, bytes_read=40, bytes_written=4).intensity
    5.0
    """

    macs: int = 0
    other_flops: int = 0
    parameters: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def flops(self) -> int:
        return 2 * self.macs + self.other_flops

    @property
    def bytes(self) -> int:
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in FLOP/byte; 0 for what moves nothing."""
        return self.flops / self.bytes if self.bytes else 0.0

    def __add__(self, other: Cost) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __radd__(self, other) -> Cost:
        return self if other == 0 else NotImplemented  # `sum` starts from 0


def per_batch(*, batch: int, dtype: str, read: int, written: int, macs=0, other_flops=0, parameters=0) -> Cost:
    """The Cost of `batch` examples: numbers per example times batch, parameters once.

    read, written   elements of input and output for one example

    Raises CountError for a batch that is not a whole number above 0, for a count that is not a
    whole number or negative, and for an unknown dtype.

    >>> per_batch(batch=8, dtype="int8", read=10, written=2, macs=20, parameters=20)
    Cost(macs=160, other_flops=0, parameters=20, bytes_read=100, bytes_written=16)
    """
    batch, size = examples(batch), bytes_per_element(dtype)
    read, written, macs, other_flops, parameters = sizes(
        "per_batch", 0, read=read, written=written, macs=macs, other_flops=other_flops, parameters=parameters
    )
    return Cost(
        macs=batch * macs,
        other_flops=batch * other_flops,
        parameters=parameters,
        bytes_read=(batch * read + parameters) * size,
        bytes_written=batch * written * size,
    )


@dataclass(frozen=True)
class LayerCost:
    """One call of one layer. `output_shape` has the batch in front.

    parameters in `cost` are those met for the first time: a shared layer has them at its first
    call alone, while `bytes_read` has them at every call. `note` says why a zero is a zero.
    """

    name: str
    kind: str
    output_shape: tuple
    cost: Cost
    trainable_parameters: int = 0
    note: str = ""


@dataclass(frozen=True)
class ModelCost:
    """A model's layers in the order of their calls.

    not_counted   name of a layer (or of a part of it) -> why it has no count. Its parameters and
                  bytes are counted all the same; its MACs and FLOPs are missing from `total`.
    """

    name: str
    layers: tuple[LayerCost, ...]
    not_counted: Mapping[str, str] = field(default_factory=dict)
    batch: int = 1
    dtype: str = "float32"

    @property
    def total(self) -> Cost:
        """The sum over the layers. Its bytes are those of layers that run one by one, each through memory."""
        return sum((layer.cost for layer in self.layers), Cost())

    @property
    def trainable_parameters(self) -> int:
        return sum(layer.trainable_parameters for layer in self.layers)

    def rows(self) -> list[dict]:
        """The layers and their total as a table; the note of the total names what is left out."""
        costs = [(x.name, x.kind, x.output_shape, x.cost, x.note) for x in self.layers]
        note = f"without {', '.join(self.not_counted)}" if self.not_counted else ""
        return [
            {
                "layer": name,
                "kind": kind,
                "output": shape,
                "macs": cost.macs,
                "flops": cost.flops,
                "parameters": cost.parameters,
                "bytes": cost.bytes,
                "flops_per_byte": cost.intensity,
                "note": note,
            }
            for name, kind, shape, cost, note in [*costs, ("total", "", "", self.total, note)]
        ]


@dataclass(frozen=True)
class Utilization:
    """Shares of the machine that a run used: of its peak FLOP/s, of its bandwidth, of its memory."""

    compute: float
    bandwidth: float
    memory: float | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a share above 1 means: no run beats a true peak, so one of the numbers is not what it is taken for."""
        reasons = {
            "compute": "the peak is too low for this precision or these cores, or work was skipped that the count has",
            "bandwidth": "the data came from a nearer level (a cache) than the one whose bandwidth was given",
            "memory": "part of it is swapped out or counted twice",
        }
        shares = ((name, getattr(self, name)) for name in reasons)
        return tuple(f"{name} utilization {x:.2f} is above 1: {reasons[name]}" for name, x in shares if x and x > 1)


def utilization(
    cost: Cost,
    time_s: float,
    peak_flops_per_s: float,
    bytes_per_s: float,
    occupied_bytes: float | None = None,
    memory_bytes: float | None = None,
) -> Utilization:
    """Achieved over peak FLOP/s, achieved over peak bandwidth, memory occupied over there.

    A share above 1 is returned, not refused: it is what a reader has measured, and `doubts` says
    what it means. Raises CountError where a time, a peak or a size is not above 0, or where only
    one of the two numbers of memory is given.

    >>> found = utilization(Cost(macs=10**9, bytes_read=10**8), time_s=0.1, peak_flops_per_s=1e11, bytes_per_s=2e9)
    >>> found.compute, found.bandwidth
    (0.2, 0.5)
    """
    given = {"time_s": time_s, "peak_flops_per_s": peak_flops_per_s, "bytes_per_s": bytes_per_s}
    if (occupied_bytes is None) != (memory_bytes is None):
        raise CountError("utilization needs occupied_bytes and memory_bytes together, or neither")
    if memory_bytes is not None:
        given |= {"occupied_bytes": occupied_bytes, "memory_bytes": memory_bytes}
    for name, value in given.items():
        if not value > 0:
            raise CountError(f"utilization({name}={value}): must be above 0")
    return Utilization(
        compute=cost.flops / time_s / peak_flops_per_s,
        bandwidth=cost.bytes / time_s / bytes_per_s,
        memory=None if memory_bytes is None else occupied_bytes / memory_bytes,
    )


def utilizations(
    model: ModelCost, times_s: Mapping[str, float], peak_flops_per_s: float, bytes_per_s: float
) -> dict[str, Utilization]:
    """The utilization of each layer that was timed, and of all of them together, 'total'.

    times_s   layer name -> seconds for one call with the batch that was counted. Layers may be
              left out; the total is then that of the layers timed.

    Raises CountError for a name that is not a layer of the model, or without any time.
    """
    costs = {layer.name: layer.cost for layer in model.layers}
    if unknown := [name for name in times_s if name not in costs]:
        raise CountError(f"{model.name} has no layer {unknown[0]!r}; it has {', '.join(costs)}")
    if not times_s:
        raise CountError(f"no layer of {model.name} was timed: give times_s as {{layer name: seconds}}")
    found = {name: utilization(costs[name], time, peak_flops_per_s, bytes_per_s) for name, time in times_s.items()}
    total = sum((costs[name] for name in times_s), Cost())
    return found | {"total": utilization(total, sum(times_s.values()), peak_flops_per_s, bytes_per_s)}
