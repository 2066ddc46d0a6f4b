"""Files of small Keras models as networks of sparse kernels, against LiteRT itself."""

from dataclasses import replace

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from hwlimits.kernels.network import Convolution, Dense, GlobalMean, MaxPool
from hwlimits.training import export
from hwlimits.training.keras import keras
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_build import Spec, single
from hwlimits.training.litert_parser import LiteRTError
from hwlimits.training.sparse_network import sparse_network

L = keras.layers


def file_of(layers, shape, zeros=0.7, seed=0):
    """A float32 file of a chain of layers, with that share of zeros in its weights."""
    inputs = keras.Input(shape, batch_size=1)
    x = inputs
    for layer in layers:
        x = layer(x)
    return file_of_model(keras.Model(inputs, x), zeros, seed)


def file_of_model(model, zeros=0.0, seed=0):
    random = np.random.default_rng(seed)
    for layer in model.layers:
        values = [random.standard_normal(w.shape).astype(np.float32) for w in layer.get_weights()]
        if "normalization" in layer.name:
            values = [np.abs(v) + 0.5 for v in values]
        layer.set_weights([np.where((random.random(v.shape) < zeros) & (v.ndim > 1), 0, v) for v in values])
    return LiteRTFile(export.to_float32(model))


def litert(file, image):
    interpreter = file.interpreter(1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]


def relu6():
    return L.ReLU(6.0)


CHAINS = {
    "the article's kind": (lambda: [L.Conv2D(8, 3, activation="relu"), L.MaxPooling2D(), L.Conv2D(12, 3),
                                    L.MaxPooling2D(), L.Flatten(), L.Dense(16, activation="relu"),
                                    L.Dense(10)], (14, 13, 1)),
    "MobileNet's kind": (lambda: [
        L.ZeroPadding2D(((0, 1), (0, 1))), L.Conv2D(8, 3, strides=2, use_bias=False), L.BatchNormalization(), relu6(),
        L.DepthwiseConv2D(3, padding="same"), relu6(), L.Conv2D(12, 1), relu6(),
        L.ZeroPadding2D(((0, 1), (0, 1))), L.DepthwiseConv2D(3, strides=2), L.BatchNormalization(), relu6(),
        L.Conv2D(16, 1), L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(10, 1), L.Flatten()], (17, 16, 3)),
    "strides": (lambda: [L.Conv2D(4, 5, strides=3, padding="same"), L.DepthwiseConv2D(3, strides=2, padding="same"),
                         L.GlobalAveragePooling2D(), L.Dense(5)], (19, 22, 2)),
    "pads on every side": (lambda: [L.ZeroPadding2D(((1, 2), (3, 0))), L.Conv2D(4, (3, 2)), L.MaxPooling2D(3)],
                           (9, 8, 2)),
    "an image": (lambda: [L.Conv2D(4, 3, padding="same", activation="relu6")], (5, 6, 2)),
    "one dense layer": (lambda: [L.Flatten(), L.Dense(7, use_bias=False)], (5, 4, 3)),
}  # fmt: skip


@pytest.fixture(scope="module", params=CHAINS)
def chain(request):
    layers, shape = CHAINS[request.param]
    return file_of(layers(), shape), shape


def test_a_network_does_what_litert_does(chain):
    file, shape = chain
    network, random = sparse_network(file), np.random.default_rng(1)
    for _ in range(3):
        x = random.standard_normal(shape).astype(np.float32)
        network._memory[:] = np.nan
        found, expected = network(x), litert(file, x)
        assert found.size == expected.size
        bound = 1e-5 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(found.ravel(), expected.ravel(), rtol=0, atol=bound)
        assert np.ptp(expected) > 100 * bound


def test_the_zeros_of_the_file_are_skipped():
    layers = [L.Conv2D(8, 3), L.MaxPooling2D(), L.Flatten(), L.Dense(10)]
    file = file_of(layers, (10, 10, 1), zeros=0.9)
    nonzeros = sum(np.count_nonzero(layer.weights) for layer in file.layers)
    assert sparse_network(file)._parts[0].size == nonzeros
    by_two = sparse_network(file, {0: 2})
    conv, dense = file.layers[0].weights, file.layers[1].weights
    assert by_two.layers[0].block == 2
    kept = 2 * np.any(conv.reshape(4, 2, -1) != 0, axis=1).sum() + np.count_nonzero(dense)
    assert by_two._parts[0].size == kept
    x = np.random.default_rng(0).standard_normal((10, 10, 1)).astype(np.float32)
    np.testing.assert_allclose(by_two(x), litert(file, x), atol=1e-4)


def test_each_operator_becomes_its_layer():
    layers = [L.ZeroPadding2D(((1, 0), (0, 2))), L.Conv2D(8, 3, strides=2, activation="relu"), L.MaxPooling2D(3),
              L.DepthwiseConv2D(3, padding="same", activation="relu6"), L.GlobalAveragePooling2D(),
              L.Dense(48), L.Dense(6), L.Softmax()]  # fmt: skip
    file = file_of(layers, (20, 20, 2), zeros=0)
    found = sparse_network(file).layers
    assert [type(layer) for layer in found] == [Convolution, MaxPool, Convolution, GlobalMean, Dense, Dense]
    first, pool, second, _, dense, last = found
    assert (first.stride, first.padding, first.low, first.high) == (2, ((1, 0), (0, 2)), 0, np.inf)
    assert pool.size == 3
    assert (second.depthwise, second.padding, second.low, second.high) == (True, "same", 0, 6)
    assert (dense.low, dense.high) == (-np.inf, np.inf)
    assert (first.block, dense.block, last.block) == (1, 16, 2), "a full matrix in the largest blocks that fit"
    x = np.random.default_rng(0).standard_normal((20, 20, 2)).astype(np.float32) / 50
    powers = np.exp(sparse_network(file)(x))  # the softmax at the end is left out
    np.testing.assert_allclose(powers / powers.sum(), litert(file, x), rtol=1e-3, atol=1e-6)
    half = file_of(layers, (20, 20, 2), zeros=0.6)
    assert [layer.block for layer in sparse_network(half).layers[-2:]] == [1, 1]
    assert sparse_network(half, {3: 2}).layers[-1].block == 2


