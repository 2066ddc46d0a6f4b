"""Keras models counted: against their TensorFlow operations, the profiler where it is right, and counts by hand."""

import keras as keras3
import numpy as np
import pytest

from hwlimits import compute
from hwlimits.compute import Cost, CountError
from hwlimits.training import cost as counting
from hwlimits.training.cost import BY_OPERATIONS, FREE, cost
from hwlimits.training.keras import keras, tf, tfmot
from hwlimits.training.models import article_cnn

PACKAGES = {"tf_keras": keras, "keras 3": keras3}
LINE, IMAGE, VOLUME = (11, 6), (9, 11, 6), (5, 6, 7, 3)


def around(layer, *shapes, dtype="float32", package=keras):
    """A model of one layer."""
    inputs = [package.Input(shape, dtype=dtype) for shape in shapes]
    return package.Model(inputs, layer(inputs[0] if len(inputs) == 1 else inputs))


def profiled_flops(model, batch=2) -> int:
    """What TensorFlow's own profiler says."""
    specs = [tf.TensorSpec((batch, *t.shape[1:]), t.dtype) for t in model.inputs]
    run = tf.function(lambda *x: model(x if len(x) > 1 else x[0], training=False), autograph=False)
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    return tf.compat.v1.profiler.profile(run.get_concrete_function(*specs).graph, options=options).total_float_ops


@pytest.fixture
def without_formulas(monkeypatch):
    """A way to count a model by its TensorFlow operations alone: a second opinion on every formula."""

    def count(model, **options):
        with monkeypatch.context() as patch:
            patch.setattr(counting, "cost_of", lambda call: None)
            return cost(model, **options)

    return count


