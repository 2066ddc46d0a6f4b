"""Files of one operator: the real kernels run them, and do what NumPy says they should."""

from math import erf

import numpy as np
import pytest
from scipy.signal import correlate2d

from hwlimits.training.litert_build import FORMS, ZERO_POINT, Spec, single
from hwlimits.training.operators import operators


def run(file, *inputs):
    interpreter = file.interpreter(None)
    for details, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(details["index"], values)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = values((1, 6, 6, 8))
Y = values((1, 6, 6, 8), 1)
PAIR = {"ADD": np.add, "SUB": np.subtract, "MUL": np.multiply, "MAXIMUM": np.maximum, "DIV": np.divide,
        "SQUARED_DIFFERENCE": lambda a, b: (a - b) ** 2}  # fmt: skip
ONE = {
    "RELU": lambda x: np.maximum(x, 0),
    "LOGISTIC": lambda x: 1 / (1 + np.exp(-x)),
    "TANH": np.tanh,
    "HARD_SWISH": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "SOFTMAX": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "PAD": lambda x: np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]),
    "TRANSPOSE": lambda x: x.transpose(0, 2, 1, 3),
    "MEAN": lambda x: x.mean((1, 2), keepdims=True),
    "RESIZE_NEAREST_NEIGHBOR": lambda x: x.repeat(2, 1).repeat(2, 2),
    "GELU": lambda x: x / 2 * (1 + np.vectorize(erf)(x / np.sqrt(2))),
    "LEAKY_RELU": lambda x: np.where(x < 0, 0.2 * x, x),
}


