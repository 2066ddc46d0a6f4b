"""How long operators take on this computer: from the times of some to the times of all.

A card with operator times has, for some 500 operators of made-up shapes, the median time of each, run
alone, again and again. From them:

1. **Hot time.** Operators of a family (matrix products, depthwise convolutions, each light kind by itself)
   and of one form (float32, int8, ...) get the time `overhead + work / best rate`, times a factor that is
   interpolated between the measured ones over the logarithms of the shape (kriging, Krige 1951; Rasmussen
   and Williams 2006, algorithm 2.1). Far from all measured shapes the factor goes back to the family's mean.
2. **Cold bytes.** In a network, what an operator reads was last touched so many bytes ago (the reuse
   distance, Mattson et al. 1970). Bytes that come from farther away than in the measurement are charged
   the difference, by the curve of rate against distance that the measured dense layers give.

No number is fitted to a network: networks take no part in the measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log2

import numpy as np

PRODUCTS = ("CONV_2D", "FULLY_CONNECTED", "CONV_3D", "UNIDIRECTIONAL_SEQUENCE_LSTM")
VECTOR = 8  # outputs that kernels compute at once, at least
# How many numbers a shape has, by family; of all others four.
DIMENSIONS = dict.fromkeys(
    ("product", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL", "MAX_POOL_2D", "AVERAGE_POOL_2D"), 5
)
SPREAD = 0.4  # how far, in natural logarithms, factors of a family stray from their mean
LENGTH = 5.0  # octaves of shape over which they stay alike
NOISE = 0.06  # of a single measured time

# A kind that is not measured takes the rate of one that does the like to each number.
LIKE = {
    "RELU6": "RELU", "RELU_0_TO_1": "RELU", "RELU_N1_TO_1": "RELU", "ABS": "RELU", "NEG": "RELU", "SQUARE": "RELU",
    "FLOOR": "RELU", "CEIL": "RELU", "ROUND": "RELU", "LEAKY_RELU": "RELU", "PRELU": "MUL", "MAXIMUM": "ADD",
    "MINIMUM": "ADD", "SQUARED_DIFFERENCE": "SUB", "DIV": "MUL", "EXP": "LOGISTIC", "LOG": "LOGISTIC", "ELU": "TANH",
    "SQRT": "RSQRT", "SIN": "TANH", "COS": "TANH", "LOG_SOFTMAX": "SOFTMAX", "SUM": "MEAN", "REDUCE_MAX": "MEAN",
    "REDUCE_MIN": "MEAN", "REDUCE_PROD": "MEAN", "PADV2": "PAD", "MIRROR_PAD": "PAD", "SLICE": "PAD",
    "STRIDED_SLICE": "PAD", "GATHER": "PAD", "EMBEDDING_LOOKUP": "PAD", "SPLIT": "CONCATENATION",
    "SPLIT_V": "CONCATENATION", "PACK": "CONCATENATION", "UNPACK": "CONCATENATION", "TILE": "CONCATENATION",
    "BROADCAST_TO": "CONCATENATION", "DEPTH_TO_SPACE": "TRANSPOSE", "SPACE_TO_DEPTH": "TRANSPOSE",
    "SPACE_TO_BATCH_ND": "TRANSPOSE", "BATCH_TO_SPACE_ND": "TRANSPOSE", "CAST": "DEQUANTIZE", "FILL": "PAD",
    "ZEROS_LIKE": "PAD",
}  # fmt: skip


class LatencyError(ValueError):
    """Operator times are missing or make no sense; the text says what to do."""


def family_of(kind: str) -> str:
    """The operators that a kind is compared with: products and convolutions share a family, others have their own.

    >>> family_of("CONV_2D"), family_of("ADD")
    ('product', 'ADD')
    """
    return "product" if kind in PRODUCTS else kind


@dataclass(frozen=True)
class Work:
    """One operator as the machine sees it.

    form     'float32', 'int8' or 'dynamic' (int8 weights, float32 numbers)
    shape    what its time depends on, by family: rows, depth of the window's channels, outputs and window
             area of a product; pixels, channels, window area and stride of a depthwise convolution;
             elements and the last dimension of anything else, and of pooling its window and stride; last a mark
             that keeps forms apart which other kernels compute, such as a second operand that is repeated
    amount   MACs of products and depthwise convolutions, else bytes
    reads    (tensor, bytes) of inputs and weights; writes likewise
    """

    name: str
    kind: str
    form: str
    shape: tuple[float, ...]
    amount: int
    reads: tuple[tuple[str, int], ...] = ()
    writes: tuple[tuple[str, int], ...] = ()

    @property
    def family(self) -> str:
        return family_of(self.kind)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in (*self.reads, *self.writes))

    @property
    def done(self) -> float:
        """The amount that a kernel does for it: whole vectors of outputs, also where an operator has fewer."""
        if self.family != "product":
            return self.amount
        outputs = self.shape[2]
        return self.amount * (-(-outputs // VECTOR) * VECTOR) / outputs


@dataclass(frozen=True)
class Point:
    """A measured operator: its median time in s, alone and hot, and the interquartile range of the samples."""

    work: Work
    time_s: float
    iqr_s: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """A predicted time: hot time and the cost of cold bytes, both in s, and the standard error as a share."""

    hot_s: float
    cold_s: float
    error: float
    bound: str
    known: bool = True

    @property
    def time_s(self) -> float:
        return self.hot_s + self.cold_s


class Family:
    """The measured operators of one family and form, and the interpolation between them."""

    def __init__(self, points: Sequence[Point], overhead_s: float):
        self.points, self.overhead_s = list(points), overhead_s
        work_s = np.array([max(p.time_s - overhead_s, 0.05 * p.time_s) for p in points])
        amounts = np.array([p.work.done for p in points], float)
        self.rate = float(np.max(amounts / work_s))  # the best that any of them reached
        factors = np.log([p.time_s / self._plain_s(p.work) for p in points])
        self.mean = float(factors.mean())
        self._at = np.array([coordinates(p.work) for p in points])
        covariance = _covariance(self._at, self._at) + NOISE**2 * np.eye(len(points))
        self._inverse = np.linalg.inv(covariance)
        self._weights = self._inverse @ (factors - self.mean)
        # what each would be missed by if it were left out, in closed form (Rasmussen and Williams, equation 5.12)
        self.left_out_errors = self._weights / np.diag(self._inverse)
        self.error = float(np.sqrt(np.mean(self.left_out_errors**2)))

    def _plain_s(self, work: Work) -> float:
        return self.overhead_s + work.done / self.rate

    def estimate(self, work: Work) -> tuple[float, float]:
        """Hot time in s, and its standard error as a share of it: by how much left-out operators are missed, or,
        far from all that were measured, the spread of the family."""
        near = _covariance(np.array([coordinates(work)]), self._at)[0]
        factor = self.mean + near @ self._weights
        variance = max(SPREAD**2 - near @ self._inverse @ near, 0.0)
        return self._plain_s(work) * float(np.exp(factor)), float(max(np.sqrt(variance), self.error))


def coordinates(work: Work) -> list[float]:
    """Where an operator stands among others of its family: logarithms of its shape.

    Kernels compute whole tiles of outputs, so how much of a tile is left empty is a coordinate of its own.
    """
    at = [log2(max(n, 1)) for n in work.shape]
    if work.family == "product":
        channels, outputs = work.shape[1:3]
        at += [4 * log2(-(-outputs // tile) * tile / outputs) for tile in (16, 32)]
        # under a window, a kernel takes input channels in groups: with one or three most of a group is empty
        at.append(2 * log2(-(-channels // 8) * 8 / channels) if work.shape[3] > 1 else 0.0)
        at.append(3.0 * (outputs % 8 != 0))  # a vector that is not full takes another way through the kernel
        at[3] *= 1.5
    if work.family == "DEPTHWISE_CONV_2D":
        at[2], at[3] = 4 * at[2], 1.5 * at[3]  # other windows have other kernels
    if "POOL" in work.family:
        at[2] *= 2
    return at


def _covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matérn's covariance with nu = 3/2 of points (n, d) and (m, d): (n, m)."""
    distance = np.sqrt(3) * np.linalg.norm(a[:, None] - b[None], axis=-1) / LENGTH
    return SPREAD**2 * (1 + distance) * np.exp(-distance)


