"""Task decomposition: one network's training on several devices, by data, by tensors, by a pipeline. Chapter 06.

data       each device has the whole network and a part of the batch; the gradients are averaged: an all-reduce
tensor     each device has a part of every matrix: by columns, then by rows, and one all-reduce for the two products
           (Shoeybi et al. 2019, "Megatron-LM", section 3)
pipeline   each device, a *stage*, has some of the layers; microbatches go through. While the pipeline fills and
           empties, stages wait: the *bubble*

What is exact is exact here: the parts are NumPy arrays, their sums go the way of `hwlimits.collectives`, and a
pipeline's schedule is laid out slot by slot, so that its bubble can be counted and compared with the formula.

>>> pipeline_schedule("1f1b", stages=4, microbatches=8).bubble == bubble(stages=4, microbatches=8) == 3 / 11
True
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from hwlimits import collectives

SCHEDULES = ("gpipe", "1f1b", "interleaved")


class DecompositionError(ValueError):
    """A decomposition that can't be; the text says what to do."""


# --- data --------------------------------------------------------------------------------------


def average_gradients(gradients: Sequence[np.ndarray], examples: Sequence[int]) -> np.ndarray:
    """The gradient of the whole batch's mean loss, as every device has it after a ring all-reduce: (devices, ...).

    gradients   of the mean loss over each device's examples, all of one shape
    examples    how many each device has; where they are not equal, the plain mean of the gradients is another one

    Raises DecompositionError for shapes that differ, and for less than one example on a device.

    >>> average_gradients([np.array([1.0, 2.0]), np.array([4.0, 5.0])], examples=[2, 1])
    array([[2., 3.],
           [2., 3.]])
    """
    if len(gradients) != len(examples) or not len(examples):
        raise DecompositionError(
            f"average_gradients: {len(gradients)} gradients and {len(examples)} numbers of examples; give one for each"
        )
    (examples,) = zip(*(_whole("average_gradients", examples=n) for n in examples), strict=True)
    shapes = {np.shape(g) for g in gradients}
    if len(shapes) > 1:
        raise DecompositionError(f"average_gradients: the gradients have the shapes {sorted(shapes)}; give them one")
    shares = [np.asarray(g, float) * n / sum(examples) for g, n in zip(gradients, examples, strict=True)]
    return _all_reduced(shares)


def data_bytes(parameters: int, devices: int, element_bytes: int = 4) -> int:
    """Bytes that a device sends in a step, to average the gradients of all parameters by a ring.

    >>> data_bytes(1_000_000, devices=4)
    6000000
    """
    parameters, devices = _whole("data_bytes", parameters=parameters, devices=devices)
    return max(collectives.cost("ring", devices, parameters).bytes_sent(element_bytes))


# --- tensors -----------------------------------------------------------------------------------


def column_parallel(x: np.ndarray, weights: np.ndarray, devices: int) -> list[np.ndarray]:
    """x @ weights, each device with some of the columns: a list of its parts. Nothing is sent.

    All devices need all of x. In the backward pass each has a part of the gradient of x, and the sum is an
    all-reduce: `row_parallel` of the parts' gradients and weights.T.
    Raises DecompositionError for shapes that don't fit, and for more devices than columns.

    >>> column_parallel(np.array([[1, 2]]), np.array([[1, 2, 3], [4, 5, 6]]), devices=2)
    [array([[ 9, 12]]), array([[15]])]
    """
    x, weights = np.asarray(x), _matrix("column_parallel", weights)
    if x.ndim < 1 or x.shape[-1] != weights.shape[0]:
        raise DecompositionError(f"column_parallel: {x.shape} times {weights.shape}; the inner lengths must be equal")
    cut = _cuts("column_parallel", "columns", weights.shape[1], devices)
    return [x @ weights[:, a:b] for a, b in zip(cut, cut[1:], strict=False)]


