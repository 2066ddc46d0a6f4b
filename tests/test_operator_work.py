"""Operators as the model of the machine sees them: forms, shapes, and what does not run."""

from math import prod
from types import SimpleNamespace

import pytest

from hwlimits.counting import Cost
from hwlimits.training import operator_work
from hwlimits.training.keras import keras
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.litert_build import Spec, single
from hwlimits.training.operator_work import FAR, work_of, works
from hwlimits.training.operators import FREE, SHAPES_ONLY, Operator, Tensor
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


SIZES = {"float32": 4, "int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int4": 0.5, "float16": 2}


def tensor(name, shape, dtype="float32", constant=False):
    size = None if shape is None else int(prod(shape) * SIZES[dtype])
    return Tensor(name, shape, dtype, size, constant)


def made(kind, inputs, outputs=(("y", (1, 6, 6, 8)),), cost=None, index=0, note=""):
    """An operator of which nothing but this is known."""
    inputs, outputs = (tuple(tensor(*t) for t in tensors) for tensors in (inputs, outputs))
    return Operator(index, f"{kind} {index}", kind, inputs, outputs, cost or Cost(), note=note)


X = ("x", (1, 6, 6, 8))


@pytest.mark.parametrize(
    ("kind", "inputs", "form"),
    [
        *(("RELU", [("x", (1, 8), dtype)], "int8") for dtype in ("int8", "uint8", "int16")),
        ("RELU", [("x", (1, 8), "float32")], "float32"),
        *((kind, [X, ("w", (8, 8), weights, True)], "dynamic")
          for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_3D") for weights in ("int8", "int4")),
        ("TRANSPOSE_CONV", [("size", (4,), "int32", True), ("w", (8, 2, 2, 8), "int8", True), X], "dynamic"),
        ("TRANSPOSE_CONV", [("size", (4,), "int32", True), ("w", (8, 2, 2, 8), "int8", True),
                            ("x", (1, 6, 6, 8), "int8")], "int8"),
        ("CONV_2D", [X, ("w", (8, 8), "float32", True)], "float32"),
        ("FULLY_CONNECTED", [X, ("w", (8, 8), "int8", False)], "float32"),
        ("GATHER", [X, ("w", (8, 8), "int8", True)], "float32"),
        ("EMBEDDING_LOOKUP", [("w", (8, 8), "float32", True)], "float32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_the_form_is_that_of_the_numbers_and_of_the_weights(kind, inputs, form):
    assert work_of(made(kind, inputs)).form == form


def test_all_that_is_read_and_written_counts():
    work = work_of(made("SPLIT", [X, ("axis", (1,), "int32", True), ("empty", (0,))], [("a", (1, 6)), ("b", (1, 2))]))
    assert work.reads == (("x", 288 * 4), ("axis", 4))
    assert work.writes == (("a", 24), ("b", 8))
    assert work.amount == 288 * 4 + 4 + 24 + 8
    assert work.shape == (288, 8, 1, 1)
    assert work_of(made("CONCATENATION", [("a", (1, 4))], [("y", (1, 8))])).shape == (8, 4, 1, 1)
    unknown = work_of(made("FILL", [("n", None)], [("y", None)]))
    assert (unknown.shape, unknown.amount) == ((1, 1, 1, 1), 1)


@pytest.mark.parametrize("kind", ["CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"])
def test_an_operator_whose_macs_are_not_counted_is_like_no_other(kind):
    work = work_of(made(kind, [("size", (4,), "int32", True), ("w", (8, 8), "int8", True), X]))
    assert (work.kind, work.family) == (f"{kind} not counted",) * 2
    assert len(work.shape) == 4
    counted = work_of(made("CONV_2D", [X, ("w", (8, 3, 3, 8))], cost=Cost(macs=36 * 8 * 8 * 9)))
    assert (counted.kind, counted.shape) == ("CONV_2D", (36, 8, 8, 9, 1))


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "cost", "shape"),
    [
        # a grouped convolution: each output takes two of the eight channels
        ("CONV_2D", [X], [("y", (1, 6, 6, 4))], Cost(macs=36 * 4 * 2), (36, 2, 4, 1, 1)),
        ("MAX_POOL_2D", [X], [("y", (1, 1, 1, 8))], Cost(), (288, 8, 1, 36, 1)),
        ("RESIZE_BILINEAR", [X], [("y", (1, 12, 12, 8))], Cost(), (1152, 8, 1, 1)),
        ("TRANSPOSE", [X], [("y", (1, 8, 6, 6))], Cost(), (288, 8, 1, 1)),
        *((kind, [X, ("b", (1, 6, 6, 8))], [X], Cost(), (288, 8, 1, 1)) for kind in ("ADD", "PRELU")),
        # a repeated operand by channel, a single number, and by row; whichever comes first
        *((kind, [X, ("b", (8,))], [X], Cost(), (288, 8, 1, FAR))
          for kind in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "PRELU")),
        ("ADD", [X, ("b", ())], [X], Cost(), (288, 8, 1, FAR)),
        ("ADD", [X, ("b", (1,))], [X], Cost(), (288, 8, 1, FAR)),
        ("MUL", [("b", (1, 6, 6, 1)), X], [X], Cost(), (288, 1, 1, FAR**2)),
        ("MUL", [X, ("b", (1, 6, 6, 1))], [X], Cost(), (288, 8, 1, FAR**2)),
        ("MUL", [("b", (1, 1, 1, 8)), X], [X], Cost(), (288, 8, 1, FAR)),
        ("CONCATENATION", [X, ("b", (1, 6, 6, 2))], [("y", (1, 6, 6, 10))], Cost(), (360, 8, 1, 1)),
        # over the last axis, over others, over all
        *((kind, [X], [("y", out)], Cost(), (288, 8, 1, mark))
          for kind in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
          for out, mark in (((1, 6, 6), FAR), ((1, 8), 1), ((1,), 1))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_shapes_of_made_up_operators_by_hand(kind, inputs, outputs, cost, shape):
    assert work_of(made(kind, inputs, outputs, cost)).shape == shape


def test_what_works_on_constants_alone_or_moves_nothing_is_left_out(monkeypatch):
    """Each operator keeps its own options, whatever is left out before it."""
    weight, other = ("w16", (8, 8), "float16", True), ("c", (8, 8), "float32", True)
    factors = [("a", (1, 6, 8)), ("t", (1, 8, 8))]
    chain = [
        made("DEQUANTIZE", [weight], [("w", (8, 8))], index=0),
        made("RESHAPE", [("x", (36, 8))], [("a", (1, 6, 8))], index=1, note=FREE),
        made("SHAPE", [("x", (36, 8))], [("n", (4,), "int32")], index=2, note=SHAPES_ONLY),
        made("DEQUANTIZE", [other], [("d", (8, 8))], index=3),
        made("ADD", [("w", (8, 8)), ("d", (8, 8))], [("t", (8, 8))], index=4),  # of what was made of constants
        made("ADD", [("x", (36, 8)), ("t", (8, 8))], [("z", (36, 8))], index=5),
        made("BATCH_MATMUL", factors, [("y", (1, 6, 8))], Cost(macs=6 * 64), index=6),
        made("BATCH_MATMUL", factors, [("y", (1, 6, 8))], Cost(macs=6 * 64), index=7),
        made("FILL", [], [("f", (2,))], index=8, note=FREE),
    ]
    batches = []
    monkeypatch.setattr(operator_work, "operators", lambda file, batch: batches.append(batch) or chain)
    options = [SimpleNamespace(builtinOptions=SimpleNamespace(adjY=index == 7, adjX=True)) for index in range(9)]
    file = SimpleNamespace(_model=SimpleNamespace(subgraphs=[SimpleNamespace(operators=options)]))
    found = works(file, 3)
    assert [w.name for w in found] == ["ADD 5", "BATCH_MATMUL 6", "BATCH_MATMUL 7"]
    assert [w.shape[-1] for w in found[1:]] == [1, FAR]
    assert found[1].shape == (1, 6, 8, 8, 1)
    assert batches == [3]


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