# name: (layer of keras.layers `L`, shapes of its inputs, what its TensorFlow operations must agree on)
ALL, FLOPS = ("macs", "other_flops", "bytes_read", "bytes_written"), ("macs", "other_flops")
SAME = {"padding": "same"}
LAYERS = {
    "conv 1-D": (lambda L: L.Conv1D(7, 3, strides=2), [LINE], ALL),
    "conv 2-D": (lambda L: L.Conv2D(12, (3, 2), strides=2, activation="relu"), [IMAGE], ALL),
    "conv 2-D same": (lambda L: L.Conv2D(5, 3, strides=(2, 1), use_bias=False, **SAME), [IMAGE], ALL),
    "conv 2-D channels first": (lambda L: L.Conv2D(7, 3, data_format="channels_first"), [(6, 9, 11)], ALL),
    "conv 3-D": (lambda L: L.Conv3D(7, (3, 2, 1), strides=(2, 1, 1)), [VOLUME], ALL),
    "conv 3-D same": (lambda L: L.Conv3D(2, 3, activation="elu", **SAME), [VOLUME], ALL),
    "depthwise 1-D": (lambda L: L.DepthwiseConv1D(3, strides=2, depth_multiplier=2), [LINE], ALL),
    "depthwise 2-D": (lambda L: L.DepthwiseConv2D(3, strides=2, depth_multiplier=2, **SAME), [IMAGE], ALL),
    "separable 1-D": (lambda L: L.SeparableConv1D(7, 3, strides=2), [LINE], ALL),
    "separable 2-D": (lambda L: L.SeparableConv2D(7, 3, depth_multiplier=2, activation="elu", **SAME), [IMAGE], ALL),
    "transposed 1-D": (lambda L: L.Conv1DTranspose(7, 3, strides=2), [LINE], ALL),
    "transposed 2-D": (lambda L: L.Conv2DTranspose(7, 3, strides=2, activation="relu"), [IMAGE], ALL),
    "transposed 2-D same": (lambda L: L.Conv2DTranspose(7, 3, strides=2, **SAME), [IMAGE], ALL),
    "transposed, stride > kernel": (lambda L: L.Conv2DTranspose(7, 2, strides=3), [IMAGE], ALL),
    "transposed, output padding": (lambda L: L.Conv2DTranspose(7, 3, strides=2, output_padding=1), [IMAGE], ALL),
    "transposed same, output padding": (
        lambda L: L.Conv2DTranspose(7, 3, strides=2, output_padding=(1, 0), **SAME), [IMAGE], ALL,
    ),
    "transposed 3-D": (lambda L: L.Conv3DTranspose(7, 3, strides=2, use_bias=False), [VOLUME], ALL),
    "dense": (lambda L: L.Dense(5, activation="gelu"), [(6,)], ALL),
    "dense on a sequence": (lambda L: L.Dense(5, use_bias=False), [(7, 3, 6)], ALL),
    "einsum dense": (
        lambda L: L.EinsumDense("abc,cde->abde", output_shape=(None, 3, 4), bias_axes="de", activation="tanh"),
        [(7, 6)], ALL,
    ),
    "einsum dense, ellipsis": (lambda L: L.EinsumDense("...x,xy->...y", 4, bias_axes="y"), [(7, 2, 6)], ALL),
    "einsum dense, no bias": (lambda L: L.EinsumDense("abc,cd->abd", (None, 4)), [(7, 6)], ALL),
    "attention": (lambda L: L.Attention(use_scale=True), [(5, 6), (7, 6)], ALL),
    "attention, three tensors": (lambda L: L.Attention(), [(5, 6), (7, 4), (7, 6)], ALL),
    "lstm": (lambda L: L.LSTM(5, return_sequences=True, unroll=True), [(7, 6)], FLOPS),
    "lstm, no bias": (lambda L: L.LSTM(5, use_bias=False, unroll=True, go_backwards=True), [(7, 6)], FLOPS),
    "gru": (lambda L: L.GRU(5, unroll=True), [(7, 6)], FLOPS),
    "gru, reset before": (lambda L: L.GRU(5, reset_after=False, unroll=True), [(7, 6)], FLOPS),
    "gru, no bias": (lambda L: L.GRU(5, use_bias=False, activation="relu", unroll=True), [(7, 6)], FLOPS),
    "simple rnn": (lambda L: L.SimpleRNN(5, return_sequences=True, unroll=True), [(7, 6)], FLOPS),
    "unit norm": (lambda L: L.UnitNormalization(), [IMAGE], ALL),
    "relu layer": (lambda L: L.ReLU(max_value=6.0), [IMAGE], ALL),
    "leaky relu": (lambda L: L.LeakyReLU(), [IMAGE], ALL),
    "elu layer": (lambda L: L.ELU(), [IMAGE], ALL),
    "softmax layer": (lambda L: L.Softmax(), [IMAGE], ALL),
    "add": (lambda L: L.Add(), [IMAGE] * 3, ALL),
    "subtract": (lambda L: L.Subtract(), [IMAGE] * 2, ALL),
    "multiply, broadcast": (lambda L: L.Multiply(), [IMAGE, (1, 1, 6)], ALL),
    "average": (lambda L: L.Average(), [IMAGE] * 3, ALL),
    "maximum": (lambda L: L.Maximum(), [IMAGE] * 3, ALL),
    "minimum": (lambda L: L.Minimum(), [IMAGE] * 2, ALL),
    "concatenate": (lambda L: L.Concatenate(axis=1), [(3, 6), (5, 6)], ALL),
    "dot": (lambda L: L.Dot((1, 2)), [(5, 6), (7, 5)], ALL),
    "dot, cosine": (lambda L: L.Dot(-1, normalize=True), [(5, 6), (7, 6)], ALL),
    "zero padding": (lambda L: L.ZeroPadding2D(((1, 2), (0, 3))), [IMAGE], ALL),
    "cropping": (lambda L: L.Cropping2D(2), [IMAGE], ALL),
    "upsampling, bilinear": (lambda L: L.UpSampling2D(2, interpolation="bilinear"), [IMAGE], ALL),
    "permute": (lambda L: L.Permute((2, 1, 3)), [IMAGE], ALL),
    "repeat vector": (lambda L: L.RepeatVector(3), [(6,)], ALL),
} | {
    f"{kind} pooling {n}-D {padding}": (
        lambda L, kind=kind, n=n, padding=padding: getattr(L, f"{kind}Pooling{n}D")(3, strides=2, padding=padding),
        [shape], ALL,
    )
    for kind in ("Max", "Average")
    for n, shape in ((1, LINE), (2, IMAGE), (3, VOLUME))
    for padding in ("valid", "same")
} | {
    f"global average pooling {n}-D": (
        lambda L, n=n: getattr(L, f"GlobalAveragePooling{n}D")(), [shape], ALL,
    )
    for n, shape in ((1, LINE), (2, IMAGE), (3, VOLUME))
} | {
    f"activation {name}": (lambda L, name=name: L.Activation(name), [IMAGE], ALL)
    for name in (
        "relu", "relu6", "elu", "selu", "sigmoid", "tanh", "softplus", "softsign", "gelu", "mish", "hard_sigmoid",
        "exponential", "softmax",
    )
}  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_s_formula_agrees_with_its_operations(package, name, without_formulas):
    make, shapes, agreed = LAYERS[name]
    model = around(make(PACKAGES[package].layers), *shapes, package=PACKAGES[package])
    by_formula, by_operations = cost(model, batch=2), without_formulas(model, batch=2)
    assert not by_formula.not_counted
    assert [layer.note for layer in by_formula.layers] == [""], "counted by its formula"
    for what in agreed:
        assert getattr(by_formula.total, what) == getattr(by_operations.total, what), what
    parameters = model.count_params()
    assert by_formula.total.parameters == by_operations.total.parameters == parameters
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert by_formula.trainable_parameters == trainable


