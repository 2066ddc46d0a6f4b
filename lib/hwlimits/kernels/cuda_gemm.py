"""The matrix product on a GPU: C = A B, A (m, k), B (k, n), float32; each stage says what it fixed.

| stage          | what it fixed                              | loads for each multiply-add              |
|----------------|--------------------------------------------|------------------------------------------|
| naive          |                                            | 2, from the caches                       |
| shared_tiles   | a tile of A and of B is read once a block  | 2, from shared memory                    |
| register_tiles | a thread sums 64 elements of C             | 16 for 64, from shared memory, one by one|
| vector_tiles   | loads of 16 bytes, no edges to ask about   | 4 of 16 bytes for 64                     |

The tiles of a stage are constants of its compiled code: `vector_tiles(128, 128, 16)` makes the kernel for one
choice, and a benchmark tries several. Sources: NVIDIA, "CUDA C++ Programming Guide", section 3.2.4 (shared tiles);
Volkov and Demmel, "Benchmarking GPUs to tune dense linear algebra" (SC 2008), for sums kept in registers.
"""

from __future__ import annotations

from functools import cache
from math import lcm

import numpy as np
from numba import float32, int32

from hwlimits.kernels.arrays import matrix
from hwlimits.kernels.cuda_device import SIMULATED, check_grid_y, cuda, dp4a, load4, store4

TILE = 4 if SIMULATED else 32  # of shared_tiles: a block has the square of it in threads
# Of the register stages: rows and columns of C, and depth, a block. The simulator's threads are Python's: few.
TILES = (16, 16, 8) if SIMULATED else (128, 128, 16)
HIGH = WIDE = 8  # rows and columns of C whose sums one thread keeps: 64 registers
MOST_THREADS = 512  # of a block whose threads need 122 registers, as the profiler counts: 128 each, of 65,536
INT8_DEEPEST = 2**31 // 128**2 - 1  # factors; a sum of more products of int8 may leave int32


@cuda.jit
def naive(a, b, c):
    """A thread for each element of C. Neighbours in a warp read neighbours of B, and all of them one element of A.

    So its loads are coalesced. numba's counter and indices, which have 64 bits and may be negative, take most of its
    instructions: some twenty for each multiply-add in its PTX.
    """
    j, i = cuda.grid(2)
    if i < c.shape[0] and j < c.shape[1]:
        total = float32(0)
        for p in range(a.shape[1]):
            total += a[i, p] * b[p, j]
        c[i, j] = total


@cache
def shared_tiles(tile: int = TILE):
    """The kernel that reads tiles of A and B into shared memory: global memory is read k / `tile` times less often."""

    @cuda.jit
    def kernel(a, b, c):
        a_tile = cuda.shared.array((tile, tile), float32)
        b_tile = cuda.shared.array((tile, tile), float32)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        j, i = cuda.grid(2)
        total = float32(0)
        for p in range(0, a.shape[1], tile):
            a_tile[y, x] = a[i, p + x] if i < a.shape[0] and p + x < a.shape[1] else float32(0)
            b_tile[y, x] = b[p + y, j] if p + y < b.shape[0] and j < b.shape[1] else float32(0)
            cuda.syncthreads()  # the tiles are whole
            for q in range(tile):
                total += a_tile[y, q] * b_tile[q, x]
            cuda.syncthreads()  # nobody reads them any more
        if i < c.shape[0] and j < c.shape[1]:
            c[i, j] = total

    return kernel


@cuda.jit(device=True)
def _fma(x, y, total):
    return x * y + total


@cuda.jit(device=True)
def _bytes(x, y, total):
    """What dp4a does, in the instructions that a processor without it needs.

    numba's shift of int32 is int64: unless it is cut to 32 bits, the byte's sign is not at the top.
    """
    total += (int32(x << 24) >> 24) * (int32(y << 24) >> 24)
    total += (int32(x << 16) >> 24) * (int32(y << 16) >> 24)
    total += (int32(x << 8) >> 24) * (int32(y << 8) >> 24)
    total += (x >> 24) * (y >> 24)
    return int32(total)


