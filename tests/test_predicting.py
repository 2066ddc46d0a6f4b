"""What `hwlimits predict` prints, and what it asks of the library: on predictions that are made up."""

import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

import hwlimits.training
from hwlimits.cli import predicting
from hwlimits.cli.predicting import Asked
from hwlimits.cli.terminal import CliError
from hwlimits.machine.predict import LayerPrediction, Prediction
from hwlimits.training import predictions
from hwlimits.training.litert import LiteRTError

LAYERS = (
    LayerPrediction("first", "CONV_2D", 3e-4, "compute"),
    LayerPrediction("second", "ADD", 1e-4, "memory"),
    LayerPrediction("shape", "RESHAPE", 0.0, ""),
    LayerPrediction("odd", "BITCAST", 1e-4, ""),
)
HERE = Prediction("net", "this computer", "fp32", 7, LAYERS, 1e-4, 5e-4, 8e-4, 7_000_000, ("one thread", "a guess"),
                  2_000_000, 1_000_000)  # fmt: skip
PUBLISHED = replace(HERE, device="t4", overhead_s=None, high_s=None)
T4 = SimpleNamespace(title="NVIDIA T4", numbers={"memory.capacity": SimpleNamespace(value=16e9)})


@pytest.fixture
def shown(monkeypatch, capsys):
    """Rows of the table as lists of words, and the lines below it."""

    def show(found, device=None, columns=200):
        monkeypatch.setenv("COLUMNS", str(columns))
        predicting.write(found, "net.tflite", device)
        table, text = capsys.readouterr().out.split("\n\n")
        return [line.split() for line in table.splitlines() if "-" * 5 not in line and "─" * 5 not in line], text

    return show


def test_the_table_by_hand(shown):
    rows, _ = shown(HERE)
    assert rows == [
        ["layer", "kind", "time", "share", "bound"],
        ["first", "CONV_2D", "300", "µs", "50.0%", "compute"],
        ["second", "ADD", "100", "µs", "16.7%", "memory"],
        ["shape", "RESHAPE", "0", "s", "0.0%"],
        ["odd", "BITCAST", "100", "µs", "16.7%", "?"],
        ["the", "call", "100", "µs", "overhead"],
        ["total", "600", "µs", "compute"],
    ]
    narrow, _ = shown(HERE, columns=80)
    assert narrow[1] == ["first", "300", "µs", "50.0%", "compute"]
    assert narrow[-2] == ["the", "call", "100", "µs", "overhead"]


def test_a_device_s_table_has_no_call_and_what_takes_no_time_no_share(shown):
    rows, _ = shown(PUBLISHED, T4)
    assert [row[0] for row in rows] == ["layer", "first", "second", "shape", "odd", "total"]
    rows, text = shown(replace(PUBLISHED, layers=LAYERS[2:3]), T4)
    assert rows[1:] == [["shape", "RESHAPE", "0", "s"], ["total", "0", "s"]]
    assert "Bound by" not in text


def test_the_sentences_on_this_computer(shown):
    _, text = shown(HERE)
    assert text.splitlines() == [
        "net.tflite on this computer, fp32, batch 7: 600 µs a call, 11.7 k examples/s.",
        "Bound by compute: of the time 50% compute, 17% memory, 17% overhead.",
        "Interval: from 500 µs to 800 µs.",
        "Memory: 2 MB of weights, 1 MB of activations, together 7 MB.",
        "One thread.",
        "A guess.",
    ]


def test_the_sentences_on_a_device(shown):
    _, text = shown(PUBLISHED, T4)
    assert text.splitlines() == [
        "net.tflite on NVIDIA T4, fp32, batch 7: at least 500 µs a call, at most 14 k examples/s.",
        "Bound by compute: of the time 60% compute, 20% memory.",
        "Interval: from 500 µs, if its caches kept what they can, upwards.",
        "Memory: 2 MB of weights, 1 MB of activations, together 7 MB, of 16 GB.",
        "One thread.",
        "A guess.",
    ]


