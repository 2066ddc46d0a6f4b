"""The networks of the predictions, and the forms that they are exported in."""

import numpy as np
import pytest

from hwlimits.training import export as exports
from hwlimits.training import prediction_models
from hwlimits.training.keras import keras
from hwlimits.training.prediction_models import DEVELOPED_ON, FORMS, GAINS, HELD_OUT, SPARSITY, build, export


@pytest.fixture
def small():
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(32)])


@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_the_weights_that_it_says(small, form):
    file = export(small, form)
    weights = [layer.weights for layer in file.layers] if form != "float16" else []
    if form == "int8":
        assert file.int8_weights
        assert all(d["dtype"] == np.int8 for d in file.interpreter().get_input_details())
    elif form == "dynamic":
        assert file.int8_weights
        assert all(d["dtype"] == np.float32 for d in file.interpreter().get_input_details())
    elif form == "float16":
        assert file.raw_bytes < 0.7 * export(small, "float32").raw_bytes
    else:
        assert all(w.dtype == np.float32 for w in weights)
    if form == "pruned":
        for w in weights:
            assert np.mean(w == 0) == pytest.approx(SPARSITY, abs=0.01)


def test_the_smallest_weights_are_pruned_and_the_others_stay(small):
    before = [small.layers[i].kernel.numpy().T for i in range(2)]
    biases = [np.ones(n, np.float32) for n in (64, 32)]
    for layer, bias in zip(small.layers, biases, strict=True):
        layer.bias.assign(bias)
    for layer, old, bias in zip(export(small, "pruned").layers, before, biases, strict=True):
        kept = layer.weights != 0
        np.testing.assert_array_equal(layer.weights[kept], old[kept])
        assert np.abs(old[kept]).min() >= np.abs(old[~kept]).max()
        assert (old[kept] < 0).any()
        np.testing.assert_array_equal(layer.bias, bias)


def test_ranges_are_of_two_made_up_inputs_of_one_example_each(small):
    first, second = ([values.copy() for values in inputs] for inputs in prediction_models._examples(small))
    again, _ = prediction_models._examples(small)
    assert first[0].shape == second[0].shape == (1, 64)
    assert first[0].dtype == np.float32
    assert (first[0] != second[0]).any()
    np.testing.assert_array_equal(first[0], again[0])


def test_after_training_says_what_it_needs(small):
    with pytest.raises(ValueError, match=r"form='int4'\): choose float16, dynamic or int8"):
        exports.after_training(small, "int4")
    with pytest.raises(ValueError, match="'int8'\\) needs examples"):
        exports.after_training(small, "int8")


def test_a_network_is_built_with_the_same_weights_each_time():
    first, second = (build("tiny-autoencoder").get_weights()[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "parameters"),
    # by hand: sums of inputs x outputs, biases, and four numbers a channel of each normalization
    [
        (
            "tiny-autoencoder",
            640 * 128 + 6 * 128 * 128 + 2 * 128 * 8 + 128 * 640 + 9 * 128 + 8 + 640 - 128 + 4 * (8 * 128 + 8),
        ),
        ("lenet-5-1998", 6 * 26 + 16 * (6 * 25 + 1) + 401 * 120 + 121 * 84 + 85 * 10),
        (
            "tiny-resnet-8",
            9 * 3 * 16
            + 9 * 2 * 16 * 16
            + 9 * (16 + 32) * 32
            + 16 * 32
            + 9 * (32 + 64) * 64
            + 32 * 64
            + 65 * 10
            + 4 * (3 * 16 + 3 * 32 + 3 * 64),
        ),
        (
            "tc-resnet-8",
            3 * 40 * 16
            + sum(9 * c * f + 9 * f * f + c * f + 12 * f for c, f in ((16, 24), (24, 32), (32, 48)))
            + 49 * 12,
        ),
        (
            "tiny-mobilenet",
            27 * 8
            + 32
            + 257 * 2
            + sum(
                13 * c + c * f + 4 * f
                for c, f in (
                    (8, 16),
                    (16, 32),
                    (32, 32),
                    (32, 64),
                    (64, 64),
                    (64, 128),
                    *[(128, 128)] * 5,
                    (128, 256),
                    (256, 256),
                )
            ),
        ),
        ("tiny-ds-cnn", 40 * 64 + 4 * 64 + 4 * (9 * 64 + 4 * 64 + 64 * 64 + 4 * 64) + 65 * 12),
    ],
)
def test_parameters_by_hand(name, parameters):
    assert build(name).count_params() == parameters


def test_a_residual_block_adds_and_is_rectified_once_more():
    model = build("tiny-resnet-8")
    kinds = [type(layer).__name__ for layer in model.layers]
    assert {k: kinds.count(k) for k in ("Conv2D", "BatchNormalization", "Activation", "Add", "ReLU")} == {
        "Conv2D": 9, "BatchNormalization": 9, "Activation": 4, "Add": 3, "ReLU": 3
    }  # fmt: skip
    assert not any(layer.use_bias for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    assert model.output_shape == (None, 10)


def test_the_sets():
    assert not set(DEVELOPED_ON) & set(HELD_OUT)
    assert len(HELD_OUT) >= 12
    assert set(GAINS) <= set(HELD_OUT)
