"""The matrix product against float64 NumPy, by the error bound that its docstring states."""

import platform
import subprocess
import sys

import numpy as np
import pytest
from layouts import frozen, unaligned

from hwlimits.kernels import gemm
from hwlimits.kernels.gemm import COLUMNS, DEPTH, HEIGHT, LANES, MANY, ROWS, WIDTH, sgemm

# Each edge of the blocking: one less, just so, one more.
EDGES = sorted({0, 1, 2, LANES - 1, LANES, LANES + 1, ROWS - 1, ROWS, ROWS + 1, COLUMNS - 1, COLUMNS, COLUMNS + 1, 97})
LARGE = [
    (HEIGHT - 1, DEPTH + 1, 300), (HEIGHT + ROWS + 1, DEPTH, 257), (5, 2 * DEPTH + 3, WIDTH + COLUMNS + 1),
    (1, 700, 5000), (MANY, 300, 301), (MANY - 1, 300, 301), (300, 1, 300), (300, 3, 20_000), (700, 600, 1),
]  # fmt: skip


def matrices(m, k, n, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((m, k), dtype=np.float32), random.standard_normal((k, n), dtype=np.float32)


def assert_product(c, a, b):
    exact = a.astype(float) @ b.astype(float)
    bound = 2 * a.shape[1] * 2.0**-24 * (np.abs(a).astype(float) @ np.abs(b).astype(float))
    assert c.dtype == np.float32
    assert c.shape == exact.shape
    assert np.all(np.abs(c - exact) <= bound)


@pytest.mark.parametrize("m", EDGES)
def test_product_of_every_small_shape(m):
    for k in EDGES:
        for n in EDGES:
            a, b = matrices(m, k, n)
            assert_product(sgemm(a, b), a, b)


@pytest.mark.parametrize(("m", "k", "n"), LARGE)
def test_product_over_the_edges_of_the_blocks(m, k, n):
    a, b = matrices(m, k, n)
    assert_product(sgemm(a, b), a, b)


@pytest.mark.parametrize("name", gemm.STEPS)
@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 2), (3, 0, 2), (1, 1, 1), (4, 4, 4), (7, 9, 33), (65, 130, 67)])
def test_every_step_computes_the_same(name, m, k, n):
    a, b = matrices(m, k, n)
    c = np.full((m, n), np.nan, np.float32)
    gemm.STEPS[name](a, b, c)
    assert_product(c, a, b)


def test_the_bound_of_the_tests_sees_a_wrong_product():
    a, b = matrices(40, 50, 60)
    c = sgemm(a, b)
    c[39, 59] += 1e-3
    with pytest.raises(AssertionError):
        assert_product(c, a, b)


STRIDED = {
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "rows upside down": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "part of a wider matrix": lambda x: np.pad(x, 3)[3:-3, 3:-3],
    "one row for all": lambda x: np.broadcast_to(x[:1], x.shape),
    "unaligned": unaligned,
    "read-only": frozen,
}


@pytest.mark.parametrize("left", STRIDED)
@pytest.mark.parametrize("right", STRIDED)
def test_any_strides(left, right):
    a, b = matrices(35, 41, 50)
    a, b = STRIDED[left](a), STRIDED[right](b)
    assert_product(sgemm(a, b), a, b)


@pytest.mark.parametrize("how", ["transposed", "every second column", "rows upside down", "part of a wider matrix"])
def test_out_is_filled_whatever_its_strides(how):
    a, b = matrices(35, 41, 50)
    whole = np.full((35, 50), np.nan, np.float32)
    out = STRIDED[how](whole)
    assert sgemm(a, b, out) is out
    assert_product(out, a, b)


def test_infinities_and_nans_go_where_they_belong():
    a, b = matrices(ROWS + 1, 20, COLUMNS + 1)
    a[0, 0], b[3, -1] = np.nan, np.inf
    with np.errstate(invalid="ignore"):  # some of NumPy's kernels say that they met one
        expected = np.isfinite(a @ b)
    assert np.array_equal(np.isfinite(sgemm(a, b)), expected)
    assert not expected[0].any()
    assert not expected[:, -1].any()


