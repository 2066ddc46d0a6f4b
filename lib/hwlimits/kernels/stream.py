"""STREAM: four loops that do next to nothing but move data, so that their time is that of the memory.

| loop  | does               | bytes for each element (STREAM's count) |
|-------|--------------------|-----------------------------------------|
| copy  | out = a            | 2 reals: read a, write out              |
| scale | out = s a          | 2                                       |
| add   | out = a + b        | 3                                       |
| triad | out = a + s b      | 3                                       |

What a processor reads of `out` before it writes there (write-allocate) is not counted, as in STREAM.

Source: McCalpin, "Memory Bandwidth and Machine Balance in Current High Performance Computers" (1995).
"""

from __future__ import annotations

import numpy as np
from numba import njit

REALS = {"copy": 2, "scale": 2, "add": 3, "triad": 3}  # moved for each element


@njit(nogil=True, cache=True)
def _copy(a, b, s, out, times):
    for _ in range(times):
        for i in range(out.size):
            out[i] = a[i]


@njit(nogil=True, cache=True)
def _scale(a, b, s, out, times):
    for _ in range(times):
        for i in range(out.size):
            out[i] = s * a[i]


@njit(nogil=True, cache=True)
def _add(a, b, s, out, times):
    for _ in range(times):
        for i in range(out.size):
            out[i] = a[i] + b[i]


@njit(nogil=True, cache=True)
def _triad(a, b, s, out, times):
    for _ in range(times):
        for i in range(out.size):
            out[i] = a[i] + s * b[i]


# The bare loops, all called alike, (a, b, s, out, times): a benchmark that stays in a cache repeats them inside.
LOOPS = {"copy": _copy, "scale": _scale, "add": _add, "triad": _triad}


def copy(a: np.ndarray, out: np.ndarray) -> np.ndarray:
    """out = a, and out is returned. For this and the three below:

    Arrays of any one shape, all float32 or all float64, each contiguous (C order); `out` overlaps no
    other unless it is the same array. One thread, which releases the GIL.
    Raises TypeError for another dtype, ValueError for shapes that differ or arrays that are not contiguous.

    >>> copy(np.arange(3.0), np.empty(3))
    array([0., 1., 2.])
    """
    return _run("copy", a, a, 0, out)


def scale(a: np.ndarray, s: float, out: np.ndarray) -> np.ndarray:
    """out = s a; see `copy`.

    >>> scale(np.arange(3.0), 2, np.empty(3))
    array([0., 2., 4.])
    """
    return _run("scale", a, a, s, out)


def add(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """out = a + b; see `copy`.

    >>> add(np.arange(3.0), np.ones(3), np.empty(3))
    array([1., 2., 3.])
    """
    return _run("add", a, b, 0, out)


def triad(a: np.ndarray, b: np.ndarray, s: float, out: np.ndarray) -> np.ndarray:
    """out = a + s b; see `copy`.

    >>> triad(np.arange(3.0), np.ones(3), 10, np.empty(3))
    array([10., 11., 12.])
    """
    return _run("triad", a, b, s, out)


def _run(name: str, a, b, s, out):
    for what, x in (("out", out), ("a", a), ("b", b)):
        if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64):
            kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise TypeError(f"{name}: {what} is {kind}; it takes float32 or float64 arrays")
        if x.dtype != out.dtype or x.shape != out.shape:
            raise ValueError(
                f"{name}: {what} is {x.dtype} {x.shape}, out is {out.dtype} {out.shape}; they must be alike"
            )
        if not (x.flags.c_contiguous and x.flags.aligned):
            raise ValueError(f"{name}: {what} is not contiguous (strides {x.strides}); np.ascontiguousarray copies it")
        if x is not out and np.may_share_memory(x, out) and not _same_memory(x, out):
            raise ValueError(f"{name}: out overlaps {what}; the loop would read what it has just written")
    if not out.flags.writeable:
        raise ValueError(f"{name}: out is read-only; give an array that can be written, such as np.empty_like(a)")
    LOOPS[name](a.ravel(), b.ravel(), out.dtype.type(s), out.ravel(), 1)
    return out


def _same_memory(x, y) -> bool:
    return x.ctypes.data == y.ctypes.data and x.nbytes == y.nbytes
