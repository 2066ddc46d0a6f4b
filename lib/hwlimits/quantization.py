"""Numbers as integers: chapter 05's affine codes, their parameters from a range, rounding, and the noise they add.

A code q stands for the number x = scale (q - zero_point). `affine` and `symmetric` work out the parameters
from a range, `hwlimits.calibration` the range from samples; `quantize` and `dequantize` go there and back.
Formats with an exponent (float16, bfloat16, fp8) are in `hwlimits.number_formats`, arithmetic on the
codes alone in `hwlimits.integer`.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), equation 1; LiteRT's specification of 8-bit quantization.

A product with a factor is no code yet: it has to be rounded to an integer, and kept within the codes.

>>> 0.75 * 0.5
0.375
>>> quantize([0.75], affine(-1, 1))
array([95], dtype=int8)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import numpy as np

ROUNDINGS = ("half_away", "half_even", "toward_zero", "floor", "stochastic")
_SMALLEST = np.finfo(np.float32).tiny


class QuantizationError(ValueError):
    """Numbers, codes or parameters that don't fit together; the text says what to do."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """What codes mean: x = scale (q - zero_point), q from `lowest` to `highest`.

    scale        float32, above 0: one number, or one for each channel
    zero_point   the code of 0: one integer, or one for each channel
    bits         2 to 16
    signed       codes from -2^(bits-1) to 2^(bits-1) - 1, else from 0 to 2^bits - 1
    narrow       without the lowest code, so that signed codes reach as far below 0 as above it
    axis         the channels' axis where there are several scales, else None

    Raises QuantizationError for what these sentences exclude.

    >>> weights = Quantization(0.5, 0, narrow=True)
    >>> weights.lowest, weights.highest, float(weights.low), float(weights.high)
    (-127, 127, -63.5, 63.5)
    """

    scale: float | np.ndarray
    zero_point: int | np.ndarray = 0
    bits: int = 8
    signed: bool = True
    narrow: bool = False
    axis: int | None = None

    def __post_init__(self):
        _check_bits("Quantization", self.bits)
        with np.errstate(over="ignore", under="ignore"):
            scale = np.asarray(self.scale, np.float32)
        zero_point = np.asarray(self.zero_point)
        if scale.ndim != (self.axis is not None) or zero_point.ndim not in (0, scale.ndim):
            raise QuantizationError(
                f"Quantization: scale has the shape {scale.shape} and zero_point {zero_point.shape} with "
                f"axis={self.axis}; one number each without an axis, one for each channel with it"
            )
        if zero_point.ndim and zero_point.shape != scale.shape:
            raise QuantizationError(
                f"Quantization: {scale.size} scales and {zero_point.size} zero points; equally many"
            )
        if scale.size == 0 or not np.all(np.isfinite(scale) & (scale > 0)):
            raise QuantizationError(f"Quantization(scale={self.scale!r}): a scale is a finite number above 0")
        if not np.issubdtype(zero_point.dtype, np.integer) or np.any(
            (zero_point < self.lowest) | (zero_point > self.highest)
        ):
            raise QuantizationError(
                f"Quantization(zero_point={self.zero_point!r}): it is itself a code, "
                f"an integer from {self.lowest} to {self.highest}"
            )
        object.__setattr__(self, "scale", scale[()])
        object.__setattr__(self, "zero_point", np.broadcast_to(zero_point, scale.shape).astype(np.int32)[()])

    @property
    def lowest(self) -> int:
        return (-(2 ** (self.bits - 1)) if self.signed else 0) + self.narrow

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - self.signed) - 1

    @property
    def low(self) -> np.ndarray:
        """The number that the lowest code stands for, float64."""
        return np.float64(self.scale) * (self.lowest - self.zero_point)

    @property
    def high(self) -> np.ndarray:
        """The number that the highest code stands for, float64."""
        return np.float64(self.scale) * (self.highest - self.zero_point)

    @property
    def dtype(self) -> np.dtype:
        """The narrowest of NumPy's integers that holds the codes."""
        return np.dtype(f"{'int' if self.signed else 'uint'}{8 if self.bits <= 8 else 16}")


# --- parameters from a range -------------------------------------------------------------------


def affine(low, high, bits: int = 8, *, signed: bool = True, narrow: bool = False, axis: int | None = None):
    """The Quantization whose codes span the numbers from `low` to `high`; 0 is among them exactly.

    low, high   numbers, or with `axis` one for each channel

    A range on one side of 0 is drawn out to 0, since padding and ReLU need a code for it. The zero point is
    rounded, so the codes span the range within half a step at either end. A range without width, [0, 0],
    gets the scale 1: its one number has a code. A step below float32's least normal number is raised to that.
    All of it is float32 arithmetic, as in TensorFlow's fake quantization, whose parameters these are.
    Raises QuantizationError for a range that is not finite, has its ends exchanged, or is too wide
    for float32.

    >>> q = affine(0, 6)
    >>> q.zero_point, round(float(q.high), 6)
    (np.int32(-128), 6.0)
    """
    _check_bits("affine", bits)
    low, high = _range("affine", low, high, axis)
    lowest, highest = _codes(bits, signed, narrow)
    with np.errstate(over="ignore", under="ignore"):
        low, high = np.float32(np.minimum(low, 0)), np.float32(np.maximum(high, 0))
        scale = _scale("affine", high - low, np.float32(highest - lowest))
    # counted from the lowest code, so that signed and unsigned codes round alike
    zero_point = lowest + np.clip(round_to_integer(narrow - low / scale) - narrow, 0, highest - lowest)
    return Quantization(scale, zero_point.astype(np.int32), bits, signed, narrow, axis)


