"""Integer layers against the same layers in floating point, by SciPy and NumPy; test_integer_run has LiteRT itself."""

import numpy as np
import pytest
from scipy.signal import convolve2d, correlate2d

from hwlimits import integer, integer_pointwise
from hwlimits.fixed_point import IntegerError, scale_double, scale_fixed, scale_float
from hwlimits.quantization import Quantization, dequantize

X = Quantization(0.05, -10)
RANDOM = np.random.default_rng(0)


def codes(*shape):
    return RANDOM.integers(-128, 128, shape).astype(np.int8)


def close(found, q, expected, steps=0.51):
    """Codes within a step's half of the numbers, kept within the codes' range."""
    expected = np.clip(expected, q.low, q.high)
    assert found.dtype == q.dtype
    assert np.abs(dequantize(found, q) - expected).max() <= steps * q.scale


@pytest.mark.parametrize("requantize", [scale_fixed, scale_double, scale_float])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_is_scipy_s(padding, stride, requantize):
    x, w, bias = codes(2, 7, 6, 3), codes(4, 3, 3, 3), RANDOM.integers(-500, 500, 4)
    w_q, y_q = Quantization(RANDOM.uniform(0.001, 0.02, 4), axis=0), Quantization(0.1, 5)
    found = integer.conv(x, w, bias, X, w_q, y_q, strides=(stride, stride), padding=padding, requantize=requantize)
    numbers, kernel = dequantize(x, X).astype(float), w.astype(float) * w_q.scale[:, None, None, None]
    channels = [[[correlate2d(i[..., c], k[..., c], mode=padding) for c in range(3)] for k in kernel] for i in numbers]
    full = np.sum(channels, axis=2)
    # with a stride of 2 'same' pads 7 by one on either side, 6 by one behind alone: every second window from 0 or 1 on
    start = (0, 1) if padding == "same" and stride == 2 else (0, 0)
    expected = np.moveaxis(full, 1, -1)[:, start[0] :: stride, start[1] :: stride]
    close(found, y_q, expected + bias * X.scale * w_q.scale)


def test_a_dilated_convolution_sees_every_second_number():
    x, w = codes(1, 9, 9, 1), codes(1, 3, 3, 1)
    y_q = Quantization(2.0)
    spread = np.zeros((5, 5))
    spread[::2, ::2] = w[0, ..., 0]
    expected = correlate2d(x[0, ..., 0] + 10.0, spread, mode="valid") * 0.05 * 0.01
    found = integer.conv(x, w, None, X, Quantization(0.01), y_q, dilations=(2, 2), padding="valid")
    close(found[0, ..., 0], y_q, expected)


def test_groups_are_convolutions_side_by_side():
    x, w, y_q = codes(1, 5, 5, 6), codes(4, 3, 3, 3), Quantization(0.3)
    found = integer.conv(x, w, None, X, Quantization(0.01), y_q)
    for group in range(2):
        part = integer.conv(x[..., 3 * group :][..., :3], w[2 * group :][:2], None, X, Quantization(0.01), y_q)
        np.testing.assert_array_equal(found[..., 2 * group :][..., :2], part)


