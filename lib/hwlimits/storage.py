"""How many bytes: chapter 02's formulas for a model at rest, a training step, and whatever lives at the same time.

At rest a model is its parameters in some format. At work it is *buffers*, each alive from the step that makes
it to its last use; the peak of what is alive together is what memory must hold. A training step keeps
the activations of the forward pass for the backward pass, so its peak has little to do with the file's size.
Sizes are bytes throughout; a byte has eight bits, and four- and two-bit numbers are packed.

>>> at_rest_bytes(1000, "int4") == 500
True
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import MappingProxyType

# bits of one number
FORMATS = MappingProxyType({
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "float8": 8,
    "int32": 32, "int16": 16, "int8": 8, "int4": 4, "int2": 2, "binary": 1,
})  # fmt: skip

# numbers of the parameters' size that an optimiser keeps beside them
OPTIMIZER_SLOTS = MappingProxyType({
    "sgd": 0,
    "momentum": 1,  # velocity
    "adagrad": 1,  # sum of squares
    "rmsprop": 1,  # mean square
    "adam": 2,  # first and second moment; Kingma and Ba 2015
    "adamw": 2,
    "lion": 1,  # first moment
})  # fmt: skip


class StorageError(ValueError):
    """Something whose bytes can't be counted as asked; the text says what to do."""


# --- at rest -----------------------------------------------------------------------------------


def at_rest_bytes(parameters: int, format: str, *, scales: int = 0, zero_points: bool = False) -> int:
    """Bytes of `parameters` numbers in a format, packed, with what a quantized format adds.

    scales        how many: 1 for a tensor, or one for each channel; each a float32 of four bytes
    zero_points   one of the format's own type for each scale (asymmetric quantization)

    A file adds its structure, and may keep these in wider types: LiteRT has a zero point as int64.
    Raises StorageError for an unknown format and for counts below 0.

    >>> at_rest_bytes(1600 * 64, "int8", scales=64, zero_points=True)
    102720
    """
    bits = _bits(format)
    parameters, scales = _whole("at_rest_bytes", 0, parameters=parameters, scales=scales)
    return _bytes(parameters * bits) + 4 * scales + _bytes(scales * bits * zero_points)


def bitmap_bytes(numbers: int, nonzero: int, format: str) -> int:
    """Bytes of a sparse tensor as a bitmap, one bit for each number, and the numbers that are not 0.

    >>> bitmap_bytes(8000, 1000, "int8")
    2000
    """
    numbers, nonzero = _sparse("bitmap_bytes", numbers, nonzero)
    return _bytes(numbers) + _bytes(nonzero * _bits(format))


def csr_bytes(rows: int, columns: int, nonzero: int, format: str, *, index: str = "int32") -> int:
    """Bytes of a sparse matrix as CSR: the numbers that are not 0, the column of each, and where each row begins.

    >>> csr_bytes(10, 100, 50, "float32", index="int16")
    322
    """
    rows, columns = _whole("csr_bytes", 0, rows=rows, columns=columns)
    _, nonzero = _sparse("csr_bytes", rows * columns, nonzero)
    most = 2 ** (_bits(index) - 1)
    if max(columns - 1, nonzero) >= most:
        raise StorageError(
            f"csr_bytes(index={index!r}): {index} counts to {most - 1:,}, and there are {columns:,} columns and "
            f"{nonzero:,} numbers; take a wider index"
        )
    return _bytes(nonzero * (_bits(format) + _bits(index))) + _bytes((rows + 1) * _bits(index))


def break_even_density(format: str, sparse: str, *, index: str = "int32") -> float:
    """The share of numbers that are not 0 below which a sparse form is smaller than the dense one.

    A bitmap costs one bit for each number: d b + 1 = b. CSR costs an index for each number kept (its row
    pointers left out): d (b + i) = b.
    Raises StorageError for another form than 'bitmap' and 'csr'.

    >>> break_even_density("float32", "bitmap"), break_even_density("int8", "csr", index="int16")
    (0.96875, 0.3333333333333333)
    """
    bits = _bits(format)
    if sparse == "bitmap":
        return max(0.0, (bits - 1) / bits)
    if sparse == "csr":
        return bits / (bits + _bits(index))
    raise StorageError(f"break_even_density(sparse={sparse!r}): choose 'bitmap' or 'csr'")


