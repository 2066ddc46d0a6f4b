"""Every kernel for the GPU, in numba's simulator, against NumPy."""

import os
import subprocess
import sys

import numpy as np
import pytest

from hwlimits.kernels import cuda, cuda_conv, cuda_device, cuda_gemm, cuda_peak, gpu_bench, gpu_tools

UNIT = 2.0**-24
random = np.random.default_rng(0)


def numbers(*shape):
    return random.standard_normal(shape, dtype=np.float32)


def test_packages_that_do_not_fit_each_other_are_told_apart_from_a_kernel_s_fault():
    def old(module):
        assert module == "numba.cuda.np.arrayobj"
        raise AttributeError("module 'numpy' has no attribute 'row_stack'")

    with pytest.raises(ImportError, match=r"numpy [\d.]+ do not fit .*row_stack.*pip install 'numpy<2.5'"):
        cuda_device.check_packages(old)
    cuda_device.check_packages(lambda module: None)

    def elsewhere(module):
        raise ModuleNotFoundError(module)

    cuda_device.check_packages(elsewhere)


def test_the_tests_run_in_the_simulator_and_say_so():
    assert cuda_device.SIMULATED
    assert not cuda_device.available()
    assert cuda_device.why_not().startswith(("No NVIDIA GPU here", "NUMBA_ENABLE_CUDASIM=1 asks for the simulator"))


@pytest.mark.parametrize("size", [1, 3, 66, 131])
def test_copy_and_triad(size):
    a, b = numbers(size), numbers(size)
    for stage in cuda.COPY:
        assert np.array_equal(cuda.copy(a, stage), a)
    for stage in cuda.TRIAD:
        exact = a.astype(float) + 0.75 * b
        assert np.all(np.abs(cuda.triad(a, b, 0.75, stage) - exact) <= 2 * UNIT * (np.abs(a) + np.abs(b)))


@pytest.mark.parametrize("shape", [(3, 5), (1, 36), (9, 4)])
def test_bias_and_relu(shape):
    x, bias = numbers(*shape), numbers(shape[1])
    for stage in cuda.BIAS_RELU:
        assert np.array_equal(cuda.bias_relu(x, bias, stage), np.maximum(x + bias, 0))


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (8, 4)])
def test_transpose(shape):
    a = numbers(*shape)
    for stage in cuda.TRANSPOSE:
        assert np.array_equal(cuda.transpose(a, stage), a.T)


@pytest.mark.parametrize(("stage", "size"), [("interleaved", 130), ("sequential", 130), ("shuffles", 2071)])
def test_total_over_one_pass_and_two(stage, size):
    for a in (numbers(size), numbers(7)):
        bound = (np.log2(a.size) + 4 * cuda.LOADS) * UNIT * np.abs(a).sum(dtype=float)
        assert abs(cuda.total(a, stage) - a.sum(dtype=float)) <= bound


@pytest.mark.parametrize("stage", cuda_gemm.STAGES)
@pytest.mark.parametrize(("m", "k", "n"), [(5, 7, 6), (17, 9, 18), (16, 16, 32)])
def test_product(stage, m, k, n):
    if stage == "shared_tiles" and m > 5:
        m, k, n = 4, 8, 4  # it waits for its threads so often that the simulator takes seconds for more
    a, b = numbers(m, k), numbers(k, n)
    bound = 2 * k * UNIT * (np.abs(a).astype(float) @ np.abs(b).astype(float))
    assert np.all(np.abs(cuda_gemm.sgemm(a, b, stage) - a.astype(float) @ b.astype(float)) <= bound)


@pytest.mark.parametrize("stage", cuda_gemm.INT8_STAGES)
def test_int8_product_is_exact(stage):
    a, b = random.integers(-128, 128, (17, 35), dtype=np.int8), random.integers(-128, 128, (5, 35), dtype=np.int8)
    a[0], b[0] = -128, -128
    assert np.array_equal(cuda_gemm.int8_product(a, b, stage), a.astype(int) @ b.astype(int).T)


