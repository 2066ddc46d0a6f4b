"""What a GPU can do at most, and what lies between: multiply-adds in registers, and k of them for each element.

A roofline of the device comes from its own kernels: `fma_peak` touches no memory, `intensity(k)` reads and writes
8 bytes an element and does k multiply-adds (2 k FLOPs) with it, k / 4 FLOPs a byte; `empty` does nothing, and its
time is what a launch costs.
"""

from __future__ import annotations

from functools import cache

from numba import float32

from hwlimits.kernels.cuda_device import cuda, load4, store4

CHAINS = 8  # sums of a thread that do not wait for each other
UNROLLED = 32  # multiply-adds of each chain between two questions whether the loop ends
THREADS = 256
FACTOR, SUMMAND = 0.999, 0.001  # a value stays where it is: between 0 and 1


@cuda.jit
def empty():
    """No work."""


@cache
def fma_peak():
    """The kernel (out, steps) that does steps x UNROLLED x CHAINS multiply-adds a thread and writes one number."""

    @cuda.jit
    def kernel(out, steps):
        i = cuda.grid(1)
        a, b = float32(FACTOR), float32(SUMMAND)
        x = float32(i) * float32(1e-9)  # another one in each thread, or one lane could compute for the warp
        x0, x1, x2, x3, x4, x5, x6, x7 = x, x + a, x - a, x + b, x - b, -x, a - x, b - x
        for _ in range(steps):
            for _ in range(UNROLLED):
                x0, x1, x2, x3 = x0 * a + b, x1 * a + b, x2 * a + b, x3 * a + b
                x4, x5, x6, x7 = x4 * a + b, x5 * a + b, x6 * a + b, x7 * a + b
        out[i] = ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7))

    return kernel


def peak_flops(threads: int, steps: int) -> int:
    """FLOPs of `fma_peak` with that many threads, a multiply-add counted as two.

    >>> peak_flops(1, 1)
    512
    """
    return 2 * threads * steps * UNROLLED * CHAINS


@cache
def intensity(k: int):
    """The kernel (a, out), flat arrays, a multiple of four long: k multiply-adds with each element."""

    @cuda.jit
    def kernel(a, out):
        i = cuda.grid(1) * 4
        if i < out.size:
            f, s = float32(FACTOR), float32(SUMMAND)
            x0, x1, x2, x3 = load4(a, i)
            for _ in range(k):
                x0, x1, x2, x3 = x0 * f + s, x1 * f + s, x2 * f + s, x3 * f + s
            store4(out, i, (x0, x1, x2, x3))

    return kernel