# --- training ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingMemory:
    """What a training step needs at its peak, in bytes."""

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


def training_memory(
    parameters: int, activations_bytes: int, *, optimizer: str = "adam", precision: str = "float32"
) -> TrainingMemory:
    """Parameters, gradients, optimiser state and activations.

    activations_bytes   at the peak, for the whole batch: `peak_live_bytes` of what the step keeps
    precision           'float32', or 'mixed': weights and gradients in two bytes, and beside them the master
                        weights and the optimiser's state in float32 (Micikevicius et al. 2018; with Adam 16 bytes
                        a parameter, as counted by Rajbhandari et al. 2020). Keras' mixed precision keeps
                        no two-byte weights: it casts them as it goes.

    Raises StorageError for an unknown optimiser or precision.

    >>> training_memory(1_000_000, 0, precision="mixed").total_bytes
    16000000
    """
    if optimizer not in OPTIMIZER_SLOTS:
        raise StorageError(f"training_memory(optimizer={optimizer!r}): known are {', '.join(OPTIMIZER_SLOTS)}")
    if precision not in ("float32", "mixed"):
        raise StorageError(f"training_memory(precision={precision!r}): choose 'float32' or 'mixed'")
    n, activations = _whole("training_memory", 0, parameters=parameters, activations_bytes=activations_bytes)
    slots = 4 * n * OPTIMIZER_SLOTS[optimizer]
    if precision == "mixed":
        return TrainingMemory(2 * n, 2 * n, 4 * n + slots, activations)
    return TrainingMemory(4 * n, 4 * n, slots, activations)


def chain_buffers(sizes: Sequence[int], *, every: int | None = None) -> list[Buffer]:
    """The activations and their gradients in a training step of layers one after the other.

    sizes   bytes of each layer's output, the first layer first
    every   None keeps every activation from the forward to the backward pass. k keeps every k-th and the
            last; the others are computed again, segment by segment, when backward comes to them.

    Layer i's backward step needs the gradient of its own output, its input and (for the activation
    function) its output, and makes the gradient of its input; the first layer makes none. The network's input
    is not here: the caller has it. `peak_live_bytes` of the result is the peak.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016).

    >>> peak_live_bytes(chain_buffers([1] * 16)), peak_live_bytes(chain_buffers([1] * 16, every=4))
    (18, 9)
    """
    n = len(sizes)
    kept = _kept(n, every)
    step, buffers, alive = 0, [], {}  # alive: layer -> (first step, last step so far, which time)

    def make(i: int, again: str = "") -> None:
        alive[i] = [step, step, again]
        if i - 1 in alive:
            alive[i - 1][1] = step

    def end(i: int) -> None:
        first, last, again = alive.pop(i)
        buffers.append(Buffer(f"activation {i}{again}", int(sizes[i]), first, last))

    for i in range(n):
        make(i)
        step += 1
        if i - 1 in alive and i - 1 not in kept:
            end(i - 1)
    gradient = step - 1  # of the last output: the loss makes it
    for i in reversed(range(n)):
        if i not in alive or (i and i - 1 not in alive):  # the segment again, from the checkpoint before it
            for j in range(max((c for c in kept if c < i), default=-1) + 1, i):
                make(j, " again")
                step += 1
        alive[i][1] = step
        if i:
            alive[i - 1][1] = step
        buffers.append(Buffer(f"gradient {i}", int(sizes[i]), gradient, step))
        gradient = step
        end(i)
        step += 1
    return buffers


