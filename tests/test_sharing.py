"""Shared weights against the best there are (dynamic programming), uniform quantization, and Lloyd's two conditions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits import quantization
from hwlimits.sharing import STARTS, SharingError, share

starts = pytest.mark.parametrize("start", STARTS)
some_weights = st.lists(
    st.floats(-10, 10, width=32) | st.sampled_from([0.0, 1.0, -1.0, 0.5]), min_size=1, max_size=60
)  # fmt: skip


def squared_error(weights, shared):
    return float(np.sum((np.asarray(weights, np.float64) - shared.weights) ** 2))


def best_error(weights, k):
    """The least squared error of k groups on a line, from the least errors of k - 1 groups of fewer weights."""
    line = np.sort(weights)
    n = line.size
    cost = [[float(np.sum((line[i:j] - line[i:j].mean()) ** 2)) if j > i else 0.0 for j in range(n + 1)]
            for i in range(n + 1)]  # fmt: skip
    best = cost[0]
    for _ in range(k - 1):
        best = [min(best[i] + cost[i][j] for i in range(j + 1)) for j in range(n + 1)]
    return best[n]


def brute_error(weights, k):
    """The same by every way to cut the line."""
    line = np.sort(weights)
    cuts = itertools.combinations(range(1, line.size), k - 1)
    parts = (np.split(line, c) for c in cuts)
    return min(sum(float(np.sum((p - p.mean()) ** 2)) for p in part) for part in parts)


def test_the_reference_is_the_best_of_all_cuts():
    weights = np.random.default_rng(0).normal(size=9)
    for k in (1, 2, 3, 4):
        assert best_error(weights, k) == pytest.approx(brute_error(weights, k))


@starts
@pytest.mark.parametrize("k", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_the_error_is_the_best_or_not_far_above(start, k, seed):
    weights = np.random.default_rng(seed).normal(size=60)
    best, found = best_error(weights, k), squared_error(weights, share(weights, k, start=start))
    # the density start has few values in the tails, where most of the error is, and stays in such an optimum
    assert best * (1 - 1e-9) <= found <= {"linear": 1.6, "density": 2.5}[start] * best


@starts
def test_groups_far_apart_are_found_exactly(start):
    weights = np.concatenate([c + np.random.default_rng(0).uniform(-1, 1, 20) for c in (-100, -30, 40, 110)])
    assert squared_error(weights, share(weights, 4, start=start)) == pytest.approx(best_error(weights, 4))


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_linear_start_is_no_worse_than_uniform_quantization_of_as_many_codes(bits, seed):
    weights = np.random.default_rng(seed).normal(size=5000)
    uniform = quantization.fake_quantize(weights, quantization.affine(weights.min(), weights.max(), bits))
    even = np.linspace(weights.min(), weights.max(), 2**bits)
    nearest = even[np.abs(weights[:, None] - even).argmin(axis=1)]
    found = squared_error(weights, share(weights, 2**bits))
    assert found <= np.sum((weights - nearest) ** 2)
    assert found <= np.sum((weights - uniform) ** 2)


@starts
@settings(deadline=None)
@given(weights=some_weights, values=st.integers(2, 9))
def test_every_weight_has_the_nearest_value_and_every_value_is_the_mean_of_its_weights(start, weights, values):
    weights = np.array(weights)
    shared = share(weights, values, start=start)
    kept = weights != 0
    book = shared.codebook[1:] if not kept.all() else shared.codebook
    assert shared.codebook.size <= values
    assert np.array_equal(shared.weights == 0, ~kept) or np.any(book == 0)
    assert not shared.weights[~kept].any()
    assert np.array_equal(book, np.sort(book))
    assert set(shared.codes.tolist()) == set(range(shared.codebook.size)), "no value without weights"
    if kept.any():
        nearest = np.abs(weights[kept, None] - book).min(axis=1)
        assert np.allclose(np.abs(weights - shared.weights)[kept], nearest, atol=1e-9)
        for code in np.unique(shared.codes[kept]):
            mine = weights[kept & (shared.codes == code)]
            assert shared.codebook[code] == pytest.approx(mine.mean(), abs=1e-9)


@starts
@settings(deadline=None)
@given(weights=some_weights)
def test_enough_values_are_exact(start, weights):
    shared = share(weights, 64, start=start)
    assert np.array_equal(shared.weights, weights)
    assert shared.codebook.size == np.unique(weights).size


@starts
def test_values_that_lose_their_weights_begin_again(start):
    # an outlier stretches the linear start, and equal weights those of the density start, over nothing
    weights = np.concatenate([np.full(500, 0.5), np.random.default_rng(0).normal(size=100) / 100, [1000.0]])
    shared = share(weights, 16, start=start)
    assert shared.codebook.size == 16
    assert np.bincount(shared.codes).min() > 0
    assert squared_error(weights, shared) < 0.05 * squared_error(weights, share(weights, 3, start=start))


@starts
def test_weights_with_nothing_between_them_end(start):
    near = 1.0 + np.arange(5) * np.finfo(float).eps
    tiny = np.array([1.0, 1e-200, 2e-200, 3e-200, 4e-200, 5e-200])
    for weights in (near, tiny, -near):
        shared = share(weights, 4, start=start)
        assert 1 <= shared.codebook.size <= 4
        assert np.allclose(shared.weights, weights, rtol=0, atol=1e-15)


@starts
def test_zeros_have_a_code_of_their_own_and_the_shape_stays(start):
    weights = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    weights[np.abs(weights) < 0.7] = 0
    shared = share(weights, 16, start=start)
    assert shared.codes.shape == (20, 30)
    assert shared.codes.dtype == np.uint8
    assert shared.codebook.size == 16
    assert np.array_equal(shared.codes == 0, weights == 0)
    assert np.array_equal(shared.weights == 0, weights == 0)
    assert np.array_equal(share(weights, 16, start=start).codes, shared.codes)
    assert share(weights, 300, start=start).codes.dtype == np.uint16


def test_all_zeros_are_one_value():
    shared = share(np.zeros((2, 3)), 4)
    assert shared.codebook.tolist() == [0.0]
    assert shared.weights.shape == (2, 3)
    assert shared.packed_bytes == 4, "no bit for a code, four bytes for the value"


def test_packed_bytes_are_deep_compression_s_example():
    # its figure 3: 16 weights of 32 bits, 4 values: 64 bytes become 4 + 16, a rate of 3.2
    shared = share(np.random.default_rng(0).normal(size=(4, 4)), 4)
    assert shared.packed_bytes == 20


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: share([], 4), r"share: weights of shape \(0,\) must be some, and numbers below 1e\+100"),
        (lambda: share([np.nan], 4), r"share: weights of shape \(1,\) must be some, and numbers below"),
        (lambda: share([1.0, -np.inf], 4), "must be some, and numbers below"),
        (lambda: share([1.0], 4, start="random"), r"share\(start='random'\): choose from linear, density"),
        (lambda: share([1.0], 0), r"share\(values=0\): must be a whole number from 1 to 65,536 for these weights$"),
        (lambda: share([1.0, 0.0], 1), r"share\(values=1\): must be a whole number from 2 .* with one for 0"),
        (lambda: share([1.0], 2.5), r"share\(values=2.5\): must be a whole number"),
        (lambda: share([1.0], True), r"share\(values=True\): must be a whole number"),
        (lambda: share([1.0], 65537), r"share\(values=65537\): must be a whole number"),
    ],
)
def test_errors(call, said):
    with pytest.raises(SharingError, match=said):
        call()


def entries(weights, index_bits):
    """Deep Compression's list by walking along the weights: (zeros before, weight), fillers being weights of 0."""
    most, found, zeros = 2**index_bits - 1, [], 0
    for weight in weights:
        if weight or zeros == most:
            found.append((zeros, weight))
            zeros = 0
        else:
            zeros += 1
    while found and not found[-1][1]:  # nothing comes after these fillers
        found.pop()
    return found