# Where the graph does something else than the layer says: dilation copies the image, groups and loops
# hide in functions, integers are looked up. These are by hand.
BY_HAND = {
    "conv 2-D, groups": (lambda L: L.Conv2D(12, 3, groups=3), [IMAGE], 7 * 9 * 12 * 9 * 2, 7 * 9 * 12),
    "conv 2-D, dilated": (lambda L: L.Conv2D(5, 3, dilation_rate=2), [IMAGE], 5 * 7 * 5 * 9 * 6, 5 * 7 * 5),
    "conv 1-D, causal": (
        lambda L: L.Conv1D(7, 3, dilation_rate=2, padding="causal"), [LINE], 11 * 7 * 3 * 6, 11 * 7
    ),
    "depthwise, dilated": (
        lambda L: L.DepthwiseConv2D(3, dilation_rate=2, **SAME), [IMAGE], 9 * 11 * 6 * 9, 9 * 11 * 6
    ),
    "transposed, dilated": (
        lambda L: L.Conv2DTranspose(7, 3, dilation_rate=2), [IMAGE], 9 * 11 * 6 * 9 * 7, 13 * 15 * 7
    ),
    "conv lstm 1-D": (
        lambda L: L.ConvLSTM1D(5, 3, strides=2, **SAME), [(4, 8, 3)],
        4 * 4 * 4 * 5 * 3 * (3 + 5), 4 * 4 * 5 * (4 * 2 + 3 * 4 + 2 * 5 + 4),
    ),
    "conv lstm 2-D": (
        lambda L: L.ConvLSTM2D(5, 3, return_sequences=True), [(4, 8, 7, 3)],
        4 * 6 * 5 * 4 * 5 * 9 * (3 + 5), 4 * 6 * 5 * 5 * (4 * 2 + 3 * 4 + 2 * 5 + 4),
    ),
    "conv lstm 3-D": (
        lambda L: L.ConvLSTM3D(2, 2), [(3, 4, 4, 4, 3)],
        3 * 27 * 4 * 2 * 8 * (3 + 2), 3 * 27 * 2 * (4 * 2 + 3 * 4 + 2 * 5 + 4),
    ),
    "lstm as a loop": (lambda L: L.LSTM(5), [(7, 6)], 7 * 4 * 5 * (6 + 5), 7 * 5 * (4 * 2 + 3 * 4 + 2 * 5 + 4)),
    "stacked cells": (
        lambda L: L.RNN([L.LSTMCell(4), L.SimpleRNNCell(5)], return_sequences=True), [(7, 6)],
        7 * (4 * 4 * (6 + 4) + 5 * (4 + 5)), 7 * (4 * (4 * 2 + 3 * 4 + 2 * 5 + 4) + 5 * (2 + 5)),
    ),
    "additive attention": (
        lambda L: L.AdditiveAttention(), [(5, 6), (7, 6)], 5 * 7 * (6 + 6), 5 * 7 * (6 * (1 + 5) + 5)
    ),
    "layer norm": (lambda L: L.LayerNormalization(), [IMAGE], 0, 9 * 11 * (8 * 6 + 3)),
    "group norm": (lambda L: L.GroupNormalization(groups=3), [IMAGE], 0, 8 * 9 * 11 * 6 + 3 * 3),
    "instance norm": (lambda L: L.GroupNormalization(groups=-1), [IMAGE], 0, 8 * 9 * 11 * 6 + 6 * 3),
    "batch norm": (lambda L: L.BatchNormalization(scale=False), [IMAGE], 0, 2 * 9 * 11 * 6),
    "prelu, shared": (lambda L: L.PReLU(shared_axes=[1, 2]), [IMAGE], 0, 2 * 9 * 11 * 6),
    "layer norm, two axes": (
        lambda L: L.LayerNormalization(axis=[1, 2], center=False), [IMAGE], 0, 9 * 11 * 6 * 7 + 6 * 3
    ),
    "batch norm, axis 1": (lambda L: L.BatchNormalization(axis=1), [IMAGE], 0, 2 * 9 * 11 * 6),
    "global max pooling": (lambda L: L.GlobalMaxPooling2D(), [IMAGE], 0, 9 * 11 * 6),
    "prelu layer": (lambda L: L.PReLU(), [IMAGE], 0, 2 * 9 * 11 * 6),
    "upsampling": (lambda L: L.UpSampling2D(2), [IMAGE], 0, 0),
    "swish": (lambda L: L.Activation("swish"), [IMAGE], 0, 5 * 9 * 11 * 6),
    "center crop": (lambda L: L.CenterCrop(5, 5), [IMAGE], 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", BY_HAND)
def test_a_layer_by_hand(package, name):
    make, shapes, macs, other_flops = BY_HAND[name]
    model = around(make(PACKAGES[package].layers), *shapes, package=PACKAGES[package])
    found = cost(model, batch=3)
    assert not found.not_counted
    assert [layer.note for layer in found.layers] == [""]
    assert (found.total.macs, found.total.other_flops) == (3 * macs, 3 * other_flops)
    assert found.total.parameters == model.count_params()


def test_layers_of_tf_keras_alone():
    L = keras.layers
    found = cost(around(L.LocallyConnected2D(4, 3), IMAGE)).total
    assert (found.macs, found.parameters) == (7 * 9 * 4 * 9 * 6, 7 * 9 * 4 * (9 * 6 + 1))
    found = cost(around(L.LocallyConnected1D(4, 3, padding="same", implementation=3), LINE)).total
    assert found.macs == (11 * 3 - 2) * 6 * 4, "two taps lie over the padding"
    # implementation 2 multiplies by a dense matrix of all inputs and outputs, masked
    model = around(L.LocallyConnected1D(4, 3, implementation=2), LINE)
    found = cost(model).total
    assert (found.macs, found.parameters) == (11 * 6 * 9 * 4, model.count_params())
    assert cost(around(L.ThresholdedReLU(), IMAGE)).total.other_flops == 2 * 9 * 11 * 6
    assert cost(around(L.Conv2D(7, 3), (4, *IMAGE))).total.macs == 4 * cost(around(L.Conv2D(7, 3), IMAGE)).total.macs


def test_layers_of_keras_3_alone():
    L = keras3.layers
    rms = cost(around(L.RMSNormalization(), (7, 6), package=keras3)).total
    assert rms == compute.rms_norm((7, 6), 6)
    x = keras3.Input((7, 12))
    grouped = cost(keras3.Model(x, L.GroupQueryAttention(3, 4, 2)(x, x)))
    assert grouped.total == compute.attention(7, 12, heads=4, key_dim=3, key_heads=2)
    gated = cost(keras3.Model(x, L.MultiHeadAttention(2, 3, use_gate=True)(x, x)))
    plain = compute.attention(7, 12, heads=2, key_dim=3)
    assert gated.total.macs == plain.macs + 7 * 12 * 6, "a gate is one projection more"
    assert not gated.not_counted


@pytest.mark.parametrize("package", PACKAGES)
def test_an_embedding_reads_its_rows(package):
    k = PACKAGES[package]
    model = around(k.layers.Embedding(50, 8), (7,), dtype="int32", package=k)
    assert cost(model, batch=2, dtype="float16").total == Cost(0, 0, 400, 2 * 7 * (8 * 2 + 4), 2 * 7 * 8 * 2)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("free", ["Flatten", "Dropout", "Reshape", "GaussianNoise", "RandomFlip", "Identity"])
def test_what_costs_nothing_is_listed_as_such(package, free):
    L = PACKAGES[package].layers
    layer = {"Dropout": lambda: L.Dropout(0.5), "Reshape": lambda: L.Reshape((-1,)),
             "GaussianNoise": lambda: L.GaussianNoise(0.1)}.get(free, lambda: getattr(L, free)())()  # fmt: skip
    (row,) = cost(around(layer, IMAGE, package=PACKAGES[package])).layers
    assert (row.kind, row.cost, row.note) == (free, Cost(), FREE)


# Attention.

ATTENTION = {
    "self": (lambda L, x, m: L.MultiHeadAttention(2, 3)(x, x), (6, 8, 2, 3), {}),
    "cross": (lambda L, x, m: L.MultiHeadAttention(2, 3)(x, m), (6, 8, 2, 3), {"keys": 4, "value_features": 5}),
    "value_dim": (lambda L, x, m: L.MultiHeadAttention(2, 3, value_dim=7)(x, x), (6, 8, 2, 3), {"value_dim": 7}),
    "output_shape": (
        lambda L, x, m: L.MultiHeadAttention(2, 3, output_shape=(9,), use_bias=False)(query=x, value=x),
        (6, 8, 2, 3), {"output_features": 9, "bias": False},
    ),
    "output_shape, a number": (
        lambda L, x, m: L.MultiHeadAttention(2, 3, output_shape=9)(x, x), (6, 8, 2, 3), {"output_features": 9}
    ),
    "key given": (
        lambda L, x, m: L.MultiHeadAttention(2, 3)(x, m, key=m), (6, 8, 2, 3), {"keys": 4, "value_features": 5}
    ),
}  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", ATTENTION)
def test_multi_head_attention(package, name, without_formulas):
    k = PACKAGES[package]
    call, dimensions, options = ATTENTION[name]
    x, memory = k.Input((6, 8)), k.Input((4, 5))
    model = k.Model([x, memory], [call(k.layers, x, memory), memory])
    found = cost(model, batch=2)
    assert found.total == compute.attention(*dimensions, **options, batch=2)
    by_operations = without_formulas(model, batch=2).total
    assert found.total.macs == by_operations.macs
    keys = options.get("keys", 6)  # Keras 3 scales the scores, tf_keras the queries before
    elsewhere = 2 * 2 * 6 * (keys - 3) if package == "keras 3" else 0
    assert found.total.other_flops == by_operations.other_flops - elsewhere
    assert found.total.parameters == model.count_params()


@pytest.mark.parametrize("package", PACKAGES)
def test_attention_with_three_tensors_reads_each_once(package):
    k = PACKAGES[package]
    x, value, key = k.Input((6, 8)), k.Input((4, 5)), k.Input((4, 7))
    found = cost(k.Model([x, value, key], k.layers.MultiHeadAttention(2, 3)(x, value, key=key)))
    assert found.total == compute.attention(6, 8, 2, 3, keys=4, value_features=5, key_features=7)


@pytest.mark.parametrize("package", PACKAGES)
def test_attention_over_two_axes_and_with_its_scores(package):
    k = PACKAGES[package]
    x = k.Input((4, 5, 6, 8))
    found = cost(k.Model(x, k.layers.MultiHeadAttention(2, 3, attention_axes=(2, 3))(x, x)))
    assert found.total.macs == 4 * compute.attention(30, 8, 2, 3).macs
    x = k.Input((6, 8))
    model = k.Model(x, k.layers.MultiHeadAttention(2, 3)(x, x, return_attention_scores=True))
    extra = cost(model).total.bytes_written - compute.attention(6, 8, 2, 3).bytes_written
    assert extra == 4 * 2 * 6 * 6


# TensorFlow's profiler, where it is right and where it is not.

RIGHT = [
    "conv 1-D", "conv 2-D same", "conv 3-D", "depthwise 2-D", "transposed 2-D same", "dense on a sequence",
    "attention", "softmax layer", "Max pooling 2-D same", "Average pooling 2-D valid", "global average pooling 2-D",
    "unit norm", "add", "subtract", "average", "maximum", "minimum", "multiply, broadcast", "dot", "dot, cosine",
]  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_the_profiler_agrees_where_it_is_right(name):
    make, shapes, _ = LAYERS[name]
    model = around(make(keras.layers), *shapes)
    assert profiled_flops(model) == cost(model, batch=2).total.flops


@pytest.mark.parametrize(("layer", "per_unit"), [("LSTM", 3 * 4 + 2 * 5), ("GRU", 2 * 4 + 5), ("SimpleRNN", 5)])
def test_the_profiler_agrees_on_an_unrolled_recurrence_but_for_the_activations_that_it_omits(layer, per_unit):
    model = around(getattr(keras.layers, layer)(8, unroll=True), (20, 6))
    assert cost(model, batch=2).total.flops - profiled_flops(model) == 2 * 20 * 8 * per_unit


def test_the_profiler_s_known_errors():
    """Should one of these fail, TensorFlow's counter has learned it: say so in the chapter."""
    L = keras.layers
    grouped = around(L.Conv2D(6, 3, groups=3), IMAGE)
    assert profiled_flops(grouped) == cost(grouped, batch=2).total.other_flops, "the bias alone; 0 of its products"
    looped = around(L.LSTM(8), (20, 6))
    assert profiled_flops(looped) < cost(looped, batch=2).total.flops / 15
    x = keras.Input((128, 64))
    attention = keras.Model(x, L.MultiHeadAttention(4, 16)(x, x))
    total = cost(attention, batch=2).total
    assert profiled_flops(attention) == total.other_flops, "bias, scale and softmax; 0 of its products"
    dilated = around(L.Conv2D(6, 3, dilation_rate=2), IMAGE)
    assert profiled_flops(dilated) > cost(dilated, batch=2).total.flops, "it counts the copies that dilation is done by"


# Networks.

PUBLISHED = {
    "VGG16": (15_470_264_320, 138_357_544),
    "ResNet50": (3_857_973_248, 25_636_712),
    "MobileNet": (568_740_352, 4_253_864),
    "MobileNetV2": (300_774_272, 3_538_984),
    "EfficientNetB0": (385_814_752, 5_330_571),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name):
    found = cost(getattr(keras.applications, name)(weights=None))
    assert (found.total.macs, found.total.parameters) == PUBLISHED[name]
    assert not found.not_counted


def test_keras_3_counts_a_network_alike():
    old, new = (k.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3)) for k in (keras, keras3))
    assert cost(old).total == cost(new).total