def test_what_is_not_known_is_not_said(shown):
    _, text = shown(replace(HERE, low_s=None, high_s=None, weight_bytes=None, memory_bytes=None, notes=()))
    assert [line.split()[0] for line in text.splitlines()] == ["net.tflite", "Bound"]
    _, text = shown(replace(PUBLISHED, notes=()), SimpleNamespace(title="T", numbers={}))
    assert text.splitlines()[-1].endswith("together 7 MB.")


def asked(runtime="LiteRT", dtype="int8", batch=1):
    count = SimpleNamespace(name="counted", batch=batch, dtype=dtype)
    found = SimpleNamespace(runtime=runtime, precision=dtype, count=count, loaded="the model")
    return Asked("net", found, 11, 22)


def test_the_sizes_go_to_the_prediction_by_name():
    assert asked().sizes == {"weight_bytes": 11, "activation_bytes": 22}


@pytest.mark.parametrize("precision", [None, "int8", "int8-dla"])
def test_a_file_s_own_precision_is_taken(precision):
    asked().check(precision)


@pytest.mark.parametrize("precision", ["fp8", "int4", "int16", "fp32"])
def test_a_file_is_asked_for_no_other_precision(precision):
    with pytest.raises(CliError, match=f"net computes in int8, as a .tflite file it can't do so in {precision}"):
        asked().check(precision)
    asked("TensorFlow", "fp32").check(precision)


@pytest.fixture
def library(monkeypatch):
    """A card, a prediction, and a conversion, made up: what the command asked of them."""
    calls = []

    def predict(file, card, **options):
        calls.append((file, card, options))
        return HERE

    def export(model, form):
        os.write(2, b"converting\n")
        return f"{model} in {form}"

    models = SimpleNamespace(export=export)
    monkeypatch.setitem(sys.modules, "hwlimits.training.prediction_models", models)
    monkeypatch.setattr(hwlimits.training, "prediction_models", models, raising=False)
    monkeypatch.setattr(predictions, "predict", predict)
    monkeypatch.setattr(predicting, "stored_card", lambda: ("the card", ""))
    return SimpleNamespace(calls=calls, models=models)


def test_a_file_is_predicted_as_it_is(library):
    assert predicting.here(asked(batch=4), None) is HERE
    assert library.calls == [("the model", "the card", {"model": "counted", "batch": 4})]


@pytest.mark.parametrize(
    ("precision", "form", "said"),
    [(None, "float32", "fp32"), ("fp32", "float32", "fp32"), ("float16", "float16", "float16"),
     ("int8", "int8", "int8")],
)  # fmt: skip
def test_a_model_of_keras_is_converted_and_it_is_said(library, capfd, precision, form, said):
    found = predicting.here(asked("TensorFlow", "fp32", 2), precision)
    assert found == replace(HERE, notes=("one thread", "a guess", f"converted to LiteRT, {said}"))
    assert library.calls == [(f"the model in {form}", "the card", {"model": "counted", "batch": 2})]
    assert capfd.readouterr().err == "", "what the converter writes is not shown"


def test_what_can_t_be_predicted_here_is_one_sentence(library, monkeypatch):
    def fails(*_, **__):
        raise LiteRTError("it takes no batch of 4")

    with pytest.raises(CliError, match="^net computes in int8, as a .tflite file it can't do so in fp16"):
        predicting.here(asked(), "fp16")
    with pytest.raises(CliError, match="^--precision bf16: on this computer a model runs in LiteRT, in one of fp32, "):
        predicting.here(asked("TensorFlow", "fp32"), "bf16")
    monkeypatch.setattr(predictions, "predict", fails)
    with pytest.raises(CliError, match="^net: it takes no batch of 4$"):
        predicting.here(asked(), None)
    library.models.export = lambda model, form: 1 // 0
    why = "^net can't be converted to LiteRT in int8: integer division or modulo by zero. Say --device NAME for a dev"
    with pytest.raises(CliError, match=why):
        predicting.here(asked("TensorFlow", "fp32"), "int8")
    monkeypatch.setattr(predicting, "stored_card", lambda: (None, "measure it"))
    with pytest.raises(CliError, match="^measure it$"):
        predicting.here(asked(), None)
