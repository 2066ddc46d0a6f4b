"""Systolic arrays, cycle by cycle: what a TPU's matrix unit does, with exact results and counted cycles. Chapter 07.

A systolic array is a grid of cells, each with a multiplier, an adder and a few registers. In every cycle a cell hands
what it has to its neighbours; no cell reads memory but those at the edges. C = A B, A of (m, k), B of (k, n), comes in
two ways (dataflows):

weight-stationary   a cell keeps one weight b; rows of A enter at the left, sums leave at the bottom (a TPU's way)
output-stationary   a cell keeps one sum c; A enters at the left, B at the top, and in the end the sums leave

A product larger than the grid is done in folds, one grid full after the other.

>>> array = Array(4, 4)
>>> run = multiply(array, np.arange(12).reshape(3, 4), np.eye(4, dtype=int))
>>> run.cycles == array.cycles(3, 4, 4), run.product[2].tolist()
(True, [8, 9, 10, 11])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral

import numpy as np

SUM_BYTES = 4  # of an integer sum of products of int8, or a float32 one
DATAFLOWS = ("weight-stationary", "output-stationary")


class SystolicError(ValueError):
    """An array or a product that can't be; the text says what to do."""


@dataclass(frozen=True)
class Array:
    """A grid of multiply-accumulate cells, and what stays in them."""

    rows: int
    columns: int
    dataflow: str = "weight-stationary"

    def __post_init__(self):
        for name, value in zip(("rows", "columns"), _whole("Array", rows=self.rows, columns=self.columns), strict=True):
            object.__setattr__(self, name, value)  # Python's own integer, which has no largest one
        if self.dataflow not in DATAFLOWS:
            raise SystolicError(f"Array(dataflow={self.dataflow!r}): choose from {', '.join(DATAFLOWS)}")

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    def mapped(self, m: int, k: int, n: int) -> tuple[int, int, int]:
        """What lies along the rows, along the columns, and along time, in a product (m, k) x (k, n)."""
        m, k, n = _whole("mapped", m=m, k=k, n=n)
        return (k, n, m) if self.dataflow == "weight-stationary" else (m, n, k)

    def folds(self, m: int, k: int, n: int) -> int:
        """Times that the grid is filled anew.

        >>> Array(128, 128).folds(1000, 256, 129)
        4
        """
        down, across, _ = self.mapped(m, k, n)
        return -(-down // self.rows) * -(-across // self.columns)

    def cycles(self, m: int, k: int, n: int) -> int:
        """Cycles of a product: folds x (2 rows + columns + time - 2), the closed form of what `multiply` counts.

        A fold fills or empties the grid in as many cycles as it has rows. Between that, the first number that enters
        needs rows + columns - 2 cycles to reach the last cell, and another one follows in each cycle. A fold that
        uses a part of the grid takes as long as one that uses all.

        Source: Samajdar et al., "A Systematic Methodology for Characterizing Scalability of DNN Accelerators using
        SCALE-Sim" (2020).

        >>> Array(128, 128).cycles(1, 128, 128), Array(128, 128).cycles(1000, 128, 128)
        (383, 1382)
        """
        time = self.mapped(m, k, n)[2]
        return self.folds(m, k, n) * (2 * self.rows + self.columns + time - 2)

    def utilization(self, m: int, k: int, n: int) -> float:
        """The share of all cells' cycles in which they do a multiplication that the product needs.

        >>> round(Array(128, 128).utilization(1000, 128, 128), 3)
        0.724
        """
        m, k, n = _whole("utilization", m=m, k=k, n=n)
        return m * k * n / (self.cells * self.cycles(m, k, n))

    def padding(self, m: int, k: int, n: int) -> float:
        """The share of the grid that stays empty, as the sizes are no multiples of its sides.

        >>> Array(128, 128).padding(1000, 128, 128), round(Array(128, 128).padding(1000, 129, 128), 3)
        (0.0, 0.496)
        """
        down, across, _ = self.mapped(m, k, n)
        return 1 - down * across / (self.folds(m, k, n) * self.cells)


@dataclass(frozen=True)
class Run:
    """A product, the cycles that it took, and in `busy` the cells that multiplied what is needed, cycle by cycle."""

    product: np.ndarray
    busy: np.ndarray

    @property
    def cycles(self) -> int:
        return len(self.busy)


def multiply(array: Array, a: np.ndarray, b: np.ndarray) -> Run:
    """a b on the array, cycle by cycle: a of (m, k), b of (k, n), integers as int64, all else as float64.

    Raises SystolicError for what are no two matrices that can be multiplied.
    """
    a, b = _matrices(a, b)
    (m, k), n = a.shape, b.shape[1]
    product, busy = np.zeros((m, n), a.dtype), []
    down, across, _ = array.mapped(m, k, n)
    for j in _parts(across, array.columns):  # so that the sums of one fold's columns are all that wait for the next
        for i in _parts(down, array.rows):
            if array.dataflow == "weight-stationary":
                sums, active = _weight_stationary(array, a[:, i], b[i, j])
                product[:, j] += sums  # the accumulators below the grid add up the folds along k
            else:
                product[i, j], active = _output_stationary(array, a[i], b[:, j])
            busy.extend(active)
    return Run(product, np.array(busy))


def _weight_stationary(array: Array, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """One fold: a (m, k), b (k, n) with k and n no larger than the grid."""
    (m, k), n = a.shape, b.shape[1]
    rows, columns = array.rows, array.columns
    weights = _grid(array, a.dtype)
    for row in reversed(_padded(b, rows, columns)):  # the last row enters first, and is pushed down
        weights[1:] = weights[:-1].copy()
        weights[0] = row
    busy = [0] * rows
    inputs, sums = _grid(array, a.dtype), _grid(array, a.dtype)
    used = (np.arange(rows)[:, None] < k) & (np.arange(columns) < n)
    product, streamed = np.zeros((m, n), a.dtype), _padded(a, m, rows)
    for cycle in range(m + rows + columns - 2):
        left = _skewed(streamed.T, cycle)
        inputs = np.column_stack([left, inputs[:, :-1]])
        above = np.vstack([np.zeros_like(sums[:1]), sums[:-1]])
        sums = above + inputs * weights
        busy.append(int((used & _active(cycle, m, rows, columns)).sum()))
        for j in range(n):  # column j has the sum of row t of A when it has come down and across
            if 0 <= (t := cycle - (rows - 1) - j) < m:
                product[t, j] = sums[-1, j]
    return product, busy


def _output_stationary(array: Array, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """One fold: a (m, k), b (k, n) with m and n no larger than the grid."""
    (m, k), n = a.shape, b.shape[1]
    rows, columns = array.rows, array.columns
    inputs, weights, sums = (_grid(array, a.dtype) for _ in range(3))
    used = (np.arange(rows)[:, None] < m) & (np.arange(columns) < n)
    from_left, from_above = _padded(a, rows, k), _padded(b, k, columns)
    busy = []
    for cycle in range(k + rows + columns - 2):
        left, top = _skewed(from_left, cycle), _skewed(from_above.T, cycle)
        inputs = np.column_stack([left, inputs[:, :-1]])
        weights = np.vstack([top, weights[:-1]])
        sums = sums + inputs * weights
        busy.append(int((used & _active(cycle, k, rows, columns)).sum()))
    left_grid = []
    for _ in range(rows):  # down and out, the last row first
        left_grid.append(sums[-1])
        sums = np.vstack([np.zeros_like(sums[:1]), sums[:-1]])
        busy.append(0)
    return np.array(left_grid[::-1])[:m, :n], busy


def _skewed(lanes: np.ndarray, cycle: int) -> np.ndarray:
    """What enters each lane in a cycle: lane i begins i cycles late, and before and after there are zeros."""
    lane = np.arange(len(lanes))
    at = cycle - lane
    there = (at >= 0) & (at < lanes.shape[1])
    return np.where(there, lanes[lane, np.where(there, at, 0)], 0)


def _active(cycle: int, time: int, rows: int, columns: int) -> np.ndarray:
    """Cells that a number of the stream passes in this cycle: it needs i cycles down and j across."""
    at = cycle - np.arange(rows)[:, None] - np.arange(columns)
    return (at >= 0) & (at < time)


# --- what a network needs ----------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A layer as products: `times` of (m, k) x (k, n), one after the other, in batches as they come.

    inputs   numbers that it reads; a convolution's rows of A have some of them several times. None: times x m x k
    """

    name: str
    m: int
    k: int
    n: int
    times: int = 1
    inputs: int | None = None

    def __post_init__(self):
        given = {name: getattr(self, name) for name in ("m", "k", "n", "times", "inputs")}
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in zip(given, _whole("Layer", **given), strict=True):
            object.__setattr__(self, name, value)

    @property
    def macs(self) -> int:
        return self.times * self.m * self.k * self.n

    @property
    def input_elements(self) -> int:
        return self.times * self.m * self.k if self.inputs is None else self.inputs

    def cycles(self, array: Array) -> int:
        """Cycles on an array.

        >>> Layer("depthwise", 100, 9, 1, times=16).cycles(Array(9, 1)) == 16 * Array(9, 1).cycles(100, 9, 1)
        True
        """
        return self.times * array.cycles(self.m, self.k, self.n)

    def utilization(self, array: Array) -> float:
        """The share of all cells' cycles in which they do a multiplication that the layer needs."""
        return self.macs / (array.cells * self.cycles(array))


def convolution(
    name: str,
    height: int,
    width: int,
    kernel: tuple[int, int],
    inputs: int,
    outputs: int,
    batch: int = 1,
    stride: int = 1,
) -> Layer:
    """A convolution as one product: a row for each output pixel, a column for each filter.

    height, width   of the *output*; `inputs` and `outputs` are channels. Counted as read is each number that a filter
                    touches, once; zeros around the image, if the output is so large that there must be some, too.

    >>> convolution("conv1", 112, 112, (7, 7), 3, 64, stride=2)
    Layer(name='conv1', m=12544, k=147, n=64, times=1, inputs=157323)
    """
    height, width, inputs, batch, stride = _whole(
        "convolution", height=height, width=width, inputs=inputs, batch=batch, stride=stride
    )
    down, across = ((out - 1) * min(stride, edge) + edge for out, edge in zip((height, width), kernel, strict=True))
    return Layer(
        name, batch * height * width, kernel[0] * kernel[1] * inputs, outputs, inputs=batch * inputs * down * across
    )


@dataclass(frozen=True)
class Machine:
    """The least square array that carries a network in a given time, and what must stand beside it.

    array                   the grid; `clock_hz` is its clock
    latency_s               of one inference, all layers one after the other
    weight_buffer_bytes     two folds of weights: one that goes into the grid, one that comes from memory
    activation_buffer_bytes the largest input and output of a layer together
    sums_buffer_bytes       partial sums, 4 bytes each, of a layer that is deeper than the grid
    bandwidth_bytes_per_s   from memory, so that no layer waits for its weights: those of the layer that wants them
                            fastest over its time, and the network's input and output over that of the inference
    utilization             of the cells over the inference
    """

    array: Array
    clock_hz: float
    latency_s: float
    weight_buffer_bytes: int
    activation_buffer_bytes: int
    sums_buffer_bytes: int
    bandwidth_bytes_per_s: float
    utilization: float


def least_machine(layers: Iterable[Layer], latency_s: float, clock_hz: float, element_bytes: int = 1) -> Machine:
    """Size an array for a network, whose layers go one after the other: the smallest square one that is fast enough.

    Weight-stationary; `element_bytes` is what a weight or an activation takes.

    Raises SystolicError if no grid is fast enough: below some time the cycles of filling it are too many already.

    >>> dense = [Layer("1", 1, 784, 300), Layer("2", 1, 300, 100), Layer("3", 1, 100, 10)]
    >>> made = least_machine(dense, latency_s=1e-4, clock_hz=1e8)
    >>> made.array.rows, made.latency_s <= 1e-4
    (100, True)
    """
    layers = list(layers)
    (element_bytes,) = _whole("least_machine", element_bytes=element_bytes)
    if not layers or not (0 < latency_s < math.inf and 0 < clock_hz < math.inf):
        raise SystolicError(
            f"least_machine({len(layers)} layers, latency_s={latency_s}, clock_hz={clock_hz}): give at least one "
            "layer, and a time and a clock above 0"
        )
    sides = range(1, max(max(layer.k, layer.n) for layer in layers) + 1)  # a larger grid only takes longer to fill
    cycles = {}
    for side in sides:
        array = Array(side, side)
        cycles[side] = sum(layer.cycles(array) for layer in layers)
        if cycles[side] <= latency_s * clock_hz * (1 + 1e-9):  # as many as fit exactly do fit
            return _beside(array, layers, cycles[side], clock_hz, element_bytes)
    raise SystolicError(
        f"no square weight-stationary array does it in {latency_s:g} s at {clock_hz:g} Hz: the best takes "
        f"{min(cycles.values()) / clock_hz:.3g} s; give more time, a faster clock, or several arrays"
    )


def _beside(array: Array, layers: list[Layer], cycles: int, clock_hz: float, element_bytes: int) -> Machine:
    outputs = [layer.times * layer.m * layer.n for layer in layers]
    activations = max(layer.input_elements + n for layer, n in zip(layers, outputs, strict=True))
    sums = max(layer.m * min(layer.n, array.columns) if layer.k > array.rows else 0 for layer in layers)
    latency_s = cycles / clock_hz
    fastest = max(layer.times * layer.k * layer.n * clock_hz / layer.cycles(array) for layer in layers)
    ends = (layers[0].input_elements + outputs[-1]) / latency_s
    return Machine(
        array, clock_hz, latency_s, 2 * array.cells * element_bytes, activations * element_bytes, SUM_BYTES * sums,
        (fastest + ends) * element_bytes,
        sum(layer.macs for layer in layers) / (array.cells * cycles),
    )  # fmt: skip


# --- checks ------------------------------------------------------------------------------------


def _parts(length: int, most: int) -> Iterator[slice]:
    return (slice(at, min(at + most, length)) for at in range(0, length, most))


def _grid(array: Array, dtype) -> np.ndarray:
    return np.zeros((array.rows, array.columns), dtype)


def _padded(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.pad(x, [(0, rows - x.shape[0]), (0, columns - x.shape[1])])


def _matrices(a, b) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or 0 in (*a.shape, *b.shape):
        raise SystolicError(f"multiply(a {a.shape}, b {b.shape}): (m, k) and (k, n) are needed, none of them 0")
    kinds = {a.dtype.kind, b.dtype.kind}
    if not kinds <= set("biuf") or np.uint64 in (a.dtype, b.dtype):
        raise SystolicError(f"multiply({a.dtype}, {b.dtype}): integers of up to 63 bits or real floats are needed")
    kind = np.int64 if "f" not in kinds else np.float64
    return a.astype(kind), b.astype(kind)


def _whole(function: str, **given) -> tuple[int, ...]:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise SystolicError(f"{function}({name}={value!r}): must be a whole number, at least 1")
    return tuple(int(value) for value in given.values())
