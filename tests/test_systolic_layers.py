"""Layers of Keras models as products, and their cycles beside SCALE-Sim's."""

import csv

import numpy as np
import pytest

from hwlimits import data
from hwlimits.systolic import Array, Layer, SystolicError, convolution
from hwlimits.training import systolic_layers
from hwlimits.training.cost import cost
from hwlimits.training.keras import keras, tf
from hwlimits.training.models import article_cnn
from hwlimits.training.systolic_layers import layers, row, scalesim_counts


def separable() -> keras.Model:
    return keras.Sequential(
        [
            keras.layers.Input((9, 8, 6)),
            keras.layers.Conv2D(8, 3, strides=2, padding="same", groups=2, name="grouped"),
            keras.layers.BatchNormalization(),
            keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="by_channel"),
            keras.layers.ReLU(),
            keras.layers.Dense(5, name="at_each_place"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, use_bias=False, name="last"),
        ]
    )


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("make", [article_cnn, separable], ids=lambda f: f.__name__)
def test_a_layer_multiplies_as_often_as_the_counter_of_chapter_01_says(make, batch):
    model = make()
    counted = {layer.name: layer.cost.macs for layer in cost(model, batch).layers}
    found = layers(model, batch)
    assert len(found) == 4
    for layer in found:
        assert layer.macs == counted[layer.name], layer.name
    shapes = {layer.name: (batch, *layer.input_shape[1:]) for layer in model.layers}
    assert all(layer.inputs == np.prod(shapes[layer.name]) for layer in found)


def test_resnet_50_is_54_products_of_the_published_number_of_macs():
    """He et al. (2016), table 1: 3.8e9 multiply-adds with strides in the 1 x 1 convolutions, as Keras has them."""
    found = layers(keras.applications.ResNet50(weights=None))
    assert len(found) == 54
    assert sum(layer.macs for layer in found) == pytest.approx(3.8e9, rel=0.03)
    assert (found[0].m, found[0].k, found[0].n) == (112 * 112, 7 * 7 * 3, 64)
    by_hand = convolution("conv1_conv", 112, 112, (7, 7), 3, 64, stride=2)
    assert found[0].macs == by_hand.macs


def test_a_product_of_rows_and_filters_is_keras_convolution():
    """Rows of A as Layer counts them, cut by TensorFlow, times the kernel, give what the layer gives."""
    model = article_cnn()
    layer, made = model.layers[0], layers(model, batch=2)[0]
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    rows = tf.image.extract_patches(images, [1, 3, 3, 1], [1, 1, 1, 1], [1, 1, 1, 1], "VALID").numpy()
    kernel = layer.kernel.numpy().reshape(made.k, made.n)
    product = rows.reshape(made.m, made.k) @ kernel + layer.bias.numpy()
    expected = layer(images).numpy().reshape(made.m, made.n)
    assert np.allclose(np.maximum(product, 0), expected, atol=1e-5)


def test_what_is_no_product_is_said():
    model = keras.Sequential([keras.layers.Input((5, 4)), keras.layers.LSTM(3, name="memory")])
    with pytest.raises(SystolicError, match="memory is a LSTM, which is not counted as products; these are: Conv2D, "):
        layers(model)


def test_a_layer_that_is_called_twice_is_refused():
    inputs, dense = keras.layers.Input((4,)), keras.layers.Dense(4, name="shared")
    with pytest.raises(SystolicError, match="shared is called more than once; build it twice"):
        layers(keras.Model(inputs, dense(dense(inputs))))


def test_a_model_within_that_is_called_twice_is_refused():
    """A siamese network: its dense layer would be counted once."""
    within = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(4, name="inner")], name="twin")
    a, b = keras.layers.Input((4,)), keras.layers.Input((4,))
    assert [layer.name for layer in layers(keras.Sequential([keras.layers.Input((4,)), within]))] == ["inner"]
    with pytest.raises(SystolicError, match="twin is called more than once"):
        layers(keras.Model([a, b], [within(a), within(b)]))


def test_products_without_weights_are_not_forgotten():
    a, b = keras.layers.Input((4, 5)), keras.layers.Input((4, 5))
    with pytest.raises(SystolicError, match="is a Dot, which is not counted as products"):
        layers(keras.Model([a, b], keras.layers.Dot(2)([a, b])))


def test_an_image_of_open_size_is_refused():
    inputs = keras.layers.Input((None, None, 3))
    with pytest.raises(
        SystolicError, match=r"first has an input of open size, \(None, None, 3\); build the model with"
    ):
        layers(keras.Model(inputs, keras.layers.Conv2D(2, 3, name="first")(inputs)))


