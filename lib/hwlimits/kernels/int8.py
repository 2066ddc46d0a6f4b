"""The int8 matrix product and convolution: a quarter of float32's bytes, and as many int8 a register as fit.

What it brings is the processor's to say. VNNI on x86 and the dot product on ARM multiply and add four int8 in each
32-bit lane: four times float32's rate. Without them int8 has to be widened to int16, two to a lane, and the
products are added by an instruction of their own: twice the rate at best (`simd.INT8_DOT` says which).

Sums are exact in int32. What a layer gives back is requantized as LiteRT's default kernels (XNNPACK) do it on x86:
the sum times a float32 factor, rounded to the nearest, ties to even.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, types

from hwlimits.kernels.arrays import matrix
from hwlimits.kernels.gemm import COLUMNS, ROWS, VECTORS
from hwlimits.kernels.simd import INT8_DOT, int8_tile

GROUP = INT8_DOT.group
SHIFT = 128 if INT8_DOT.unsigned else 0  # what is added to the left factors, to make them unsigned
MAX_DEPTH = 1 << 16  # factors of one sum: 2**16 * 255 * 128 is less than 2**31
MANY = 12 * ROWS  # rows widened at a time: they stay in a cache while all columns go over them
_WIDE = np.uint8 if INT8_DOT.unsigned else np.int16 if GROUP == 2 else np.int8  # of a left factor in its lane

_tile = int8_tile(INT8_DOT, ROWS, VECTORS)
_row_tile = int8_tile(INT8_DOT, 1, VECTORS)


@dataclass(frozen=True)
class Packed:
    """The right matrix (depth, columns) of a product, in the order in which the tile reads it.

    panels  int32 (panels, groups, COLUMNS): in each lane GROUP rows of a column, zeros behind the end
    shape   (depth, columns)
    sums    int32 (columns,): the sum of each column, by which a left matrix with an offset is corrected
    """

    panels: np.ndarray
    shape: tuple[int, int]
    sums: np.ndarray


def pack(b: np.ndarray) -> Packed:
    """Prepare an int8 matrix (k, n) for `matmul`; done once for weights.

    Raises TypeError for another dtype, ValueError for another shape, or more than MAX_DEPTH rows.
    """
    b = matrix(b, np.int8, "pack", "b")
    k, n = b.shape
    if k > MAX_DEPTH:
        raise ValueError(f"pack: b has {k:,} rows; a sum of more than {MAX_DEPTH:,} products may not fit int32")
    groups, panels = -(-k // GROUP), -(-n // COLUMNS)
    padded = np.zeros((groups * GROUP, panels * COLUMNS), np.int8 if GROUP == 4 else np.int16)
    padded[:k, :n] = b
    order = padded.reshape(groups, GROUP, panels, COLUMNS).transpose(2, 0, 3, 1)
    lanes = np.ascontiguousarray(order).view(np.int32)[..., 0]
    return Packed(lanes, (k, n), b.sum(axis=0, dtype=np.int32))


def matmul(a: np.ndarray, b: np.ndarray | Packed) -> np.ndarray:
    """The matrix product of int8 matrices a (m, k) and b (k, n): int32 (m, n), exact. One thread.

    Raises TypeError for another dtype, ValueError for shapes that do not fit.

    >>> matmul(np.array([[1, -2]], np.int8), np.array([[3, 100], [-128, 100]], np.int8))
    array([[ 259, -100]], dtype=int32)
    """
    a = matrix(a, np.int8, "matmul", "a")
    b = b if isinstance(b, Packed) else pack(b)
    if a.shape[1] != b.shape[0]:
        raise ValueError(
            f"matmul: a is {a.shape} and b is {b.shape}; the columns of a must be as many as the rows of b"
        )
    out = np.empty((a.shape[0], b.shape[1]), np.int32)
    _matmul(a, b.panels, b.sums, out)
    return out


def _type(kind, dimensions, readonly=True):
    return types.Array(kind, dimensions, "C", readonly=readonly)


_KIND = {np.uint8: types.uint8, np.int16: types.int16, np.int8: types.int8}[_WIDE]


@njit(nogil=True, cache=True)
def _widen(x, shift, out):
    """int8 as the left factors of a lane; vectorised by LLVM."""
    for i in range(x.size):
        out[i] = x[i] + shift


@njit(nogil=True, cache=True)
def _products(a, rows, panels, out):
    """out[i, j] = a[i] . b[j] for `rows` of the MANY rows of widened factors, and all panels of b."""
    groups, width = panels.shape[1], out.shape[1]
    a_at, a_row = a.ctypes.data, a.shape[1] // GROUP
    for panel in range(panels.shape[0]):
        b_at = panels.ctypes.data + 4 * panel * groups * COLUMNS
        for i in range(0, rows, ROWS):
            c_at = out.ctypes.data + 4 * (i * width + panel * COLUMNS)
            if rows - i > 1:  # rows behind the last one are computed, and nobody looks at them
                _tile(groups, a_at + 4 * i * a_row, a_row, b_at, c_at, width)
            else:
                _row_tile(groups, a_at + 4 * i * a_row, a_row, b_at, c_at, width)


@njit(types.void(_type(types.int8, 2), _type(types.int32, 3), _type(types.int32, 1), _type(types.int32, 2, False)),
      nogil=True, cache=True)  # fmt: skip
def _matmul(a, panels, sums, out):
    m, n = out.shape
    wide = np.zeros((MANY, panels.shape[1] * GROUP), _WIDE)
    part = np.empty((MANY, panels.shape[0] * COLUMNS), np.int32)
    for first in range(0, m, MANY):
        rows = min(MANY, m - first)
        for i in range(rows):
            _widen(a[first + i], SHIFT, wide[i])
        _products(wide, rows, panels, part)
        for i in range(rows):
            for j in range(n):
                out[first + i, j] = np.int32(part[i, j] - np.int32(SHIFT * sums[j]))


@dataclass(frozen=True)
class Int8Convolution:
    """A quantized convolution, prepared: LiteRT's CONV_2D, and with a 1 x 1 window its FULLY_CONNECTED.

    Use `convolution` to make one. Called with int8 (height, width, inputs), it gives int8 (height, width, outputs).
    """

    packed: Packed
    window: tuple[int, int]
    inputs: int
    bias: np.ndarray
    factors: np.ndarray
    x_zero: int
    y_zero: int
    low: int
    high: int
    stride: int
    padding: str

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if not isinstance(x, np.ndarray) or x.dtype != np.int8 or x.ndim != 3 or x.shape[2] != self.inputs:
            kind = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            raise ValueError(f"Int8Convolution: x is {kind}; it takes int8 (height, width, {self.inputs})")
        sizes, before = [], []
        for size, window in zip(x.shape, self.window, strict=False):
            count = (size - window) // self.stride + 1 if self.padding == "valid" else -(-size // self.stride)
            total = max(0, (count - 1) * self.stride + window - size) if self.padding == "same" else 0
            sizes.append(count)
            before.append(total // 2)
        if min(sizes) < 1:
            raise ValueError(f"Int8Convolution: a window of {self.window} is larger than x, {x.shape[:2]}")
        y = np.empty((*sizes, self.packed.shape[1]), np.int8)
        numbers = np.array([*self.window, *before, self.stride, self.x_zero, self.y_zero, self.low, self.high])
        _convolution(np.require(x, requirements="C"), self.packed.panels, self.bias, self.factors, numbers, y)
        return y


def convolution(
    weights: np.ndarray,
    bias: np.ndarray,
    *,
    x_scale: float,
    x_zero: int,
    w_scale: np.ndarray | float,
    y_scale: float,
    y_zero: int,
    stride: int = 1,
    padding: str = "valid",
    low: int = -128,
    high: int = 127,
) -> Int8Convolution:
    """Prepare a quantized convolution of int8 weights (outputs, height, width, inputs), as LiteRT stores them.

    bias     int32 (outputs,), in steps of x_scale * w_scale
    w_scale  one, or one for each output; the weights' zero point is 0
    padding  'valid' or 'same', of x_zero
    low, high  the bounds of y, in its steps: a ReLU has low = y_zero

    Raises TypeError for weights that are not int8, ValueError for what does not fit.
    """
    if not isinstance(weights, np.ndarray) or weights.dtype != np.int8 or weights.ndim != 4:
        kind = f"{weights.dtype} {weights.shape}" if isinstance(weights, np.ndarray) else type(weights).__name__
        raise TypeError(f"int8.convolution: the weights are {kind}; it takes int8 (outputs, height, width, inputs)")
    if padding not in ("valid", "same"):
        raise ValueError(f"int8.convolution: padding={padding!r}; choose 'valid' or 'same'")
    outputs, height, width, inputs = weights.shape
    if np.shape(bias) != (outputs,) or np.ndim(w_scale) and np.shape(w_scale) != (outputs,):
        raise ValueError(
            f"int8.convolution: {outputs} outputs, a bias {np.shape(bias)} and scales {np.shape(w_scale)}: one for each"
        )
    packed = pack(weights.reshape(outputs, -1).T)
    # sum of (x - x_zero) w is sum of x w less x_zero times the sum of w: the second is known before
    whole = np.asarray(bias, np.int32) - np.int32(x_zero + SHIFT) * packed.sums
    factors = np.float32(x_scale) * np.broadcast_to(np.asarray(w_scale, np.float32), outputs) / np.float32(y_scale)
    return Int8Convolution(packed, (height, width), inputs, whole.astype(np.int32), factors.astype(np.float32),
                           x_zero, y_zero, low, high, stride, padding)  # fmt: skip


@njit(nogil=True, cache=True)
def _patch(x, top, left, window, x_zero, out):
    """One pixel's window of x as a row of left factors; outside the image is x_zero."""
    height, width, inputs = x.shape
    rows, columns = window
    flat, size = x.ravel(), columns * inputs
    for ky in range(rows):
        y, part = top + ky, out[ky * size : (ky + 1) * size]
        if 0 <= y < height and left >= 0 and left + columns <= width:
            begin = (y * width + left) * inputs
            _widen(flat[begin : begin + size], SHIFT, part)
        else:
            for kx in range(columns):
                pixel = part[kx * inputs : (kx + 1) * inputs]
                if 0 <= y < height and 0 <= left + kx < width:
                    begin = (y * width + left + kx) * inputs
                    _widen(flat[begin : begin + inputs], SHIFT, pixel)
                else:
                    pixel[:] = x_zero + SHIFT