def test_the_article_s_cnn_by_hand():
    found = cost(article_cnn(), batch=32, dtype="int8")
    conv1, conv2, dense1, dense2 = 26 * 26 * 32 * 9, 11 * 11 * 64 * 9 * 32, 1600 * 64, 64 * 10
    assert found.total.macs == 32 * (conv1 + conv2 + dense1 + dense2)
    assert found.total.parameters == found.trainable_parameters == 121_930
    rows = {row["layer"]: row for row in found.rows()}
    assert list(rows) == ["conv1", "pool1", "conv2", "pool2", "flatten", "dense1", "dense2", "total"]
    assert rows["conv2"]["output"] == (32, 11, 11, 64)
    assert rows["dense1"]["bytes"] == 32 * 1600 + 1600 * 64 + 64 + 32 * 64


def test_frozen_parameters_are_not_trainable():
    model = article_cnn()
    model.get_layer("conv2").trainable = False
    found = cost(model)
    assert found.trainable_parameters == 121_930 - (9 * 32 + 1) * 64
    assert found.total.parameters == 121_930


# Structure: shared, nested, several inputs and outputs, wrapped, subclassed.


@pytest.mark.parametrize("package", PACKAGES)
def test_a_shared_layer_counts_its_parameters_once_and_its_work_each_time(package):
    k = PACKAGES[package]
    a, b, dense = k.Input((7,)), k.Input((7,)), k.layers.Dense(5, name="shared")
    model = k.Model([a, b], k.layers.Add(name="sum")([dense(a), dense(b)]))
    found = cost(model)
    assert [layer.name for layer in found.layers] == ["shared", "shared (call 2)", "sum"]
    assert found.total.macs == 2 * 7 * 5
    assert [layer.cost.parameters for layer in found.layers] == [40, 0, 0]
    assert found.total.parameters == found.trainable_parameters == 40
    assert found.layers[0].cost.bytes_read == found.layers[1].cost.bytes_read == 4 * (7 + 40)


