"""The course's own quantization-aware models: what they round, keep and refuse, and their int8 files."""

import functools

import numpy as np
import pytest

from hwlimits import quantization
from hwlimits.quantization import QuantizationError
from hwlimits.training import export, integer_run, quantize, quantized_layers
from hwlimits.training.keras import keras, tf
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.models import article_cnn

layers = keras.layers


@functools.cache
def trained(build, shape=(12, 12, 3), classes=5, bits=8, engine="own", keep_zeros=True):
    """A network of random weights with ranges that a few steps of training have learnt, and images for it."""
    keras.utils.set_random_seed(1)
    model = build()
    for layer in model.layers:  # biases that are no zeros
        if getattr(layer, "use_bias", False):
            layer.bias.assign(np.random.default_rng(0).normal(size=layer.bias.shape) * 0.1)
    images = varied(96, shape)
    aware = quantize.aware(model, engine, bits=bits, keep_zeros=keep_zeros)
    aware.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    aware.fit(images, np.arange(96) % classes, batch_size=16, epochs=2, verbose=0)
    return model, aware, images


def varied(count, shape=(12, 12, 3)):
    """Random images, bright and dark, of several colours: answers to noise alone would all be the same."""
    random = np.random.default_rng(2)
    return (random.random((count, *shape)) * random.random((count, 1, 1, shape[-1]))).astype(np.float32)


def plain():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, activation=tf.nn.relu6, name="depthwise")(x)
    x = layers.MaxPooling2D(2, padding="same", name="pool")(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="out")(layers.Flatten()(x)))


def residual():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    y = layers.Conv2D(8, 1, name="second")(layers.DepthwiseConv2D(3, padding="same", name="deep")(x))
    x = layers.Activation("relu", name="sum_relu")(layers.Add(name="sum")([x, y]))
    x = layers.AveragePooling2D(2, name="average")(layers.Concatenate(name="both")([x, y]))
    x = layers.Dense(5, name="out")(layers.Dropout(0.1)(layers.GlobalAveragePooling2D(name="mean")(x)))
    return keras.Model(inputs, layers.Softmax(name="answers")(x))


def codes(file):
    """Codes of the input and outputs of a file, by LiteRT's reference kernels."""
    graph = file._model.subgraphs[0]
    return [integer_run._quantization(graph.tensors[i]) for i in (*graph.inputs, *graph.outputs)]


@pytest.mark.parametrize("build", ["plain", "residual", "relu_alone", "averaged"])
def test_the_file_answers_as_the_model(build):
    _, aware, images = trained(globals()[build])
    file = LiteRTFile(export.to_int8(aware))
    assert file.int8_weights
    read, put = codes(file)
    given = quantization.quantize(images, read)
    ours = integer_run.run(file, [given])
    theirs = integer_run.reference(file, [given])
    assert all(d.differing == 0 for d in integer_run.differences(file, ours, theirs))
    (index,) = file._model.subgraphs[0].outputs
    expected = quantization.quantize(aware.predict(images, verbose=0), put).astype(int)
    steps = np.abs(theirs[int(index)].astype(int) - expected)
    assert np.mean(steps <= 1) > 0.99
    assert len(np.unique(expected)) > 10, "outputs that hardly differ would show nothing"


def test_what_the_file_has_are_the_model_s_own_codes():
    _, aware, _ = trained(plain)
    file = LiteRTFile(export.to_int8(aware))
    graph = file._model.subgraphs[0]
    made = {integer_run._kind(file._model, op): op for op in graph.operators}
    names = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "out"}
    for kind, name in names.items():
        layer, op = aware.get_layer(name), made[kind]
        weights = graph.tensors[op.inputs[1]]
        q = integer_run._quantization(weights)
        scale = quantization.symmetric(layer.weight_range.magnitude.numpy(), axis=0 if q.axis is not None else None)
        assert np.array_equal(np.atleast_1d(q.scale), np.atleast_1d(scale.scale)), name
        kernel = getattr(layer, layer.attribute)
        ours = np.moveaxis(layer.flat(kernel).numpy(), -1, 0)  # LiteRT has the filters first
        if kind == "DEPTHWISE_CONV_2D":
            ours = np.moveaxis(ours, 0, -1).reshape(1, *kernel.shape[:2], -1)
        expected = quantization.quantize(ours, quantization.Quantization(q.scale, 0, narrow=True, axis=q.axis))
        assert np.array_equal(integer_run._constant(file._model, weights), expected), name
        put = integer_run._quantization(graph.tensors[op.outputs[0]])
        learnt = quantization.affine(float(layer.output_range.low), float(layer.output_range.high))
        assert put.zero_point == learnt.zero_point
        assert put.scale == pytest.approx(learnt.scale, rel=2e-7)


