"""What every kernel's wrapper asks of its arguments before an address goes to the code below."""

from __future__ import annotations

import numpy as np


def array(x, dtype, what: str, name: str) -> np.ndarray:
    """`x` itself, an array of that dtype. Raises TypeError for anything else: `what` was called, `name` is wrong.

    >>> array([1.0], np.float32, "sgemm", "a")
    Traceback (most recent call last):
    ...
    TypeError: sgemm: a is list; it takes float32 arrays: a.astype(np.float32)
    """
    if not isinstance(x, np.ndarray) or x.dtype != dtype:
        kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        # numbers made int8 by a cast are others: no hint
        hint = f": {name}.astype(np.float32)" if dtype == np.float32 else ""
        raise TypeError(f"{what}: {name} is {kind}; it takes {np.dtype(dtype)} arrays{hint}")
    return x


def matrix(x, dtype, what: str, name: str) -> np.ndarray:
    """The same with two dimensions, row after row in memory: copied if it is not. Raises ValueError for others.

    >>> matrix(np.ones((2, 3), np.int8).T, np.int8, "matmul", "a").flags.c_contiguous
    True
    """
    x = array(x, dtype, what, name)
    if x.ndim != 2:
        raise ValueError(f"{what}: {name} has shape {x.shape}; it takes matrices, with two dimensions")
    return np.require(x, requirements=["C", "A"])
