"""The matrix product, from the naive loop to a micro-kernel over packed panels.

C = A B with A (m, k), B (k, n), C (m, n): m k n MACs. Each function below computes the same; what
limits it changes. `sgemm` is the last one in a checked wrapper; the others are there to be measured.

Source: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34 (2008);
Van Zee and van de Geijn, "BLIS", ACM TOMS 41 (2015), whose names (panel, micro-kernel) are used.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from hwlimits.kernels.arrays import matrix
from hwlimits.kernels.simd import REGISTER_BYTES, REGISTERS, tile

LANES = REGISTER_BYTES // 4
# A tile of C fits the registers: its sums, beside them a row of B, and one element of A.
ROWS, VECTORS = (8, 2) if REGISTERS == 32 else (6, 2)
COLUMNS = VECTORS * LANES
DEPTH = 256  # of a panel of B: DEPTH x COLUMNS floats stay in the first-level cache
HEIGHT = 24 * ROWS  # of a block of A: HEIGHT x DEPTH floats stay in the second-level cache
WIDTH = 4096  # of a block of B
SMALL = 1 << 16  # elements of B up to which it stays in the cache where it lies: a copy would cost more than it saves
MANY = 12 * ROWS  # rows of A from which on a copy of a larger B is used often enough to be worth making

_READ = types.Array(types.float32, 2, "C", readonly=True)
_WRITE = types.Array(types.float32, 2, "C")
_KERNEL = types.void(_READ, _READ, _WRITE)
_FLOAT32 = np.dtype(np.float32)


@njit(_KERNEL, nogil=True, cache=True)
def naive(a, b, c):
    """Row times column. B is read down its columns: each element from another cache line."""
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = np.float32(0)
            for p in range(a.shape[1]):
                total += a[i, p] * b[p, j]
            c[i, j] = total


@njit(_KERNEL, nogil=True, cache=True)
def reordered(a, b, c):
    """The two inner loops exchanged: rows of B and C are read along, and LLVM fills vector registers.

    For each multiply-add an element of C is loaded and stored again: the load and store units are the limit.
    """
    c[:] = 0
    for i in range(a.shape[0]):
        for p in range(a.shape[1]):
            for j in range(b.shape[1]):
                c[i, j] += a[i, p] * b[p, j]


@njit(inline="always")
def _four(a, i, p):
    return a[i, p], a[i, p + 1], a[i, p + 2], a[i, p + 3]


@njit(inline="always")
def _dot(x, y):
    return x[0] * y[0] + x[1] * y[1] + x[2] * y[2] + x[3] * y[3]


@njit(_KERNEL, nogil=True, cache=True)
def blocked(a, b, c):
    """Four rows of C by four steps of p at once: four vectors of B and one of C serve sixteen multiply-adds.

    C still comes from a cache and goes back to it once in four steps; and B, which no copy made fit the
    first-level cache, comes from farther away.
    """
    c[:] = 0
    rows, depth = a.shape[0] // 4 * 4, a.shape[1] // 4 * 4
    for i in range(0, rows, 4):
        for p in range(0, depth, 4):
            a0, a1, a2, a3 = _four(a, i, p), _four(a, i + 1, p), _four(a, i + 2, p), _four(a, i + 3, p)
            for j in range(b.shape[1]):
                b_j = b[p, j], b[p + 1, j], b[p + 2, j], b[p + 3, j]
                c[i, j] += _dot(a0, b_j)
                c[i + 1, j] += _dot(a1, b_j)
                c[i + 2, j] += _dot(a2, b_j)
                c[i + 3, j] += _dot(a3, b_j)
    for i in range(rows, a.shape[0]):  # rows that fours leave over
        for p in range(0, depth, 4):
            a_i = _four(a, i, p)
            for j in range(b.shape[1]):
                c[i, j] += _dot(a_i, (b[p, j], b[p + 1, j], b[p + 2, j], b[p + 3, j]))
    for i in range(a.shape[0]):  # and steps
        for p in range(depth, a.shape[1]):
            for j in range(b.shape[1]):
                c[i, j] += a[i, p] * b[p, j]


_tile = tile(ROWS, VECTORS)
_narrow_tile = tile(ROWS, 1)


@njit(nogil=True, cache=True)
def aligned(size):
    """`size` float32, from the start of a cache line on."""
    line = 64
    buffer = np.empty(size + line // 4, np.float32)
    start = (-buffer.ctypes.data % line) // 4
    return buffer[start : start + size]


@njit(nogil=True, cache=True)
def _pack_rows(a, i, i_end, p, depth, packed):
    """The last rows of A, fewer than a tile's: columns p to p + depth of them, and rows of zeros."""
    packed[: ROWS * depth] = 0
    for row in range(i_end - i):
        for q in range(depth):
            packed[row * depth + q] = a[i + row, p + q]


@njit(nogil=True, cache=True)
def _pack_panel(b, p, depth, j, j_end, width, panel):
    """`width` columns of B, row by row as the tile reads them; columns from `j_end` on are zero."""
    if j + COLUMNS <= j_end:
        for q in range(depth):
            for column in range(COLUMNS):
                panel[q * COLUMNS + column] = b[p + q, j + column]
    else:
        panel[: depth * width] = 0
        for q in range(depth):
            for column in range(min(width, j_end - j)):
                panel[q * width + column] = b[p + q, j + column]


@njit(nogil=True, cache=True)
def _width(left):
    """Columns of the next panel: a full one, or one register of them."""
    return COLUMNS if left >= COLUMNS else LANES