@cuda.jit(device=True)
def _dp4a(x, y, total):
    return dp4a(x, y, total)


_OPERATIONS = {"fma": _fma, "bytes": _bytes, "dp4a": _dp4a}


@cache
def register_tiles(rows: int, columns: int, depth: int, operation: str = "fma"):
    """The kernel whose threads sum HIGH x WIDE elements of C each, any shape: zeros stand in behind an edge.

    A thread's rows and columns lie `down` and `across` apart, so that the threads of a warp read neighbours. Its
    loads ask about edges and count in 64 bits; how much of its time that takes is not measured.
    """
    real = float32 if operation == "fma" else int32
    multiply_add = _OPERATIONS[operation]
    across, down = columns // WIDE, rows // HIGH
    threads = across * down
    a_shape = depth, rows + 1  # A's is turned round: one column more keeps its writes in different banks
    b_shape = depth, columns

    @cuda.jit
    def kernel(a, b, c):
        a_tile = cuda.shared.array(a_shape, real)
        b_tile = cuda.shared.array(b_shape, real)
        sums = cuda.local.array((HIGH, WIDE), real)
        left = cuda.local.array(HIGH, real)
        right = cuda.local.array(WIDE, real)
        t = cuda.threadIdx.x
        x, y = t % across, t // across
        i0, j0 = cuda.blockIdx.y * rows, cuda.blockIdx.x * columns
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] = real(0)
        for p in range(0, a.shape[1], depth):
            for e in range(t, rows * depth, threads):
                i, q = e // depth, e % depth
                a_tile[q, i] = a[i0 + i, p + q] if i0 + i < a.shape[0] and p + q < a.shape[1] else real(0)
            for e in range(t, depth * columns, threads):
                q, j = e // columns, e % columns
                b_tile[q, j] = b[p + q, j0 + j] if p + q < b.shape[0] and j0 + j < b.shape[1] else real(0)
            cuda.syncthreads()
            for q in range(depth):
                for i in range(HIGH):
                    left[i] = a_tile[q, i * down + y]
                for j in range(WIDE):
                    right[j] = b_tile[q, j * across + x]
                for i in range(HIGH):
                    for j in range(WIDE):
                        sums[i, j] = multiply_add(left[i], right[j], sums[i, j])
            cuda.syncthreads()
        for i in range(HIGH):
            for j in range(WIDE):
                row, column = i0 + i * down + y, j0 + j * across + x
                if row < c.shape[0] and column < c.shape[1]:
                    c[row, column] = sums[i, j]

    return kernel


def tiles_fault(rows: int, columns: int, depth: int) -> str:
    """Why `vector_tiles` can't have these tiles, in one sentence; empty if it can.

    >>> tiles_fault(128, 128, 16)
    ''
    >>> tiles_fault(256, 128, 8)
    'tiles 256x128x8: 512 threads load 2048 elements at a time, and a tile of B has 1024; make depth a multiple of 16'
    """
    what = f"tiles {rows}x{columns}x{depth}"
    if min(rows, columns, depth) < 1 or rows % HIGH or columns % WIDE or depth % 4:
        return f"{what}: rows and columns must be multiples of {HIGH}, depth of 4, all above 0"
    threads = rows * columns // (HIGH * WIDE)
    if threads > MOST_THREADS:
        return (
            f"{what}: they need {threads} threads, which leaves each {65_536 // threads} of 65,536 registers, and 64 "
            f"sums, 16 factors and their addresses take 122; make rows or columns smaller, for at most {MOST_THREADS}"
        )
    if (size := 4 * depth * (rows + 4 + columns)) > 48 * 1024:
        return f"{what}: they need {size} bytes of shared memory, and a block has 49152; make depth smaller"
    for name, edge in (("A", rows), ("B", columns)):
        if edge * depth % (4 * threads):
            multiple = lcm(4 * threads, edge) // edge
            return (
                f"{what}: {threads} threads load {4 * threads} elements at a time, and a tile of {name} has "
                f"{edge * depth}; make depth a multiple of {multiple}"
            )
    return ""


