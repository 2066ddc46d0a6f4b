"""The case study's convolution on a GPU: 3 x 3, valid, channels last, bias and ReLU in the same kernel.

x (images, height, width, channels), weights (edge, edge, channels, filters), as Keras has them; out (images,
height - edge + 1, width - edge + 1, filters). Neighbouring threads have neighbouring filters, so that weights and
outputs are read and written along.

| stage  | a thread sums           | loads for its multiply-adds                                              |
|--------|-------------------------|--------------------------------------------------------------------------|
| direct | one output              | 2 for 1, from the caches; the image is the same for all threads of a warp |
| rows   | a row of a filter's     | for `edge` x width multiply-adds, a row of the image (from shared memory, |
|        | outputs                 | where it lies once for all filters) and `edge` weights                   |

Sizes are constants of the compiled code: loops over them unroll, and a row of sums stays in registers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import float32

from hwlimits.kernels.arrays import array
from hwlimits.kernels.cuda_device import check_grid_y, cuda

THREADS = 256
STAGES = ("direct", "rows")
LAYERS = {"conv1": (28, 28, 1, 32, 3), "conv2": (13, 13, 32, 64, 3)}  # of the case study: the arguments of `kernel`
SHARED_BYTES = 48 * 1024  # that every GPU gives a block without being asked in another way


def _direct(height: int, width: int, channels: int, filters: int, edge: int):
    out_width = width - edge + 1
    row_size, image_size = out_width * filters, (height - edge + 1) * out_width * filters

    @cuda.jit
    def kernel(x, weights, bias, out):
        image, o = cuda.blockIdx.x, cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        if o < image_size:
            row, column, filter_ = o // row_size, o % row_size // filters, o % filters
            total = bias[filter_]
            for i in range(edge):
                for j in range(edge):
                    for channel in range(channels):
                        total += x[image, row + i, column + j, channel] * weights[i, j, channel, filter_]
            out[image, row, column, filter_] = max(total, float32(0))

    return kernel


def _rows(height: int, width: int, channels: int, filters: int, edge: int):
    out_height, out_width = height - edge + 1, width - edge + 1
    size, row_size = height * width * channels, width * channels

    @cuda.jit
    def kernel(x, weights, bias, out):
        image = cuda.blockIdx.x
        pixels = cuda.shared.array(size, float32)
        sums = cuda.local.array(out_width, float32)
        values = cuda.local.array(width, float32)
        for e in range(cuda.threadIdx.x, size, cuda.blockDim.x):
            pixels[e] = x[image, e // row_size, e % row_size // channels, e % channels]
        cuda.syncthreads()
        for task in range(cuda.threadIdx.x, out_height * filters, cuda.blockDim.x):
            row, filter_ = task // filters, task % filters
            for column in range(out_width):
                sums[column] = bias[filter_]
            for i in range(edge):
                for channel in range(channels):
                    for column in range(width):
                        values[column] = pixels[(row + i) * row_size + column * channels + channel]
                    for j in range(edge):
                        weight = weights[i, j, channel, filter_]
                        for column in range(out_width):
                            sums[column] += values[column + j] * weight
            for column in range(out_width):
                out[image, row, column, filter_] = max(sums[column], float32(0))

    return kernel


@cache
def kernel(stage: str, height: int, width: int, channels: int, filters: int, edge: int):
    """The compiled kernel of a stage for these sizes; it takes (x, weights, bias, out)."""
    return {"direct": _direct, "rows": _rows}[stage](height, width, channels, filters, edge)


def launch(stage: str, x, weights, bias, out, threads: int = THREADS) -> None:
    """Start a stage on arrays of the device, of shapes that fit; nothing is checked, nothing waited for."""
    images, height, width, channels = x.shape
    edge, filters = weights.shape[0], weights.shape[3]
    grid = (images, -(-(out.shape[1] * out.shape[2] * filters) // threads)) if stage == "direct" else (images, 1)
    kernel(stage, height, width, channels, filters, edge)[grid, threads](x, weights, bias, out)


def conv2d(x: np.ndarray, weights: np.ndarray, bias: np.ndarray, stage: str = "rows") -> np.ndarray:
    """max(x * weights + bias, 0), valid: float32 arrays of the shapes above, on the GPU; copies included.

    NaN is not promised to stay: the largest of NaN and 0 is 0 on a GPU (fmaxf), and NaN in the simulator.
    Raises TypeError for another dtype; ValueError for shapes that do not fit, a stage that is none, or an image
    too large for shared memory or (`direct`) for the grid's second axis.

    >>> conv2d(np.ones((1, 2, 2, 1), np.float32), np.ones((2, 2, 1, 1), np.float32), np.float32([0.5])).item()
    4.5
    """
    named = {"x": x, "weights": weights, "bias": bias}
    x, weights, bias = (np.ascontiguousarray(array(a, np.float32, "conv2d", name)) for name, a in named.items())
    if stage not in STAGES:
        raise ValueError(f"conv2d: there is no stage {stage!r}; choose one of {', '.join(STAGES)}")
    if x.ndim != 4 or weights.ndim != 4 or weights.shape[:3] != (weights.shape[0],) * 2 + x.shape[3:]:
        raise ValueError(
            f"conv2d: x is {x.shape} and weights are {weights.shape}; it takes x (images, height, width, channels) "
            "and weights (edge, edge, channels, filters)"
        )
    (images, height, width, _), edge, filters = x.shape, weights.shape[0], weights.shape[3]
    if bias.shape != (filters,):
        raise ValueError(f"conv2d: bias is {bias.shape}; it must have one element for each of {filters} filters")
    if not 0 < edge <= min(height, width) or 0 in (*x.shape, filters):
        raise ValueError(f"conv2d: x is {x.shape} and weights are {weights.shape}; no output is left of it")
    if stage == "rows" and x[0].nbytes > SHARED_BYTES:
        raise ValueError(
            f"conv2d: an image has {x[0].nbytes:,} bytes and shared memory {SHARED_BYTES:,}; use stage='direct'"
        )
    shape = images, height - edge + 1, width - edge + 1, filters
    if stage == "direct":
        check_grid_y("conv2d", int(np.prod(shape[1:])), "outputs an image", THREADS)
    out = cuda.device_array(shape, np.float32)
    launch(stage, cuda.to_device(x), cuda.to_device(weights), cuda.to_device(bias), out)
    return out.copy_to_host()
