"""Ranges against NumPy's quantiles, a search that tries everything, and TensorRT's procedure written out in loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hwlimits import calibration, quantization
from hwlimits.calibration import Histogram
from hwlimits.quantization import QuantizationError

numbers = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50)


def normal(n=3000, seed=0):
    return np.random.default_rng(seed).standard_normal(n)


def histogram_of(*batches, bins=2048):
    histogram = Histogram(bins)
    for batch in batches:
        histogram.add(batch)
    return histogram


# --- the histogram -----------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=4))
def test_counts_are_numpy_s_whatever_the_batches(batches):
    histogram = histogram_of(*batches, bins=8)
    everything = np.concatenate(batches)
    assert (histogram.low, histogram.high) == (everything.min(), everything.max())
    assert histogram.counts.sum() == everything.size
    if histogram.limit:
        assert histogram.limit >= np.abs(everything).max()
        # a number on the edge of two bins may go to either, as the sum in float64 has it
        inside = np.abs(everything[:, None] - histogram.edges).min(axis=1) > 1e-9
        if inside.all():
            expected, edges = np.histogram(everything, 16, (-histogram.limit, histogram.limit))
            np.testing.assert_array_equal(histogram.counts, expected)
            np.testing.assert_allclose(histogram.edges, edges)


def test_a_larger_number_merges_bins_in_pairs():
    first, second = normal(1000), 5.7 * normal(1000, 1)
    histogram = histogram_of(first, second)
    assert histogram.limit == np.abs(first).max() * 2 ** np.ceil(np.log2(np.abs(second).max() / np.abs(first).max()))
    expected, _ = np.histogram(np.append(first, second), 4096, (-histogram.limit, histogram.limit))
    np.testing.assert_array_equal(histogram.counts, expected)
    below = np.nextafter(np.abs(np.append(first, second)), 0)  # the first batch's limit is an edge now, and negative
    np.testing.assert_array_equal(histogram.magnitudes, np.histogram(below, 2048, (0, histogram.limit))[0])


def test_zeros_before_the_first_other_number_are_counted_as_zeros():
    histogram = histogram_of(np.zeros(3), np.zeros(2), [4.0], [], bins=4)
    assert histogram.counts.tolist() == [0, 0, 0, 0, 5, 0, 0, 1]


# --- ranges ------------------------------------------------------------------------------------


def test_min_max_is_numpy_s():
    x = normal(60).reshape(3, 4, 5)
    assert calibration.min_max(x) == (x.min(), x.max())
    assert calibration.min_max(histogram_of(x[0], x[1], x[2])) == (x.min(), x.max())
    for axis, others in ((0, (1, 2)), (1, (0, 2)), (-1, (0, 1))):
        low, high = calibration.min_max(x, axis)
        np.testing.assert_array_equal(low, x.min(axis=others))
        np.testing.assert_array_equal(high, x.max(axis=others))


@pytest.mark.parametrize("percent", [50, 90, 99, 99.9, 100])
def test_percentile_is_numpy_s_and_the_histogram_s_holds_as_many(percent):
    x = normal()
    low, high = calibration.percentile(x, percent)
    expected = np.percentile(x, [(100 - percent) / 2, 100 - (100 - percent) / 2])
    np.testing.assert_allclose([low, high], expected)
    histogram = histogram_of(x, bins=256)
    wide = calibration.percentile(histogram, percent)
    width = histogram.limit / 256
    assert np.mean((x >= wide[0]) & (x <= wide[1])) >= percent / 100
    tail = (100 - percent) / 200  # within the bin where the count passes
    assert np.mean(x < wide[0]) <= tail <= np.mean(x < wide[0] + 1.001 * width)
    assert np.mean(x > wide[1]) <= tail <= np.mean(x > wide[1] - 1.001 * width)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_least_square_error_is_found(bits, symmetric):
    x = np.append(normal(1000), [9.0, -7.0])
    low, high = calibration.mean_square_error(x, bits, symmetric=symmetric)

    def error(share):
        """Rounding and clipping written out, without the functions that the search uses."""
        a, b = x.min() * share, x.max() * share
        if symmetric:
            step = max(-a, b) / (2 ** (bits - 1) - 1)
            codes = np.clip(np.round(x / step), 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
            return np.mean((codes * step - x) ** 2)
        step = (b - a) / (2**bits - 1)
        zero = np.round(-a / step)
        return np.mean(((np.clip(np.round(x / step) + zero, 0, 2**bits - 1) - zero) * step - x) ** 2)

    errors = [error(k / 100) for k in range(1, 101)]
    best = 1 + int(np.argmin(errors))
    np.testing.assert_allclose([low, high], [x.min() * best / 100, x.max() * best / 100])
    coarse = calibration.mean_square_error(histogram_of(x), bits, symmetric=symmetric)
    np.testing.assert_allclose(coarse, (low, high), rtol=0.1)


def by_tensorrt(histogram, codes):
    """Migacz's slides, bin by bin: the number of bins kept."""
    counts = histogram.magnitudes.astype(float)
    counts[0] = counts[1]
    divergences = {}
    for kept in range(codes, histogram.bins + 1):
        p = counts[:kept].copy()
        p[kept - 1] += counts[kept:].sum()
        q = np.zeros(kept)
        groups = [[i for i in range(kept) if i * codes // kept == c] for c in range(codes)]
        for group in groups:
            filled = [i for i in group if counts[i] > 0]
            for i in filled:
                q[i] = sum(counts[j] for j in filled) / len(filled)
        q[q == 0] = 1e-4
        divergences[kept] = stats.entropy(p, q)
    least = min(divergences.values())
    return max(kept for kept, d in divergences.items() if d <= least * (1 + 1e-12) + 1e-15)


@pytest.mark.parametrize(
    ("x", "bits"),
    [
        (normal(), 3), (normal(), 4), (np.append(normal(), [30.0, -31.0]), 4),
        (np.maximum(normal(), 0), 3), (np.abs(normal()) ** 3, 4), (np.random.default_rng(0).uniform(-1, 1, 2000), 4),
    ],
)  # fmt: skip
def test_entropy_is_tensorrt_s_procedure(x, bits):
    histogram = histogram_of(x, bins=128)
    signed = x.min() < 0
    t = by_tensorrt(histogram, 2 ** (bits - signed)) * histogram.limit / 128
    assert calibration.entropy(histogram, bits) == (-t if signed else 0, t)


def test_an_outlier_is_left_out_by_all_but_min_max():
    x = np.append(normal(20_000), 100.0)
    assert calibration.min_max(x)[1] == 100
    for find in (calibration.percentile, calibration.entropy):
        assert find(x)[1] < 8
    assert calibration.mean_square_error(x, 4)[1] < 100
    assert calibration.entropy(x) == calibration.entropy(histogram_of(x))


def test_ranges_lead_to_less_error_at_few_bits():
    """What calibration is for: at 3 bits the widest range wastes most codes on a tail."""
    x = normal(20_000)
    ranges = calibration.min_max(x), calibration.mean_square_error(x, 3)
    widest, best = (quantization.sqnr_db(x, quantization.fake_quantize(x, quantization.affine(*r, 3))) for r in ranges)
    assert best > widest + 1  # decibels


@pytest.mark.parametrize("x", [[0.0, 0.0], [3.0], [-2.0, -1.0], [1e-30, 2e-30]])
def test_every_answer_is_a_range_that_affine_takes(x):
    for find in (calibration.min_max, calibration.percentile, calibration.mean_square_error, calibration.entropy):
        low, high = find(x)
        assert low <= high
        assert quantization.affine(low, high).scale > 0


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: calibration.min_max([]), "min_max: there are no numbers to take a range from"),
        (lambda: calibration.min_max([], axis=0), "min_max: there are no numbers"),
        (lambda: calibration.min_max(Histogram()), "min_max: there are no numbers"),
        (lambda: calibration.percentile([]), "percentile: there are no numbers"),
        (lambda: calibration.mean_square_error([]), "mean_square_error: there are no numbers"),
        (lambda: calibration.entropy(Histogram()), "entropy: there are no numbers"),
        (lambda: calibration.min_max([np.nan, 1.0]), "1 of 2 numbers are NaN or infinite"),
        (lambda: Histogram().add([np.inf]), "Histogram.add: 1 of 1 numbers are NaN or infinite"),
        (lambda: Histogram(5), "Histogram(bins=5): bins merge in pairs"),
        (lambda: calibration.percentile([1.0], 0), "percentile(percent=0): it is above 0 and at most 100"),
        (lambda: calibration.percentile([1.0], 101), "at most 100"),
        (lambda: calibration.entropy([1.0], 1), "entropy(bits=1): choose a whole number from 2 to 16"),
        (lambda: calibration.entropy(histogram_of([-1.0], bins=128)), "of 128 bins can't tell 128 codes apart"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, said):
    with pytest.raises(QuantizationError) as caught:
        call()
    assert said in str(caught.value)