def test_nothing_outside_the_product_is_touched():
    a, b = matrices(ROWS + 1, 5, COLUMNS + 1)
    whole = np.zeros((ROWS + 3, COLUMNS + 1), np.float32)
    sgemm(a, b, whole[1:-1])
    assert not whole[0].any()
    assert not whole[-1].any()


@pytest.mark.parametrize(
    ("a", "b", "out", "error", "said"),
    [
        (np.ones((2, 3), "f"), np.ones((2, 3), "f"), None, ValueError, "a is (2, 3) and b is (2, 3); the columns of a"),
        (np.ones((2, 3)), np.ones((3, 2), "f"), None, TypeError, "a is float64; it takes float32 arrays: a.astype"),
        (np.ones((2, 3), "f"), np.ones((3, 2), ">f4"), None, TypeError, "b is >f4"),
        ([[1.0]], np.ones((1, 1), "f"), None, TypeError, "a is list"),
        (np.ones(3, "f"), np.ones((3, 2), "f"), None, ValueError, "a has shape (3,); it takes matrices"),
        (np.ones((2, 2, 2), "f"), np.ones((2, 2), "f"), None, ValueError, "a has shape (2, 2, 2)"),
        (np.ones((2, 3), "f"), np.ones((3, 2), "f"), np.ones((3, 3), "f"), ValueError, "out is float32 (3, 3)"),
        (np.ones((2, 3), "f"), np.ones((3, 2), "f"), np.ones((2, 2)), ValueError, "out is float64 (2, 2)"),
        (np.ones((2, 3), "f"), np.ones((3, 2), "f"), frozen(np.ones((2, 2), "f")), ValueError, "a writeable float32"),
        (np.ones((2, 3), "f"), np.ones((3, 2), "f"), "C", ValueError, "out is str"),
    ],
)
def test_what_does_not_fit_is_said(a, b, out, error, said):
    with pytest.raises(error) as raised:
        sgemm(a, b, out)
    assert said in str(raised.value)


def test_out_may_not_be_one_of_the_factors():
    a, b = np.ones((2, 4, 4), np.float32)
    for out in (a, b, a[::-1]):
        with pytest.raises(ValueError, match="out shares memory with a or b"):
            sgemm(a, b, out)
        assert np.array_equal(out, np.ones((4, 4))), "and nothing was written"


FOR_ANOTHER = {
    "AVX2 and FMA": ("haswell", "+avx,+avx2,+fma,+sse4.2"),
    "SSE alone": ("generic", "+sse2"),
}


@pytest.mark.parametrize("processor", FOR_ANOTHER)
def test_code_for_an_older_processor_computes_the_same(processor):
    """What the learner's computer may have: eight or four lanes, sixteen registers, no FMA."""
    name, features = FOR_ANOTHER[processor]
    program = (
        "import os\n"
        f"os.environ |= {{'NUMBA_CPU_NAME': {name!r}, 'NUMBA_CPU_FEATURES': {features!r}}}\n"
        "import numpy as np\n"
        "from hwlimits.kernels import gemm, peak\n"
        "for m, k, n in ((48, 48, 48), (7, 300, 33), (61, 270, 300)):\n"
        "    a, b = np.ones((m, k), 'f'), np.arange(k * n, dtype='f').reshape(k, n) % 7\n"
        "    assert np.array_equal(gemm.sgemm(a, b), a @ b)\n"
        "print(gemm.LANES, gemm.ROWS, *[p for p in peak.PRECISIONS if peak.run(p, 10)])"
    )
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("code for x86")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lanes = {"AVX2 and FMA": "8", "SSE alone": "4"}[processor]
    assert done.stdout.split() == [lanes, "6", "fp32", "fp64", "int8"]