def test_each_layer_computes_with_codes():
    """Layer by layer against NumPy's quantization of what a plain Keras model puts out."""
    model, aware, images = trained(plain, bits=4)
    x = quantization.fake_quantize(images[:8], learnt(aware.get_layer("codes_of_input"), 8))
    for name in ("conv", "depthwise"):
        layer = aware.get_layer(name)
        kernel = getattr(layer, layer.attribute).numpy()
        magnitude = layer.weight_range.magnitude.numpy().reshape(kernel.shape[-2:] if name == "depthwise" else -1)
        scale = quantization.symmetric(magnitude.ravel(), 4, axis=0)
        flat = kernel.reshape(-1, magnitude.size).T
        coded = quantization.fake_quantize(flat, scale).T.reshape(kernel.shape)
        model.get_layer(name).set_weights([coded, layer.bias.numpy()])
        x = model.get_layer(name)(x).numpy()
        x = quantization.fake_quantize(x, learnt(layer, 4))
        found = keras.Model(aware.input, layer.output)(images[:8]).numpy()
        # a sum in another order may fall to the next code
        assert np.mean(np.isclose(found, x, atol=1e-6)) > 0.999
        assert len(np.unique(found)) <= 16
        x = found


def learnt(layer, bits):
    return quantization.affine(float(layer.output_range.low), float(layer.output_range.high), bits)


def test_answers_have_eight_bits_and_the_rest_as_many_as_asked():
    aware = trained(residual, bits=2)[1]
    bits = {x.name: x.output_range.bits for x in quantized_layers.coded_layers(aware) if hasattr(x, "output_range")}
    assert bits.pop("codes_of_input") == bits.pop("out") == 8
    assert set(bits.values()) == {2}
    # what is fused has no codes of its own: the first convolution with norm and ReLU, the sum with its ReLU
    assert set(bits) == {"codes_of_relu", "deep", "second", "codes_of_sum_relu", "codes_of_both", "codes_of_average",
                         "codes_of_mean"}  # fmt: skip
    with pytest.raises(QuantizationError, match="to_int8: first has codes of 2 bits; a file of int8 has 8"):
        export.to_int8(aware)