def test_a_depthwise_convolution_is_a_convolution_of_each_channel():
    x, w, y_q = codes(1, 6, 6, 3), codes(1, 3, 3, 6), Quantization(0.1, 3)
    w_q, bias = Quantization(RANDOM.uniform(0.001, 0.02, 6), axis=3), RANDOM.integers(-300, 300, 6)
    found = integer.depthwise_conv(x, w, bias, X, w_q, y_q, strides=(2, 2))
    for c in range(6):
        kernel, one = w[..., c : c + 1], Quantization(w_q.scale[c])
        alone = integer.conv(x[..., c // 2 : c // 2 + 1], kernel, bias[c : c + 1], X, one, y_q, strides=(2, 2))
        np.testing.assert_array_equal(found[..., c : c + 1], alone)


@pytest.mark.parametrize(("padding", "size"), [("valid", (9, 9)), ("same", (8, 8))])
def test_a_transposed_convolution_is_a_convolution_of_numbers_set_apart(padding, size):
    x, w, y_q = codes(1, 4, 4, 1), codes(1, 3, 3, 1), Quantization(1.0)
    found = integer.transpose_conv(x, w, None, X, Quantization(0.02), y_q, size=size, strides=(2, 2), padding=padding)
    apart = np.zeros((7, 7))
    apart[::2, ::2] = dequantize(x, X)[0, ..., 0]
    close(found[0, ..., 0], y_q, convolve2d(apart, w[0, ..., 0] * 0.02)[: size[0], : size[1]])


def test_a_dense_layer_is_a_matrix_product():
    x, w, bias = codes(5, 40), codes(7, 40), RANDOM.integers(-1000, 1000, 7)
    w_q, y_q = Quantization(0.01), Quantization(0.3, -20)
    expected = dequantize(x, X).astype(float) @ (w.T * 0.01) + bias * 0.05 * 0.01
    close(integer.dense(x, w, bias, X, w_q, y_q), y_q, expected)
    found = integer.dense(x, w, bias, X, w_q, y_q, activation="relu6")
    close(found, y_q, np.clip(expected, 0, 6))
    assert integer.dense(x.reshape(5, 2, 20), w, None, X, w_q, y_q).shape == (5, 7)


def test_pooling_leaves_out_what_is_padded():
    x = codes(1, 5, 5, 2)
    mean = integer.average_pool(x, X, window=(3, 3), strides=(2, 2), padding="same")
    most = integer.max_pool(x, X, window=(3, 3), strides=(2, 2), padding="same")
    assert mean.shape == most.shape == (1, 3, 3, 2)
    for i in range(3):
        for j in range(3):
            seen = x[0, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2].astype(int).reshape(-1, 2)
            assert np.abs(mean[0, i, j] - seen.mean(axis=0)).max() <= 0.5
            np.testing.assert_array_equal(most[0, i, j], seen.max(axis=0))
    half = np.array([[1, 2], [-1, -2]], np.int8).reshape(2, 1, 2, 1)
    assert integer.average_pool(half, X, window=(1, 2), strides=(1, 1)).ravel().tolist() == [
        2,
        -2,
    ]  # halves, away from 0


def test_an_int32_sum_wraps_around():
    w, one = np.full((1, 2**17), 127, np.int8), Quantization(1.0, -128)
    sums = 255 * 127 * 2**17
    expected = np.clip(((sums + 2**31) % 2**32 - 2**31) * 1e-8, -128, 127)
    found = integer.dense(np.full((1, 2**17), 127, np.int8), w, None, one, Quantization(1e-8), Quantization(1.0))
    assert abs(float(found[0, 0]) - expected) <= 0.5


# --- between the layers ------------------------------------------------------------------------

Y, Z = Quantization(0.02, 30), Quantization(0.1, -5)
PAIRS = {
    "add": (integer_pointwise.add, np.add, Z),
    "subtract": (lambda *a: integer_pointwise.add(*a, sign=-1), np.subtract, Z),
    "multiply": (integer_pointwise.multiply, np.multiply, Z),
    "squared difference": (integer_pointwise.squared_difference, lambda a, b: (a - b) ** 2, Quantization(0.5, -128)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(4, 5), (1, 5), (4, 1), (1,)])
def test_pairs_are_numpy_s(name, shape):
    ours, numpy_s, z_q = PAIRS[name]
    x, y = codes(4, 5), codes(*shape)
    steps = 0.52 if name != "squared difference" else 0.6  # 7 bits to spare are few
    close(ours(x, y, X, Y, z_q), z_q, numpy_s(dequantize(x, X).astype(float), dequantize(y, Y)), steps)


ALL = np.arange(-128, 128).astype(np.int8)
ONES = {
    "requantize": (lambda x: integer_pointwise.requantize_codes(x, X, Z), lambda x: x, Z, 0.51),
    "relu6": (lambda x: integer_pointwise.relu(x, X, Z, activation="relu6"), lambda x: np.clip(x, 0, 6), Z, 0.51),
    "leaky": (
        lambda x: integer_pointwise.leaky_relu(x, X, Z, alpha=0.3),
        lambda x: np.where(x < 0, 0.3 * x, x),
        Z,
        0.63,
    ),
    "hard swish": (lambda x: integer_pointwise.hard_swish(x, X, Z), lambda x: x * np.clip(x + 3, 0, 6) / 6, Z, 0.6),
    "absolute": (lambda x: integer_pointwise.absolute(x, X, Z), np.abs, Z, 0.51),
    "lookup": (lambda x: integer_pointwise.lookup(x, np.tanh, X, Z), np.tanh, Z, 0.51),
}


@pytest.mark.parametrize("name", ONES)
def test_functions_of_every_code(name):
    ours, numpy_s, q, steps = ONES[name]
    close(ours(ALL), q, numpy_s(dequantize(ALL, X).astype(float)), steps)


def test_a_reciprocal_root_of_every_code_that_has_one():
    x_q, y_q = Quantization(0.05, -128), Quantization(0.02, -128)
    found = integer_pointwise.reciprocal_root(ALL, x_q, y_q)
    close(found[1:], y_q, 1 / np.sqrt(dequantize(ALL[1:], x_q).astype(float)))
    assert found[0] == 127


def test_prelu_has_a_slope_for_each_channel():
    x, alpha, a_q = codes(2, 3, 4), codes(4), Quantization(0.01, 20)
    numbers, slopes = dequantize(x, X).astype(float), dequantize(alpha, a_q)
    close(integer_pointwise.prelu(x, alpha, X, a_q, Z), Z, np.where(numbers < 0, slopes * numbers, numbers))


@pytest.mark.parametrize("axes", [(1, 2), (-1,), (0, 1, 2, 3), (3, 1)])
@pytest.mark.parametrize("keep", [True, False])
def test_means_and_sums_are_numpy_s(axes, keep):
    x, numbers = codes(2, 3, 5, 4), None
    numbers = dequantize(x, X).astype(float)
    # rounded to halves or quarters of a step before the last shift, so up to 0.5 + 0.25 of a step may be lost
    close(integer_pointwise.mean(x, axes, X, Y, keep=keep), Y, numbers.mean(axis=axes, keepdims=keep), 0.76)
    once = integer_pointwise.mean(x, axes, X, Y, keep=keep, requantize=scale_double)
    close(once, Y, numbers.mean(axis=axes, keepdims=keep))
    y_q = Quantization(0.5)
    found = integer_pointwise.total(x, axes, X, y_q, keep=keep, requantize=scale_fixed)
    close(found, y_q, numbers.sum(axis=axes, keepdims=keep))


def test_the_sum_s_fault_shows_only_below_0():
    low, high, q = np.full((1, 4), -1, np.int8), np.full((1, 4), 5, np.int8), Quantization(1.0)
    assert integer_pointwise.total(high, (1,), q, q).tolist() == [[20]]
    assert integer_pointwise.total(low, (1,), q, q).tolist() == [[-1]]  # 4 · 255, kept within 255, read as int8
    assert integer_pointwise.total(low, (1,), q, q, requantize=scale_fixed).tolist() == [[-4]]


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("scale", [0.001, 0.05, 1.0, 8.0])
def test_softmax_is_softmax(scale, beta):
    x, q = codes(20, 10), Quantization(scale, 3)
    exps = np.exp(beta * scale * (x.astype(float) - x.max(axis=1, keepdims=True)))
    close(
        integer_pointwise.softmax(x, q, beta=beta), Quantization(1 / 256, -128), exps / exps.sum(axis=1, keepdims=True)
    )


def test_matrix_products_by_batch():
    x, y = codes(2, 3, 4, 20), codes(2, 3, 20, 5)
    q = Quantization(0.5, 2)
    close(
        integer_pointwise.matrix_product(x, y, X, Y, q),
        q,
        dequantize(x, X).astype(float) @ dequantize(y, Y).astype(float),
    )


def test_bilinear_resizing_goes_through_its_corners():
    x = codes(1, 3, 4, 2)
    found = integer_pointwise.resize_bilinear(x, (5, 7), align_corners=True)
    np.testing.assert_array_equal(found[:, ::2, ::2], x)
    np.testing.assert_allclose(found[:, 1, ::2], (x[:, 0].astype(float) + x[:, 1]) / 2, atol=0.5)
    np.testing.assert_array_equal(integer_pointwise.resize_bilinear(x, (3, 4), half_pixel_centers=True), x)


# --- errors ------------------------------------------------------------------------------------


IMAGE, KERNEL = codes(1, 4, 4, 4), codes(2, 3, 3, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: integer.conv(IMAGE, codes(2, 3, 3, 3), None, X, Y, Z), "don't fit 4 input channels"),
        (lambda: integer.conv(IMAGE, codes(3, 3, 3, 2), None, X, Y, Z), "don't fit 4 input channels"),
        (lambda: integer.conv(IMAGE[:, :2], KERNEL, None, X, Y, Z, padding="valid"), "a window of 3 has no place in 2"),
        (lambda: integer.conv(IMAGE, KERNEL, None, X, Y, Z, padding="full"), "choose 'same' or 'valid'"),
        (lambda: integer.depthwise_conv(IMAGE, codes(1, 3, 3, 6), None, X, Y, Z), "6 outputs are no multiple of 4"),
        (lambda: integer.dense(codes(2, 5), codes(3, 4), None, X, Y, Z), "(2, 5) can't be rows of 4 inputs"),
        (lambda: integer.clamp(ALL, X, "swish"), "activation 'swish': known are none, relu"),
        (lambda: integer_pointwise.hard_swish(ALL, Quantization(10.0), Quantization(0.01)), "LiteRT refuses it, too"),
        (lambda: integer_pointwise.reciprocal_root(ALL, X, Y), "118 of 256 numbers are below 0"),
        (lambda: integer_pointwise.softmax(np.zeros((1, 4096), np.int8), X), "a row of 4096 numbers add up to 2^12"),
    ],
)
def test_errors_say_what_to_do(call, said):
    with pytest.raises(IntegerError) as caught:
        call()
    assert said in str(caught.value)
