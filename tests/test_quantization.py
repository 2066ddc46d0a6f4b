"""Codes against LiteRT, TensorFlow's fake quantization and a search through all of them; rounding against decimal."""

import decimal
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits import quantization
from hwlimits.quantization import (
    Quantization,
    QuantizationError,
    affine,
    dequantize,
    fake_quantize,
    quantize,
    round_to_integer,
    symmetric,
)
from hwlimits.training.litert_build import ZERO_POINT, Spec, single

BITS = range(2, 17)
finite = st.floats(-1e6, 1e6, width=32)


def run(file, x):
    interpreter = file.interpreter(None, reference=True)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


# --- rounding ----------------------------------------------------------------------------------

DECIMAL = {"half_away": decimal.ROUND_HALF_UP, "half_even": decimal.ROUND_HALF_EVEN,
           "toward_zero": decimal.ROUND_DOWN, "floor": decimal.ROUND_FLOOR}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rounding", DECIMAL)
def test_rounding_is_decimal_s(rounding, dtype):
    halves = np.arange(-12, 12.5, 0.5).astype(dtype)
    x = np.concatenate([halves, np.nextafter(halves, dtype(99)), np.nextafter(halves, dtype(-99)), [2**23 + 1, 1e9]])
    x = x.astype(dtype)
    expected = [float(decimal.Decimal(float(v)).to_integral_value(DECIMAL[rounding])) for v in x]
    found = round_to_integer(x, rounding)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype


def test_stochastic_rounding_keeps_the_mean_and_goes_to_a_neighbour():
    x = np.repeat([-1.75, -0.25, 0.5, 3.0, 3.9], 40_000)
    found = round_to_integer(x, "stochastic", np.random.default_rng(0)).reshape(5, -1)
    assert [sorted(set(row)) for row in found] == [[-2, -1], [-1, 0], [0, 1], [3], [3, 4]]
    np.testing.assert_allclose(found.mean(axis=1), x.reshape(5, -1)[:, 0], atol=5 * 0.5 / 200)  # five standard errors


# --- codes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signed", "narrow"), [(True, False), (True, True), (False, False), (False, True)])
@pytest.mark.parametrize("bits", BITS)
def test_the_codes_are_those_of_the_width(bits, signed, narrow):
    q = Quantization(1, 5 if bits > 4 else 1, bits, signed, narrow)
    assert q.highest - q.lowest + 1 == 2**bits - narrow
    assert q.highest == (2 ** (bits - 1) - 1 if signed else 2**bits - 1)
    assert np.iinfo(q.dtype).min <= q.lowest
    assert q.highest <= np.iinfo(q.dtype).max
    assert (q.dtype.itemsize, q.dtype.kind) == (1 if bits <= 8 else 2, "i" if signed else "u")
    codes = np.arange(q.lowest, q.highest + 1)
    np.testing.assert_array_equal(quantize(dequantize(codes, q), q), codes)
    assert (dequantize(q.lowest, q), dequantize(q.highest, q)) == (q.low, q.high)


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=20), finite, finite, st.integers(2, 8), st.booleans())
def test_a_code_is_the_nearest_of_all(x, a, b, bits, signed):
    q = affine(min(a, b), max(a, b), bits, signed=signed)
    numbers = np.arange(q.lowest, q.highest + 1.0) - q.zero_point
    numbers *= float(q.scale)
    found = (quantize(x, q).astype(float) - q.zero_point) * float(q.scale)
    least = np.abs(np.array(x)[:, None] - numbers).min(axis=1)
    np.testing.assert_allclose(np.abs(x - found), least, rtol=1e-9, atol=1e-9 * float(q.scale))


def test_codes_are_litert_s():
    """Its QUANTIZE and DEQUANTIZE, number by number: all codes, all halves, their neighbours, and far outside."""
    q = Quantization(0.05, ZERO_POINT)
    halves = (np.arange(-300, 300, 0.5) * np.float32(0.05)).astype(np.float32)
    near = [np.nextafter(halves, np.float32(side)) for side in (-99, 99)]
    random = np.random.default_rng(0).normal(0, 5, 20_000).astype(np.float32)
    x = np.concatenate([halves, *near, random, np.float32([1e7, -1e7, 1e-40])])[None]
    np.testing.assert_array_equal(quantize(x, q), run(single(Spec("QUANTIZE", "float32", x.shape)), x))
    codes = np.arange(-128, 128, dtype=np.int8)[None]
    expected = run(single(Spec("DEQUANTIZE", "int8", codes.shape)), codes)
    found = dequantize(codes, q)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 6), (-0.3, 2.7), (-5, 0)])
