"""Systolic arrays: exact products, cycles by the closed form and by hand, and the sizes a network needs."""

import itertools

import numpy as np
import pytest

from hwlimits.systolic import DATAFLOWS, Array, Layer, SystolicError, convolution, least_machine, multiply

SIZES = [(1, 1, 1), (1, 4, 4), (4, 4, 4), (5, 3, 2), (2, 9, 7), (11, 8, 12), (3, 17, 1)]
GRIDS = [(1, 1), (4, 4), (3, 5), (5, 2)]


def matrices(m, k, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (m, k)), rng.integers(-128, 128, (k, n))


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize(("rows", "columns"), GRIDS)
@pytest.mark.parametrize("size", SIZES)
def test_products_are_exact_and_cycles_those_of_the_closed_form(dataflow, rows, columns, size):
    a, b = matrices(*size)
    array = Array(rows, columns, dataflow)
    run = multiply(array, a, b)
    assert np.array_equal(run.product, a @ b)
    assert run.cycles == array.cycles(*size)
    assert run.busy.sum() == np.prod(size), "each multiplication that is needed is done once"
    assert run.busy.max() <= rows * columns
    assert run.busy.sum() / (rows * columns * run.cycles) == pytest.approx(array.utilization(*size))


def test_numbers_that_are_no_integers_are_multiplied_too():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((6, 7)), rng.standard_normal((7, 5)).astype(np.float32)
    for dataflow in DATAFLOWS:
        np.testing.assert_allclose(multiply(Array(4, 3, dataflow), a, b).product, a @ b, rtol=1e-12)


def test_two_by_two_by_hand():
    """Weights enter in two cycles; then A's numbers move right, sums down. By hand, cell by cycle:

    cycle 0: (0,0); 1: (0,0) (0,1) (1,0); 2: (0,1) (1,0) (1,1); 3: (1,1).
    """
    a, b = np.array([[1, 2], [3, 4]]), np.array([[5, 6], [7, 8]])
    run = multiply(Array(2, 2), a, b)
    assert run.busy.tolist() == [0, 0, 1, 3, 3, 1]
    assert run.product.tolist() == [[19, 22], [43, 50]]
    stationary = multiply(Array(2, 2, "output-stationary"), a, b)
    assert stationary.busy.tolist() == [1, 3, 3, 1, 0, 0]
    assert stationary.product.tolist() == [[19, 22], [43, 50]]


def test_a_fold_that_uses_a_part_takes_as_long_as_a_whole_one():
    whole, part = Array(128, 128).cycles(500, 128, 128), Array(128, 128).cycles(500, 1, 1)
    assert whole == part == 2 * 128 + 128 + 500 - 2
    assert Array(128, 128).cycles(500, 129, 128) == 2 * whole


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_padding_is_what_no_fold_uses(dataflow):
    """Counted by the cells of each fold."""
    array, (m, k, n) = Array(5, 3, dataflow), (11, 7, 8)
    down, across, _ = array.mapped(m, k, n)
    used = whole = 0
    for i, j in itertools.product(range(0, down, 5), range(0, across, 3)):
        used += min(5, down - i) * min(3, across - j)
        whole += 15
    assert array.folds(m, k, n) == whole // 15
    assert array.padding(m, k, n) == pytest.approx(1 - used / whole)
    assert Array(5, 3, dataflow).padding(5, 5, 3) == 0


