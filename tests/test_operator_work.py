"""Operators as the model of the machine sees them: forms, shapes, and what does not run."""

import pytest

from hwlimits.training.keras import keras
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_build import Spec, single
from hwlimits.training.operator_work import FAR, works
from hwlimits.training.prediction_models import export

layers = keras.layers


def one(spec, batch=1):
    (work,) = works(single(spec), batch)
    return work


@pytest.mark.parametrize(
    ("spec", "family", "shape", "amount"),
    [
        (Spec("CONV_2D", "float32", (1, 14, 14, 32), 64, 3), "product", (196, 32, 64, 9, 1), 196 * 32 * 64 * 9),
        (Spec("CONV_2D", "int8", (1, 14, 14, 32), 64, 3, 2), "product", (49, 32, 64, 9, 1), 49 * 32 * 64 * 9),
        (Spec("FULLY_CONNECTED", "float32", (1, 100), 10), "product", (1, 100, 10, 1, 1), 1000),
        (Spec("DEPTHWISE_CONV_2D", "float32", (1, 14, 14, 32), window=5, stride=2), "DEPTHWISE_CONV_2D",
         (49, 32, 25, 4, 1), 49 * 32 * 25),
        (Spec("TRANSPOSE_CONV", "float32", (1, 6, 6, 8), 4, 2, 2), "TRANSPOSE_CONV", (36, 8, 16, 1, 1), 36 * 8 * 4 * 4),
        (Spec("BATCH_MATMUL", "float32", (1, 4, 16, 8), 32), "BATCH_MATMUL", (4, 16, 32, 8, 1), 4 * 16 * 8 * 32),
        (Spec("BATCH_MATMUL", "float32", (1, 4, 16, 8), 32, second="transposed"), "BATCH_MATMUL", (4, 16, 32, 8, FAR),
         4 * 16 * 8 * 32),
        (Spec("ADD", "float32", (1, 6, 6, 8)), "ADD", (288, 8, 1, 1), 3 * 288 * 4),
        (Spec("ADD", "int8", (1, 6, 6, 8), second="channel"), "ADD", (288, 8, 1, FAR), 2 * 288 + 8),
        (Spec("ADD", "float32", (1, 6, 6, 8), second="row"), "ADD", (288, 8, 1, FAR**2), (2 * 288 + 36) * 4),
        (Spec("MEAN", "float32", (1, 6, 6, 8)), "MEAN", (288, 8, 1, 1), (288 + 8 + 2) * 4),
        (Spec("MEAN", "float32", (1, 6, 6, 8), window=0), "MEAN", (288, 8, 1, FAR), (288 + 36 + 1) * 4),
        (Spec("MAX_POOL_2D", "float32", (1, 6, 6, 8), window=2, stride=2), "MAX_POOL_2D", (288, 8, 4, 4, 1),
         (288 + 72) * 4),
    ],
    ids=lambda value: f"{value.kind}-{value.form}-{value.second}" if isinstance(value, Spec) else "",
)  # fmt: skip
def test_shapes_and_amounts_by_hand(spec, family, shape, amount):
    work = one(spec)
    assert (work.family, work.form, work.shape, work.amount) == (family, spec.form, shape, amount)


def test_dense_layers_of_several_rows():
    assert one(Spec("FULLY_CONNECTED", "dynamic", (7, 16), 8), batch=7).shape == (7, 16, 8, 1, 1)


@pytest.fixture(scope="module")
def network():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3)(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


@pytest.mark.parametrize(
    ("form", "forms"),
    [
        ("float32", ["float32"] * 4),
        ("float16", ["float32"] * 4),
        ("dynamic", ["float32", "float32", "float32", "float32"]),
        ("int8", ["int8"] * 4),
        ("pruned", ["float32"] * 4),
    ],
)
def test_what_runs_of_a_network(network, form, forms):
    """Weights so few that the converter leaves them as they are; reshaping and the widening of float16 don't run."""
    found = works(export(keras.models.clone_model(network), form))
    assert [w.kind for w in found] == ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "SOFTMAX"]
    assert [w.form for w in found] == forms


def test_int8_weights_beside_float32_numbers_are_the_dynamic_form():
    big = keras.Sequential([keras.Input((512,)), layers.Dense(64)])
    (work,) = works(export(big, "dynamic"))
    assert work.form == "dynamic"
    assert work.reads[1][1] == 512 * 64  # a byte each


def test_float16_weights_are_read_as_float32():
    big = keras.Sequential([keras.Input((512,)), layers.Dense(64)])
    half, full = (works(export(big, form)) for form in ("float16", "float32"))
    assert [w.amount for w in half] == [w.amount for w in full]
    assert half[0].reads[1][1] == full[0].reads[1][1] == 512 * 64 * 4


def test_tensors_link_the_operators(network):
    found = works(LiteRTFile(export(network, "float32").content))
    assert found[0].writes[0][0] in dict(found[1].reads)