def symmetric(magnitude, bits: int = 8, *, narrow: bool = True, axis: int | None = None) -> Quantization:
    """The Quantization with zero point 0 whose codes span the numbers from -magnitude to magnitude.

    magnitude   the largest absolute value, or with `axis` one for each channel; 0 gets the scale 1
    narrow      as LiteRT has its weights: 8 bits are -127 to 127. Without it the code -128 is there,
                too, and stands for a number a step below -magnitude.

    Raises QuantizationError for a magnitude below 0 or not finite.

    >>> weights = np.array([[0.5, -1.0], [0.25, 2.0]])
    >>> q = symmetric(abs(weights).max(axis=0), axis=1)
    >>> quantize(weights, q)
    array([[127, -64],
           [ 64, 127]], dtype=int8)
    """
    _check_bits("symmetric", bits)
    magnitude = np.asarray(magnitude, np.float64)
    if np.any(magnitude < 0):
        raise QuantizationError(f"symmetric(magnitude={magnitude.min()}): a magnitude is at least 0; take abs(x).max()")
    _range("symmetric", -magnitude, magnitude, axis)
    return Quantization(_scale("symmetric", magnitude, 2 ** (bits - 1) - 1), 0, bits, True, narrow, axis)


# --- there and back ----------------------------------------------------------------------------


def quantize(x, q: Quantization, rounding: str = "half_away", generator: np.random.Generator | None = None):
    """The codes of the numbers `x`: round(x / scale) + zero_point, kept within the codes.

    Rounded is before the zero point is added, as LiteRT has it; float32 stays float32 in between, so a code is
    the one that LiteRT's QUANTIZE finds. `rounding` and `generator` as for `round_to_integer`.
    Raises QuantizationError for NaN and infinities, and for channels that are not those of `q`.

    >>> quantize([-1, -0.004, 0.004, 0.6, 100], Quantization(0.01, 10))
    array([-90,  10,  10,  70, 127], dtype=int8)
    """
    x = _numbers("quantize", x)
    scale, zero_point = _along(q, x.shape)
    with np.errstate(over="ignore"):  # beyond float32 is beyond the codes
        steps = x / scale
    steps = np.clip(steps, -(2.0**17), 2.0**17)  # no code is further off; an infinity has no remainder to round by
    return np.clip(round_to_integer(steps, rounding, generator) + zero_point, q.lowest, q.highest).astype(q.dtype)


def dequantize(codes, q: Quantization) -> np.ndarray:
    """The numbers that codes stand for, scale (q - zero_point), as float32.

    Raises QuantizationError for codes that `q` does not have.

    >>> dequantize([-90, 10, 70], Quantization(0.5, 10))
    array([-50.,   0.,  30.], dtype=float32)
    """
    codes = np.asarray(codes)
    if codes.size and not np.issubdtype(codes.dtype, np.integer):
        raise QuantizationError(f"dequantize: codes are integers, not {codes.dtype}; quantize makes them")
    if codes.size and (codes.min() < q.lowest or codes.max() > q.highest):
        raise QuantizationError(
            f"dequantize: codes from {codes.min()} to {codes.max()}, and those of {q.bits} bits "
            f"are {q.lowest} to {q.highest}"
        )
    scale, zero_point = _along(q, codes.shape)
    return scale * (codes.astype(np.int32) - zero_point).astype(np.float32)


def fake_quantize(x, q: Quantization, rounding: str = "half_away", generator: np.random.Generator | None = None):
    """The nearest numbers to `x` that have a code: what training sees of quantization, as float32.

    >>> fake_quantize([0.3, -0.3, 9.0], Quantization(0.25, bits=4))
    array([ 0.25, -0.25,  1.75], dtype=float32)
    """
    return dequantize(quantize(x, q, rounding, generator), q)