@pytest.mark.parametrize("kind", ONE)
def test_operators_of_one_input(kind):
    np.testing.assert_allclose(run(single(Spec(kind, "float32", X.shape)), X), ONE[kind](X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", PAIR)
def test_operators_of_two_inputs(kind):
    np.testing.assert_allclose(
        run(single(Spec(kind, "float32", X.shape)), X, Y), PAIR[kind](X, Y), rtol=1e-4, atol=1e-5
    )


def test_second_operands_that_are_repeated():
    channel, row = Y[:, :1, :1], Y[..., :1]
    for second, operand in (("channel", channel), ("row", row)):
        found = run(single(Spec("ADD", "float32", X.shape, second=second)), X, operand)
        np.testing.assert_allclose(found, X + operand, rtol=1e-5)


def test_a_mean_over_the_last_axis_and_a_concatenation():
    found = run(single(Spec("MEAN", "float32", X.shape, window=0)), X)
    np.testing.assert_allclose(found, X.mean(-1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(
        run(single(Spec("CONCATENATION", "float32", X.shape)), X, Y), np.concatenate([X, Y], -1)
    )


@pytest.mark.parametrize(("window", "stride", "size"), [(3, 1, 6), (2, 2, 3), (3, 2, 2), (1, 2, 3)])
def test_pooling(window, stride, size):
    found = run(single(Spec("MAX_POOL_2D", "float32", X.shape, window=window, stride=stride)), X)
    assert found.shape == (1, size, size, 8)
    if stride > 1:  # no padding: the first window is the image's first
        np.testing.assert_array_equal(found[0, 0, 0], X[0, :window, :window].max((0, 1)))


@pytest.mark.parametrize(
    "spec",
    [*(Spec(kind, "float32", X.shape) for kind in (*ONE, *PAIR, "CONCATENATION", "RESIZE_BILINEAR")),
     *(Spec("MAX_POOL_2D", "float32", X.shape, window=w, stride=s) for w, s in ((3, 1), (2, 2), (3, 2), (1, 2))),
     *(Spec(kind, "float32", (1, 7, 5, 8), 4, window=3, stride=2)
       for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")),
     Spec("QUANTIZE", "float32", X.shape), Spec("DEQUANTIZE", "int8", X.shape), Spec("RELU", "int8", X.shape),
     Spec("MEAN", "float32", X.shape, window=0), Spec("FULLY_CONNECTED", "float32", (4, 12), 5),
     Spec("BATCH_MATMUL", "float32", (1, 3, 5, 7), 4), Spec("ADD", "float32", X.shape, second="channel")],
    ids=lambda spec: f"{spec.kind}-{spec.window}-{spec.stride}",
)  # fmt: skip
def test_the_file_says_the_shape_and_type_that_the_kernel_gives(spec):
    file = single(spec)
    ends = file.interpreter(None).get_input_details()
    found = run(file, *(values(tuple(end["shape"])).astype(end["dtype"]) for end in ends))
    graph = file._model.subgraphs[0]
    said = graph.tensors[graph.outputs[0]]
    assert tuple(said.shape) == found.shape
    assert {0: np.float32, 9: np.int8}[said.type] == found.dtype


def weights_of(file):
    return file.layers[0].weights


def test_a_dense_layer_and_a_convolution_against_numpy_and_scipy():
    x = values((4, 12))
    file = single(Spec("FULLY_CONNECTED", "float32", x.shape, 5))
    np.testing.assert_allclose(run(file, x), x @ weights_of(file).T, rtol=1e-4, atol=1e-5)
    file = single(Spec("CONV_2D", "float32", X.shape, 4, window=3))
    kernel = weights_of(file)
    expected = [sum(correlate2d(X[0, :, :, c], kernel[n, :, :, c], mode="same") for c in range(8)) for n in range(4)]
    np.testing.assert_allclose(run(file, X)[0], np.moveaxis(expected, 0, -1), rtol=1e-4, atol=1e-4)
    file = single(Spec("DEPTHWISE_CONV_2D", "float32", X.shape, window=3))
    expected = [correlate2d(X[0, :, :, c], weights_of(file)[0, :, :, c], mode="same") for c in range(8)]
    np.testing.assert_allclose(run(file, X)[0], np.moveaxis(expected, 0, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("second", ["", "transposed"])
def test_a_batched_product(second):
    a, b = values((1, 3, 5, 7)), values((1, 3, 4, 7) if second else (1, 3, 7, 4), 1)
    found = run(single(Spec("BATCH_MATMUL", "float32", a.shape, 4, second=second)), a, b)
    np.testing.assert_allclose(found, a @ (b.swapaxes(-1, -2) if second else b), rtol=1e-4, atol=1e-5)


def test_a_transposed_convolution_puts_a_window_at_each_place():
    x = np.zeros((1, 3, 3, 2), np.float32)
    x[0, 1, 1, 0] = 1
    file = single(Spec("TRANSPOSE_CONV", "float32", x.shape, 4, window=2, stride=2))
    found = run(file, x)
    assert found.shape == (1, 6, 6, 4)
    assert np.count_nonzero(found[0, 2:4, 2:4]) == 16
    assert np.count_nonzero(found) == 16


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_the_forms_have_the_types_that_they_say(kind, form):
    spec = Spec(kind, form, (1, 8) if kind == "FULLY_CONNECTED" else (1, 4, 4, 8), 8, window=1)
    (operator,) = operators(single(spec))
    activation, weight = ("int8" if part == "INT8" else "float32" for part in FORMS[form])
    assert (operator.inputs[0].dtype, operator.inputs[1].dtype) == (activation, weight)
    assert operator.outputs[0].dtype == activation


def test_int8_computes_what_float32_does_within_its_step():
    spec = Spec("FULLY_CONNECTED", "int8", (1, 32), 16)
    file = single(spec)
    x = np.random.default_rng(1).integers(-20, 20, (1, 32)).astype(np.int8)
    expected = ((x.astype(int) - ZERO_POINT) * 0.05) @ (weights_of(file).astype(int).T * 0.01)
    lowest, highest = ((n - ZERO_POINT) * 0.05 for n in (-128, 127))
    assert np.abs((run(file, x).astype(int) - ZERO_POINT) * 0.05 - np.clip(expected, lowest, highest)).max() <= 0.026


STEP = 0.05
OUTPUTS = {
    "LOGISTIC": (1 / 256, -128),
    "SOFTMAX": (1 / 256, -128),
    "TANH": (1 / 128, 0),
}  # as TensorFlow Lite fixes them
INT8 = ONE | {
    "CONCATENATION": lambda x: np.concatenate([x, x], -1),
    "AVERAGE_POOL_2D": lambda x: x.reshape(1, 3, 2, 3, 2, 8).mean((2, 4)),
    "ADD": lambda x: x + x,
    "MUL": lambda x: x * x,
    "SQUARED_DIFFERENCE": lambda x: 0 * x,
    "RSQRT": lambda x: 1 / np.sqrt(x),
}


def details(file):
    """Scale and zero point of the graph's inputs and outputs."""
    interpreter = file.interpreter(None)
    ends = (*interpreter.get_input_details(), *interpreter.get_output_details())
    return [pytest.approx(end["quantization"], rel=1e-6) for end in ends]


@pytest.mark.parametrize("kind", INT8)
def test_int8_operators_compute_what_numpy_says_within_a_step(kind):
    """On the numbers that the int8 inputs stand for; outputs beyond the range are its ends."""
    window = {"window": 2, "stride": 2} if "POOL" in kind else {}
    file = single(Spec(kind, "int8", X.shape, **window))
    zero = -128 if kind == "RSQRT" else ZERO_POINT
    scale, out_zero = OUTPUTS.get(kind, (STEP, zero))
    ends = details(file)
    assert all(end == (STEP, zero) for end in ends[:-1])
    assert ends[-1] == (scale, out_zero)
    codes = np.random.default_rng(2).integers(-60, 60, X.shape).astype(np.int8)
    found = run(file, *[codes] * (len(ends) - 1))
    expected = INT8[kind]((codes.astype(float) - zero) * STEP)
    lowest, highest = ((n - out_zero) * scale for n in (-128, 127))
    missed = (found.astype(float) - out_zero) * scale - np.clip(expected, lowest, highest)
    assert np.abs(missed).max() <= 1.01 * scale


def test_numbers_become_codes_and_codes_numbers():
    file = single(Spec("QUANTIZE", "float32", X.shape))
    codes = np.clip(np.round(X / STEP) + ZERO_POINT, -128, 127)
    assert details(file) == [(0, 0), (STEP, ZERO_POINT)]
    assert np.abs(run(file, X) - codes).max() <= 1  # a number in the middle between two codes
    assert np.mean(run(file, X) == codes) > 0.99
    file = single(Spec("DEQUANTIZE", "int8", X.shape))
    assert details(file) == [(STEP, ZERO_POINT), (0, 0)]
    np.testing.assert_allclose(run(file, codes.astype(np.int8)), (codes - ZERO_POINT) * STEP, rtol=1e-5)


def constants(file):
    """Scales and their axis of each constant with some."""
    found = [t["quantization_parameters"] for t in file.interpreter(None).get_tensor_details()]
    return [(p["scales"], p["quantized_dimension"]) for p in found if len(p["scales"]) > 1]


@pytest.mark.parametrize(
    ("kind", "count", "axis"),
    [("CONV_2D", 4, 0), ("DEPTHWISE_CONV_2D", 8, 3), ("FULLY_CONNECTED", 4, 0), ("TRANSPOSE_CONV", 4, 0)],
)
def test_int8_weights_have_a_scale_for_each_output(kind, count, axis):
    shape = (1, 8) if kind == "FULLY_CONNECTED" else X.shape
    weights, *bias = constants(single(Spec(kind, "int8", shape, 4, window=1)))
    np.testing.assert_allclose(weights[0], np.full(count, 0.01), rtol=1e-6)
    assert weights[1] == axis
    for scales, _ in bias:
        np.testing.assert_allclose(scales, np.full(count, 0.01 * STEP), rtol=1e-6)
    assert len(bias) == (kind != "TRANSPOSE_CONV")
    (weights,) = constants(single(Spec(kind, "dynamic", shape, 4, window=1)))
    assert (len(weights[0]), weights[1]) == (count, axis)


@pytest.mark.parametrize("form", ["float32", "dynamic"])
def test_convolutions_with_a_stride_begin_at_the_first_pixel_and_round_up(form):
    x = values((1, 7, 7, 8))
    file = single(Spec("CONV_2D", form, x.shape, 4, stride=2))
    weights = file.layers[0].weights.astype(float) * (0.01 if form == "dynamic" else 1)
    found, expected = run(file, x), np.einsum("nhwc,oc->nhwo", x[:, ::2, ::2], weights[:, 0, 0])
    assert found.shape == (1, 4, 4, 4)
    np.testing.assert_allclose(found, expected, atol=0.1 if form == "dynamic" else 1e-4)  # inputs are rounded, too
    file = single(Spec("DEPTHWISE_CONV_2D", form, x.shape, stride=2))
    weights = file.layers[0].weights.astype(float) * (0.01 if form == "dynamic" else 1)
    np.testing.assert_allclose(run(file, x), x[:, ::2, ::2] * weights, atol=0.1 if form == "dynamic" else 1e-4)


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_a_transposed_convolution_whose_windows_overlap(form):
    """Each pixel adds its value times the weights to a window; what stands over the edge is cut off."""
    x = np.random.default_rng(3).integers(-4, 5, (1, 3, 3, 2)) * STEP
    file = single(Spec("TRANSPOSE_CONV", form, x.shape, 4, window=3, stride=2))
    interpreter = file.interpreter(None)
    (weights,) = (interpreter.get_tensor(t["index"]) for t in interpreter.get_tensor_details()
                  if tuple(t["shape"]) == (4, 3, 3, 2))  # fmt: skip
    weights = weights * (0.01 if form == "int8" else 1)
    expected = np.zeros((7, 7, 4))
    for i, j in np.ndindex(3, 3):
        expected[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += np.einsum("c,ohwc->hwo", x[0, i, j], weights)
    if form == "int8":
        assert details(file) == [(STEP, ZERO_POINT)] * 2
        codes = np.round(x / STEP + ZERO_POINT).astype(np.int8)
        found = (run(file, codes).astype(float) - ZERO_POINT) * STEP
    else:
        found = run(file, x.astype(np.float32))
    assert found.shape == (1, 6, 6, 4)
    np.testing.assert_allclose(found[0], expected[:6, :6], atol=STEP if form == "int8" else 1e-4)


def test_images_are_resized_by_the_centres_of_their_pixels():
    """Twice as many pixels: each lies a quarter of a pixel from the one that it comes from."""
    line = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    found = run(single(Spec("RESIZE_BILINEAR", "float32", line.shape)), line)
    np.testing.assert_allclose(found[0, 0, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert found.shape == (1, 2, 8, 1)


def test_padding_of_pools():
    """Where the size is kept, windows stand over the edge; where it shrinks, none does."""
    found = run(single(Spec("MAX_POOL_2D", "float32", X.shape, window=3, stride=1)), X)
    np.testing.assert_array_equal(found[0, 0, 0], X[0, :2, :2].max((0, 1)))
    np.testing.assert_array_equal(found[0, 1, 1], X[0, :3, :3].max((0, 1)))
    found = run(single(Spec("AVERAGE_POOL_2D", "float32", X.shape, window=3, stride=2)), X)
    np.testing.assert_allclose(found[0, 1, 1], X[0, 2:5, 2:5].mean((0, 1)), atol=1e-6)


def test_the_same_file_each_time_and_another_by_its_seed():
    spec = Spec("FULLY_CONNECTED", "float32", (1, 16), 8)
    assert single(spec).content == single(spec).content != single(spec, seed=1).content
    assert np.std(weights_of(single(spec))) == pytest.approx(0.1, rel=0.2)


def test_a_kind_that_is_not_written_here_is_an_error():
    with pytest.raises(KeyError):
        single(Spec("RELU", "int4", (1, 8)))
    with pytest.raises(AttributeError):
        single(Spec("NO_SUCH_KIND", "float32", (1, 8)))
