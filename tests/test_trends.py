"""Growth against SciPy's and NumPy's own line fits, exact exponentials, and the records against a search by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hwlimits import devices, trends
from hwlimits.trends import TrendError


@given(st.floats(0.5, 3), st.floats(1e-3, 1e15), st.lists(st.integers(1990, 2030), min_size=3, max_size=9, unique=True))
def test_an_exact_exponential_gives_its_factor(factor, start, years):
    found = trends.growth(years, [start * factor ** (year - 1990) for year in years])
    assert found.a_year == pytest.approx(factor, rel=1e-6)
    assert found.low == pytest.approx(found.high, rel=1e-4)
    assert found.points == len(years)


@pytest.mark.parametrize("seed", range(5))
def test_slope_and_interval_are_those_of_scipy_s_regression(seed):
    random = np.random.default_rng(seed)
    years = np.arange(2010, 2020)[random.permutation(10)][:7]
    values = np.exp(0.3 * (years - 2010) + random.normal(0, 0.4, 7))
    line = stats.linregress(years, np.log(values))
    half = stats.t(5).ppf(0.975) * line.stderr
    found = trends.growth(years, values)
    assert found.a_year == pytest.approx(math.exp(line.slope))
    assert found.low == pytest.approx(math.exp(line.slope - half))
    assert found.high == pytest.approx(math.exp(line.slope + half))
    assert found.a_year == pytest.approx(math.exp(np.polyfit(years, np.log(values), 1)[0]))


def test_doubling():
    assert trends.growth([0, 2, 4], [1, 2, 4]).doubling_years == pytest.approx(2)
    assert trends.growth([0, 1, 2], [4, 2, 1]).doubling_years == math.inf
    assert str(trends.growth([0, 1, 2], [1, 2, 4])) == "2.00 times a year [2.00, 2.00]"


def test_what_grows_beyond_all_numbers_has_an_open_end():
    found = trends.growth([2020, 2021, 2022], [1, 1e60, 1])
    assert found.a_year == 1
    assert (found.low, found.high) == (0, math.inf)
    assert str(found) == "1.00 times a year [0, inf]"
    assert trends.growth([0, 1e-3, 2e-3], [1, 1e4, 1e8]).doubling_years == 0, "ten thousand times in a thousandth"


def test_what_shrinks_fast_is_not_nothing():
    found = trends.growth([2020, 2021, 2022], [1.0, 1e-13, 1e-26])
    assert found.a_year == pytest.approx(1e-13, rel=1e-9)
    assert str(found) == "1e-13 times a year [1e-13, 1e-13]"
    assert str(trends.growth([2020, 2021, 2022], [1.0, 1e7, 1e14])).startswith("1e+07 times a year")


@pytest.mark.parametrize(
    ("years", "values", "text"),
    [
        ([2020, 2021], [1, 2], "growth of 2 values in 2 years: give a value for each year, at least 3"),
        ([2020, 2021, 2022], [1, 2], "growth of 2 values in 3 years"),
        ([2020, 2020, 2020], [1, 2, 3], "of different years"),
        ([2020, 2021, 2022], [1, 0, 3], "every value a number above 0"),
        ([2020, 2021, math.nan], [1, 2, 3], "every year must be a number"),
        ([2020, 2021, 2022], [1, 2, math.inf], "every value a number above 0"),
        ([[2020, 2021, 2022]], [[1, 2, 3]], "growth of 3 values in 3 years"),
    ],
)
def test_what_has_no_growth_is_refused(years, values, text):
    with pytest.raises(TrendError) as error:
        trends.growth(years, values)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("kind", "precision"), [("gpu", "fp16"), ("gpu", "fp32"), ("tpu", "bf16"), ("server-cpu", "fp32")]
)
def test_records_are_what_a_search_by_hand_finds(kind, precision):
    """Each record beats every device of its year and before; and whoever beats all of those is a record."""
    there = [d for d in devices.devices(kind) if f"peaks.{precision}" in d.numbers and "memory.bandwidth" in d.numbers]
    peak = {d.name: d.numbers[f"peaks.{precision}"].value for d in there}
    found = trends.records(kind, precision)
    for d in there:
        others = [peak[o.name] for o in there if o.name != d.name and o.year <= d.year]
        if all(peak[d.name] > p for p in others):
            assert d in found
    for d in found:
        assert all(peak[d.name] >= peak[o.name] for o in there if o.year <= d.year)
        equals = [o for o in there if o.year == d.year and peak[o.name] == peak[d.name]]
        assert d.memory_bytes_per_s == max(o.memory_bytes_per_s for o in equals)
    assert [d.year for d in found] == sorted({d.year for d in found})


def test_since_and_what_is_not_there():
    assert min(d.year for d in trends.records("gpu", "fp16", since=2020)) >= 2020
    with pytest.raises(TrendError, match="no tpu of 2040 or later has a published peak for 'bf16'"):
        trends.records("tpu", "bf16", since=2040)
    with pytest.raises(TrendError, match="no tpu of any year or later has a published peak for 'fp64'"):
        trends.records("tpu", "fp64")
    with pytest.raises(devices.DeviceError, match="there is no such kind"):
        trends.records("abacus", "fp32")


def test_devices_without_the_number_are_left_out():
    among = trends.records("gpu", "fp16")
    some = trends.of_devices(among, lambda d: None if d.year == among[0].year else d.memory_bytes_per_s)
    assert some.points == len(among) - 1


def test_the_ridge_point_grows_by_the_quotient_of_its_parts():
    among = trends.records("tpu", "bf16")
    peak = trends.of_devices(among, lambda d: d.peak_flops_per_s("bf16"))
    wide = trends.of_devices(among, lambda d: d.memory_bytes_per_s)
    ridge = trends.of_devices(among, lambda d: d.ridge_point("bf16"))
    assert ridge.a_year == pytest.approx(peak.a_year / wide.a_year)
    assert peak.low > 1


def test_what_chapter_11_says_of_the_first_device():
    """With the GPU that had no matrix unit yet the wall is shown to grow; without it, it is not."""
    ridges = [
        trends.of_devices(trends.records("gpu", "fp16", since=year), lambda d: d.ridge_point("fp16"))
        for year in (0, 2017)
    ]
    assert ridges[0].low > 1 > ridges[1].low