@njit(nogil=True, cache=True)
def _block(a, b, c, i, i_end, j, j_end, p, depth, a_packed, b_packed, edge, pack):
    """C[i:i_end, j:j_end] (+)= A[i:i_end, p:p+depth] B[p:p+depth, j:j_end], one tile after the other.

    The tile takes addresses; this function's arguments keep the arrays behind them alive.
    """
    k, n, add = a.shape[1], b.shape[1], p > 0
    jj = j
    while jj < j_end:
        width = _width(j_end - jj)
        b_at, b_row = b.ctypes.data + 4 * (p * n + jj), n
        if pack or jj + width > j_end:
            b_at, b_row = b_packed.ctypes.data + 4 * (jj - j if pack else 0) * depth, width
        for ii in range(i, i_end, ROWS):
            a_at, a_row = a.ctypes.data + 4 * (ii * k + p), k
            if ii + ROWS > i_end:
                a_at, a_row = a_packed.ctypes.data, depth
            whole = ii + ROWS <= i_end and jj + width <= j_end
            c_at, c_row = c.ctypes.data + 4 * (ii * n + jj), n
            if not whole:
                c_at, c_row = edge.ctypes.data, COLUMNS
            if width == COLUMNS:
                _tile(depth, a_at, a_row, b_at, b_row, c_at, c_row, add and whole)
            else:
                _narrow_tile(depth, a_at, a_row, b_at, b_row, c_at, c_row, add and whole)
            if not whole:
                for row in range(min(ROWS, i_end - ii)):
                    for column in range(min(width, j_end - jj)):
                        value = edge[row * COLUMNS + column]
                        c[ii + row, jj + column] = c[ii + row, jj + column] + value if add else value
        jj += width


@njit(_KERNEL, nogil=True, cache=True)
def micro_kernel(a, b, c):
    """A tile of C stays in the registers while p runs: each vector of B that is loaded serves ROWS FMAs.

    B is copied into panels, in the order in which the tile reads it, so that it comes from the first-level
    cache at full width; the rows of A are read along and need no copy. What is left as a limit is the peak
    of the FMA units. A small B, or one for few rows, is used where it lies; what sticks out over an edge is
    copied all the same, and filled up with zeros.
    """
    (m, k), n = a.shape, b.shape[1]
    if m < ROWS:  # not one whole tile
        return blocked(a, b, c)
    pack = b.size > SMALL and m >= MANY
    b_size = min(DEPTH, k) * (min(WIDTH, n) // LANES + 1 if pack else 1) * LANES
    scratch = aligned(ROWS * COLUMNS + b_size + ROWS * min(DEPTH, k))
    edge = scratch[: ROWS * COLUMNS]
    b_packed, a_packed = scratch[edge.size : edge.size + b_size], scratch[edge.size + b_size :]
    if k == 0:
        c[:] = 0
    for p in range(0, k, DEPTH):
        depth = min(DEPTH, k - p)
        for j in range(0, n, WIDTH):
            j_end = min(j + WIDTH, n)
            jj = j if pack else j_end - (j_end - j) % LANES
            while jj < j_end:
                width = _width(j_end - jj)
                _pack_panel(b, p, depth, jj, j_end, width, b_packed[(jj - j if pack else 0) * depth :])
                jj += width
            for i in range(0, m, HEIGHT):
                i_end = min(i + HEIGHT, m)
                if (i_end - i) % ROWS:
                    _pack_rows(a, i_end - (i_end - i) % ROWS, i_end, p, depth, a_packed)
                _block(a, b, c, i, i_end, j, j_end, p, depth, a_packed, b_packed, edge, pack)


STEPS = {"naive": naive, "reordered": reordered, "blocked": blocked, "micro_kernel": micro_kernel}


def sgemm(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The matrix product of float32 matrices: a (m, k), b (k, n), gives (m, n).

    One thread. Any strides; what is not contiguous is copied first. `out`, if given, is a float32
    (m, n) array that shares no memory with the others; it is filled and returned.
    Each element differs from the exact product by at most 2 k u sum_p |a_ip b_pj|, u = 2**-24
    (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1).

    Raises TypeError for another dtype, ValueError for shapes that do not fit.

    >>> a = np.arange(6, dtype=np.float32).reshape(2, 3)
    >>> sgemm(a, a.T)
    array([[ 5., 14.],
           [14., 50.]], dtype=float32)
    """
    if out is None:
        try:  # contiguous matrices that fit, as most do: numba looks at the rest (not at the order of bytes)
            (m, k), (rows, n) = a.shape, b.shape
            if k == rows and a.dtype is _FLOAT32 and b.dtype is _FLOAT32:
                c = np.empty((m, n), _FLOAT32)
                micro_kernel(a, b, c)
                return c
        except (AttributeError, TypeError, ValueError):
            pass  # anything else is looked at in turn
    a, b = matrix(a, np.float32, "sgemm", "a"), matrix(b, np.float32, "sgemm", "b")
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"sgemm: a is {a.shape} and b is {b.shape}; the columns of a must be as many as the rows of b")
    shape = (a.shape[0], b.shape[1])
    if out is None:
        out = np.empty(shape, np.float32)
    _check_out(out, shape, a, b)
    target = out if out.flags.c_contiguous and out.flags.aligned else np.empty(shape, np.float32)
    micro_kernel(a, b, target)
    if target is not out:
        out[:] = target
    return out


def _check_out(out, shape, a, b) -> None:
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape or not out.flags.writeable:
        said = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"sgemm: out is {said}; the product needs a writeable float32 array of shape {shape}")
    if np.may_share_memory(out, a) or np.may_share_memory(out, b):
        raise ValueError("sgemm: out shares memory with a or b, which are still read while it is written")