def test_a_norm_is_folded():
    keras.utils.set_random_seed(0)
    model = residual()
    random = np.random.default_rng(0)
    model.get_layer("out").kernel.assign(5 * model.get_layer("out").kernel)
    norm = model.get_layer("norm")
    norm.set_weights([
        random.random(8) + 2, random.normal(size=8), 0.1 * random.normal(size=8), 0.1 + 0.1 * random.random(8),
    ])  # fmt: skip
    images = varied(8)
    aware = quantize.calibrated(model, images)
    assert "norm" not in [layer.name for layer in aware.layers]
    expected = model.predict(images, verbose=0)
    assert np.abs(aware.predict(images, verbose=0) - expected).max() < 0.02
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (lambda: layers.Conv2DTranspose(4, 2, name="up"), "up is a Conv2DTranspose, which has no codes here"),
        (
            lambda: layers.Conv2D(4, 3, activation="elu", name="a"),
            "a has the activation elu; those with codes here",
        ),
        (lambda: layers.Conv2D(4, 3, activation="tanh", name="a"), "a ends in tanh and other layers read it"),
        (lambda: layers.Softmax(name="s"), "s ends in softmax and other layers read it"),
        (lambda: layers.BatchNormalization(name="n"), "n is a BatchNormalization that no layer before it can take in"),
        (lambda: layers.Dense(4, name="d"), "d reads numbers of the shape .*put a Flatten before it"),
        (lambda: layers.Conv2D(4, 3, data_format="channels_first", name="c"), "c has its channels first"),
        (lambda: layers.Conv2D(4, 3, dilation_rate=2, name="wide"), r"wide has the dilation \(2, 2\)"),
        (lambda: layers.DepthwiseConv2D(3, dilation_rate=(2, 2), name="wide"), r"wide has the dilation \(2, 2\)"),
        (
            lambda: layers.ReLU(negative_slope=0.1, name="leaky"),
            "leaky is a ReLU with negative_slope=0.1, threshold=0,",
        ),
        (lambda: layers.ReLU(max_value=0.3, name="low"), "low is a ReLU with .*max_value=0.3; take"),
        (lambda: layers.ReLU(threshold=0.5, name="late"), "late is a ReLU with negative_slope=0, threshold=0.5"),
    ],
)
def test_what_has_no_codes_is_refused_by_name(layer, said):
    model = keras.Sequential([keras.Input((12, 12, 4)), layer(), layers.ReLU(), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(QuantizationError, match=f"aware: {said}"):
        quantize.aware(model, "own")


def test_a_sum_of_three_is_refused():
    inputs = keras.Input((12, 12, 3))
    three = [layers.Conv2D(2, 1)(inputs) for _ in range(3)]
    model = keras.Model(inputs, layers.Add(name="sum")(three))
    with pytest.raises(QuantizationError, match="aware: sum adds 3 inputs; LiteRT's integers add two"):
        quantize.aware(model, "own")


def test_a_norm_behind_an_output_is_refused():
    """Folded into the convolution it would change what that puts out itself."""
    inputs = keras.Input((12, 12, 3))
    first = layers.Conv2D(2, 3, name="first")(inputs)
    model = keras.Model(inputs, [first, layers.BatchNormalization(name="norm")(first)])
    with pytest.raises(QuantizationError, match="aware: norm is a BatchNormalization that no layer before it can take"):
        quantize.aware(model, "own")


def test_inputs_keep_their_order_and_names():
    a, b = keras.Input((12, 12, 3), name="a"), keras.Input((12, 12, 3), name="b")
    both = layers.Concatenate()([layers.Conv2D(2, 3)(a), layers.Conv2D(3, 3)(b)])
    model = keras.Model([b, a], both)  # the layers have a first
    images = [varied(8), 1 - varied(8)]
    aware = quantize.aware(model, "own")
    assert aware.input_names == model.input_names == ["b", "a"]
    aware([keras.backend.constant(x) for x in images], training=True)
    expected = model.predict(images, verbose=0)
    assert np.abs(aware.predict(images, verbose=0) - expected).max() < 0.03 * np.ptp(expected)


def relu_alone():
    """ReLUs that LiteRT does not fuse with what is before them."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.ReLU(6.0, name="again")(x)
    y = layers.ReLU(name="half")(layers.Concatenate(name="both")([x, layers.Conv2D(4, 3, name="other")(inputs)]))
    x = layers.ReLU(name="mean_relu")(layers.GlobalAveragePooling2D(name="mean")(y))
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="out")(x))


def averaged():
    inputs = keras.Input((12, 12, 3))
    x = layers.AveragePooling2D(2, name="average")(layers.Conv2D(8, 3, name="conv")(inputs))
    x = layers.Flatten()(layers.ReLU(name="relu")(x))
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="out")(x))


def test_only_operators_with_an_activation_of_their_own_take_a_relu_in():
    names = {layer.name for layer in quantize.aware(relu_alone(), "own").layers}
    assert {"codes_of_again", "codes_of_both", "codes_of_half", "codes_of_mean", "codes_of_mean_relu"} <= names
    conv = quantize.aware(relu_alone(), "own").get_layer("conv")
    assert conv.output_bits == 8
    assert "codes_of_average" not in {layer.name for layer in quantize.aware(averaged(), "own").layers}


def test_a_file_that_computes_in_float32_is_refused():
    """A model that knows of no codes but at its input: the converter says nothing, and leaves the rest in float32."""
    inputs = keras.Input((12, 12, 3))
    coded = quantized_layers.Coded(name="codes")
    model = keras.Model(inputs, layers.ReLU(negative_slope=0.1, name="leaky")(coded(inputs)))
    coded(keras.backend.constant(varied(8)), training=True)
    with pytest.raises(
        QuantizationError, match="to_int8: the file has the operator LEAKY_RELU .* in float32; make the"
    ):
        export.to_int8(model)


def test_ranges_that_nothing_was_learnt_of_are_refused():
    model = plain()
    with pytest.raises(QuantizationError, match=r"to_int8: .* has learnt no range yet; train .* or use quantize.calib"):
        export.to_int8(quantize.aware(model, "own"))
    assert LiteRTFile(export.to_int8(quantize.calibrated(model, varied(8)))).int8_weights


def test_a_model_that_has_no_graph_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(QuantizationError, match="is no Sequential or functional model"):
        quantize.aware(Own(name="mine"), "own")


def test_what_was_given_is_left_as_it_was():
    model = article_cnn()
    before = model.get_weights()
    quantize.aware(model, "own")
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert not list(quantized_layers.coded_layers(model))