def test_a_model_without_products_is_said():
    with pytest.raises(SystolicError, match="no convolution and no dense layer"):
        layers(keras.Sequential([keras.layers.Input((4,)), keras.layers.ReLU()]))


def test_what_normalizes_an_image_is_no_product():
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Normalization(mean=0, variance=1), keras.layers.Dense(2)]
    )
    assert len(layers(model)) == 1


def test_channels_that_come_first_are_refused():
    """The count of multiplications is the same, and the product another one."""
    model = keras.Sequential([keras.layers.Input((3, 32, 32)), keras.layers.Conv2D(8, 3, data_format="channels_first")])
    with pytest.raises(SystolicError, match="has its channels first; build it with data_format='channels_last'"):
        layers(model)


def test_an_operation_of_tensorflow_that_multiplies_is_not_forgotten():
    a, b = keras.layers.Input((4, 5)), keras.layers.Input((5, 4))
    with pytest.raises(SystolicError, match="which is not counted as products"):
        layers(keras.Model([a, b], tf.matmul(a, b)))


def test_by_channel_and_in_groups_as_keras_stores_the_kernels():
    model = separable()
    grouped, by_channel = layers(model)[:2]
    assert (grouped.k, grouped.n, grouped.times) == (3 * 3 * 3, 4, 2)
    assert (by_channel.k, by_channel.n, by_channel.times) == (9, 2, 8)


PEERS = [(5, 8, 8), (5, 3, 2), (20, 17, 9), (1, 30, 10), (121, 288, 64), (40, 129, 130)]


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (4, 16), (128, 128)])
@pytest.mark.parametrize(("m", "k", "n"), PEERS)
def test_cycles_and_empty_cells_are_scalesim_s(m, k, n, rows, columns):
    """Its output-stationary array is done before the sums have left the grid."""
    for dataflow, draining in (("weight-stationary", 0), ("output-stationary", rows)):
        array = Array(rows, columns, dataflow)
        cycles, empty = scalesim_counts(array, m, k, n)
        assert array.cycles(m, k, n) == cycles + array.folds(m, k, n) * draining
        assert array.padding(m, k, n) == pytest.approx(empty)


def test_a_row_counts_three_times():
    found = row("n", 1, Layer("l", 20, 17, 9), Array(8, 4, "output-stationary"))
    assert tuple(found) == systolic_layers.COLUMNS
    assert found["cycles"] == found["counted_cycles"] == found["scalesim_cycles"] + found["draining_cycles"]


def test_a_row_of_several_products_counts_all_of_them():
    layer, array = Layer("l", 20, 9, 1, times=6), Array(8, 4)
    found = row("n", 1, layer, array)
    assert found["cycles"] == found["counted_cycles"] == found["scalesim_cycles"] == layer.cycles(array)
    assert found["padding"] == array.padding(20, 9, 1) > 0


def test_a_wrong_product_is_no_row(monkeypatch):
    real = systolic_layers.multiply
    monkeypatch.setattr(systolic_layers, "multiply", lambda array, a, b: real(array, a, b + 1))
    with pytest.raises(RuntimeError, match="the product is wrong"):
        row("n", 1, Layer("l", 2, 2, 2), Array(8, 4))


@pytest.fixture(scope="module")
def stored() -> list[dict]:
    with data.path("results/systolic.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_layers_are_stored_on_all_arrays(stored):
    expected = {
        (network, str(batch), layer.name, str(array.rows), array.dataflow)
        for (network, batch), todo in systolic_layers.networks().items()
        for layer in todo
        for array in systolic_layers.ARRAYS
    }
    keys = [tuple(r[name] for name in ("network", "batch", "layer", "rows", "dataflow")) for r in stored]
    assert set(keys) == expected
    assert len(keys) == len(expected)


def test_stored_counts_agree(stored):
    for r in stored:
        array = Array(int(r["rows"]), int(r["columns"]), r["dataflow"])
        size = tuple(int(r[name]) for name in "mkn")
        assert array.cycles(*size) == int(r["cycles"]) == int(r["counted_cycles"])
        assert int(r["cycles"]) == int(r["scalesim_cycles"]) + int(r["draining_cycles"])
        assert array.utilization(*size) == pytest.approx(float(r["utilization"]), rel=1e-5)
        assert array.padding(*size) == pytest.approx(float(r["padding"]), rel=1e-5, abs=1e-12)
        assert float(r["padding"]) == pytest.approx(float(r["scalesim_padding"]), rel=1e-4, abs=1e-6)