@pytest.mark.parametrize("package", PACKAGES)
def test_nested_models_are_walked_and_named(package):
    k = PACKAGES[package]
    inner = k.Sequential(
        [k.Input((9, 9, 2)), k.layers.Conv2D(4, 3, name="conv"), k.layers.Flatten(name="flat")], name="inner"
    )
    x = k.Input((9, 9, 2))
    middle = k.Model(x, k.layers.Dense(3, name="head")(inner(x)), name="middle")
    a, b = k.Input((9, 9, 2), name="a"), k.Input((9, 9, 2), name="b")
    model = k.Model({"a": a, "b": b}, {"left": middle(a), "right": middle(b)}, name="outer")
    found = cost(model)
    once = ["middle/inner/conv", "middle/inner/flat", "middle/head"]
    assert [layer.name for layer in found.layers] == once + [f"{name} (call 2)" for name in once]
    assert found.total.macs == 2 * (7 * 7 * 4 * 9 * 2 + 196 * 3)
    assert found.total.parameters == model.count_params()


@pytest.mark.parametrize("package", PACKAGES)
def test_bidirectional_counts_both_directions(package):
    k = PACKAGES[package]
    model = around(k.layers.Bidirectional(k.layers.LSTM(5, return_sequences=True), merge_mode="sum"), (7, 6), package=k)
    found = cost(model)
    one = compute.lstm(6, 5, 7, return_sequences=True)
    assert found.total.macs == 2 * one.macs
    assert found.total.other_flops == 2 * one.other_flops + 7 * 5
    assert found.total.parameters == 2 * one.parameters
    assert [layer.kind for layer in found.layers] == ["LSTM", "LSTM", "Bidirectional"]


