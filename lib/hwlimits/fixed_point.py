"""Multiplying integers by real numbers without floating point: how an int8 network gets from one scale to the next.

A sum of products has the scale of input times weights, its output another. The ratio is a real number,
kept as an int32 `multiplier` with 31 bits behind the point and a `shift`: so LiteRT's reference kernels of
convolutions have it, and every kernel of tflite-micro (`scale_fixed`). LiteRT's reference kernel of a dense layer
multiplies in float64 (`scale_double`), XNNPACK's kernels in float32 (`scale_float`). All three round otherwise.

Sources: Jacob et al. 2018, section 2.2; gemmlowp's fixedpoint.h; LiteRT's kernels/internal/common.cc and
quantization_util.cc, compiled with two roundings, and reference/integer_ops/fully_connected.h.

>>> multiplier, shift = quantize_multiplier(0.0021)
>>> rescale(np.array([1000, -1000, 240]), multiplier, shift)
array([ 2, -2,  1])
"""

from __future__ import annotations

import numpy as np

from hwlimits.quantization import round_to_integer

INT32 = np.iinfo(np.int32)


class IntegerError(ValueError):
    """Something that integer kernels can't compute as asked; the text says what to do."""


def quantize_multiplier(real) -> tuple[np.ndarray, np.ndarray]:
    """`real` numbers of at least 0 as multiplier · 2^(shift - 31), the multiplier from 2^30 to 2^31 - 1.

    Below 2^-32, where every result would be 0, both are 0. Raises IntegerError for numbers below 0 or not finite.

    >>> [int(n) for n in quantize_multiplier(0.75)]
    [1610612736, 0]
    """
    real = np.asarray(real, np.float64)
    if not np.all(np.isfinite(real) & (real >= 0)):
        raise IntegerError(
            f"quantize_multiplier: {real.min()} to {real.max()} are no ratios of scales, which are above 0"
        )
    fraction, shift = np.frexp(real)
    multiplier = np.floor(fraction * 2**31 + 0.5).astype(np.int64)
    carried = multiplier == 2**31
    multiplier, shift = np.where(carried, 2**30, multiplier), shift + carried
    tiny = shift < -31
    return np.where(tiny, 0, multiplier), np.where(tiny, 0, shift)


def high_multiply(a, b) -> np.ndarray:
    """The upper half of 2 a b for int32 `a` and `b`: their product as fractions of 2^31, rounded to the nearest.

    A half is rounded up. The one product that doesn't fit, of -2^31 with itself, becomes 2^31 - 1.

    >>> high_multiply(2**30, 5), high_multiply(-(2**30), 5)
    (np.int64(3), np.int64(-2))
    """
    product = np.int64(a) * np.int64(b)
    return np.minimum((product + 2**30) >> 31, INT32.max)