@pytest.mark.parametrize("index_bits", [1, 2, 4, 8])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.7, 1.0])
def test_indexed_bytes_are_those_of_the_list_that_is_walked(index_bits, density):
    rng = np.random.default_rng(int(100 * density) + index_bits)
    weights = rng.choice([-2.0, 1.0, 4.0], 1000) * (rng.random(1000) < density)
    shared = share(weights, 4)
    listed = entries(weights, index_bits)
    filler = any(weight == 0 for _, weight in listed)
    bits = len(listed) * (index_bits + (2 if filler else (3 - 1).bit_length()))
    assert shared.indexed_bytes(index_bits) == -(-bits // 8) + 4 * 3
    back = [v for zeros, weight in listed for v in [0.0] * zeros + [weight]]
    assert np.array_equal(np.pad(back, (0, 1000 - len(back))), weights), "the list holds the weights"


def test_a_run_of_zeros_that_the_index_just_counts_needs_no_filler():
    assert share([0.0] * 3 + [5.0], 2).indexed_bytes(2) == 1 + 4
    assert share([0.0] * 4 + [5.0], 2).indexed_bytes(2) == 1 + 4  # two entries of 2 + 1 bits
    assert share([0.0] * 8 + [5.0], 2).indexed_bytes(2) == 2 + 4, "two fillers: nine bits"


def test_nothing_but_zeros_takes_no_byte():
    assert share([0.0, 0.0], 1).indexed_bytes(4) == 0


@pytest.mark.parametrize("bits", [0, 64, 2.0, True])
def test_an_index_of_no_bits_is_refused(bits):
    with pytest.raises(SharingError, match=r"indexed_bytes\(index_bits=.*\): must be a whole number from 1 to 63"):
        share([1.0], 1).indexed_bytes(bits)
