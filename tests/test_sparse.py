"""Sparse matrices against scipy.sparse, and their product with a vector against float64."""

import numpy as np
import pytest
import scipy.sparse
from layouts import frozen, unaligned

from hwlimits.kernels.sparse import BLOCKS, compress, matvec


def matrix(rows, columns, density, seed=0):
    random = np.random.default_rng(seed)
    dense = random.standard_normal((rows, columns), dtype=np.float32)
    return np.where(random.random((rows, columns)) < density, dense, np.float32(0))


def vector(size, seed=1):
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def assert_product(y, a, x):
    terms = a.astype(float) * x.astype(float)
    bound = 2 * a.shape[1] * 2.0**-24 * np.abs(terms).sum(axis=1)
    assert y.dtype == np.float32
    assert y.shape == (a.shape[0],)
    assert np.all(np.abs(y - terms.sum(axis=1)) <= bound)


@pytest.mark.parametrize("density", [0, 0.05, 0.3, 1])
@pytest.mark.parametrize("shape", [(16, 1), (16, 7), (48, 33), (112, 64)])
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_those_of_scipy(block, shape, density):
    a = matrix(*shape, density)
    found, theirs = compress(a, block), scipy.sparse.csr_matrix(a).tobsr((block, 1))
    theirs.sort_indices()
    assert np.array_equal(found.starts, theirs.indptr)
    assert np.array_equal(found.columns, theirs.indices)
    assert np.array_equal(found.values, theirs.data.ravel())
    assert (found.shape, found.block) == (shape, block)
    assert found.density == pytest.approx(theirs.data.size / a.size)
    place = np.uint16 if block == 1 else np.int32
    assert [x.dtype for x in (found.values, found.columns, found.starts)] == [np.float32, place, np.int64]
    places = (2 if block == 1 else 4) * len(theirs.indices)
    assert found.nbytes == 4 * theirs.data.size + places + 8 * len(theirs.indptr)


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_stored_makes_the_matrix_again(block):
    a = matrix(3 * block, 11, 0.2)
    rows, again = compress(a, block), np.zeros_like(a)
    for b in range(3):
        for i in range(rows.starts[b], rows.starts[b + 1]):
            again[b * block : (b + 1) * block, rows.columns[i]] = rows.values[i * block : (i + 1) * block]
    assert np.array_equal(again, a)


@pytest.mark.parametrize("block", BLOCKS)
def test_rows_of_every_short_length(block):
    """The sum is cut into chains: each number of nonzeros that a chain can be left with, the columns in any place."""
    random, columns = np.random.default_rng(2), 40
    lengths = [*range(10), *range(9, -1, -1), 33, 0, 16]
    a = np.zeros((len(lengths) * block, columns), np.float32)
    for b, length in enumerate(lengths):
        places = random.permutation(columns)[:length]
        a[b * block : (b + 1) * block, places] = random.standard_normal((block, length))
    assert_product(matvec(compress(a, block), x := vector(columns)), a, x)


@pytest.mark.parametrize("shape", [(0, 5), (16, 0), (0, 0), (16, 1), (64, 3), (16, 1000), (1600, 20)])
@pytest.mark.parametrize("density", [0, 0.1, 1])
@pytest.mark.parametrize("block", BLOCKS)
def test_product_of_every_shape(block, density, shape):
    a, x = matrix(*shape, density), vector(shape[1])
    y = matvec(compress(a, block), x)
    assert_product(y, a, x)
    if density == 0:
        assert np.array_equal(y, np.zeros(shape[0]))


@pytest.mark.parametrize("columns", [2**15 + 1, 2**16, 2**16 + 1])
@pytest.mark.parametrize("block", BLOCKS)
def test_places_as_far_away_as_their_type_goes(block, columns):
    a, x = matrix(2 * block, columns, 0.001), vector(columns)
    a[:, [0, -1]] = 1
    rows = compress(a, block)
    assert rows.columns.max() == columns - 1
    assert rows.columns.dtype == (np.uint16 if block == 1 and columns <= 2**16 else np.int32)
    assert_product(matvec(rows, x), a, x)