@pytest.mark.parametrize("package", PACKAGES)
def test_time_distributed_applies_its_layer_or_model_at_each_step(package):
    k = PACKAGES[package]
    for inner in (k.layers.Conv2D(4, 3), k.Sequential([k.Input(IMAGE), k.layers.Conv2D(4, 3)], name="net")):
        model = around(k.layers.TimeDistributed(inner, name="each"), (5, *IMAGE), package=k)
        found = cost(model, batch=2)
        conv = compute.conv(IMAGE, 4, 3, batch=2 * 5)
        assert found.total == conv
        assert found.layers[0].name.startswith("each/")
        assert not found.not_counted


@pytest.mark.parametrize("package", PACKAGES)
def test_states_that_come_in_and_go_out_are_moved(package):
    k = PACKAGES[package]
    x = k.Input((7, 6))
    _, h, c = k.layers.LSTM(5, return_state=True)(x)
    y = k.layers.LSTM(5, return_sequences=True)(x, initial_state=[h, c])
    first, second = cost(k.Model(x, y), batch=2).layers
    plain = compute.lstm(6, 5, 7, batch=2)
    assert first.cost.bytes_written == plain.bytes_written + 4 * 2 * 2 * 5
    assert second.cost.bytes_read == plain.bytes_read + 4 * 2 * 2 * 5


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_moves_between_stacked_cells(package):
    k = PACKAGES[package]
    found = cost(around(k.layers.RNN([k.layers.GRUCell(4), k.layers.LSTMCell(5)]), (7, 6), package=k), batch=2).total
    assert found.bytes_read == 4 * (2 * 7 * 6 + found.parameters)
    assert found.bytes_written == 4 * 2 * 5


def test_mathematics_between_layers_is_counted_by_its_operations():
    x, y = keras.Input((4, 6)), keras.Input((5, 6))
    scores = tf.matmul(x, y, transpose_b=True) / 2.0
    model = keras.Model([x, y], tf.einsum("bqk,bkd->bqd", tf.nn.softmax(scores), y)[:, 0])
    found = cost(model, batch=2)
    assert found.total.macs == 2 * (4 * 5 * 6 + 4 * 5 * 6)
    assert found.total.other_flops == 2 * 4 * 5 * (1 + 5)
    assert not found.not_counted
    assert {layer.kind for layer in found.layers} == {"TFOpLambda", "SlicingOpLambda"}
    assert found.layers[-1].cost == Cost(bytes_read=4 * 2 * 6, bytes_written=4 * 2 * 6), (
        "what is sliced off is not read"
    )