def recomputed_layers(layers: int, every: int | None) -> list[int]:
    """Which of a chain's layers `chain_buffers(every=...)` runs twice; their FLOPs are the price.

    >>> recomputed_layers(6, every=3)
    [0, 1, 3, 4]
    """
    kept = _kept(layers, every)
    return [i for i in range(layers) if i not in kept]


def best_every(layers: int) -> int:
    """The k that keeps the peak of a chain of equal layers least: about n / k are kept and k more made again, so √n.

    >>> best_every(100)
    10
    """
    (layers,) = _whole("best_every", 1, layers=layers)
    return max(1, round(math.sqrt(layers)))


def _kept(layers: int, every: int | None) -> set[int]:
    if every is None:
        return set(range(layers))
    (every,) = _whole("chain_buffers", 1, every=every)
    return {i for i in range(layers) if (i + 1) % every == 0 or i == layers - 1}


# --- lifetimes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Buffer:
    """Bytes that something needs from step `first` to step `last`, both included.

    Raises StorageError for a size below 0, for a life that ends before it begins, and for what is no whole number.

    >>> Buffer("image", 784, 0, 1).overlaps(Buffer("pooled", 100, 2, 3))
    False
    """

    name: str
    bytes: int
    first: int
    last: int

    def __post_init__(self):
        for what in ("bytes", "first", "last"):
            value = getattr(self, what)
            if isinstance(value, bool) or not isinstance(value, Integral) or (what == "bytes" and value < 0):
                need = "a whole number" + (" of at least 0" if what == "bytes" else "")
                raise StorageError(f"Buffer({self.name!r}, {what}={value!r}): {what} must be {need}")
        if self.first > self.last:
            raise StorageError(
                f"Buffer({self.name!r}): it lives from step {self.first} to {self.last}, which is before"
            )

    def overlaps(self, other: Buffer) -> bool:
        """True if there is a step at which both live."""
        return self.first <= other.last and other.first <= self.last


def live_bytes(buffers: Iterable[Buffer], alignment: int = 1) -> dict[int, int]:
    """Bytes alive at each step at which that changes: {step: bytes}, in order. `alignment` rounds each size up.

    >>> live_bytes([Buffer("image", 100, 0, 1), Buffer("conv", 400, 1, 2), Buffer("pool", 100, 2, 3)])
    {0: 100, 1: 500, 2: 500, 3: 100, 4: 0}
    """
    change: dict[int, int] = {}
    for b in buffers:
        size = -(-int(b.bytes) // alignment) * alignment
        change[b.first] = change.get(b.first, 0) + size
        change[b.last + 1] = change.get(b.last + 1, 0) - size
    alive, total = {}, 0
    for step in sorted(change):
        total += change[step]
        alive[step] = total
    return alive


def peak_live_bytes(buffers: Iterable[Buffer], alignment: int = 1) -> int:
    """The most bytes that are alive at one step: no arena that holds them all can be smaller.

    >>> peak_live_bytes([Buffer("image", 100, 0, 1), Buffer("conv", 400, 1, 2), Buffer("pool", 100, 2, 3)])
    500
    """
    return max(live_bytes(buffers, alignment).values(), default=0)


def _bits(format: str) -> int:
    if format not in FORMATS:
        raise StorageError(f"format {format!r} is not one that is known; choose from {', '.join(FORMATS)}")
    return FORMATS[format]


def _bytes(bits: int) -> int:
    return -(-bits // 8)


def _whole(function: str, least: int, /, **given) -> tuple[int, ...]:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise StorageError(f"{function}({name}={value!r}): {name} must be a whole number, at least {least}")
    return tuple(int(value) for value in given.values())


def _sparse(function: str, numbers: int, nonzero: int) -> tuple[int, int]:
    numbers, nonzero = _whole(function, 0, numbers=numbers, nonzero=nonzero)
    if nonzero > numbers:
        raise StorageError(f"{function}: {nonzero:,} of {numbers:,} numbers can't be other than 0")
    return numbers, nonzero
