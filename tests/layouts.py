"""Arrays as callers may give them: not aligned to their elements, or not to be written."""

import numpy as np


def unaligned(x):
    """The same numbers, one byte behind where they should begin."""
    view = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    view[:] = x
    return view


def frozen(x):
    x = x.copy()
    x.flags.writeable = False
    return x