def test_mathematics_between_layers_of_keras_3():
    x, y = keras3.Input((4, 6)), keras3.Input((6, 5))
    model = keras3.Model([x, y], keras3.ops.relu(keras3.ops.matmul(x, y) + 1.0))
    found = cost(model, batch=2)
    assert (found.total.macs, found.total.other_flops) == (2 * 4 * 5 * 6, 2 * 4 * 5 * 2)
    assert [layer.kind for layer in found.layers] == ["Matmul", "Add", "Relu"]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_layer_of_one_s_own_counts_its_layers_and_its_operations(package):
    k = PACKAGES[package]

    class Block(k.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = k.layers.Dense(6, name="dense")

        def build(self, input_shape):
            self.dense.build(input_shape)
            self.gate = self.add_weight(shape=(6,), name="gate")

        def call(self, x):
            return x + self.dense(x) * self.gate

    model = around(Block(name="block"), (5, 6), package=k)
    found = cost(model)
    dense, own = found.layers
    assert dense.name == "block/dense"
    assert dense.cost == compute.dense(6, 6, positions=5)
    assert (own.name, own.kind, own.note) == ("block", "Block", BY_OPERATIONS)
    assert own.cost == Cost(0, 2 * 30, 6, 4 * (30 + 30 + 6), 4 * 30), "x, the dense layer's output and the gate come in"
    assert found.total.parameters == model.count_params()


@pytest.mark.parametrize("package", PACKAGES)
def test_what_has_no_count_is_listed_by_name_with_its_parameters(package):
    k = PACKAGES[package]

    class Sorts(k.layers.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(shape=(6,), name="scale")

        def call(self, x):
            return tf.math.igamma(tf.abs(x), tf.abs(x)) * self.scale

    x = k.Input((6,))
    found = cost(k.Model(x, k.layers.Dense(2)(Sorts(name="mine")(x))))
    assert found.not_counted == {"mine": "operations without a count: Igamma"}
    row = found.layers[0]
    assert row.cost.parameters == 6
    assert row.note.startswith("not all counted")
    assert found.total.parameters == 6 + 14
    assert found.rows()[-1]["note"] == "without mine"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_loop_of_one_s_own_is_not_counted_in_silence(package):
    k = PACKAGES[package]

    class Cell(k.layers.Layer):
        state_size = 4
        output_size = 4

        def build(self, shape):
            self.w = self.add_weight(shape=(6, 4), name="w")

        def call(self, x, states):
            y = tf.matmul(x, self.w) + states[0]
            return y, [y]

    found = cost(around(k.layers.RNN(Cell(), name="loop"), (7, 6), package=k))
    ((name, reason),) = found.not_counted.items()
    assert name == "loop"
    assert "a loop" in reason


def test_a_loop_over_integers_and_tables_are_named_too():
    class Counts(keras.layers.Layer):
        def call(self, x):
            times = tf.while_loop(lambda i: i < tf.shape(x)[0], lambda i: i + 1, [0])[0]
            return x[:, : times * 0 + 3]

    (reason,) = cost(around(Counts(name="counts"), (6,))).not_counted.values()
    assert "While" in reason
    for layer, dtype in ((keras.layers.StringLookup(vocabulary=["a", "b"]), "string"),
                         (keras.layers.IntegerLookup(vocabulary=[3, 4]), "int64")):  # fmt: skip
        (reason,) = cost(around(layer, (6,), dtype=dtype)).not_counted.values()
        assert "LookupTableFind" in reason


@pytest.mark.parametrize("package", PACKAGES)
def test_a_function_of_one_s_own_as_activation_is_counted_by_its_operations(package):
    k = PACKAGES[package]

    def relu(x):  # not Keras' own, though it has the name
        return x * x + 1.0

    found = cost(around(k.layers.Dense(5, activation=relu), (6,), package=k))
    assert (found.total.macs, found.total.other_flops) == (30, 5 * 3)
    assert found.layers[0].note == BY_OPERATIONS


@pytest.mark.parametrize("package", PACKAGES)
def test_a_subclassed_model_is_counted_when_its_input_shape_is_given(package):
    k = PACKAGES[package]

    class Twice(k.Model):
        def __init__(self):
            super().__init__(name="twice")
            self.dense = k.layers.Dense(6, name="dense")

        def call(self, x, training=None):
            return self.dense(self.dense(x)) * 2.0

    with pytest.raises(CountError, match=r"model 'twice' has no input shape yet.*input_shapes=\(28, 28, 1\)"):
        cost(Twice())
    found = cost(Twice(), batch=3, input_shapes=(6,))
    assert [layer.name for layer in found.layers] == ["dense", "dense (call 2)", "twice"]
    assert found.total.macs == 3 * 2 * 36
    assert found.total.other_flops == 3 * (2 * 6 + 6)
    assert found.total.parameters == 42


@pytest.mark.parametrize("package", PACKAGES)
def test_a_sequential_model_without_an_input_shape_takes_the_one_given(package):
    k = PACKAGES[package]
    found = cost(k.Sequential([k.layers.Conv2D(4, 3), k.layers.Flatten(), k.layers.Dense(2)]), input_shapes=(8, 8, 1))
    assert found.total.macs == 36 * 4 * 9 + 144 * 2


def test_wrappers_of_tfmot_count_as_the_layer_they_wrap():
    plain = cost(article_cnn())
    pruned = cost(tfmot.sparsity.keras.prune_low_magnitude(article_cnn()))
    quantized = cost(tfmot.quantization.keras.quantize_model(article_cnn()))
    for found in (pruned, quantized):
        assert found.total == plain.total
        assert not found.not_counted
        assert found.trainable_parameters == 121_930
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in plain.layers]
    assert {layer.name for layer in plain.layers} < {layer.name for layer in quantized.layers}


def test_quantization_with_normalization_counts_alike():
    L = keras.layers
    stack = [L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(), L.ReLU(), L.Conv2D(4, 3), L.Activation("softmax")]
    model = keras.Sequential([keras.Input((9, 9, 2)), *stack])
    plain, quantized = cost(model), cost(tfmot.quantization.keras.quantize_model(model))
    assert not quantized.not_counted
    assert (quantized.total.macs, quantized.total.parameters) == (plain.total.macs, plain.total.parameters)


# Input shapes, batch, dtype.


@pytest.mark.parametrize("package", PACKAGES)
def test_an_open_length_is_asked_for_and_can_be_given(package):
    k = PACKAGES[package]
    x = k.Input((None, 6), name="tokens")
    model = k.Model(x, k.layers.LSTM(5)(x), name="reader")
    with pytest.raises(CountError) as error:
        cost(model)
    assert str(error.value) == (
        "input 'tokens' of model 'reader' has the shape (None, 6) without the batch: its length number 1 is open. "
        "Say for which to count, as in cost(model, input_shapes={'tokens': (128, 6)})"
    )
    for shapes in ((9, 6), [(9, 6)], {"tokens": (9, 6)}):
        assert cost(model, batch=2, input_shapes=shapes).total == compute.lstm(6, 5, 9, batch=2)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_works_out_a_mask_is_not_counted(package):
    k = PACKAGES[package]
    tokens, steps = k.Input((5,), dtype="int32"), k.Input((5, 3))
    L = k.layers
    embedded = cost(k.Model(tokens, L.LSTM(4)(L.Embedding(7, 3, mask_zero=True)(tokens))), batch=2)
    assert [row.kind for row in embedded.layers if row.kind != "InputLayer"] == ["Embedding", "LSTM"]
    assert embedded.total == compute.embedding(5, 3, 7, batch=2) + compute.lstm(3, 4, 5, batch=2)

    masked = cost(k.Model(steps, L.LSTM(4)(L.Masking()(steps))), batch=2)
    assert [row.kind for row in masked.layers if row.kind != "InputLayer"] == ["Masking", "LSTM"]
    # each number is compared and multiplied; it is read and written once
    assert masked.layers[-2].cost == Cost(
        other_flops=2 * 5 * 3 * 2, bytes_read=2 * 5 * 3 * 4, bytes_written=2 * 5 * 3 * 4
    )
    assert masked.total == masked.layers[-2].cost + compute.lstm(3, 4, 5, batch=2)


@pytest.mark.parametrize("of_one_s_own", [False, True])
def test_a_mask_that_is_also_a_result_or_a_number_is_counted(of_one_s_own):
    ops, steps = keras3.ops, keras3.Input((5, 3))

    class Counted(keras3.layers.Layer):
        def call(self, x):
            return ops.cast(x, "float32") * 2.0

    there = ops.not_equal(steps, 0.0)
    mask = ops.any(there, axis=-1)
    result = keras3.layers.LSTM(4)(steps, mask=mask)
    other = Counted()(there) if of_one_s_own else there
    kinds = [row.kind for row in cost(keras3.Model(steps, [result, other])).layers]
    assert "NotEqual" in kinds
    assert "Any" not in kinds
    kinds = [row.kind for row in cost(keras3.Model(steps, result)).layers]
    assert "NotEqual" not in kinds


@pytest.mark.parametrize("multiplies", [False, True])
def test_a_mask_that_a_model_of_one_s_own_multiplies_with_is_counted(multiplies):
    class There(keras.layers.Layer):
        def call(self, x):
            return tf.reduce_max(x, axis=-1) > 0

    class Reader(keras.Model):
        def __init__(self):
            super().__init__()
            self.there, self.lstm = There(), keras.layers.LSTM(4)

        def call(self, x):
            mask = self.there(x)
            result = self.lstm(x, mask=mask)
            return result * tf.cast(mask[:, :1], tf.float32) if multiplies else result

    kinds = [row.kind for row in cost(Reader(), input_shapes=(5, 3)).layers]
    assert ("There" in kinds) == multiplies


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"input_shapes": (9, 7)},
            r"input 'tokens' of model 'reader' takes \(None, 6\) without the batch, not \(9, 7\)",
        ),
        ({"input_shapes": (9,)}, r"takes \(None, 6\) without the batch, not \(9,\)"),
        ({"input_shapes": {"words": (9, 6)}}, "model 'reader' has no input 'words'; it has tokens"),
        ({"input_shapes": [(9, 6), (9, 6)]}, "model 'reader' has 1 inputs; input_shapes has 2 shapes"),
        ({"batch": 0}, "batch=0: a batch has at least one example"),
        ({"batch": 2.5}, "batch=2.5: a batch has at least one example"),
        ({"batch": "2"}, "batch='2': a batch has at least one example"),
        ({"batch": True}, "batch=True: a batch has at least one example"),
        ({"dtype": "float8"}, "dtype 'float8' is not one that is counted; choose from float64, float32, float16"),
    ],
)
def test_errors_say_what_is_possible(package, options, text):
    k = PACKAGES[package]
    x = k.Input((None, 6), name="tokens")
    with pytest.raises(CountError, match=text):
        cost(k.Model(x, k.layers.LSTM(5)(x), name="reader"), **options)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_batch_that_is_built_in_can_t_be_changed(package):
    k = PACKAGES[package]
    x = k.Input(batch_shape=(4, 6), name="x")
    model = k.Model(x, k.layers.Dense(2)(x), name="fixed")
    assert cost(model, batch=4).total.macs == 4 * 12
    with pytest.raises(CountError, match=r"input 'x' of model 'fixed' was built for a batch of 4 alone: .*batch=4"):
        cost(model)


