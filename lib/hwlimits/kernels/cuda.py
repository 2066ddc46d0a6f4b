"""Kernels that a GPU's memory limits: copy, triad, bias and ReLU, transpose, sum. Each stage says what it fixed.

| operation | stages, the later ones faster                                                                       |
|-----------|-----------------------------------------------------------------------------------------------------|
| copy      | strided: a lane's neighbour reads 128 bytes away; coalesced: a warp reads one line; vector: 16 bytes|
|           | a lane, so that enough bytes are under way to cover the latency (Little's law)                      |
| triad     | coalesced; vector                                                                                   |
| bias_relu | two_kernels: x is read and written twice; fused: once; vector                                       |
| transpose | naive: writes a column, not coalesced; shared: through a tile, whose columns lie in one bank;       |
|           | padded: one element more a row, so that they lie in 32                                              |
| total     | interleaved: the threads of a warp diverge; sequential: they do not; shuffles: no shared memory     |
|           | within a warp, many elements a thread                                                               |

Below each wrapper, which takes NumPy's arrays and copies them, stands the table of its stages: functions of arrays on
the device that check nothing and wait for nothing. Sources: NVIDIA, "CUDA C++ Best Practices Guide", section 9.2;
Harris, "Optimizing Parallel Reduction in CUDA" (2007); Ruetsch and Micikevicius, "Optimizing Matrix Transpose in
CUDA" (2009).
"""

from __future__ import annotations

import numpy as np
from numba import float32

from hwlimits.kernels.arrays import array, matrix
from hwlimits.kernels.cuda_device import SIMULATED, WARP, check_grid_y, cuda, load4, shuffle_down, store4

THREADS = 64 if SIMULATED else 256  # a block
PER_THREAD = 32  # neighbours that a thread of the strided copy takes: 128 bytes, a cache line
EDGE, HEIGHT = (4, 2) if SIMULATED else (32, 8)  # of a tile of the transpose, which EDGE x HEIGHT threads move
PADDED = (EDGE, EDGE + 1)
LOADS = 8  # of 16 bytes, for each thread of the last sum


@cuda.jit
def _copy_strided(a, out):
    first = cuda.grid(1) * PER_THREAD
    for i in range(first, min(first + PER_THREAD, out.size)):
        out[i] = a[i]


@cuda.jit
def _copy_coalesced(a, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i]


@cuda.jit
def _copy_vector(a, out):
    i = cuda.grid(1) * 4
    if i + 3 < out.size:
        store4(out, i, load4(a, i))
    else:
        for j in range(i, out.size):
            out[j] = a[j]


@cuda.jit
def _triad_coalesced(a, b, s, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] + s * b[i]


@cuda.jit
def _triad_vector(a, b, s, out):
    i = cuda.grid(1) * 4
    if i + 3 < out.size:
        a0, a1, a2, a3 = load4(a, i)
        b0, b1, b2, b3 = load4(b, i)
        store4(out, i, (a0 + s * b0, a1 + s * b1, a2 + s * b2, a3 + s * b3))
    else:
        for j in range(i, out.size):
            out[j] = a[j] + s * b[j]


