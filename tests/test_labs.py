"""The labs' checks: silent for what is right, one sentence that helps for what is not, and never the answer."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from hwlimits import labs


def said(check, *given, **options) -> str:
    with pytest.raises(AssertionError) as error:
        check(*given, **options)
    return str(error.value)


@pytest.mark.parametrize(
    "got", [200, 200.0, np.int64(200), np.float32(200), 200 * (1 + 1e-12)], ids=lambda x: type(x).__name__
)
def test_a_right_number_passes(got):
    assert labs.number(got, 200, "FLOPs") is None


def test_within_is_relative_and_at_zero_absolute():
    labs.number(101, 100, "x", within=0.011)
    labs.number(0.001, 0, "x", within=0.002)
    assert "too large" in said(labs.number, 102, 100, "x", within=0.011)
    assert "too large" in said(labs.number, 0.003, 0, "x", within=0.002)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(2, "counted twice"), (0.5, "forgotten"), (8, "eight times"), (1 / 8, "an eighth"), (1000, "ms, kB"),
     (1e-3, "ms, kB"), (1e6, "µs, MB"), (1e-6, "µs, MB"), (1e9, "ns, GB"), (1e-9, "ns, GB"),
     (1024 / 1000, "KiB, or kB"), (1000 / 1024, "kB, or KiB"), (2**20 / 1e6, "MiB, or MB"), (1e6 / 2**20, "MB, or MiB"),
     (2**30 / 1e9, "GiB, or GB"), (1e9 / 2**30, "GB, or GiB"), (-1, "but for its sign")],
)  # fmt: skip
def test_a_factor_says_what_happened(factor, words):
    text = said(labs.number, 7 * factor, 7, "the answer")
    assert words in text
    assert text.startswith("the answer: ")


@pytest.mark.parametrize(
    ("factor", "what", "hint"),
    [(2, "FLOPs of a layer", "two FLOPs"), (0.5, "MACs of a layer", "a multiplication and an addition"),
     (8, "bytes of a file", "bits, or bytes"), (1 / 8, "bits of a code", "bits, or bytes")],
)  # fmt: skip
def test_a_factor_says_more_where_it_fits(factor, what, hint):
    assert hint in said(labs.number, 7 * factor, 7, what)
    assert hint not in said(labs.number, 7 * factor, 7, "makespan")


@pytest.mark.parametrize("got", [np.int8(-115), np.uint8(3), Fraction(1, 3), Decimal("0.5"), np.array(2.0), 10**400])
def test_any_kind_of_number_is_compared(got):
    assert said(labs.number, got, 140, "x").startswith("x: ")
    if isinstance(got, Fraction | Decimal | np.ndarray):
        labs.number(got, float(got), "x")


def test_a_slip_is_told_before_a_factor():
    assert said(labs.number, 4, 2, "x", slips={"read the question again": 4}) == "x: 4: read the question again"
    assert "counted twice" in said(labs.number, 4, 2, "x", slips={"read the question again": 5})


@pytest.mark.parametrize(
    ("got", "words"),
    [(None, "no answer yet"), (True, "one number is wanted, and this is a bool"), ("7", "this is a str"),
     (np.array([1.0, 2.0]), "this is a ndarray"), (float("nan"), "nan is no finite number"),
     (float("inf"), "inf is no finite number"), (3, "too small"), (9, "too large"), (1 + 1j, "this is a complex")],
)  # fmt: skip
def test_what_is_no_right_number_is_said(got, words):
    assert words in said(labs.number, got, 7, "the answer")


@pytest.mark.parametrize("got", [3, 14, 7000, -7, 3.5, 100, None, "7"])
def test_the_right_answer_is_never_told(got):
    assert "1234.5" not in said(labs.number, got, 1234.5, "x").replace(",", "")


def test_a_right_array_passes():
    labs.array([[1, 2], [3, 4]], np.array([[1, 2], [3, 4.0]]), "the mask")
    labs.array(np.array([1, 1 + 1e-9]), [1, 1], "x")
    labs.array([True, False], [1, 0], "the mask")
    labs.array([], [], "nothing")


@pytest.mark.parametrize(
    ("got", "words"),
    [(None, "no answer yet"), ([1, 2], "the shape is (2,), and (3,) is wanted"), (["a"] * 3, "an array of numbers"),
     (["1", "2", "3"], "an array of numbers"), ([1j, 2, 3], "an array of numbers"),
     ([1, float("nan"), 3], "1 of 3 numbers are not finite"), ([-1, -2, -3], "but for its sign"),
     ([3, 2, 1], "turned round"), ([1, 2, 5], "1 of 3 numbers are not right, the first at [2]"),
     ({}, "an array of numbers")],
)  # fmt: skip
def test_what_is_no_right_array_is_said(got, words):
    assert words in said(labs.array, got, [1, 2, 3], "the mask", slips={"it is turned round": [3, 2, 1]})


def test_a_prediction_may_be_wrong_but_not_missing_and_not_in_another_unit():
    labs.prediction(0.5, "s", "s", "time", low=1e-6, high=1)
    for missing in (None, ...):
        assert "write your prediction down" in said(labs.prediction, missing, "s", "s", "time", low=0, high=1)
    assert "predict it in 's', and this is in 'ms'" in said(labs.prediction, 5, "ms", "s", "time", low=0, high=1)
    assert "more than this could ever be" in said(labs.prediction, 5, "s", "s", "time", low=0.1, high=1)
    assert "less than this could ever be" in said(labs.prediction, 0.05, "s", "s", "time", low=0.1, high=1)
    for nothing in (float("nan"), True, "soon", [1]):
        assert "one finite number" in said(labs.prediction, nothing, "s", "s", "time", low=0, high=1)
    assert "write the unit" in said(labs.prediction, 0.5, ..., "s", "time", low=0, high=1)