def test_fake_quantization_is_tensorflow_s(low, high, bits, narrow):
    from hwlimits.training.keras import tf

    x = np.random.default_rng(0).uniform(1.5 * low - 1, 1.5 * high + 1, 2000).astype(np.float32)
    q = affine(low, high, bits, signed=False, narrow=narrow)
    expected = tf.quantization.fake_quant_with_min_max_vars(x, low, high, num_bits=bits, narrow_range=narrow).numpy()
    # TensorFlow multiplies by the rounded reciprocal: a number within float32's error of a middle may go to either side
    difference = np.abs(fake_quantize(x, q) - expected)
    assert np.mean(difference > 1e-5) < (0.02 if bits == 16 else 0.001)
    assert difference.max() < 1.001 * q.scale + 1e-5


def test_channels_have_scales_of_their_own():
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    for axis in range(-3, 3):
        moved = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        low, high = moved.min(axis=1), moved.max(axis=1)
        codes = np.moveaxis(quantize(x, affine(low, high, axis=axis)), axis, 0)
        back = np.moveaxis(fake_quantize(x, symmetric(high, axis=axis)), axis, 0)
        for i, channel in enumerate(np.moveaxis(x, axis, 0)):
            np.testing.assert_array_equal(codes[i], quantize(channel, affine(low[i], high[i])))
            np.testing.assert_array_equal(back[i], fake_quantize(channel, symmetric(high[i])))


@pytest.mark.parametrize("rounding", DECIMAL)
def test_the_rounding_asked_for_is_the_one_done_before_the_zero_point(rounding):
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    expected = [int(decimal.Decimal(v).to_integral_value(DECIMAL[rounding])) + 7 for v in x]
    assert quantize(x, Quantization(1, 7), rounding).tolist() == expected
    assert fake_quantize(x, Quantization(1, 7), rounding).tolist() == [code - 7 for code in expected]


def test_stochastic_codes_average_to_the_number():
    x = np.full(40_000, 0.3)
    found = fake_quantize(x, Quantization(1), "stochastic", np.random.default_rng(1))
    assert abs(found.mean() - 0.3) < 5 * 0.46 / 200


# --- parameters from a range -------------------------------------------------------------------


@settings(deadline=None)
@given(finite, finite, st.integers(2, 16), st.booleans(), st.booleans())
def test_a_range_is_covered_within_half_a_step_and_0_is_exact(a, b, bits, signed, narrow):
    low, high = min(a, b), max(a, b)
    q = affine(low, high, bits, signed=signed, narrow=narrow)
    assert fake_quantize(0.0, q) == 0
    assert q.low <= min(low, 0) + 0.5001 * q.scale
    assert q.high >= max(high, 0) - 0.5001 * q.scale
    span = max(high, 0) - min(low, 0)
    if span > 1e-30:
        assert math.isclose(q.scale, span / (2**bits - 1 - narrow), rel_tol=1e-6)  # no step wasted
    inside = np.linspace(low, high, 7)
    assert np.abs(fake_quantize(inside, q) - inside).max() <= 1.0002 * q.scale + 1e-6 * span


@pytest.mark.parametrize(
    ("low", "high", "zero_point", "scale"),
    [
        (0, 2.55, -128, 0.01), (-2.55, 0, 127, 0.01), (-1.28, 1.27, 0, 0.01),  # by hand: 255 steps
        (1, 2.55, -128, 0.01), (-2.55, -1, 127, 0.01),  # one-sided: drawn out to 0
        (0, 0, -128, 1),
    ],
)  # fmt: skip
def test_affine_by_hand(low, high, zero_point, scale):
    q = affine(low, high)
    assert (q.zero_point, q.scale) == (zero_point, np.float32(scale))


@settings(deadline=None)
@given(finite, finite, st.integers(2, 16), st.booleans())
def test_signed_codes_are_the_unsigned_ones_moved(a, b, bits, narrow):
    signed, unsigned = (affine(min(a, b), max(a, b), bits, signed=s, narrow=narrow) for s in (True, False))
    assert (signed.scale, signed.zero_point + 2 ** (bits - 1)) == (unsigned.scale, unsigned.zero_point)