@cache
def vector_tiles(rows: int, columns: int, depth: int):
    """The kernel that loads 16 bytes at a time; `rows`, `columns` and `depth` divide m, n and k.

    A thread's rows and columns are groups of four. Its arrays are flat: an address is one multiply-add.
    Raises ValueError for tiles that its threads do not load whole (`tiles_fault`).
    """
    if fault := tiles_fault(rows, columns, depth):
        raise ValueError(fault)
    across, down = columns // WIDE, rows // HIGH
    threads = across * down
    a_row = rows + 4  # of the tile of A, turned round; 4 more keep its rows at multiples of 16 bytes, in other banks
    a_size = depth * a_row
    size = a_size + depth * columns
    a_loads, b_loads = rows * depth // (4 * threads), depth * columns // (4 * threads)
    a_fours, b_fours = depth // 4, columns // 4  # in a row of a tile

    @cuda.jit
    def kernel(a, b, c, n, k):
        # One array for both tiles: it starts where shared memory starts, and 16-byte loads need that.
        tile = cuda.shared.array(size, float32)
        sums = cuda.local.array((HIGH, WIDE), float32)
        left = cuda.local.array(HIGH, float32)
        right = cuda.local.array(WIDE, float32)
        t = cuda.threadIdx.x
        x, y = t % across * 4, t // across * 4
        i0, j0 = cuda.blockIdx.y * rows, cuda.blockIdx.x * columns
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] = float32(0)
        for p in range(0, k, depth):
            for load in range(a_loads):
                e = load * threads + t
                i, q = e // a_fours, e % a_fours * 4
                v0, v1, v2, v3 = load4(a, (i0 + i) * k + p + q)
                tile[q * a_row + i] = v0
                tile[(q + 1) * a_row + i] = v1
                tile[(q + 2) * a_row + i] = v2
                tile[(q + 3) * a_row + i] = v3
            for load in range(b_loads):
                e = load * threads + t
                q, j = e // b_fours, e % b_fours * 4
                store4(tile, a_size + q * columns + j, load4(b, (p + q) * n + j0 + j))
            cuda.syncthreads()
            for q in range(depth):
                for g in range(HIGH // 4):
                    v0, v1, v2, v3 = load4(tile, q * a_row + g * 4 * down + y)
                    left[4 * g], left[4 * g + 1], left[4 * g + 2], left[4 * g + 3] = v0, v1, v2, v3
                for g in range(WIDE // 4):
                    v0, v1, v2, v3 = load4(tile, a_size + q * columns + g * 4 * across + x)
                    right[4 * g], right[4 * g + 1], right[4 * g + 2], right[4 * g + 3] = v0, v1, v2, v3
                for i in range(HIGH):
                    for j in range(WIDE):
                        sums[i, j] += left[i] * right[j]
            cuda.syncthreads()
        for i in range(HIGH):
            for g in range(WIDE // 4):
                row, column = i0 + i // 4 * 4 * down + y + i % 4, j0 + g * 4 * across + x
                four = sums[i, 4 * g], sums[i, 4 * g + 1], sums[i, 4 * g + 2], sums[i, 4 * g + 3]
                store4(c, row * n + column, four)

    return kernel


STAGES = ("naive", "shared_tiles", "register_tiles", "vector_tiles")
INT8_STAGES = ("bytes", "dp4a")


def launch(stage: str, a, b, c, tiles: tuple[int, int, int] = TILES) -> None:
    """Start a stage on arrays of the device, contiguous and of shapes that fit; nothing is checked, nothing waited for.

    An int8 stage takes int32 words, four factors each, of A (m, k / 4) and of B (k / 4, n).
    """
    (m, k), n = a.shape, b.shape[1]
    if stage in ("naive", "shared_tiles"):
        kernel = naive if stage == "naive" else shared_tiles(TILE)
        kernel[(-(-n // TILE), -(-m // TILE)), (TILE, TILE)](a, b, c)
        return
    rows, columns, depth = tiles
    grid, threads = (-(-n // columns), -(-m // rows)), rows * columns // (HIGH * WIDE)
    if stage == "vector_tiles":
        vector_tiles(*tiles)[grid, threads](a.reshape(m * k), b.reshape(k * n), c.reshape(m * n), n, k)
    else:
        register_tiles(*tiles, "fma" if stage == "register_tiles" else stage)[grid, threads](a, b, c)


def sgemm(a: np.ndarray, b: np.ndarray, stage: str = "vector_tiles") -> np.ndarray:
    """The matrix product of float32 matrices on the GPU: a (m, k), b (k, n), gives (m, n); copies included.

    `vector_tiles` gives a shape that its tiles do not divide to `register_tiles`. Each element differs from the exact
    product by at most 2 k u sum_p |a_ip b_pj|, u = 2**-24, as that of `gemm.sgemm`.
    Raises TypeError for another dtype, ValueError for shapes that do not fit, more rows than the grid's second axis
    holds, or a stage that is none.

    >>> a = np.arange(6, dtype=np.float32).reshape(2, 3)
    >>> sgemm(a, a.T, "naive")
    array([[ 5., 14.],
           [14., 50.]], dtype=float32)
    """
    a, b = matrix(a, np.float32, "cuda_gemm.sgemm", "a"), matrix(b, np.float32, "cuda_gemm.sgemm", "b")
    (m, k), (k_b, n) = a.shape, b.shape
    _check("sgemm", stage, STAGES, a, b, k == k_b)
    if stage == "vector_tiles" and any(size % tile for size, tile in zip((m, n, k), TILES, strict=True)):
        stage = "register_tiles"
    return _run(stage, a, b, np.float32)


def int8_product(a: np.ndarray, b: np.ndarray, stage: str = "dp4a") -> np.ndarray:
    """The product of int8 matrices on the GPU: a (m, k), b (n, k), gives a b^T, int32 (m, n), exactly.

    Both have their factors side by side along k, where dp4a wants them; zeros fill k up to a multiple of four.
    `bytes` takes the words apart and multiplies one factor at a time; `dp4a` is one instruction for four. In the
    simulator dp4a is four products of NumPy's.
    Raises TypeError for another dtype, ValueError for shapes that do not fit, k above INT8_DEEPEST, or too many rows.
    """
    a, b = matrix(a, np.int8, "int8_product", "a"), matrix(b, np.int8, "int8_product", "b")
    _check("int8_product", stage, INT8_STAGES, a, b, a.shape[1] == b.shape[1])
    if a.shape[1] > INT8_DEEPEST:
        raise ValueError(
            f"int8_product: {a.shape[1]:,} factors a sum; more than {INT8_DEEPEST:,} products may not fit int32: "
            "split k and add the products in int64"
        )
    return _run(stage, words(a), np.ascontiguousarray(words(b).T), np.int32)


def words(a: np.ndarray) -> np.ndarray:
    """int8 (rows, k) as int32 (rows, k / 4), zeros behind the end."""
    padded = np.zeros((a.shape[0], -(-a.shape[1] // 4) * 4), np.int8)
    padded[:, : a.shape[1]] = a
    return padded.view(np.int32)


def _check(what, stage, stages, a, b, fits) -> None:
    if stage not in stages:
        raise ValueError(f"{what}: there is no stage {stage!r}; choose one of {', '.join(stages)}")
    if not fits:
        raise ValueError(f"{what}: a is {a.shape} and b is {b.shape}; both must have the same number of factors")
    if 0 in (*a.shape, *b.shape):
        raise ValueError(f"{what}: a is {a.shape} and b is {b.shape}; a GPU starts no kernel for an empty matrix")
    check_grid_y(what, a.shape[0], "rows", TILE if stage in ("naive", "shared_tiles") else TILES[0])


def _run(stage, a, b, dtype) -> np.ndarray:
    c = cuda.device_array((a.shape[0], b.shape[1]), dtype)
    launch(stage, cuda.to_device(a), cuda.to_device(b), c)
    return c.copy_to_host()