@dataclass(frozen=True)
class Latency:
    """The model of this computer: made of measured operators and of what a call and an operator cost.

    invoke_s     overhead of a call
    operator_s   overhead of an operator that computes next to nothing
    """

    points: tuple[Point, ...]
    invoke_s: float
    operator_s: float
    families: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def family(self, work: Work) -> tuple[Family | None, bool]:
        """The measured family for an operator, and whether it is its own: another kind or form may stand in."""
        stand_in = LIKE.get(work.kind)
        for kind, form, own in (
            (work.family, work.form, True),
            (stand_in, work.form, True),
            (work.family, "float32", work.form == "dynamic" and work.kind not in PRODUCTS),
            (stand_in, "float32", work.form == "dynamic"),
            ("CONCATENATION", "float32", False),
        ):
            if (kind, form) not in self.families:
                found = [p for p in self.points if (p.work.family, p.work.form) == (kind, form)]
                self.families[kind, form] = Family(found, self.invoke_s) if len(found) >= 3 else None
            if self.families[kind, form] is not None:
                return self.families[kind, form], own
        raise LatencyError("the card has no operator times: `hwlimits calibrate` measures them")

    @cached_property
    def drift(self) -> float:
        """How far this computer's speed wandered while operators were measured, as a standard deviation.

        It is the median over the operators of their IQR over their time; a normal distribution's is 1.35 deviations.
        """
        return float(np.median([p.iqr_s / p.time_s for p in self.points])) / 1.35

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Rate in bytes/s at which weights are read, by how many bytes are read in a round: never rising."""
        found = sorted(
            (size, size / max(p.time_s - self.invoke_s, 0.05 * p.time_s))
            for p in self.points
            if p.work.kind == "FULLY_CONNECTED" and p.work.form == "float32" and p.work.shape[0] == 1
            if (size := max(n for _, n in p.work.reads)) >= 2**14
        )
        if len(found) < 3:
            raise LatencyError("the card has no times of dense layers of several sizes: `hwlimits calibrate` again")
        sizes, rates = (np.array(column, float) for column in zip(*found, strict=True))
        best = np.maximum.accumulate(rates[::-1])[::-1]  # a larger set is not read faster than a smaller one
        return sizes, best

    def seconds_per_byte(self, distance_bytes: float) -> float:
        """Time of a byte that was last touched so many bytes ago."""
        sizes, rates = self.curve
        return float(1 / np.exp(np.interp(np.log(max(distance_bytes, 1)), np.log(sizes), np.log(rates))))

    def estimate(self, work: Work, distances: dict[str, float] | None = None) -> Estimate:
        """The time of an operator; `distances`: for each tensor that it reads, how many bytes ago it was touched."""
        family, known = self.family(work)
        hot_s, error = family.estimate(work)
        hot_s = max(hot_s - self.invoke_s, 0.0) + self.operator_s
        alone_s = self.seconds_per_byte(work.bytes)
        cold_s = sum(
            size * max(0.0, self.seconds_per_byte(distances.get(tensor, work.bytes)) - alone_s)
            for tensor, size in work.reads
        ) if distances else 0.0  # fmt: skip
        return Estimate(hot_s, cold_s, error if known else 1.0, self._bound(work, family, cold_s), known)

    def _bound(self, work: Work, family: Family, cold_s: float) -> str:
        """What takes longest: the family's arithmetic at its best rate, the bytes, or the operator's fixed cost."""
        moving_s = work.bytes * self.seconds_per_byte(work.bytes) + cold_s
        arithmetic = work.family in ("product", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL")
        computing_s = work.done / family.rate if arithmetic else 0.0
        if max(computing_s, moving_s) < self.operator_s:
            return "overhead"
        return "compute" if computing_s > moving_s else "memory"


def reuse_distances(works: Sequence[Work]) -> list[dict[str, float]]:
    """For each operator of a network that is run again and again: tensor read -> bytes touched since it last was.

    A tensor that is read for the first time in a round (a weight) was last touched a round ago.

    >>> a = Work("a", "RELU", "float32", (4, 4), 32, (("x", 16),), (("y", 16),))
    >>> b = Work("b", "RELU", "float32", (4, 4), 32, (("y", 16),), (("z", 16),))
    >>> reuse_distances([a, b])
    [{'x': 48.0}, {'y': 16.0}]
    """
    last: dict[str, int] = {}
    touches: list[tuple[str, int]] = []
    wanted: list[tuple[int, dict]] = []
    for turn in range(2):
        for work in works:
            found: dict[str, float] = {}
            for tensor, _ in work.reads:
                if turn and tensor in last:
                    seen = dict(touches[last[tensor] :])
                    found[tensor] = float(sum(seen.values()))
            if turn:
                wanted.append((len(wanted), found))
            for touched in (*work.reads, *work.writes):
                last[touched[0]] = len(touches)
                touches.append(touched)
    return [found for _, found in wanted]


def point_of(row) -> Point:
    """A point from its record, `record_of`'s list. Raises LatencyError for one that makes no sense."""
    try:
        kind, form, shape, amount, reads, writes, time_s, iqr_s = row
        tensors = [
            tuple((f"{way}{i}", int(n)) for i, n in enumerate(sizes)) for way, sizes in (("in", reads), ("out", writes))
        ]
        work = Work(kind, str(kind), str(form), tuple(map(float, shape)), int(amount), *tensors)
        point = Point(work, float(time_s), float(iqr_s))
    except (TypeError, ValueError, OverflowError) as error:
        raise LatencyError(f"operator time {row!r:.80} makes no sense ({type(error).__name__}: {error})") from None
    if len(work.shape) != DIMENSIONS.get(work.family, 4):
        raise LatencyError(f"operator time {row!r:.80} makes no sense: its shape has {len(work.shape)} numbers")
    numbers = (*work.shape, work.amount, point.time_s, work.bytes)
    if not all(0 < n < 1e20 for n in numbers) or not 0 <= point.iqr_s < 1e15:
        raise LatencyError(f"operator time {row!r:.80} makes no sense: a number is not positive, or missing")
    return point


def record_of(point: Point) -> list:
    """A point as JSON can hold it: kind, form, shape, amount, bytes read, bytes written, time_s, iqr_s."""
    work = point.work
    sizes = ([n for _, n in tensors] for tensors in (work.reads, work.writes))
    return [work.kind, work.form, list(work.shape), work.amount, *sizes, point.time_s, point.iqr_s]
