"""Number formats against ml_dtypes and NumPy: every code, every middle, their neighbours, and what overflows."""

import ml_dtypes
import numpy as np
import pytest

from hwlimits.number_formats import FLOAT_FORMATS, encode, round_to, values
from hwlimits.quantization import QuantizationError

TYPES = {name: np.dtype(np.float16 if name == "float16" else getattr(ml_dtypes, name)) for name in FLOAT_FORMATS}


def codes_of(name):
    return np.arange(2 ** FLOAT_FORMATS[name].bits, dtype=np.uint16 if "16" in name else np.uint8)


@pytest.mark.parametrize("name", FLOAT_FORMATS)
def test_the_table_is_ml_dtypes(name):
    with np.errstate(invalid="ignore"):
        expected = codes_of(name).view(TYPES[name]).astype(np.float64)
    np.testing.assert_array_equal(values(name), expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(values(name))[numbers], np.signbit(expected)[numbers])


def hard_cases(name):
    """The numbers, the middles between them and what lies beside both, as float32; the middle above the largest."""
    finite = np.unique(values(name)[np.isfinite(values(name))])
    finite = np.append(finite, 2 * finite[-1] - finite[-2])
    with np.errstate(over="ignore"):
        x = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2]).astype(np.float32)
        x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf)), [1e30]])
    return np.concatenate([x, -x]).astype(np.float32)


@pytest.mark.parametrize("name", FLOAT_FORMATS)
def test_rounding_is_ml_dtypes(name):
    x = hard_cases(name)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(TYPES[name]).view(codes_of(name).dtype)
    np.testing.assert_array_equal(encode(x, name), expected)
    np.testing.assert_array_equal(round_to(x, name), expected.view(TYPES[name]).astype(np.float64))


@pytest.mark.parametrize("name", FLOAT_FORMATS)
def test_saturation_clips_and_changes_nothing_else(name):
    x = hard_cases(name)
    largest = float(ml_dtypes.finfo(TYPES[name]).max)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.clip(x, -largest, largest).astype(TYPES[name]).astype(np.float64)
    np.testing.assert_array_equal(round_to(x, name, saturate=True), expected)


@pytest.mark.parametrize("name", [name for name in FLOAT_FORMATS if name != "float4_e2m1fn"])
def test_nan_stays_nan_with_its_sign(name):
    x = np.array([np.nan, -np.nan], np.float32)
    np.testing.assert_array_equal(encode(x, name), x.astype(TYPES[name]).view(codes_of(name).dtype))
    assert np.isnan(round_to(x, name, saturate=True)).all()


def test_a_double_is_rounded_once():
    """By way of float32 it would be a tie, and go down."""
    x = 1 + 2**-11 + 2**-40
    assert round_to(x, "float16") == 1 + 2**-10
    assert round_to(float(np.float32(x)), "float16") == 1


def test_shapes_are_kept_and_the_table_can_t_be_changed():
    assert encode(np.zeros((2, 0, 3)), "float16").shape == (2, 0, 3)
    assert encode(1.0, "bfloat16").shape == ()
    with pytest.raises(ValueError, match="read-only"):
        values("float16")[0] = 1


def test_errors_say_what_to_do():
    with pytest.raises(QuantizationError, match="number format 'fp8': known are float16, bfloat16, float8_e5m2"):
        values("fp8")
    with pytest.raises(QuantizationError, match="float4_e2m1fn has no NaN, and 1 of 2 numbers are that"):
        encode([np.nan, 1], "float4_e2m1fn")
