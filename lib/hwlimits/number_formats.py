"""Floating-point formats by table: every number that one can hold, and the nearest of them to any other.

A format of 16 bits or less has so few numbers that they can be written down. `values` does so from the
definition (sign, exponent, fraction); rounding is then a look into the table and needs no arithmetic on bits.

Sources: IEEE 754-2019 (float16); Micikevicius et al., "FP8 Formats for Deep Learning" (2022);
OCP Microscaling Formats (2023) for the four-bit format; bfloat16 is float32's upper half.

>>> values("float4_e2m1fn")[:8].tolist()
[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np

from hwlimits.quantization import QuantizationError


@dataclass(frozen=True)
class FloatFormat:
    """A sign, `exponent_bits` and `fraction_bits`; exponents are stored plus 2^(exponent_bits-1) - 1.

    special   what the highest exponent means: 'ieee' infinities and NaN; 'nan' numbers as any other
              exponent, but for one NaN where all bits are 1; 'none' numbers alone
    """

    exponent_bits: int
    fraction_bits: int
    special: str

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.fraction_bits


FLOAT_FORMATS = MappingProxyType({
    "float16": FloatFormat(5, 10, "ieee"),
    "bfloat16": FloatFormat(8, 7, "ieee"),
    "float8_e5m2": FloatFormat(5, 2, "ieee"),
    "float8_e4m3fn": FloatFormat(4, 3, "nan"),
    "float4_e2m1fn": FloatFormat(2, 1, "none"),
})  # fmt: skip


@cache
def values(name: str) -> np.ndarray:
    """The number of each code, float64, code 0 first; the upper half of the codes has the sign.

    The array is read-only. Raises QuantizationError for a format that is not in FLOAT_FORMATS.

    >>> float(np.nanmax(values("float8_e4m3fn"))), float(values("float8_e5m2")[0b0_11110_11])
    (448.0, 57344.0)
    """
    form = _format(name)
    codes = np.arange(2 ** (form.bits - 1))
    exponent, fraction = codes >> form.fraction_bits, codes & (2**form.fraction_bits - 1)
    bias = 2 ** (form.exponent_bits - 1) - 1
    share = fraction / 2**form.fraction_bits
    with np.errstate(over="ignore"):
        positive = np.where(exponent == 0, np.ldexp(share, 1 - bias), np.ldexp(1 + share, exponent - bias))
    if form.special == "ieee":
        highest = exponent == 2**form.exponent_bits - 1
        positive[highest] = np.where(fraction[highest] == 0, np.inf, np.nan)
    elif form.special == "nan":
        positive[-1] = np.nan
    table = np.concatenate([positive, -positive])
    table.flags.writeable = False
    return table


def encode(x, name: str, *, saturate: bool = False) -> np.ndarray:
    """The codes of the numbers in a format that are nearest to `x`; of two equally near, the one with the even code.

    The format's largest number is rounded to from below the middle between it and the number that would come
    next. From there on a number overflows: to infinity, or to NaN in float8_e4m3fn, which has none; with
    `saturate` to the largest number instead, as hardware does for activations. float4_e2m1fn always saturates.
    NaN keeps its sign. Codes are uint8, or uint16 for formats of 16 bits.
    Raises QuantizationError for an unknown format, and for NaN in a format that has none.

    >>> values("float8_e4m3fn")[encode([0.3, 464.0, 465.0], "float8_e4m3fn")].tolist()
    [0.3125, 448.0, nan]
    """
    form, x = _format(name), np.asarray(x, np.float64)
    positive = values(name)[: 2 ** (form.bits - 1)]
    finite = positive[np.isfinite(positive)]
    # one more, as if the exponent went on: its code is that of infinity or of NaN, and what is nearest to it overflows
    ladder = np.append(finite, 2 * finite[-1] - finite[-2])
    magnitude, missing = np.abs(x), np.isnan(x)
    if missing.any() and form.special == "none":
        raise QuantizationError(f"encode: {name} has no NaN, and {int(missing.sum())} of {x.size} numbers are that")
    middle = (ladder[1:] + ladder[:-1]) / 2
    # an even code takes the middle above it, an odd one leaves it to the next
    code = np.searchsorted(middle, magnitude, side="left")
    tie = (code < len(middle)) & (magnitude == middle[np.minimum(code, len(middle) - 1)])
    code += tie & (code % 2 == 1)
    if saturate or form.special == "none":
        code = np.minimum(code, len(finite) - 1)
    nan = len(positive) - 1 if form.special == "nan" else len(finite) + 2 ** (form.fraction_bits - 1)
    code = np.where(missing, nan, code) | np.signbit(x).astype(np.int64) << form.bits - 1
    return code.astype(np.uint8 if form.bits <= 8 else np.uint16)


def round_to(x, name: str, *, saturate: bool = False) -> np.ndarray:
    """`x` rounded to the nearest numbers that a format holds, as float64; `encode` says how.

    >>> round_to([1 / 3, 1e6], "float16"), round_to(1e6, "float16", saturate=True).item()
    (array([0.33325195,        inf]), 65504.0)
    """
    return values(name)[encode(x, name, saturate=saturate)]


def _format(name: str) -> FloatFormat:
    if name not in FLOAT_FORMATS:
        raise QuantizationError(f"number format {name!r}: known are {', '.join(FLOAT_FORMATS)}")
    return FLOAT_FORMATS[name]
