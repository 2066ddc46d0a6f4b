"""The networks of the predictions, and the forms that they are exported in."""

import numpy as np
import pytest

from hwlimits.training import export as exports
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
        ("tiny-ds-cnn", 40 * 64 + 4 * 64 + 4 * (9 * 64 + 4 * 64 + 64 * 64 + 4 * 64) + 65 * 12),
    ],
)
def test_parameters_by_hand(name, parameters):
    assert build(name).count_params() == parameters


def test_the_sets():
    assert not set(DEVELOPED_ON) & set(HELD_OUT)
    assert len(HELD_OUT) >= 12
    assert set(GAINS) <= set(HELD_OUT)