def row_parallel(parts: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The product of what the devices have, side by side, and `weights`: one result for each device, (devices, ...).

    parts   x, cut along its last axis as `column_parallel` leaves it: device i multiplies it by its rows of the
            weights. The products are then summed by a ring all-reduce, after which all devices have the same bits.

    Raises DecompositionError for parts of other sizes.

    >>> row_parallel([np.array([[9, 12]]), np.array([[15]])], np.array([[1], [1], [1]]))[0]
    array([[36]])
    """
    parts, weights = [np.asarray(p) for p in parts], _matrix("row_parallel", weights)
    cut = _cuts("row_parallel", "rows", weights.shape[0], len(parts))
    sizes = [p.shape[-1] if p.ndim else 0 for p in parts]
    if sizes != list(np.diff(cut)):
        raise DecompositionError(
            f"row_parallel: the parts have {sizes} columns; for {weights.shape[0]} rows of weights give "
            f"{np.diff(cut).tolist()}"
        )
    return _all_reduced([p @ weights[a:b] for p, a, b in zip(parts, cut, cut[1:], strict=False)])


def tensor_bytes(tokens: int, width: int, layers: int, devices: int, element_bytes: int = 2) -> int:
    """Bytes that a device sends in a step, for a transformer whose layers are cut by tensors.

    tokens   of the batch: examples times their length

    Attention and the two dense layers after it are each a product by columns and one by rows. So a layer has two
    all-reduces of tokens x width numbers forward and two backward.

    >>> tensor_bytes(tokens=1024, width=512, layers=1, devices=2) == 4 * 1024 * 512 * 2
    True
    """
    tokens, width, layers, devices = _whole("tensor_bytes", tokens=tokens, width=width, layers=layers, devices=devices)
    return 4 * layers * max(collectives.cost("ring", devices, tokens * width).bytes_sent(element_bytes))


def _all_reduced(arrays: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.stack(arrays)
    if stacked[0].size == 0:
        return stacked
    plan = collectives.schedule("ring", len(arrays), stacked[0].size)
    return plan.simulate(stacked.reshape(len(arrays), -1)).reshape(stacked.shape)


def _matrix(function: str, weights) -> np.ndarray:
    weights = np.asarray(weights)
    if weights.ndim != 2:
        raise DecompositionError(f"{function}: the weights have the shape {weights.shape}; give a matrix")
    return weights


def _cuts(function: str, what: str, length: int, devices: int) -> list[int]:
    (devices,) = _whole(function, devices=devices)
    if devices > length:
        raise DecompositionError(f"{function}: {length} {what} for {devices} devices; each must have one at least")
    return collectives.cuts(length, devices)


# --- pipeline ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """What a stage does from `start_s` to `stop_s`: one microbatch through one chunk of its layers.

    kind   'forward' or 'backward'
    """

    stage: int
    start_s: float
    stop_s: float
    kind: str
    microbatch: int
    chunk: int = 0


@dataclass(frozen=True)
class PipelineSchedule:
    """A step of training as slots, in the order of their start, and of the stages."""

    kind: str
    stages: int
    microbatches: int
    chunks: int
    slots: tuple[Slot, ...]

    @property
    def makespan_s(self) -> float:
        return max(slot.stop_s for slot in self.slots)

    @property
    def bubble(self) -> float:
        """Share of all stages' time in which they wait, counted."""
        busy_s = sum(slot.stop_s - slot.start_s for slot in self.slots)
        return 1 - busy_s / (self.stages * self.makespan_s)

    def in_flight(self, stage: int) -> float:
        """The most microbatches whose activations a stage holds at a time, counted; those of one chunk are 1 / chunks.

        A microbatch's activations are held from its forward slot to the end of its backward slot.
        """
        held = most = 0
        for slot in sorted((s for s in self.slots if s.stage == stage), key=lambda s: s.start_s):
            held += 1 if slot.kind == "forward" else -1
            most = max(most, held)
        return most / self.chunks

    def rows(self) -> list[dict]:
        """The slots as a table, for a Gantt chart: stage, start_s, duration_s, kind, microbatch, chunk."""
        return [
            {"stage": s.stage, "start_s": s.start_s, "duration_s": s.stop_s - s.start_s, "kind": s.kind,
             "microbatch": s.microbatch, "chunk": s.chunk}
            for s in self.slots
        ]  # fmt: skip


def pipeline_schedule(
    kind: str, stages: int, microbatches: int, *, chunks: int = 1, forward_s: float = 1.0, backward_s: float = 2.0
) -> PipelineSchedule:
    """A synchronous schedule, laid out: each stage does its slots in its order, each as soon as its input is there.

    kind        'gpipe': all forward, then all backward (Huang et al. 2019). '1f1b': after the first ones, one forward,
                one backward (PipeDream-Flush: Narayanan et al. 2021). 'interleaved': the same, and each stage has
                `chunks` pieces of the network that are not neighbours (Narayanan et al. 2021, section 2.2.2)
    forward_s   of one microbatch through all layers of a stage; sending takes no time. backward_s: likewise

    Raises DecompositionError for another kind, for chunks where the kind has none, and for 'interleaved' with
    microbatches that the stages do not divide.

    >>> first, *_, last = pipeline_schedule("gpipe", stages=2, microbatches=2).slots
    >>> first.kind, last.kind, last.stage, last.stop_s
    ('forward', 'backward', 0, 9.0)
    """
    if kind not in SCHEDULES:
        raise DecompositionError(f"pipeline_schedule(kind={kind!r}): choose from {', '.join(SCHEDULES)}")
    p, m, v = _whole("pipeline_schedule", stages=stages, microbatches=microbatches, chunks=chunks)
    for name, value in (("forward_s", forward_s), ("backward_s", backward_s)):
        if not 0 < value < math.inf:
            raise DecompositionError(f"pipeline_schedule({name}={value}): must be a number above 0")
    if kind != "interleaved" and v > 1:
        raise DecompositionError(f"pipeline_schedule(kind={kind!r}, chunks={v}): only 'interleaved' has chunks")
    if kind == "interleaved" and m % p:
        raise DecompositionError(
            f"pipeline_schedule: {m} microbatches can't be interleaved on {p} stages; give a multiple of {p}"
        )
    orders = [list(_order(kind, stage, p, m, v)) for stage in range(p)]
    times = {"forward": forward_s / v, "backward": backward_s / v}
    ended: dict[tuple[str, int, int], float] = {}  # (kind, microbatch, which of the p v pieces) -> when
    free, at, slots = [0.0] * p, [0] * p, []
    while len(slots) < 2 * p * m * v:
        for stage in range(p):
            while at[stage] < len(orders[stage]):
                what, microbatch, chunk = orders[stage][at[stage]]
                piece = chunk * p + stage
                needed = _needed(what, microbatch, piece, p * v)
                if not all(key in ended for key in needed):
                    break
                start = max([free[stage], *(ended[key] for key in needed)])
                free[stage] = ended[what, microbatch, piece] = start + times[what]
                slots.append(Slot(stage, start, free[stage], what, microbatch, chunk))
                at[stage] += 1
    return PipelineSchedule(kind, p, m, v, tuple(sorted(slots, key=lambda s: (s.start_s, s.stage))))


def _needed(kind: str, microbatch: int, piece: int, pieces: int) -> list[tuple[str, int, int]]:
    """What must have ended: forward, the piece before; backward, the piece after and the own forward."""
    if kind == "forward":
        return [("forward", microbatch, piece - 1)] if piece else []
    own = ("forward", microbatch, piece)
    return [own] if piece == pieces - 1 else [own, ("backward", microbatch, piece + 1)]


def _order(kind: str, stage: int, p: int, m: int, v: int) -> Iterator[tuple[str, int, int]]:
    """(forward or backward, microbatch, chunk) in the order in which a stage does them."""
    total = m * v
    first = {  # forward slots before the first backward one
        "gpipe": m,
        "1f1b": p - 1 - stage,
        "interleaved": 2 * (p - 1 - stage) + (v - 1) * p,  # as in Megatron-LM, schedules.py
    }[kind]
    first = min(first, total)

    def step(what: str, i: int) -> tuple[str, int, int]:
        # p microbatches through a chunk, then the same through the next; backward, the last chunk is the first
        group, chunk = i // (p * v), i % (p * v) // p
        return what, group * p + i % p, chunk if what == "forward" else v - 1 - chunk

    yield from (step("forward", i) for i in range(first))
    for i in range(first, total):
        yield step("forward", i)
        yield step("backward", i - first)
    yield from (step("backward", i) for i in range(total - first, total))


def bubble(stages: int, microbatches: int, chunks: int = 1) -> float:
    """Share of all stages' time in which they wait: (p - 1) / (v m + p - 1).

    The same for 'gpipe' and '1f1b', whatever forward and backward take; chunks v > 1 are 'interleaved'. Narayanan et
    al. 2021 give the bubble over the time of the work, (p - 1) / (v m), which may be above 1.

    >>> bubble(stages=4, microbatches=12), bubble(stages=4, microbatches=12, chunks=3) < bubble(4, 12)
    (0.2, True)
    """
    p, m, v = _whole("bubble", stages=stages, microbatches=microbatches, chunks=chunks)
    return (p - 1) / (v * m + p - 1)


def in_flight(kind: str, stages: int, microbatches: int, stage: int = 0, chunks: int = 1) -> float:
    """The most microbatches whose activations a stage holds at a time, by formula.

    gpipe all m; 1f1b p - stage at most; interleaved (2 (p - stage) - 1 + (v - 1) p) / v at most.

    >>> [in_flight(kind, stages=4, microbatches=32) for kind in ("gpipe", "1f1b")]
    [32.0, 4.0]
    """
    if kind not in SCHEDULES:
        raise DecompositionError(f"in_flight(kind={kind!r}): choose from {', '.join(SCHEDULES)}")
    p, m, v = _whole("in_flight", stages=stages, microbatches=microbatches, chunks=chunks)
    if not 0 <= stage < p:
        raise DecompositionError(f"in_flight(stage={stage}): the stages are 0 to {p - 1}")
    most = {"gpipe": m, "1f1b": p - stage, "interleaved": 2 * (p - stage) - 1 + (v - 1) * p}[kind]
    return min(most, m * v) / v


def pipeline_bytes(tokens: int, width: int, stages: int, chunks: int = 1, element_bytes: int = 2) -> int:
    """Bytes that all stages together send in a step: what passes each border, activations forward, gradients backward.

    tokens   of the whole batch; into how many microbatches it is cut does not matter

    >>> pipeline_bytes(tokens=1024, width=512, stages=4) == 3 * 2 * 1024 * 512 * 2
    True
    """
    given = _whole("pipeline_bytes", tokens=tokens, width=width, stages=stages, chunks=chunks)
    tokens, width, p, v = given
    return (p * v - 1) * 2 * tokens * width * element_bytes if p > 1 else 0


def _whole(function: str, **given) -> tuple[int, ...]:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise DecompositionError(f"{function}({name}={value!r}): must be a whole number, at least 1")
    return tuple(int(value) for value in given.values())