@njit(nogil=True, cache=True)
def _requantize(sums, bias, factors, y_zero, low, high, out):
    """Between its bounds as float32, where rounding is one addition: 1.5 * 2**23 leaves no bit behind the point."""
    magic, least, most = np.float32(12582912.0), np.float32(low - y_zero), np.float32(high - y_zero)
    zero = np.int32(y_zero)
    for j in range(out.size):  # in int32 all the way, or LLVM makes no vectors of it
        value = np.float32(np.int32(sums[j] + bias[j])) * factors[j]
        value = least if value < least else most if value > most else value
        out[j] = np.int32(np.int32((value + magic) - magic) + zero)


@njit(types.void(_type(types.int8, 3), _type(types.int32, 3), _type(types.int32, 1), _type(types.float32, 1),
                 _type(types.int64, 1), _type(types.int8, 3, False)), nogil=True, cache=True)  # fmt: skip
def _convolution(x, panels, bias, factors, numbers, y):
    kernel_height, kernel_width, top, left, stride, x_zero, y_zero, low, high = numbers
    pixels, width = y.shape[0] * y.shape[1], y.shape[1]
    out = y.reshape(pixels, y.shape[2])
    wide = np.zeros((MANY, panels.shape[1] * GROUP), _WIDE)
    part = np.empty((MANY, panels.shape[0] * COLUMNS), np.int32)
    for first in range(0, pixels, MANY):
        rows = min(MANY, pixels - first)
        for i in range(rows):
            row, column = (first + i) // width, (first + i) % width
            at = row * stride - top, column * stride - left
            _patch(x, at[0], at[1], (kernel_height, kernel_width), x_zero, wide[i])
        _products(wide, rows, panels, part)
        for i in range(rows):
            _requantize(part[i], bias, factors, y_zero, low, high, out[first + i])