def test_a_grey_image_without_its_channel():
    file = file_of([L.Reshape((6, 5, 1)), L.Conv2D(3, 3)], (6, 5))
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    np.testing.assert_allclose(sparse_network(file)(x[..., None]), litert(file, x), atol=1e-5)


def changed(spec, **options):
    """The file of one operator with other options, which leave its output's shape alone."""
    content = schema.ModelT.InitFromPackedBuf(single(spec).content, 0)
    for name, value in options.items():
        assert hasattr(content.subgraphs[0].operators[0].builtinOptions, name)
        setattr(content.subgraphs[0].operators[0].builtinOptions, name, value)
    builder = flatbuffers.Builder(1024)
    builder.Finish(content.Pack(builder), b"TFL3")
    return LiteRTFile(bytes(builder.Output()))


def branches():
    inputs = keras.Input((8, 8, 2), batch_size=1)
    return file_of_model(keras.Model(inputs, L.Add()([L.Conv2D(2, 1)(inputs), L.Conv2D(2, 3, padding="same")(inputs)])))


def of(*layers):
    return lambda: file_of(layers, (8, 8, 2))


CONV = Spec("CONV_2D", "float32", (1, 8, 8, 2), outputs=3, window=3)
POOL = Spec("MAX_POOL_2D", "float32", (1, 7, 7, 2), window=2, stride=2)


@pytest.mark.parametrize(
    ("file", "blocks", "said"),
    [
        (lambda: single(Spec("CONV_2D", "int8", (1, 8, 8, 2), 3, 3)), None,
         "sparse_network: the weights of operator 0 (CONV_2D) are int8; it takes float32"),
        (branches, None,
         "sparse_network: operator 1 (CONV_2D) does not take what the operator before it gives: no chain"),
        (of(L.ZeroPadding2D(1), L.Conv2D(3, 3, padding="same")), None, "operator 1 (CONV_2D) is padded twice"),
        (of(L.ZeroPadding2D(1), L.MaxPooling2D()), None,
         "sparse_network: a PAD stands before operator 1 (MAX_POOL_2D); it is read before a convolution"),
        (of(L.Softmax(), L.Conv2D(3, 3)), None, "no kernel for operator 0 (SOFTMAX) as it stands"),
        (lambda: changed(replace(CONV, shape=(1, 8, 1, 2)), strideW=2), None,
         "operator 0 (CONV_2D) has a dilation, or another stride down than across"),
        (lambda: changed(CONV, dilationHFactor=2), None, "operator 0 (CONV_2D) has a dilation"),
        (lambda: changed(CONV, dilationWFactor=2), None, "operator 0 (CONV_2D) has a dilation"),
        (lambda: changed(CONV, fusedActivationFunction=2), None,
         "operator 0 (CONV_2D) has an activation that is neither none, ReLU nor ReLU6"),
        (lambda: changed(replace(CONV, kind="DEPTHWISE_CONV_2D"), depthMultiplier=2), None,
         "sparse_network: operator 0 (DEPTHWISE_CONV_2D) gives several outputs for each channel"),
        (lambda: single(replace(POOL, kind="AVERAGE_POOL_2D")), None, "no kernel for operator 0 (AVERAGE_POOL_2D)"),
        (lambda: changed(POOL, filterHeight=3, filterWidth=3), None,
         "no kernel for operator 0 (MAX_POOL_2D) as it stands"),
        (lambda: changed(POOL, filterHeight=3), None, "no kernel for operator 0 (MAX_POOL_2D)"),
        (lambda: changed(replace(POOL, shape=(1, 8, 8, 2)), padding=0), None, "no kernel for operator 0 (MAX_POOL_2D)"),
        (lambda: changed(POOL, fusedActivationFunction=1), None, "no kernel for operator 0 (MAX_POOL_2D)"),
        (lambda: single(Spec("MEAN", "float32", (1, 8, 8, 2), window=0)), None, "no kernel for operator 0 (MEAN)"),
        (lambda: single(Spec("TANH", "float32", (1, 8, 8, 2))), None, "no kernel for operator 0 (TANH) as it stands"),
        (lambda: single(CONV), {1: 2}, "sparse_network: blocks for layers [1], and the file has 1: 0 and up"),
        (lambda: single(CONV), {-1: 2}, "sparse_network: blocks for layers [-1], and the file has 1"),
        (lambda: single(CONV), {0: 2}, "sparse_network: Network: layer 0 (Convolution) has 3 outputs, and block = 2"),
        (lambda: single(replace(CONV, outputs=8)), {0: 8}, "has block = 8; a convolution's is one of 1, 2, 4"),
    ],
)  # fmt: skip
def test_what_no_kernel_is_for_is_said(file, blocks, said):
    with pytest.raises(LiteRTError) as raised:
        sparse_network(file(), blocks)
    assert said in str(raised.value)
