"""What a GPU can do at most, and what lies between: multiply-adds in registers, and k of them for each element.

A roofline of the device comes from its own kernels: `fma_peak` touches no memory, `intensity(k)` reads and writes
8 bytes an element and does k multiply-adds (2 k FLOPs) with it, k / 4 FLOPs a byte; `empty` does nothing, and its
time is what a launch costs.

Both do nothing but multiply-adds for hundreds of instructions: numba's `range` counts in 64 bits, some six
instructions a turn, which took half of the peak from loops of eight multiply-adds. So `multiply_adds` writes them
out. The factor and the summand come from memory: then they lie in registers, as a product's do.
"""

from __future__ import annotations

from functools import cache

from numba import float32

from hwlimits.kernels.cuda_device import SIMULATED, cuda, load4, multiply_adds, store4

CHAINS = 16  # sums of a thread that do not wait for each other
UNROLLED = 2 if SIMULATED else 32  # multiply-adds of a chain between two questions whether the loop ends
THREADS = 256
ELEMENTS = 8  # of a thread of `intensity`: as many chains
FACTOR, SUMMAND = 0.999, 0.001  # a value stays where it is: between 0 and 1


@cuda.jit
def empty():
    """No work."""


@cache
def fma_peak():
    """The kernel (factors, out, turns) that does turns x UNROLLED x CHAINS multiply-adds a thread, writes one number.

    `factors` holds FACTOR and SUMMAND.
    """
    body = multiply_adds(UNROLLED)

    @cuda.jit
    def kernel(factors, out, turns):
        i = cuda.grid(1)
        f, s = factors[0], factors[1]
        v = float32(i) * float32(1e-9)  # another one in each thread, or one lane could compute for the warp
        x = (v, v + f, v - f, v + s, v - s, -v, f - v, s - v, v + v, v * f, v * s, f + f, s + s, s * f, f * f, s * s)
        turn = 0
        while turn < turns:
            x = body(x, f, s)
            turn += 1
        total = float32(0)
        for value in x:
            total += value
        out[i] = total

    return kernel


def peak_flops(threads: int, turns: int) -> int:
    """FLOPs of `fma_peak` with that many threads, a multiply-add counted as two.

    >>> peak_flops(1, 1) == 2 * CHAINS * UNROLLED
    True
    """
    return 2 * threads * turns * UNROLLED * CHAINS


@cache
def intensity(k: int):
    """The kernel (a, factors, out), flat, whole blocks of ELEMENTS x THREADS long: k multiply-adds with each element.

    The two groups of four elements of a thread lie THREADS groups apart, so that a warp reads neighbours.
    """
    unrolled = min(k, UNROLLED)
    body, turns, rest = multiply_adds(unrolled), k // unrolled, k % unrolled
    tail = multiply_adds(rest)

    @cuda.jit
    def kernel(a, factors, out):
        i = (cuda.blockIdx.x * cuda.blockDim.x * 2 + cuda.threadIdx.x) * 4
        j = i + cuda.blockDim.x * 4
        f, s = factors[0], factors[1]
        x = load4(a, i) + load4(a, j)
        turn = 0
        while turn < turns:
            x = body(x, f, s)
            turn += 1
        x = tail(x, f, s)
        store4(out, i, x[:4])
        store4(out, j, x[4:])

    return kernel