@pytest.mark.parametrize("bits", BITS)
def test_symmetric_by_hand(bits):
    q = symmetric(3.0, bits)
    assert (q.zero_point, q.lowest, q.highest) == (0, 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
    assert q.scale == np.float32(3 / q.highest)
    assert quantize([-3, 3, 0], q).tolist() == [q.lowest, q.highest, 0]
    assert symmetric(3.0, bits, narrow=False).lowest == -(2 ** (bits - 1))


def test_ranges_without_width_and_with_too_little():
    assert (symmetric(0).scale, symmetric([0, 127.0], axis=0).scale.tolist()) == (1, [1, 1])
    tiny = affine(0, 1e-44)
    assert tiny.scale == np.finfo(np.float32).tiny
    assert quantize(0.0, tiny) == -128
    wide = affine(-1.6e38, 1.6e38)
    assert np.isfinite(wide.scale)
    assert quantize([-1.6e38, 1.6e38], wide).tolist() == [-128, 127]


def test_an_empty_array_stays_one():
    assert quantize(np.empty((0, 3)), Quantization(1)).shape == (0, 3)
    assert dequantize(np.empty((0, 3)), Quantization(1)).shape == (0, 3)


# --- the noise ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 6, 8, 12])
@pytest.mark.parametrize("kind", ["sine", "uniform"])
def test_the_noise_is_the_one_to_expect(bits, kind):
    n = np.arange(200_000)
    x = np.sin(n * math.sqrt(2)) if kind == "sine" else np.random.default_rng(0).uniform(-1, 1, n.size)
    expected = quantization.uniform_sqnr_db(bits, math.sqrt(2 if kind == "sine" else 3))
    half = 2.0**-bits  # half a step to the side, and 2^bits numbers lie in the middles of as many steps
    q = Quantization(2 * half, 0, bits)
    found = quantization.sqnr_db(x, fake_quantize(x - half, q).astype(float) + half)
    assert abs(found - expected) < {4: 0.8, 6: 0.4}.get(bits, 0.2)


def test_decibels_by_hand():
    assert math.isclose(quantization.uniform_sqnr_db(8, 2**0.5), 20 * 8 * math.log10(2) + 10 * math.log10(1.5))
    assert math.isclose(quantization.sqnr_db([3.0, 4.0], [3.0, 4.5]), 20)
    assert quantization.sqnr_db([1.0], [1.0]) == math.inf
    assert quantization.sqnr_db([0.0], [1.0]) == -math.inf


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Quantization(1, bits=1), "Quantization(bits=1): choose a whole number from 2 to 16"),
        (lambda: affine(0, 1, 17), "affine(bits=17): choose a whole number from 2 to 16"),
        (lambda: symmetric(1, True), "symmetric(bits=True): choose"),
        (lambda: Quantization(0.0), "a scale is a finite number above 0"),
        (lambda: Quantization(math.nan), "a scale is a finite number above 0"),
        (lambda: Quantization([]), "one number each without an axis, one for each channel with it"),
        (lambda: Quantization([], axis=0), "a scale is a finite number above 0"),
        (lambda: Quantization(1, 128), "itself a code, an integer from -128 to 127"),
        (lambda: Quantization(1, -128, narrow=True), "an integer from -127 to 127"),
        (lambda: Quantization(1, 0.5), "itself a code"),
        (lambda: Quantization([1, 2]), "one number each without an axis, one for each channel with it"),
        (lambda: Quantization([1, 2], [0, 0, 0], axis=0), "2 scales and 3 zero points"),
        (lambda: affine(1, -1), "the range from 1.0 to -1.0 has its ends exchanged"),
        (lambda: affine([0, 2], [1, 1], axis=0), "the range from 2.0 to 1.0 has its ends exchanged"),
        (lambda: affine(0, math.nan), "is not finite; calibrate without NaN and inf"),
        (lambda: affine(-math.inf, 0), "the range from -inf to 0.0 is not finite"),
        (lambda: affine([0, 0], [1, 1]), "one range without an axis"),
        (lambda: affine(0, 1, axis=0), "one for each channel with it"),
        (lambda: affine([0], [1, 1], axis=0), "ranges of the shapes (1,) and (2,)"),
        (lambda: affine(-1e300, 1e300), "too wide for float32"),
        (lambda: symmetric(-1), "symmetric(magnitude=-1.0): a magnitude is at least 0"),
        (lambda: quantize([1, math.nan, math.inf], Quantization(1)), "2 of 3 numbers are NaN or infinite"),
        (lambda: quantize(["a"], Quantization(1)), "is not a type of real numbers"),
        (lambda: quantize([True], Quantization(1)), "bool is not a type of real numbers"),
        (
            lambda: quantize(np.ones((2, 3)), Quantization([1, 1], axis=1)),
            "2 scales along axis 1 don't fit the shape (2, 3)",
        ),
        (lambda: quantize(np.ones(3), Quantization([1, 1], axis=1)), "2 scales along axis 1 don't fit the shape (3,)"),
        (lambda: dequantize([0.5], Quantization(1)), "codes are integers, not float64"),
        (lambda: dequantize([8], Quantization(1, bits=4)), "codes from 8 to 8, and those of 4 bits are -8 to 7"),
        (lambda: dequantize([-128], Quantization(1, narrow=True)), "codes from -128 to -128"),
        (lambda: round_to_integer(1.5, "up"), "rounding='up': choose from half_away, half_even"),
        (lambda: round_to_integer(1.5, "stochastic"), "give a generator"),
        (lambda: quantization.sqnr_db([1], [1, 2]), "(1,) numbers and (2,) approximations"),
        (lambda: quantization.uniform_sqnr_db(8, 0.5), "the peak is at least the rms"),
    ],
)
def test_errors_say_what_to_do(call, said):
    with pytest.raises(QuantizationError) as caught:
        call()
    assert said in str(caught.value)
