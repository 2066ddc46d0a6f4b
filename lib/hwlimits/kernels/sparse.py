"""Sparse matrices times a vector, and sparse convolutions: kernels that skip the zeros that pruning leaves.

A multiply-add skipped saves its time only if finding the next one costs less. So the rows are kept as lists
of nonzeros with their places (compressed sparse rows, CSR), or of short columns of nonzeros, where several rows
share their places (blocks); and a convolution gives each nonzero a run of neighbouring pixels to work on,
a few registers of them, which makes its one value and one place cheap.

Source: Elsen, Dukhan, Gale and Simonyan, "Fast Sparse ConvNets" (CVPR 2020, arXiv 1911.09723), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, types

from hwlimits.kernels.arrays import array
from hwlimits.kernels.simd import REGISTER_BYTES, REGISTERS, sparse_dot, sparse_tile

LANES = REGISTER_BYTES // 4
BLOCKS = (1, 2, 4, 8, 16)  # rows that share their places
SUMS = 3 * REGISTERS // 4  # registers for sums: the others hold x and the values

_FLOATS = types.Array(types.float32, 1, "C")
_READ = types.Array(types.float32, 1, "C", readonly=True)
_PLACES = types.Array(types.int32, 1, "C", readonly=True)
_SHORT = types.Array(types.uint16, 1, "C", readonly=True)
_STARTS = types.Array(types.int64, 1, "C", readonly=True)


@dataclass(frozen=True)
class SparseRows:
    """A matrix (rows, columns) as lists of its nonzero blocks, `block` rows high and one column wide.

    values   float32 (blocks * block,): block after block, row of blocks after row of blocks
    columns  int32 (blocks,): the column of each block; uint16 where a single number has so small a place
    starts   int64 (rows / block + 1,): row of blocks b has the blocks from starts[b] to starts[b + 1]
    """

    values: np.ndarray
    columns: np.ndarray
    starts: np.ndarray
    shape: tuple[int, int]
    block: int = 1

    @property
    def nbytes(self) -> int:
        """Values, places and starts."""
        return self.values.nbytes + self.columns.nbytes + self.starts.nbytes

    @property
    def density(self) -> float:
        """Share of the matrix that is stored: zeros in a block that is not all zero are stored too."""
        return self.values.size / max(1, self.shape[0] * self.shape[1])


def compress(matrix: np.ndarray, block: int = 1) -> SparseRows:
    """The nonzero blocks of a float32 matrix (rows, columns); `block` divides the rows and is one of BLOCKS.

    Raises TypeError for another dtype, ValueError for another shape or block.

    >>> rows = compress(np.array([[0, 2, 0], [0, 3, 4]], np.float32), block=2)
    >>> rows.columns.tolist(), rows.values.tolist(), rows.starts.tolist()
    ([1, 2], [2.0, 3.0, 0.0, 4.0], [0, 2])
    """
    array(matrix, np.float32, "compress", "matrix")
    if matrix.ndim != 2 or matrix.size >= 2**31:
        raise ValueError(f"compress: an array of shape {matrix.shape}; it takes a matrix of less than 2**31 elements")
    if block not in BLOCKS or matrix.shape[0] % block:
        raise ValueError(
            f"compress(block={block}) of {matrix.shape[0]} rows: a block has {', '.join(map(str, BLOCKS))} rows, "
            "and the rows of the matrix are a multiple of it"
        )
    rows, columns = matrix.shape
    blocks = matrix.reshape(rows // block, block, columns).swapaxes(1, 2)  # (rows of blocks, columns, block)
    kept = (blocks != 0).any(axis=2)  # NaN is not zero
    starts = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
    short = block == 1 and matrix.shape[1] <= 1 << 16  # a quarter less to read for each number
    columns = np.nonzero(kept)[1].astype(np.uint16 if short else np.int32)
    return SparseRows(np.ascontiguousarray(blocks[kept]).ravel(), columns, starts, matrix.shape, block)


_dot_1, _dot_2, _dot_4, _dot_8, _dot_16 = (sparse_dot(rows, 8 if rows == 1 else 4) for rows in BLOCKS)
_dot_short = sparse_dot(1, 8, bits=16)


@njit(nogil=True, cache=True)
def _dots(v, o, starts, block, x, y):
    """y[r] = sum of values[i] x[offsets[i]] over the nonzeros of row r; v, o, x and y are addresses."""
    rows = starts.size - 1
    if block == 1:
        for b in range(rows):
            _dot_1(starts[b], starts[b + 1], v, o, x, y + 4 * b)
    elif block == 2:
        for b in range(rows):
            _dot_2(starts[b], starts[b + 1], v, o, x, y + 8 * b)
    elif block == 4:
        for b in range(rows):
            _dot_4(starts[b], starts[b + 1], v, o, x, y + 16 * b)
    elif block == 8:
        for b in range(rows):
            _dot_8(starts[b], starts[b + 1], v, o, x, y + 32 * b)
    else:
        for b in range(rows):
            _dot_16(starts[b], starts[b + 1], v, o, x, y + 64 * b)


@njit(nogil=True, cache=True)
def dot_rows(values, offsets, starts, bias, block, x, x_at, low, high, y, y_at):
    """y[y_at + r] = clip(bias[r] + sum of values[i] x[x_at + offsets[i]] over the nonzeros of row r, low, high)."""
    x_first, y_first = x.ctypes.data + 4 * x_at, y.ctypes.data + 4 * y_at
    _dots(values.ctypes.data, offsets.ctypes.data, starts, block, x_first, y_first)
    for r in range(bias.size):
        total = y[y_at + r] + bias[r]
        y[y_at + r] = low if total < low else high if total > high else total


@njit(types.void(_READ, _PLACES, _STARTS, types.intp, _READ, _FLOATS), nogil=True, cache=True)
def _matvec(values, columns, starts, block, x, y):
    _dots(values.ctypes.data, columns.ctypes.data, starts, block, x.ctypes.data, y.ctypes.data)


@njit(types.void(_READ, _SHORT, _STARTS, _READ, _FLOATS), nogil=True, cache=True)
def _matvec_short(values, columns, starts, x, y):
    v, c, x_at, y_at = values.ctypes.data, columns.ctypes.data, x.ctypes.data, y.ctypes.data
    for r in range(starts.size - 1):
        _dot_short(starts[r], starts[r + 1], v, c, x_at, y_at + 4 * r)


def matvec(a: SparseRows, x: np.ndarray) -> np.ndarray:
    """The product of a sparse matrix (m, k) and a float32 vector (k,): float32 (m,). One thread.

    Each element differs from the exact product by at most 2 k u sum_p |a_ip x_p|, u = 2**-24.
    Raises TypeError for another dtype, ValueError for another length.

    >>> matvec(compress(np.array([[0, 2, 0], [1, 0, 3]], np.float32)), np.array([5, 6, 7], np.float32))
    array([12., 26.], dtype=float32)
    """
    array(x, np.float32, "matvec", "x")
    if x.shape != (a.shape[1],):
        raise ValueError(f"matvec: the matrix is {a.shape} and x is {x.shape}; x must be ({a.shape[1]},)")
    if not (x.flags.c_contiguous and x.flags.aligned):
        x = np.require(x, requirements=["C", "A"])
    y = np.empty(a.shape[0], np.float32)
    if a.columns.dtype == np.uint16:
        _matvec_short(a.values, a.columns, a.starts, x, y)
    else:
        _matvec(a.values, a.columns, a.starts, a.block, x, y)
    return y


VECTORS = {1: 8, 2: 6, 4: 3}  # registers of pixels that a block takes at once: eight sums keep two FMA units busy

_1x1, _1x2, _1x3, _1x4, _1x5, _1x6, _1x7, _1x8 = (sparse_tile(1, vectors) for vectors in range(1, 9))
_2x1, _2x2, _2x3, _2x4, _2x5, _2x6 = (sparse_tile(2, vectors) for vectors in range(1, 7))
STRIDED_REGISTERS = 4  # registers of a row of pixels, of which every second one is taken
_strided = sparse_tile(1, STRIDED_REGISTERS, 2)
_4x1, _4x2, _4x3 = (sparse_tile(4, vectors) for vectors in range(1, 4))


@njit(nogil=True, cache=True)
def _rows_1(n, first, last, starts, v, o, x, b, low, high, y, y_row):
    """Rows `first` to `last` at n registers of pixels: each n has registers, and so a loop, of its own."""
    if n == 8:
        for r in range(first, last):
            _1x8(starts[r], starts[r + 1], v, o, x, b + 4 * r, low, high, y + 4 * r * y_row, y_row)
    elif n == 7:
        for r in range(first, last):
            _1x7(starts[r], starts[r + 1], v, o, x, b + 4 * r, low, high, y + 4 * r * y_row, y_row)
    elif n == 6:
        for r in range(first, last):
            _1x6(starts[r], starts[r + 1], v, o, x, b + 4 * r, low, high, y + 4 * r * y_row, y_row)
    elif n == 5:
        for r in range(first, last):
            _1x5(starts[r], starts[r + 1], v, o, x, b + 4 * r, low, high, y + 4 * r * y_row, y_row)
    elif n == 4:
        for r in range(first, last):
            _1x4(starts[r], starts[r + 1], v, o, x, b + 4 * r, low, high, y + 4 * r * y_row, y_row)
    elif n == 3:
        for r in range(first, last):
            _1x3(starts[r], starts[r + 1], v, o, x, b + 4 * r, low, high, y + 4 * r * y_row, y_row)
    elif n == 2:
        for r in range(first, last):
            _1x2(starts[r], starts[r + 1], v, o, x, b + 4 * r, low, high, y + 4 * r * y_row, y_row)
    else:
        for r in range(first, last):
            _1x1(starts[r], starts[r + 1], v, o, x, b + 4 * r, low, high, y + 4 * r * y_row, y_row)


@njit(nogil=True, cache=True)
def _rows_2(n, first, last, starts, v, o, x, b, low, high, y, y_row):
    if n == 6:
        for r in range(first, last):
            _2x6(starts[r], starts[r + 1], v, o, x, b + 4 * 2 * r, low, high, y + 4 * 2 * r * y_row, y_row)
    elif n == 5:
        for r in range(first, last):
            _2x5(starts[r], starts[r + 1], v, o, x, b + 4 * 2 * r, low, high, y + 4 * 2 * r * y_row, y_row)
    elif n == 4:
        for r in range(first, last):
            _2x4(starts[r], starts[r + 1], v, o, x, b + 4 * 2 * r, low, high, y + 4 * 2 * r * y_row, y_row)
    elif n == 3:
        for r in range(first, last):
            _2x3(starts[r], starts[r + 1], v, o, x, b + 4 * 2 * r, low, high, y + 4 * 2 * r * y_row, y_row)
    elif n == 2:
        for r in range(first, last):
            _2x2(starts[r], starts[r + 1], v, o, x, b + 4 * 2 * r, low, high, y + 4 * 2 * r * y_row, y_row)
    else:
        for r in range(first, last):
            _2x1(starts[r], starts[r + 1], v, o, x, b + 4 * 2 * r, low, high, y + 4 * 2 * r * y_row, y_row)


@njit(nogil=True, cache=True)
def _rows_4(n, first, last, starts, v, o, x, b, low, high, y, y_row):
    if n == 3:
        for r in range(first, last):
            _4x3(starts[r], starts[r + 1], v, o, x, b + 4 * 4 * r, low, high, y + 4 * 4 * r * y_row, y_row)
    elif n == 2:
        for r in range(first, last):
            _4x2(starts[r], starts[r + 1], v, o, x, b + 4 * 4 * r, low, high, y + 4 * 4 * r * y_row, y_row)
    else:
        for r in range(first, last):
            _4x1(starts[r], starts[r + 1], v, o, x, b + 4 * 4 * r, low, high, y + 4 * 4 * r * y_row, y_row)


@njit(nogil=True, cache=True)
def pixel_rows(values, offsets, starts, bias, block, x, x_at, low, high, y, y_at, y_row, pixels, run):
    """y[y_at + r * y_row + j] = clip(bias[r] + sum of values[i] x[x_at + offsets[i] + j], low, high) for j < pixels.

    All rows do the same `run` of pixels before any of them goes on, so that this part of x is read from farther
    away once. It works in whole registers: up to one behind the last pixel is read, and written with what
    nobody should read.
    """
    v, o, b = values.ctypes.data, offsets.ctypes.data, bias.ctypes.data
    x_first, y_first = x.ctypes.data + 4 * x_at, y.ctypes.data + 4 * y_at
    rows = starts.size - 1
    most = LANES * (8 if block == 1 else 6 if block == 2 else 3)
    together = rows if run <= most else 1  # rows that do one run of registers before the next
    for begin in range(0, pixels, run):
        end = min(begin + run, pixels)
        for first in range(0, rows, together):
            start = begin
            while start < end:  # as many registers each time, as far as that goes: one or two alone cost nearly as much
                registers = (end - start + LANES - 1) // LANES
                times = (registers * LANES + most - 1) // most
                n = (registers + times - 1) // times
                x_start, y_start = x_first + 4 * start, y_first + 4 * start
                if block == 1:
                    _rows_1(n, first, first + together, starts, v, o, x_start, b, low, high, y_start, y_row)
                elif block == 2:
                    _rows_2(n, first, first + together, starts, v, o, x_start, b, low, high, y_start, y_row)
                else:
                    _rows_4(n, first, first + together, starts, v, o, x_start, b, low, high, y_start, y_row)
                start += n * LANES


@njit(nogil=True, cache=True)
def strided_rows(values, offsets, starts, bias, x, x_at, x_pitch, low, high, y, y_at, y_row, y_pitch, height, width):
    """The same for every second pixel of every second row of x: row r of the matrix, (height, width) pixels of it.

    Up to STRIDED_REGISTERS registers behind the end of a row of pixels are written.
    """
    v, o, b = values.ctypes.data, offsets.ctypes.data, bias.ctypes.data
    for r in range(starts.size - 1):
        for row in range(height):
            x_first = x.ctypes.data + 4 * (x_at + 2 * row * x_pitch)
            y_first = y.ctypes.data + 4 * (y_at + r * y_row + row * y_pitch)
            for start in range(0, width, STRIDED_REGISTERS * LANES):
                x_start, y_start = x_first + 8 * start, y_first + 4 * start
                _strided(starts[r], starts[r + 1], v, o, x_start, b + 4 * r, low, high, y_start, y_row)