def test_the_bound_of_the_tests_sees_a_wrong_product():
    a, x = matrix(40, 50, 0.3), vector(50)
    y = matvec(compress(a), x)
    y[39] += 1e-4
    with pytest.raises(AssertionError):
        assert_product(y, a, x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block", BLOCKS)
def test_nan_and_infinity_come_through_where_they_are_used_and_nowhere_else(block, bad):
    a = matrix(4 * block, 30, 0.2)
    a[:, 7], a[0, 7], a[3 * block, 7] = 0, 2, 3
    x = vector(30)
    x[7] = bad
    y = matvec(compress(a, block), x)
    used = np.zeros(4 * block, bool)
    used[:block] = used[3 * block :] = True  # a block that is not all zero is multiplied as a whole
    assert np.array_equal(np.isfinite(y), ~used)
    assert y[0] == bad or np.isnan(bad)
    weights = matrix(2 * block, 6, 1)
    weights[block, 3] = bad
    kept = compress(weights, block)
    assert np.sum(~np.isfinite(kept.values)) == 1
    assert np.flatnonzero(~np.isfinite(matvec(kept, vector(6)))).tolist() == [block]


HOW = {
    "every second": lambda x: np.repeat(x, 2)[::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "the same for all": lambda x: np.broadcast_to(x[:1], x.shape),
    "unaligned": unaligned,
    "read-only": frozen,
}


@pytest.mark.parametrize("how", HOW)
def test_any_strides_of_the_vector(how):
    a, x = matrix(64, 50, 0.2), HOW[how](vector(50))
    before = x.copy()
    assert_product(matvec(compress(a, 4), x), a, x)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("how", ["transposed", "every second row", "read-only"])
def test_any_strides_of_the_matrix(how):
    a = matrix(48, 20, 0.3)
    a = {"transposed": np.asfortranarray(a), "every second row": np.repeat(a, 2, 0)[::2], "read-only": frozen(a)}[how]
    for block in BLOCKS:
        assert_product(matvec(compress(a, block), x := vector(20)), a, x)


def test_nothing_is_changed_and_nothing_shared():
    a = matrix(16, 8, 1)
    rows, before = compress(a, 16), a.copy()
    rows.values[:] = 0
    assert np.array_equal(a, before)


ONES = np.ones((6, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: compress(np.ones((2, 2))), TypeError,
         "compress: matrix is float64; it takes float32 arrays: matrix.astype(np.float32)"),
        (lambda: compress([[1.0]]), TypeError, "compress: matrix is list; it takes float32 arrays"),
        (lambda: compress(np.ones(3, "f")), ValueError, "compress: an array of shape (3,); it takes a matrix"),
        (lambda: compress(np.broadcast_to(np.float32(1), (2**16, 2**15))), ValueError, "of less than 2**31 elements"),
        (lambda: compress(ONES, 3), ValueError,
         "compress(block=3) of 6 rows: a block has 1, 2, 4, 8, 16 rows, and the rows of the matrix are a multiple"),
        (lambda: compress(ONES, 4), ValueError, "compress(block=4) of 6 rows: a block has"),
        (lambda: matvec(compress(ONES), np.ones(4)), TypeError, "matvec: x is float64; it takes float32 arrays"),
        (lambda: matvec(compress(ONES), [1.0] * 4), TypeError, "matvec: x is list; it takes float32 arrays"),
        (lambda: matvec(compress(ONES), np.ones(6, "f")), ValueError,
         "matvec: the matrix is (6, 4) and x is (6,); x must be (4,)"),
        (lambda: matvec(compress(ONES), np.ones((4, 1), "f")), ValueError, "and x is (4, 1); x must be (4,)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(call, error, said):
    with pytest.raises(error) as raised:
        call()
    assert said in str(raised.value)