def round_to_integer(x, rounding: str = "half_away", generator: np.random.Generator | None = None) -> np.ndarray:
    """`x` rounded to whole numbers, in its own floating-point type.

    rounding    'half_away'   to the nearest, a half away from 0: C's round, LiteRT's quantization
                'half_even'   to the nearest, a half to the even neighbour: IEEE 754, no drift over many numbers
                'toward_zero' the fraction is cut off: C's conversion to an integer
                'floor'       downwards: an arithmetic shift to the right
                'stochastic'  up with the fraction's own probability, so that the mean is kept
    generator   what 'stochastic' draws from; it must be given then, and is not looked at otherwise

    Raises QuantizationError for another rounding and for a generator that is missing.

    >>> [round_to_integer(-2.5, rounding).item() for rounding in ROUNDINGS[:4]]
    [-3.0, -2.0, -2.0, -3.0]
    """
    x = np.asarray(x)
    x = x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float64)
    if rounding == "half_away":
        whole = np.trunc(x)  # adding 0.5 first would round 0.49999997 up in float32
        return whole + np.copysign(np.abs(x - whole) >= 0.5, x).astype(x.dtype)
    if rounding == "half_even":
        return np.rint(x)
    if rounding == "toward_zero":
        return np.trunc(x)
    if rounding == "floor":
        return np.floor(x)
    if rounding != "stochastic":
        raise QuantizationError(f"rounding={rounding!r}: choose from {', '.join(ROUNDINGS)}")
    if generator is None:
        raise QuantizationError("rounding='stochastic' draws numbers: give a generator, numpy.random.default_rng(seed)")
    below = np.floor(x)
    return below + (generator.random(x.shape) < x - below)


# --- the noise ---------------------------------------------------------------------------------


def sqnr_db(x, approximation) -> float:
    """Signal-to-quantization-noise ratio in decibels: the power of `x` over that of the difference.

    Infinite where there is no difference. Raises QuantizationError for different shapes.

    >>> round(sqnr_db([1.0, -1.0], [1.1, -1.1]), 6)
    20.0
    """
    x, approximation = _numbers("sqnr_db", x), _numbers("sqnr_db", approximation)
    if x.shape != approximation.shape:
        raise QuantizationError(f"sqnr_db: {x.shape} numbers and {approximation.shape} approximations; one for each")
    noise = np.sum((x.astype(np.float64) - approximation) ** 2)
    signal = np.sum(x.astype(np.float64) ** 2)
    if noise == 0 or signal == 0:
        return math.inf if noise == 0 else -math.inf
    return float(10 * np.log10(signal / noise))


def uniform_sqnr_db(bits: int, peak_over_rms: float) -> float:
    """The ratio to expect of `bits` whose range just holds the signal: 6.02 bits + 4.77 - 20 log10(peak / rms).

    Half a step is the largest error and all errors below it are equally likely, so the noise has the power
    step²/12, with 2 peak / 2^bits as step. A sine (peak / rms = √2) gives the well-known 6.02 bits + 1.76;
    weights with a long tail have a large peak / rms, and lose as much. Bennett 1948.

    >>> round(uniform_sqnr_db(8, 2**0.5), 2)
    49.93
    """
    _check_bits("uniform_sqnr_db", bits)
    if not (math.isfinite(peak_over_rms) and peak_over_rms >= 1):
        raise QuantizationError(
            f"uniform_sqnr_db(peak_over_rms={peak_over_rms}): the peak is at least the rms, so >= 1"
        )
    return 10 * math.log10(3 * 4.0**bits / peak_over_rms**2)


# --- shared ------------------------------------------------------------------------------------


def _check_bits(where: str, bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, Integral) or not 2 <= bits <= 16:
        raise QuantizationError(f"{where}(bits={bits!r}): choose a whole number from 2 to 16")


def _codes(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    q = Quantization(1.0, int(narrow), bits, signed, narrow)
    return q.lowest, q.highest


def _range(where: str, low, high, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if low.shape != high.shape or low.ndim != (axis is not None) or low.size == 0:
        raise QuantizationError(
            f"{where}: ranges of the shapes {low.shape} and {high.shape} with axis={axis}; one range without an axis, "
            "one for each channel with it"
        )
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise QuantizationError(
            f"{where}: the range from {low.min()} to {high.max()} is not finite; calibrate without NaN and inf"
        )
    if np.any(low > high):
        i = np.flatnonzero(np.ravel(low > high))[0]
        raise QuantizationError(f"{where}: the range from {low.flat[i]} to {high.flat[i]} has its ends exchanged")
    return low, high


def _scale(where: str, width: np.ndarray, steps: int) -> np.ndarray:
    """The step of `width` divided into `steps`, as float32, which is what a file keeps."""
    with np.errstate(over="ignore", under="ignore"):
        step = np.float32(width / steps)
    if np.any(np.isinf(step)):
        raise QuantizationError(f"{where}: the range is too wide for float32, which scales are kept in")
    return np.where(width == 0, np.float32(1), np.maximum(step, _SMALLEST))


def _numbers(where: str, x) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype == bool or not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise QuantizationError(f"{where}: {x.dtype} is not a type of real numbers")
    x = x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float64)
    bad = int(np.count_nonzero(~np.isfinite(x)))
    if bad:
        raise QuantizationError(f"{where}: {bad} of {x.size} numbers are NaN or infinite, which no code stands for")
    return x


def _along(q: Quantization, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point so that they meet the channels of an array of this shape."""
    if q.axis is None:
        return q.scale, q.zero_point
    channels = q.scale.size
    if not -len(shape) <= q.axis < len(shape) or shape[q.axis] != channels:
        raise QuantizationError(f"{channels} scales along axis {q.axis} don't fit the shape {shape}")
    form = [1] * len(shape)
    form[q.axis] = channels
    return q.scale.reshape(form), q.zero_point.reshape(form)