def divide_by_power(x, exponent) -> np.ndarray:
    """x / 2^exponent, rounded to the nearest integer, a half away from 0.

    >>> divide_by_power(np.array([3, -3, 2, -2, 1]), 1)
    array([ 2, -2,  1, -1,  1])
    """
    x, exponent = np.int64(x), np.int64(exponent)
    mask = (np.int64(1) << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def rescale(x, multiplier, shift) -> np.ndarray:
    """x · multiplier · 2^(shift - 31) for int32 `x`: a product, rounded, then a shift to the right, rounded again.

    Where `shift` is above 0 the number is shifted to the left first, and wraps around where it leaves int32.
    A half goes up in the first rounding and away from 0 in the second: -5 · 0.5 becomes -2, and -6 · 0.25,
    which is shifted from -3, becomes -2 as well.

    >>> [int(rescale(x, *quantize_multiplier(real))) for x, real in ((5, 0.5), (-5, 0.5), (-6, 0.25))]
    [3, -2, -2]
    """
    left, right = np.maximum(shift, 0), np.maximum(-np.asarray(shift), 0)
    return divide_by_power(high_multiply(wrap(np.int64(x) << left), multiplier), right)


def scale_fixed(sums, a, b, c) -> np.ndarray:
    """int32 `sums` of the scale a · b at the scale c, by `rescale`: LiteRT's reference kernels.

    >>> scale_fixed(np.array([5, -5, 7]), 0.5, 0.5, 0.5)
    array([ 3, -2,  4])
    """
    return rescale(sums, *quantize_multiplier(np.float64(a) * np.float64(b) / np.float64(c)))


def scale_double(sums, a, b, c) -> np.ndarray:
    """int32 `sums` of the scale a · b at the scale c, by one float64 product, a half away from 0.

    >>> scale_double(np.array([5, -5, 7]), 0.5, 0.5, 0.5)
    array([ 3, -3,  4])
    """
    real = np.float64(a) * np.float64(b) / np.float64(c)
    rounded = round_to_integer(np.float64(sums) * real)
    return np.clip(rounded, INT32.min, INT32.max).astype(np.int64)


def scale_float(sums, a, b, c) -> np.ndarray:
    """int32 `sums` of the scale a · b at the scale c, by one float32 product, a half to even: XNNPACK's kernels.

    Sums beyond 2^24 lose digits on their way to float32.

    >>> scale_float(np.array([5, -5, 7]), 0.5, 0.5, 0.5)
    array([ 2, -2,  4])
    """
    product = np.float32(sums) * (np.float32(a) * np.float32(b) / np.float32(c))
    return np.rint(np.clip(product, np.float32(INT32.min), np.float32(2**31 - 128))).astype(np.int64)


def scale_coarse(sums, a, b, c) -> np.ndarray:
    """Numbers of the scale a · b at the scale c, by a multiplier with 8 bits behind the point, a half up.

    XNNPACK has this where it only changes the scale of codes: the ratio is off by up to 1/512.

    >>> scale_coarse(np.array([5, -5, 100]), 0.5, 0.501, 0.5)
    array([ 3, -2, 50])
    """
    multiplier = np.rint(256 * (np.float32(a) * np.float32(b) / np.float32(c))).astype(np.int64)
    return (np.int64(sums) * multiplier + 128) >> 8


def wrap(x) -> np.ndarray:
    """What is left of integers in 32 bits, as a processor's register has it.

    >>> wrap(2**31)
    np.int64(-2147483648)
    """
    return np.int64(x).astype(np.int32).astype(np.int64)


# --- exp and 1 / x -----------------------------------------------------------------------------


def exp_of_negative(x, integer_bits: int) -> np.ndarray:
    """exp(x) for x <= 0, from int32 with `integer_bits` before the point to int32 with none; 1 is 2^31 - 1.

    The part in [-1/4, 0) goes into a polynomial about -1/8; each bit of the rest that is set multiplies
    by its own constant, exp(-1/4), exp(-1/2), exp(-1), ... (gemmlowp).

    >>> round(float(exp_of_negative(-(1 << 26), 5)) / 2**31, 6), round(float(np.exp(-1)), 6)
    (0.36788, 0.367879)
    """
    x = np.int64(x)
    fraction_bits = 31 - integer_bits
    quarter = np.int64(1) << (fraction_bits - 2)
    part = (x & (quarter - 1)) - quarter
    a = (part << integer_bits) + (1 << 28)
    a2 = high_multiply(a, a)
    a3, a4 = high_multiply(a2, a), high_multiply(a2, a2)
    third = _fraction(1 / 3)
    tail = divide_by_power(high_multiply(divide_by_power(a4, 2) + a3, third) + a2, 1)
    start = _fraction(np.exp(-1 / 8))
    result = start + high_multiply(start, a + tail)
    rest = part - x
    for power in range(-2, integer_bits):
        bit = rest & (np.int64(1) << (fraction_bits + power))
        result = np.where(bit != 0, high_multiply(result, _fraction(np.exp(-(2.0**power)))), result)
    return np.where(x == 0, INT32.max, result)


def reciprocal(x, integer_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """1 / x for int32 x > 0 with `integer_bits` before the point: a fraction f of 2^31, and b with 1 / x = f · 2^-b.

    Newton's iteration, three steps, from a line through [1/2, 1] (gemmlowp).

    >>> fraction, bits = reciprocal(np.array([3 << 19]), 12)
    >>> float(fraction[0] / 2**31 * 2.0 ** -bits[0]).__round__(6)
    0.333333
    """
    x = np.int64(x)
    headroom = 31 - np.floor(np.log2(x)).astype(np.int64)  # zeros above the first digit
    a = (x << headroom) - (1 << 31)  # x = 2^.. (1 + a)
    half = (a + INT32.max + 1) >> 1  # (1 + a) / 2, with 2^31 - 1 as 1
    y = 1515870810 + high_multiply(half, -1010580540)  # 48/17 - 32/17 half, two bits before the point
    for _ in range(3):
        y = y + _saturating_shift(high_multiply(y, (1 << 29) - high_multiply(half, y)), 2)
    return _saturating_shift(y, 1), integer_bits - headroom


def inverse_root(n) -> tuple[np.ndarray, np.ndarray]:
    """1 / sqrt(n) of integers from 1 to 2^29 - 1: a fraction f of 2^31 and a shift s, 1 / sqrt(n) = f · 2^-s.

    n is shifted in pairs of bits to a number near 1 with 3 bits before the point; five steps of Newton's.

    >>> fraction, shift = inverse_root(np.array([4, 10]))
    >>> (fraction / 2**31 * 2.0 ** -shift).round(6).tolist()
    [0.5, 0.316228]
    """
    n = np.int64(n)
    pairs = (30 - np.floor(np.log2(n)).astype(np.int64)) // 2 - 1
    half = divide_by_power((n << 2 * pairs) >> 1, 1)
    x = np.full_like(n, 1 << 28)
    for _ in range(5):
        cube = _saturating_shift(high_multiply(high_multiply(x, x), x), 6)
        x = _saturating_shift(high_multiply(3 << 27, x) - high_multiply(half, cube), 3)
    fraction, shift = high_multiply(x, _fraction(0.5**0.5)), 11 - pairs
    fraction, shift = np.where(shift < 0, fraction << np.maximum(-shift, 0), fraction), np.maximum(shift, 0)
    return np.where(n == 1, INT32.max, fraction), np.where(n == 1, 0, shift)


def _saturating_shift(x, bits: int) -> np.ndarray:
    return np.clip(np.int64(x) << bits, INT32.min, INT32.max)


def _fraction(x: float) -> int:
    return int(np.floor(x * 2**31 + 0.5))