def _blocks(size: int, each: int = 1) -> int:
    return -(-size // (THREADS * each))


COPY = {
    "strided": lambda a, out: _copy_strided[_blocks(out.size, PER_THREAD), THREADS](a, out),
    "coalesced": lambda a, out: _copy_coalesced[_blocks(out.size), THREADS](a, out),
    "vector": lambda a, out: _copy_vector[_blocks(out.size, 4), THREADS](a, out),
}
TRIAD = {
    "coalesced": lambda a, b, s, out: _triad_coalesced[_blocks(out.size), THREADS](a, b, s, out),
    "vector": lambda a, b, s, out: _triad_vector[_blocks(out.size, 4), THREADS](a, b, s, out),
}


def copy(a: np.ndarray, stage: str = "vector") -> np.ndarray:
    """A copy of a flat float32 array, made on the GPU: 8 bytes an element. For this and the four below:

    Raises TypeError for another dtype, ValueError for another shape, an empty array, or a stage that is none.

    >>> copy(np.arange(3, dtype=np.float32))
    array([0., 1., 2.], dtype=float32)
    """
    a = _flat("copy", "a", a)
    return _run("copy", COPY, stage, (a,), a.shape)


def triad(a: np.ndarray, b: np.ndarray, s: float, stage: str = "vector") -> np.ndarray:
    """a + s b of flat float32 arrays: 12 bytes and 2 FLOPs an element; see `copy`.

    >>> triad(np.arange(3, dtype=np.float32), np.ones(3, np.float32), 10)
    array([10., 11., 12.], dtype=float32)
    """
    a, b = _flat("triad", "a", a), _flat("triad", "b", b)
    if a.shape != b.shape:
        raise ValueError(f"triad: a has {a.size} elements and b has {b.size}; they must have as many")
    return _run("triad", TRIAD, stage, (a, b, np.float32(s)), a.shape)


@cuda.jit
def _bias(x, bias, out):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    column = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = x[row, column] + bias[column]


@cuda.jit
def _relu(out):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    column = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = max(out[row, column], float32(0))


@cuda.jit
def _bias_relu(x, bias, out):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    column = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = max(x[row, column] + bias[column], float32(0))


@cuda.jit
def _bias_relu_vector(x, bias, out, rows, columns):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    column = (cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x) * 4
    if row < rows and column < columns:
        i = row * columns + column
        x0, x1, x2, x3 = load4(x, i)
        b0, b1, b2, b3 = load4(bias, column)
        zero = float32(0)
        store4(out, i, (max(x0 + b0, zero), max(x1 + b1, zero), max(x2 + b2, zero), max(x3 + b3, zero)))


def _grid(shape, each: int = 1):
    """Rows along the grid's first axis, which is the long one; a warp along the columns."""
    high = THREADS // WARP
    return (-(-shape[0] // high), -(-shape[1] // (WARP * each))), (WARP, high)


def _two_kernels(x, bias, out):
    grid = _grid(out.shape)
    _bias[grid](x, bias, out)
    _relu[grid](out)


def _fused(x, bias, out):
    _bias_relu[_grid(out.shape)](x, bias, out)


def _fused_vector(x, bias, out):
    rows, columns = out.shape
    if columns % 4:  # its rows do not start at multiples of 16 bytes
        _fused(x, bias, out)
    else:
        flat = x.reshape(rows * columns), bias, out.reshape(rows * columns)
        _bias_relu_vector[_grid(out.shape, 4)](*flat, rows, columns)


BIAS_RELU = {"two_kernels": _two_kernels, "fused": _fused, "vector": _fused_vector}


def bias_relu(x: np.ndarray, bias: np.ndarray, stage: str = "vector") -> np.ndarray:
    """max(x + bias, 0) of float32 x (rows, columns) and bias (columns,): 8 bytes an element, fused; see `copy`.

    NaN is not promised to stay: the largest of NaN and 0 is 0 on a GPU (fmaxf), and NaN in the simulator.
    Raises ValueError, too, for more columns than the grid's second axis holds, some two millions.

    >>> bias_relu(np.float32([[-2, 1], [3, -4]]), np.float32([1, 2]))
    array([[0., 3.],
           [4., 0.]], dtype=float32)
    """
    x, bias = matrix(x, np.float32, "bias_relu", "x"), _flat("bias_relu", "bias", bias)
    if x.shape[1] != bias.size:
        raise ValueError(f"bias_relu: x is {x.shape} and bias has {bias.size} elements; it must have one a column")
    check_grid_y("bias_relu", x.shape[1], "columns", WARP * (4 if stage == "vector" and x.shape[1] % 4 == 0 else 1))
    return _run("bias_relu", BIAS_RELU, stage, (x, bias), x.shape)


@cuda.jit
def _transpose_naive(a, out):
    column = cuda.blockIdx.x * EDGE + cuda.threadIdx.x
    first = cuda.blockIdx.y * EDGE + cuda.threadIdx.y
    for row in range(first, min(first - cuda.threadIdx.y + EDGE, a.shape[0]), HEIGHT):
        if column < a.shape[1]:
            out[column, row] = a[row, column]


def _transpose_through(shape):
    """The kernel that reads rows into a tile of that shape and writes its columns."""

    @cuda.jit
    def kernel(a, out):
        tile = cuda.shared.array(shape, float32)
        x, y = cuda.threadIdx.x, cuda.threadIdx.y
        row0, column0 = cuda.blockIdx.y * EDGE, cuda.blockIdx.x * EDGE
        for i in range(y, EDGE, HEIGHT):
            if row0 + i < a.shape[0] and column0 + x < a.shape[1]:
                tile[i, x] = a[row0 + i, column0 + x]
        cuda.syncthreads()
        for i in range(y, EDGE, HEIGHT):
            if column0 + i < out.shape[0] and row0 + x < out.shape[1]:
                out[column0 + i, row0 + x] = tile[x, i]

    return kernel


def _transposing(kernel):
    def launch(a, out):
        kernel[(-(-a.shape[1] // EDGE), -(-a.shape[0] // EDGE)), (EDGE, HEIGHT)](a, out)

    return launch


TRANSPOSE = {
    "naive": _transposing(_transpose_naive),
    "shared": _transposing(_transpose_through((EDGE, EDGE))),
    "padded": _transposing(_transpose_through(PADDED)),
}


def transpose(a: np.ndarray, stage: str = "padded") -> np.ndarray:
    """The transpose of a float32 matrix, in memory: 8 bytes an element; see `copy`.

    Raises ValueError, too, for more rows than the grid's second axis holds, some two millions.

    >>> transpose(np.float32([[1, 2, 3]])).shape
    (3, 1)
    """
    a = matrix(a, np.float32, "transpose", "a")
    check_grid_y("transpose", a.shape[0], "rows", EDGE)
    return _run("transpose", TRANSPOSE, stage, (a,), a.shape[::-1])


@cuda.jit
def _sum_interleaved(a, sums):
    shared = cuda.shared.array(THREADS, float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    shared[t] = a[i] if i < a.size else float32(0)
    cuda.syncthreads()
    step = 1
    while step < THREADS:
        if t % (2 * step) == 0:  # threads at work lie scattered over all warps
            shared[t] += shared[t + step]
        cuda.syncthreads()
        step *= 2
    if t == 0:
        sums[cuda.blockIdx.x] = shared[0]


@cuda.jit
def _sum_sequential(a, sums):
    shared = cuda.shared.array(THREADS, float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    shared[t] = a[i] if i < a.size else float32(0)
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if t < step:  # whole warps work, whole warps rest
            shared[t] += shared[t + step]
        cuda.syncthreads()
        step //= 2
    if t == 0:
        sums[cuda.blockIdx.x] = shared[0]


@cuda.jit(device=True)
def _warp_sum(value):
    """The sum over a warp, in its first lane."""
    for step in (16, 8, 4, 2, 1):
        value += shuffle_down(value, step)
    return value


@cuda.jit
def _sum_shuffles(a, sums):
    of_warps = cuda.shared.array(WARP, float32)
    t = cuda.threadIdx.x
    total = float32(0)
    for i in range(cuda.grid(1) * 4, a.size, cuda.gridsize(1) * 4):
        if i + 3 < a.size:
            a0, a1, a2, a3 = load4(a, i)
            total += (a0 + a1) + (a2 + a3)
        else:
            for j in range(i, a.size):
                total += a[j]
    total = _warp_sum(total)
    if t % WARP == 0:
        of_warps[t // WARP] = total
    cuda.syncthreads()
    lane = t % WARP
    total = _warp_sum(of_warps[lane] if lane < THREADS // WARP else float32(0))
    if t == 0:
        sums[cuda.blockIdx.x] = total


_SUMS = {
    "interleaved": (_sum_interleaved, 1),
    "sequential": (_sum_sequential, 1),
    "shuffles": (_sum_shuffles, 4 * LOADS),
}
TOTAL = tuple(_SUMS)


def totalling(stage: str, a):
    """(start, result): `start()` sums the flat device array `a`, pass after pass, into the one element of `result`."""
    kernel, each = _SUMS[stage]
    passes, source = [], a
    while True:
        blocks = _blocks(source.size, each)
        sums = cuda.device_array(blocks, np.float32)
        passes.append((blocks, source, sums))
        if blocks == 1:
            break
        source = sums

    def start():
        for blocks, values, sums in passes:
            kernel[blocks, THREADS](values, sums)

    return start, sums


def total(a: np.ndarray, stage: str = "shuffles") -> np.float32:
    """The sum of a flat float32 array, in float32: 4 bytes an element; see `copy`.

    Pairs are summed, and pairs of pairs: of n elements the error is about log2(n) u sum |a|, u = 2**-24, and with
    `shuffles` a few u more for the elements of one thread (Higham, 2002, section 4.2).

    >>> float(total(np.arange(100, dtype=np.float32)))
    4950.0
    """
    a = _flat("total", "a", a)
    _check_stage("total", TOTAL, stage)
    _check_some("total", a.shape)
    start, result = totalling(stage, cuda.to_device(a))
    start()
    return result.copy_to_host()[0]


def _flat(what: str, name: str, a) -> np.ndarray:
    a = array(a, np.float32, what, name)
    if a.ndim != 1:
        raise ValueError(f"{what}: {name} has shape {a.shape}; it takes a flat array: {name}.ravel()")
    return np.require(a, requirements=["C", "A"])


def _check_stage(what: str, stages, stage: str) -> None:
    if stage not in stages:
        raise ValueError(f"{what}: there is no stage {stage!r}; choose one of {', '.join(stages)}")


def _check_some(what: str, shape) -> None:
    if 0 in shape:
        raise ValueError(f"{what}: the array is empty; a GPU starts no kernel for nothing")


def _run(what: str, stages: dict, stage: str, arguments: tuple, shape) -> np.ndarray:
    _check_stage(what, stages, stage)
    _check_some(what, shape)
    out = cuda.device_array(shape, np.float32)
    stages[stage](*(cuda.to_device(x) if isinstance(x, np.ndarray) else x for x in arguments), out)
    return out.copy_to_host()
