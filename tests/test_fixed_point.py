"""Fixed-point arithmetic against exact fractions, and gemmlowp's definitions written out number by number."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwlimits import fixed_point as fp
from hwlimits.fixed_point import INT32, IntegerError

int32 = st.integers(-(2**31), 2**31 - 1)
EDGES = [-(2**31), -(2**31) + 1, -(2**30), -3, -2, -1, 0, 1, 2, 3, 2**30, 2**30 + 1, 2**31 - 1]


def truncated(a, b):
    """C's division."""
    return abs(a) // abs(b) * (1 if (a >= 0) == (b >= 0) else -1)


def gemmlowp_high_multiply(a, b):
    if a == b == -(2**31):
        return 2**31 - 1
    return truncated(a * b + (2**30 if a * b >= 0 else 1 - 2**30), 2**31)


def half_away(x: Fraction):
    return int(math.copysign(math.floor(abs(x) + Fraction(1, 2)), x))


@settings(deadline=None)
@given(int32, int32)
def test_high_multiply_is_gemmlowp_s(a, b):
    assert fp.high_multiply(a, b) == gemmlowp_high_multiply(a, b)


def test_high_multiply_at_the_edges():
    found = fp.high_multiply(np.array(EDGES)[:, None], np.array(EDGES))
    assert found.tolist() == [[gemmlowp_high_multiply(a, b) for b in EDGES] for a in EDGES]


@settings(deadline=None)
@given(int32, st.integers(0, 31))
def test_a_shift_rounds_half_away(x, exponent):
    assert fp.divide_by_power(x, exponent) == half_away(Fraction(x, 2**exponent))


@settings(deadline=None)
@given(st.floats(1e-12, 1e6))
def test_a_multiplier_is_the_number_to_31_bits(real):
    multiplier, shift = fp.quantize_multiplier(real)
    if real < 2.0**-32:
        assert (multiplier, shift) == (0, 0)
        return
    assert 2**30 <= multiplier < 2**31
    assert abs(Fraction(int(multiplier)) * Fraction(2) ** int(shift - 31) - Fraction(real)) <= Fraction(real) / 2**31


def test_a_multiplier_that_rounds_up_to_the_next_power():
    assert [int(n) for n in fp.quantize_multiplier(1 - 2**-40)] == [2**30, 1]
    assert [int(n) for n in fp.quantize_multiplier([0.0, 1.0, 2.0**-32])[0]] == [0, 2**30, 2**30]
    assert [int(n) for n in fp.quantize_multiplier([0.0, 1.0, 2.0**-32])[1]] == [0, 1, -31]


@settings(deadline=None)
@given(st.integers(-(2**24), 2**24), st.floats(1e-6, 100))
@example(2**24, 64.0)  # leaves the 32 bits
def test_rescaling_is_two_roundings_one_after_the_other(x, real):
    multiplier, shift = (int(n) for n in fp.quantize_multiplier(real))
    shifted = x << max(shift, 0)
    in_32_bits = (shifted + 2**31) % 2**32 - 2**31
    first = gemmlowp_high_multiply(in_32_bits, multiplier)
    assert fp.rescale(x, multiplier, shift) == half_away(Fraction(first, 2 ** max(-shift, 0)))
    if in_32_bits == shifted:
        assert abs(fp.rescale(x, multiplier, shift) - x * real) <= 1 + abs(x * real) * 2**-29


def test_a_shift_to_the_left_wraps_around():
    assert fp.rescale(2**30, *fp.quantize_multiplier(2.0)) == fp.high_multiply(0, 2**30)  # 2^30 · 4 in 32 bits is 0
    assert fp.wrap(np.array([2**31, -(2**31) - 1, 5])).tolist() == [-(2**31), 2**31 - 1, 5]


@settings(deadline=None)
@given(st.integers(-(2**30), 2**30), *[st.floats(2.0**-10, 2.0**10, width=32)] * 3)
def test_the_other_roundings_are_those_of_one_product(x, a, b, c):
    real = Fraction(a) * Fraction(b) / Fraction(c)
    assert (
        abs(fp.scale_double(x, a, b, c) - min(max(x * real, -(2**31)), 2**31 - 1))
        <= Fraction(1, 2) + abs(x * real) / 2**50
    )
    assert (
        abs(fp.scale_float(x, a, b, c) - min(max(x * real, -(2**31)), 2**31 - 1))
        <= Fraction(1, 2) + abs(x * real) / 2**21
    )


def test_halves_go_where_each_way_of_rounding_sends_them():
    x = np.arange(-7, 8, 2)  # halves after division by 2; by 4, by way of a shift
    assert fp.scale_fixed(x, 1, 1, 2).tolist() == [-3, -2, -1, 0, 1, 2, 3, 4]
    assert fp.scale_fixed(2 * x, 1, 1, 4).tolist() == [-4, -3, -2, -1, 1, 2, 3, 4]
    assert fp.scale_double(x, 1, 1, 2).tolist() == [-4, -3, -2, -1, 1, 2, 3, 4]
    assert fp.scale_float(x, 1, 1, 2).tolist() == [-4, -2, -2, 0, 0, 2, 2, 4]
    assert fp.scale_coarse(x, 1, 1, 2).tolist() == [-3, -2, -1, 0, 1, 2, 3, 4]


def test_a_coarse_multiplier_has_8_bits():
    assert fp.scale_coarse(np.array([100, 200]), 1, 1, 3).tolist() == [33, 66]  # 85/256 for 1/3
    assert fp.scale_coarse(np.array([255]), 1, 1, 1.003) == 254  # 255/256


# --- exp and 1 / x -----------------------------------------------------------------------------


def test_the_exponential_within_its_bits():
    x = -np.unique(
        np.concatenate([np.arange(0, 2000), np.random.default_rng(0).integers(0, 2**31, 20_000), 2 ** np.arange(31)])
    )
    found = fp.exp_of_negative(x, 5) / 2**31
    assert np.abs(found - np.exp(x / 2**26)).max() < 3e-7
    assert fp.exp_of_negative(0, 5) == INT32.max


@pytest.mark.parametrize("integer_bits", [5, 12])
def test_the_reciprocal_within_its_bits(integer_bits):
    x = np.unique(
        np.concatenate([np.random.default_rng(0).integers(1, 2**31, 20_000), 2 ** np.arange(31), [2**31 - 1]])
    )
    fraction, bits = fp.reciprocal(x, integer_bits)
    assert fraction.max() <= INT32.max
    value = x / 2.0 ** (31 - integer_bits)
    assert np.abs(fraction / 2**31 * 2.0**-bits * value - 1).max() < 1e-8


def test_the_inverse_root_within_its_bits():
    n = np.arange(1, 70_000)
    fraction, shift = fp.inverse_root(n)
    assert np.abs(fraction / 2**31 * 2.0**-shift * np.sqrt(n) - 1).max() < 2e-6  # five steps of Newton's, and no more


def test_a_ratio_of_scales_is_finite_and_not_below_0():
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(IntegerError, match="are no ratios of scales, which are above 0"):
            fp.quantize_multiplier(bad)
