"""Is a product really of the precision that was asked for? Three checks, none of which needs JAX.

A table of what a device has; the types that a compiled program multiplies, from its text; and the error of the
result, which for TF32 is neither float32's nor worse than TF32's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

# name -> (type that XLA multiplies, JAX's precision, what it is)
PRECISIONS = {
    "float32": ("f32", "highest", "float32, precision 'highest': no TF32; on a TPU, several passes of bfloat16"),
    "tf32": ("f32", "default", "float32 as TF32 in tensor cores: precision 'default' on an NVIDIA GPU from 8.0 on"),
    "bfloat16": ("bf16", "default", "bfloat16 in and out"),
    "int8": ("s8", "default", "int8 in, int32 out"),
}  # fmt: skip
TILE = 128  # the side of a TPU's matrix unit, and a multiple of every tensor core's
INT8_DEEPEST = 2**31 // 128**2 - 1  # deeper sums of products of int8 may leave int32
# Errors of a product, over the root of the sum of its squared terms: float32's stay below EXACT (about
# sqrt(k) 2^-24), TF32's are about 2^-11, and sums kept in bfloat16 or wrong ones lie above COARSE.
EXACT, COARSE = 2.0**-14, 2.0**-7


class XlaError(RuntimeError):
    """JAX is missing, the device lacks a precision, or a result is wrong; the text says which."""


def whole(value) -> bool:
    """Is it a whole number from 1, Python's or NumPy's?

    >>> [whole(x) for x in (1, np.int64(3), 0, True, 2.0)]
    [True, True, False, False, False]
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def lacks(precision: str, platform: str, capability: str | None = None) -> str | None:
    """Why a device can't multiply in a precision; None if it can, or if only compiling shows it.

    capability   an NVIDIA GPU's compute capability, as '9.0'. Raises XlaError for an unknown precision.
    Source: CUDA C++ Programming Guide, "Compute Capabilities".

    >>> lacks("tf32", "tpu")
    'TF32 is a format of NVIDIA GPUs of compute capability 8.0 or more, and this is a tpu'
    >>> lacks("tf32", "gpu", "9.0")
    """
    if precision not in PRECISIONS:
        raise XlaError(f"no precision {precision!r} here: there are {', '.join(PRECISIONS)}.")
    if platform != "gpu":
        if precision == "tf32":
            return f"TF32 is a format of NVIDIA GPUs of compute capability 8.0 or more, and this is a {platform}"
        return None
    needed = {"tf32": (8, 0), "bfloat16": (8, 0), "int8": (6, 1)}.get(precision)
    if needed and not re.fullmatch(r"\d+\.\d+", capability or ""):
        return f"{precision} asks for an NVIDIA GPU's compute capability, and this GPU's is {capability!r}"
    if needed and tuple(int(part) for part in capability.split(".")) < needed:
        return f"{precision} needs compute capability {needed[0]}.{needed[1]}, and this GPU's is {capability}"
    return None


def multiplied_types(program: str) -> set[str]:
    """Types of what a compiled program's products multiply, from its text in XLA's HLO (`compiled.as_text()`).

    Empty if there is no product that this reader knows: a dot, a convolution (so TPUs do it), a library's call.

    >>> multiplied_types("%a = bf16[2,2]{1,0} parameter(0)\\n%w = f32[2,2] convert(%a)\\n%c = f32[2,2] dot(%w, %w)")
    {'f32'}
    """
    types, found = {}, set()
    for line in program.splitlines():
        line = re.sub(r"\{[^{}]*\}", "", line)  # layouts and notes, which may hold what looks like operands
        defined = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = \(?(\w+)\[", line)
        if defined:
            types[defined[1]] = defined[2]
        product = re.search(r" (dot|convolution|custom-call)\(([^)]*)\)", line)
        if not product or (product[1] == "custom-call" and not re.search(r"gemm|matmul", line)):
            continue
        names = re.findall(r"([\w.-]+)(?=,|$)", re.sub(r"\[[^]]*\]", "", product[2]))
        found |= {types[name] for name in names[:2] if name in types}
    return found


def padding_waste(shape: Sequence[int], tile: int = TILE) -> float:
    """The share of the multiply-adds that are on padding, if each side is padded to a multiple of `tile`.

    Raises XlaError unless all are whole numbers from 1.

    >>> padding_waste((128, 128, 256)), round(padding_waste((100, 100, 100)), 3)
    (0.0, 0.523)
    """
    if not all(map(whole, (*shape, tile))):
        raise XlaError(f"padding_waste({tuple(shape)}, tile={tile!r}): give sides and a tile, whole numbers from 1.")
    return 1 - float(np.prod([side / (-(-side // tile) * tile) for side in shape]))


def product_error(precision: str, a: np.ndarray, b: np.ndarray, got: np.ndarray) -> float:
    """The largest error of `got` as the product of a (rows, k) and b (k, columns), over sqrt(a^2 b^2).

    The reference is NumPy's product in float64, for int8 in int64. Raises XlaError where int8 is not exact, float32
    no better than TF32, TF32 as good as float32, or bfloat16 (whose result is rounded, too) worse than its rounding.
    """
    wide = np.int64 if precision == "int8" else np.float64
    a, b, got = a.astype(wide), b.astype(wide), got.astype(wide)
    want = a @ b
    off = np.abs(got - want)
    if precision == "bfloat16":
        off = np.maximum(off - 2.0**-8 * np.abs(want), 0)  # the result's own rounding, 2^-9 of it, with room
    scale = np.sqrt(a**2 @ b**2)
    # Where all terms are 0 an exact result has no error, and any other an endless one.
    error = float(np.max(np.divide(off, scale, out=np.where(off == 0, 0.0, np.inf), where=scale > 0)))
    limit = {"int8": 0.0, "float32": EXACT}.get(precision, COARSE)
    if not error <= limit:
        raise XlaError(f"the {precision} product is wrong: its error is {error:.2g} of its terms, allowed {limit:.2g}.")
    if precision == "tf32" and error < EXACT:
        raise XlaError(f"TF32 was asked for and was not used: the error, {error:.2g} of the terms, is float32's.")
    return error
