"""STREAM's loops against NumPy, and what they refuse."""

import numpy as np
import pytest

from hwlimits.kernels import stream

EXPECTED = {
    "copy": lambda a, b, s: a,
    "scale": lambda a, b, s: a.dtype.type(s) * a,
    "add": lambda a, b, s: a + b,
    "triad": lambda a, b, s: a + a.dtype.type(s) * b,
}


def run(name, a, b, s, out):
    arguments = {"copy": (a,), "scale": (a, s), "add": (a, b), "triad": (a, b, s)}[name]
    return getattr(stream, name)(*arguments, out)


@pytest.mark.parametrize("name", stream.LOOPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [0, 1, 7, 1000, (3, 5), (2, 3, 17)])
def test_a_loop_does_what_numpy_does(name, dtype, shape):
    a, b = np.random.default_rng(0).standard_normal((2, *np.atleast_1d(shape))).astype(dtype)
    out = np.full_like(a, np.nan)
    assert run(name, a, b, 3, out) is out
    expected = EXPECTED[name](a, b, 3)
    # a multiply and an add may be one instruction that rounds once
    np.testing.assert_array_max_ulp(out, expected, maxulp=0 if name != "triad" else 2**10)
    np.testing.assert_allclose(out, expected, rtol=1e-4 if dtype == np.float32 else 1e-12, atol=1e-6)


@pytest.mark.parametrize("name", stream.LOOPS)
def test_in_place_is_allowed_and_overlap_is_not(name):
    a, b = np.arange(8.0), np.ones(8)
    expected = EXPECTED[name](a, b, 3)
    assert np.array_equal(run(name, a.copy(), b, 3, a), expected)
    a = np.arange(8.0)
    assert np.array_equal(run(name, a, b, 3, a), expected)
    a = np.arange(8.0)
    assert np.array_equal(run(name, a, b, 3, a[:]), expected), "a view of all of it is the same array"
    line = np.arange(9.0)
    with pytest.raises(ValueError, match=f"{name}: out overlaps a; the loop would read what it has just written"):
        run(name, line[:-1], b, 3, line[1:])
    assert np.array_equal(line, np.arange(9.0))


@pytest.mark.parametrize(
    ("a", "out", "error", "said"),
    [
        (np.ones(3, int), np.ones(3), TypeError, "copy: a is int64; it takes float32 or float64 arrays"),
        ([1.0], np.ones(1), TypeError, "copy: a is list"),
        (np.ones(3), None, TypeError, "copy: out is NoneType"),
        (np.ones(3), np.ones(4), ValueError, "copy: a is float64 (3,), out is float64 (4,); they must be alike"),
        (np.ones(3, "f"), np.ones(3), ValueError, "a is float32 (3,), out is float64 (3,)"),
        (np.ones(6)[::2], np.ones(3), ValueError, "a is not contiguous (strides (16,))"),
        (np.ones((2, 3)).T, np.ones((3, 2)), ValueError, "np.ascontiguousarray copies it"),
        (np.ones(3), np.broadcast_to(1.0, 3), ValueError, "out is not contiguous"),
        (np.ones(1), np.frombuffer(bytes(8)), ValueError, "out is read-only"),
    ],
)
def test_what_does_not_fit_is_said(a, out, error, said):
    with pytest.raises(error) as raised:
        stream.copy(a, out)
    assert said in str(raised.value)