def test_keras_3_on_another_backend_is_refused(monkeypatch):
    model = around(keras3.layers.Dense(2), (6,), package=keras3)
    monkeypatch.setattr(keras3.config, "backend", lambda: "jax")
    with pytest.raises(CountError, match="is one of Keras 3 on jax; .* KERAS_BACKEND=tensorflow"):
        cost(model)


def test_what_is_no_keras_model_is_refused():
    with pytest.raises(CountError, match="cost\\(\\) counts models of tf_keras and Keras 3; this is a dict"):
        cost({})


@pytest.mark.parametrize("package", PACKAGES)
def test_counting_leaves_the_model_and_keras_as_they_were(package):
    k = PACKAGES[package]
    model = k.Sequential([k.Input((6,)), k.layers.Dense(3, name="d")])
    before, door = model.get_weights(), k.layers.Layer.__call__
    cost(model)
    with pytest.raises(CountError):
        cost(model, input_shapes=(7,))
    assert k.layers.Layer.__call__ is door
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    assert model(np.ones((2, 6), "float32")).shape == (2, 3)


def test_keras_is_put_back_when_a_layer_fails():
    class Breaks(keras.layers.Layer):
        def call(self, x):
            if x.shape[0] is not None:
                raise RuntimeError("no")
            return x

    door = keras.layers.Layer.__call__
    with pytest.raises(RuntimeError, match="no"):
        cost(around(Breaks(), (3,)))
    assert keras.layers.Layer.__call__ is door