def test_a_longer_stream_fills_the_grid_better():
    found = [Array(128, 128).utilization(m, 128, 128) for m in (1, 128, 4096, 10**6)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(1 / 383)
    assert found[-1] > 0.999


def test_a_convolution_is_a_product_with_a_row_for_each_pixel():
    rng = np.random.default_rng(2)
    image, filters = rng.integers(-5, 5, (6, 7, 3)), rng.integers(-5, 5, (3, 2, 3, 4))
    expected = np.zeros((4, 6, 4), int)
    for y, x in np.ndindex(4, 6):
        expected[y, x] = np.einsum("abc,abcd->d", image[y : y + 3, x : x + 2], filters)
    rows = np.array([image[y : y + 3, x : x + 2].ravel() for y, x in np.ndindex(4, 6)])
    layer = convolution("c", 4, 6, (3, 2), 3, 4)
    assert (rows.shape, filters.reshape(-1, 4).shape) == ((layer.m, layer.k), (layer.k, layer.n))
    assert (layer.inputs, layer.macs) == (image.size, 4 * 6 * filters.size)
    run = multiply(Array(8, 8), rows, filters.reshape(-1, 4))
    assert np.array_equal(run.product.reshape(4, 6, 4), expected)


def test_a_convolution_reads_what_its_filters_touch():
    """Of a batch of two, every second pixel: counted one by one."""
    touched = {(b, 2 * y + dy, 2 * x + dx, c) for b in range(2) for y in range(3) for x in range(4)
               for dy in range(3) for dx in range(3) for c in range(5)}  # fmt: skip
    layer = convolution("c", 3, 4, (3, 3), 5, 7, batch=2, stride=2)
    assert layer.inputs == len(touched)
    assert (layer.m, layer.k, layer.n) == (24, 45, 7)


def test_a_layer_of_several_products_takes_as_long_as_all_of_them():
    layer, array = Layer("each channel by itself", 40, 9, 1, times=6), Array(4, 4)
    runs = [multiply(array, np.ones((40, 9), int), np.ones((9, 1), int)) for _ in range(6)]
    assert layer.cycles(array) == sum(run.cycles for run in runs)
    assert layer.utilization(array) == pytest.approx(sum(run.busy.sum() for run in runs) / (16 * layer.cycles(array)))
    assert (layer.macs, layer.input_elements) == (6 * 40 * 9, 6 * 40 * 9)


def test_the_least_machine_is_the_smallest_that_makes_it():
    products = [(676, 9, 32), (121, 288, 64), (1, 1600, 64), (1, 64, 10)]
    reads = [28 * 28, 13 * 13 * 32, 1600, 64]
    layers = [Layer(str(i), *p, inputs=inputs) for i, (p, inputs) in enumerate(zip(products, reads, strict=True))]
    made = least_machine(layers, latency_s=2e-4, clock_hz=1e8)
    cycles = {side: sum(Array(side, side).cycles(*p) for p in products) for side in range(1, 300)}
    assert made.array.rows == made.array.columns == min(side for side, c in cycles.items() if c <= 2e-4 * 1e8)
    assert made.latency_s == pytest.approx(cycles[made.array.rows] / 1e8)
    assert made.weight_buffer_bytes == 2 * made.array.rows**2
    assert made.activation_buffer_bytes == 28 * 28 + 676 * 32
    side = made.array.rows
    weights_per_s = [k * n / (Array(side, side).cycles(m, k, n) / 1e8) for m, k, n in products]
    assert made.bandwidth_bytes_per_s == pytest.approx(max(weights_per_s) + (28 * 28 + 10) / made.latency_s)
    deeper = [m * min(n, side) for m, k, n in products if k > side]
    assert made.sums_buffer_bytes == 4 * max(deeper)
    macs = sum(m * k * n for m, k, n in products)
    assert made.utilization == pytest.approx(macs / (made.array.cells * cycles[made.array.rows]))
    assert least_machine(layers, 2e-4, 1e8, element_bytes=2).weight_buffer_bytes == 2 * made.weight_buffer_bytes


def test_products_by_channel_count_as_often_as_they_are_done():
    made = least_machine([Layer("depthwise", 100, 9, 1, times=8, inputs=900), Layer("last", 1, 8, 3)], 1e-3, 1e8)
    assert made.activation_buffer_bytes == 900 + 800
    side = made.array.rows
    depthwise = 8 * 9 / (8 * Array(side, side).cycles(100, 9, 1) / 1e8)
    last = 8 * 3 / (Array(side, side).cycles(1, 8, 3) / 1e8)
    assert made.bandwidth_bytes_per_s == pytest.approx(max(depthwise, last) + 903 / made.latency_s)


def test_no_sums_wait_where_no_layer_is_deeper_than_the_grid():
    layers = [Layer("a", 10, 8, 8), Layer("b", 10, 5, 3)]
    assert least_machine(layers, 64e-6, 1e6).array.rows == 8
    assert least_machine(layers, 64e-6, 1e6).sums_buffer_bytes == 0


@pytest.mark.parametrize(
    ("call", "text"),
    [(lambda: Array(0, 4), "Array(rows=0): must be a whole number, at least 1"),
     (lambda: Array(4, True), "Array(columns=True): must be a whole number, at least 1"),
     (lambda: Array(4, 4, "row-stationary"),
      "Array(dataflow='row-stationary'): choose from weight-stationary, output-stationary"),
     (lambda: Array(4, 4).cycles(4, 2.5, 4), "mapped(k=2.5): must be a whole number, at least 1"),
     (lambda: Layer("c", 4, 0, 4), "Layer(k=0): must be a whole number, at least 1"),
     (lambda: multiply(Array(2, 2), np.ones((2, 3)), np.ones((2, 3))),
      "multiply(a (2, 3), b (2, 3)): (m, k) and (k, n) are needed, none of them 0"),
     (lambda: multiply(Array(2, 2), np.ones((0, 3)), np.ones((3, 3))),
      "multiply(a (0, 3), b (3, 3)): (m, k) and (k, n) are needed, none of them 0"),
     (lambda: multiply(Array(2, 2), np.ones((2, 2), complex), np.ones((2, 2))),
      "multiply(complex128, float64): integers of up to 63 bits or real floats are needed"),
     (lambda: multiply(Array(2, 2), np.ones((2, 2), np.uint64), np.ones((2, 2), int)),
      "multiply(uint64, int64): integers of up to 63 bits or real floats are needed"),
     (lambda: convolution("c", 3, 3, (1, 1), 1, 1, stride=0),
      "convolution(stride=0): must be a whole number, at least 1"),
     (lambda: least_machine([Layer("", 1, 8, 8)], 1.0, 1e9, element_bytes=0),
      "least_machine(element_bytes=0): must be a whole number, at least 1"),
     (lambda: least_machine([], 1.0, 1e9),
      "least_machine(0 layers, latency_s=1.0, clock_hz=1000000000.0): give at least one layer, and a time and a clock "
      "above 0"),
     (lambda: least_machine([Layer("", 1, 8, 8)], 1e-9, 1e9),
      "no square weight-stationary array does it in 1e-09 s at 1e+09 Hz: the best takes 2.3e-08 s; give more time, "
      "a faster clock, or several arrays")],
)  # fmt: skip
def test_what_can_not_be(call, text):
    with pytest.raises(SystolicError) as error:
        call()
    assert str(error.value) == text


def test_numpy_s_integers_do_not_overflow():
    whole, numpy = Array(65536, 65536), Array(np.int32(65536), np.int32(65536))
    assert numpy.cells == whole.cells == 2**32
    assert numpy.utilization(np.int32(10**5), np.int32(10**5), np.int32(10**5)) == whole.utilization(
        10**5, 10**5, 10**5
    )
    assert Array(np.uint8(128), np.uint8(128)).cycles(1, 128, 128) == 383
    assert Layer("l", np.int32(10**5), np.int32(10**4), np.int32(100)).macs == 10**11


def test_a_stride_larger_than_the_filter_skips_what_nobody_touches():
    """ResNet's 1 x 1 convolutions with stride 2 read a quarter of the image."""
    assert convolution("c", 28, 28, (1, 1), 256, 512, stride=2).inputs == 28 * 28 * 256
    touched = {(3 * y + dy, 3 * x + dx) for y in range(4) for x in range(5) for dy in range(2) for dx in range(2)}
    assert convolution("c", 4, 5, (2, 2), 1, 1, stride=3).inputs == len(touched)


@pytest.mark.parametrize("cycles", [24, 31, 55, 997])
@pytest.mark.parametrize("clock_hz", [1e8, 3e8, 7e7])
def test_what_fits_exactly_fits(cycles, clock_hz):
    """2 rows through 8 x 8 cells take 24 cycles; more rows, more."""
    layer = Layer("", cycles - 22, 8, 8)
    assert Array(8, 8).cycles(cycles - 22, 8, 8) == cycles
    assert least_machine([layer], cycles / clock_hz, clock_hz).latency_s <= cycles / clock_hz * (1 + 1e-12)


def test_each_product_s_sums_wait_no_longer_than_their_columns():
    """The folds along the depth of a few columns follow each other: what waits is rows x columns, not all of C."""
    random = np.random.default_rng(3)
    a, b = random.integers(-9, 9, (5, 9)), random.integers(-9, 9, (9, 7))
    for dataflow in DATAFLOWS:
        run = multiply(Array(4, 3, dataflow), a, b)
        assert np.array_equal(run.product, a @ b)