@pytest.mark.parametrize("stage", cuda_conv.STAGES)
@pytest.mark.parametrize(
    ("shape", "edge", "filters"), [((2, 5, 6, 3), 3, 4), ((1, 4, 4, 1), 2, 5), ((1, 3, 3, 2), 3, 1)]
)
def test_convolution(stage, shape, edge, filters):
    x, weights, bias = numbers(*shape), numbers(edge, edge, shape[3], filters), numbers(filters)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(float), (edge, edge), (1, 2))
    exact = np.maximum(np.einsum("nhwcij,ijcf->nhwf", windows, weights.astype(float)) + bias, 0)
    found = cuda_conv.conv2d(x, weights, bias, stage)
    assert found.shape == exact.shape
    assert np.allclose(found, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


FLOAT, MATRIX = np.ones(3, np.float32), np.ones((2, 3), np.float32)
IMAGE, WEIGHTS = np.ones((1, 4, 4, 1), np.float32), np.ones((3, 3, 1, 2), np.float32)
LARGE = np.ones((1, 113, 113, 1), np.float32)
ERRORS = [
    (lambda: cuda.copy(np.ones(3)), TypeError, "copy: a is float64; it takes float32 arrays: a.astype(np.float32)"),
    (lambda: cuda.copy(MATRIX), ValueError, "copy: a has shape (2, 3); it takes a flat array: a.ravel()"),
    (lambda: cuda.copy(FLOAT[:0]), ValueError, "copy: the array is empty; a GPU starts no kernel for nothing"),
    (lambda: cuda.copy(FLOAT, "fast"), ValueError,
     "copy: there is no stage 'fast'; choose one of strided, coalesced, vector"),
    (lambda: cuda.triad(FLOAT, FLOAT[:2], 1), ValueError,
     "triad: a has 3 elements and b has 2; they must have as many"),
    (lambda: cuda.bias_relu(MATRIX, FLOAT[:2]), ValueError,
     "bias_relu: x is (2, 3) and bias has 2 elements; it must have one a column"),
    (lambda: cuda.transpose(FLOAT), ValueError, "transpose: a has shape (3,); it takes matrices, with two dimensions"),
    (lambda: cuda.total(FLOAT[:0]), ValueError, "total: the array is empty; a GPU starts no kernel for nothing"),
    (lambda: cuda.total(FLOAT, "tree"), ValueError,
     "total: there is no stage 'tree'; choose one of interleaved, sequential, shuffles"),
    (lambda: cuda_gemm.sgemm(MATRIX, MATRIX), ValueError,
     "sgemm: a is (2, 3) and b is (2, 3); both must have the same number of factors"),
    (lambda: cuda_gemm.sgemm(MATRIX, MATRIX.T, "tensor"), ValueError,
     "sgemm: there is no stage 'tensor'; choose one of naive, shared_tiles, register_tiles, vector_tiles"),
    (lambda: cuda_gemm.sgemm(MATRIX[:0], MATRIX.T), ValueError,
     "sgemm: a is (0, 3) and b is (3, 2); a GPU starts no kernel for an empty matrix"),
    (lambda: cuda_gemm.int8_product(MATRIX, MATRIX), TypeError, "int8_product: a is float32; it takes int8 arrays"),
    (lambda: cuda_gemm.int8_product(*np.zeros((2, 1, 131_072), np.int8)), ValueError,
     "int8_product: 131,072 factors a sum; more than 131,071 products may not fit int32: split k and add the "
     "products in int64"),
    (lambda: cuda_conv.conv2d(IMAGE, WEIGHTS, FLOAT), ValueError,
     "conv2d: bias is (3,); it must have one element for each of 2 filters"),
    (lambda: cuda_conv.conv2d(IMAGE, WEIGHTS, FLOAT[:2], "winograd"), ValueError,
     "conv2d: there is no stage 'winograd'; choose one of direct, rows"),
    (lambda: cuda_conv.conv2d(IMAGE[:, :2], WEIGHTS, FLOAT[:2]), ValueError,
     "conv2d: x is (1, 2, 4, 1) and weights are (3, 3, 1, 2); no output is left of it"),
    (lambda: cuda_conv.conv2d(IMAGE[0], WEIGHTS, FLOAT[:2]), ValueError,
     "conv2d: x is (4, 4, 1) and weights are (3, 3, 1, 2); it takes x (images, height, width, channels) "
     "and weights (edge, edge, channels, filters)"),
    (lambda: cuda_conv.conv2d(LARGE, WEIGHTS, FLOAT[:2]), ValueError,
     "conv2d: an image has 51,076 bytes and shared memory 49,152; use stage='direct'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "says"), ERRORS)
def test_a_wrong_argument_is_refused_in_one_sentence(call, kind, says):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == says


LIMITED = [  # with one block along the grid's second axis
    (lambda: cuda.transpose(np.ones((5, 1), np.float32)), "transpose: there are 5 rows", "1 blocks of 4, 4 rows"),
    (lambda: cuda.bias_relu(np.ones((1, 129), np.float32), np.ones(129, np.float32)),
     "bias_relu: there are 129 columns", "1 blocks of 32, 32 columns"),
    (lambda: cuda.bias_relu(np.ones((1, 132), np.float32), np.ones(132, np.float32)),
     "bias_relu: there are 132 columns", "1 blocks of 128, 128 columns"),
    (lambda: cuda.bias_relu(np.ones((1, 36), np.float32), np.ones(36, np.float32), "two_kernels"),
     "bias_relu: there are 36 columns", "1 blocks of 32, 32 columns"),
    (lambda: cuda_gemm.sgemm(np.ones((5, 1), np.float32), FLOAT[None], "naive"), "sgemm: there are 5 rows",
     "1 blocks of 4, 4 rows"),
    (lambda: cuda_gemm.sgemm(np.ones((17, 1), np.float32), FLOAT[None]), "sgemm: there are 17 rows",
     "1 blocks of 16, 16 rows"),
    (lambda: cuda_gemm.int8_product(np.ones((17, 1), np.int8), np.ones((1, 1), np.int8)),
     "int8_product: there are 17 rows", "1 blocks of 16, 16 rows"),
    (lambda: cuda_conv.conv2d(np.ones((1, 12, 14, 1), np.float32), np.ones((1, 1, 1, 2), np.float32), FLOAT[:2],
                              "direct"), "conv2d: there are 336 outputs an image", "1 blocks of 256, 256 outputs"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "what", "most"), LIMITED)
def test_what_does_not_fit_on_the_second_axis_of_a_grid_is_refused(call, what, most, monkeypatch):
    assert cuda_device.GRID_Y_MOST == 65_535
    monkeypatch.setattr(cuda_device, "GRID_Y_MOST", 1)
    with pytest.raises(ValueError, match=f"^{what}.*, and a GPU's grid holds {most}.*; split them into several calls$"):
        call()


def test_what_just_fits_on_that_axis_is_done(monkeypatch):
    monkeypatch.setattr(cuda_device, "GRID_Y_MOST", 1)
    a = numbers(4, 3)
    assert np.array_equal(cuda.transpose(a), a.T)
    assert np.array_equal(cuda.bias_relu(numbers(1, 32) * 0, FLOAT[:1].repeat(32), "fused"), np.ones((1, 32)))
    assert np.array_equal(cuda_gemm.sgemm(a, np.eye(3, dtype=np.float32), "naive"), a)


def test_int8_sums_may_be_as_deep_as_int32_allows_and_no_deeper():
    assert cuda_gemm.INT8_DEEPEST * 128**2 < 2**31 <= (cuda_gemm.INT8_DEEPEST + 1) * 128**2


def test_arrays_with_gaps_are_copied_together():
    a, x, weights = numbers(2, 9), numbers(1, 4, 4, 2), numbers(1, 1, 2, 3)
    assert cuda._flat("copy", "a", a[0, ::2]).flags.c_contiguous
    assert np.array_equal(cuda.copy(a[0, ::2]), a[0, ::2])
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_conv, "launch", lambda stage, *arrays: seen.extend(arrays[:3]))
        patch.setattr(cuda_conv.cuda, "to_device", lambda array: array)
        cuda_conv.conv2d(x.transpose(0, 2, 1, 3), weights[..., ::2], numbers(4)[::2])
    assert [array.flags.c_contiguous for array in seen] == [True] * 3


def test_a_16_byte_load_that_a_gpu_could_not_do_is_an_error_in_the_simulator_too():
    with pytest.raises(ValueError, match="^load4: index 2 is no multiple of 4, a misaligned address on a GPU; align"):
        cuda_device.load4(np.zeros(8, np.float32), 2)
    with pytest.raises(ValueError, match="^store4: index 3 is no multiple of 4, a misaligned address on a GPU; align"):
        cuda_device.store4(np.zeros(8, np.float32), 3, (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("before", "setting", "cause"),
    [
        ("import numba.cuda", {}, "numba.cuda was imported before it"),
        ("", {"NUMBA_ENABLE_CUDASIM": "0"}, "NUMBA_ENABLE_CUDASIM=0 forbids the simulator"),
    ],
)
def test_without_a_gpu_and_without_the_simulator_the_import_says_what_to_do(before, setting, cause):
    if cuda_device.count():
        pytest.skip("there is a GPU")
    code = f"{before}\nfrom hwlimits.kernels import cuda_device\nprint(cuda_device.why_not())"
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"} | setting
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    says = (
        "No NVIDIA GPU here, and hwlimits.kernels can't run its kernels in numba's simulator, because "
        f"{cause}: start Python again with NUMBA_ENABLE_CUDASIM=1."
    )
    assert done.stdout.strip() == says
    assert f"RuntimeWarning: {says}" in done.stderr


def test_tiles_that_threads_do_not_load_whole_are_refused():
    says = "tiles 256x128x8: 512 threads load 2048 elements at a time, and a tile of B has 1024; make depth a multiple"
    with pytest.raises(ValueError, match=f"^{says} of 16$"):
        cuda_gemm.vector_tiles(256, 128, 8)
    for tiles, why in (
        ((256, 512, 4), "2048 threads"),
        ((256, 256, 16), "1024 threads, which leaves each 64 of 65,536 registers"),
        ((8, 16, 6), "depth of 4"),
        ((128, 128, 64), "66560 bytes"),
        ((12, 8, 4), "multiples of 8"),
    ):
        assert why in cuda_gemm.tiles_fault(*tiles)
    for choice in gpu_bench.SWEEP.split(","):
        assert not cuda_gemm.tiles_fault(*map(int, choice.split("x")))


def test_multiply_adds_for_each_element():
    a = np.float32([0, 0.25, 1, 0.5, 0.75, 0.1, 0.2, 0.3])
    factors = cuda_device.cuda.to_device(np.float32([cuda_peak.FACTOR, cuda_peak.SUMMAND]))
    out = gpu_tools.poisoned(8)
    cuda_peak.intensity(3)[1, 1](cuda_device.cuda.to_device(a), factors, out)
    exact = a.astype(float)
    for _ in range(3):
        exact = exact * cuda_peak.FACTOR + cuda_peak.SUMMAND
    assert np.allclose(out.copy_to_host(), exact, rtol=0, atol=1e-6)


def test_a_wrong_output_and_a_missing_one_are_seen_before_anything_is_timed():
    with pytest.raises(ArithmeticError, match=r"copy: 1 of 3 elements are wrong; the first is \(1,\), .* where"):
        gpu_tools.check("copy", np.float32([1, 2.5, 3]), np.array([1.0, 2.0, 3.0]), 0.1)
    with pytest.raises(ArithmeticError, match="2 of 2 elements"):
        gpu_tools.check("copy", gpu_tools.poisoned(2).copy_to_host(), np.zeros(2), 1e30)
    with pytest.raises(ArithmeticError, match="1 of 2 elements"):
        gpu_tools.check("copy", np.float32([np.nan, 0]), np.zeros(2), np.inf)
