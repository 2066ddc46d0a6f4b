"""Files of one operator: the real kernels run them, and do what NumPy says they should."""

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


def test_a_kind_that_is_not_written_here_is_an_error():
    with pytest.raises(KeyError):
        single(Spec("RELU", "int4", (1, 8)))
    with pytest.raises(AttributeError):
        single(Spec("NO_SUCH_KIND", "float32", (1, 8)))
