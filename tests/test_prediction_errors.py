"""How wrong predictions are: the summary on made-up numbers, files, the peer's formula by hand; the stored table."""

import csv
import json
import re
from statistics import mean
from types import SimpleNamespace

import pytest

from hwlimits import data
from hwlimits.counting import Cost, LayerCost, ModelCost
from hwlimits.machine.calibrate import Part
from hwlimits.machine.card import Card, Number
from hwlimits.machine.provenance import store_table
from hwlimits.training import prediction_errors, prediction_models
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.operator_rates import SAMPLE_S
from hwlimits.training.prediction_errors import CARD, COLUMNS, FORMS, RESULTS, files, mlsysim_s, summary
from hwlimits.training.predictions import predict

TABLE = data.path("results") / f"{RESULTS}.csv"
SMALL = ("article-cnn", "lenet-300-100", "tiny-autoencoder")


def test_the_columns_are_those_that_others_read():
    wanted = {"model", "precision", "predicted_s", "measured_s", "flops_over_peak_s", "mlsysim_s", "bound"}
    assert wanted | {"roofline_s"} <= set(COLUMNS)


def test_the_summary_s_errors_by_hand():
    others = ("roofline_s", "flops_over_peak_s", "mlsysim_s", "mlsysim_full_efficiency_s")
    rows = [{"set": "held out", "predicted_s": p, "measured_s": 1.0, "low_s": 0.9, "high_s": high}
            | dict.fromkeys(others, 0.5) for p, high in ((0.7, 0.95), (1.1, 1.2))]  # fmt: skip
    said = summary(rows).splitlines()
    earlier = {"set": "before", "measured_s": 1.0, "low_s": 1.5, "high_s": 9.0, "predicted_s": 2.0}
    earlier |= dict.fromkeys(others, 2.0)
    assert summary([earlier, *rows]).splitlines()[-len(said) :] == said, "each set by itself"
    assert summary([earlier]).splitlines()[-1] == "before: 0 of 1 measured times are within their interval"
    assert said[0] == "held out, 2 files, predicted: mean error 20.0%, largest 30.0%"
    assert said[1] == "held out, 2 files, roofline: mean error 50.0%, largest 50.0%"
    assert said[-1] == "held out: 1 of 2 measured times are within their interval"


def test_files_are_made_once_and_a_part_is_not_taken(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(prediction_models, "build", lambda name: name)
    monkeypatch.setattr(prediction_models, "export", lambda m, f: made.append((m, f)) or SimpleNamespace(content=b"x"))
    monkeypatch.setattr(LiteRTFile, "read", classmethod(lambda cls, path: path.read_bytes()))
    (tmp_path / "net.float32.part").write_bytes(b"half")
    for _ in range(2):
        assert files(["net"], ["float32"], tmp_path) == {("net", "float32"): b"x"}
    assert made == [("net", "float32")]
    folder = tmp_path / "new" / "folder"
    assert list(files(["net", "other"], ["float32", "int8"], folder)) == [
        ("net", "float32"), ("net", "int8"), ("other", "float32"), ("other", "int8")
    ]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == [
        "net.float32.tflite", "net.int8.tflite", "other.float32.tflite", "other.int8.tflite"
    ]  # fmt: skip


@pytest.mark.parametrize(("flops", "parameters"), [(10**9, 1000), (1000, 10**8)], ids=["arithmetic", "memory"])
@pytest.mark.parametrize(("form", "size"), [("float32", 4), ("int8", 1)])
@pytest.mark.parametrize("efficiency", [None, 1.0])
def test_the_peer_s_formula_by_hand(flops, parameters, form, size, efficiency):
    from mlsysim.engine import calibration as cal

    count = SimpleNamespace(total=SimpleNamespace(parameters=parameters, flops=flops))
    roofline = SimpleNamespace(peak_flops_per_s=1e11, bandwidth=lambda: 1e10)
    least = max(flops / (1e11 * (efficiency or 0.5)), 1.1 * size * parameters / 1e10)
    found = mlsysim_s("net", count, form, roofline, efficiency)
    assert found == pytest.approx(least + 1e-5 + cal.FRAMEWORK_LAYER_TAX_MS / 1000)


def planted(of, value=1.0):
    return Number("peak", of, 1, value, "FLOP/s", 0.0, 9, "planted")


def test_networks_are_timed_in_the_rounds_in_which_the_operators_were_steady(monkeypatch):
    """The card is of the operators; the networks have no say in which rounds count."""
    log = []

    class Planted:
        def __init__(self, calls, sample_s):
            self.name = "networks" if ("net", "int8") in calls else "operators"
            log.append((self.name, list(calls), sample_s))

        def round(self):
            log.append(self.name)

        def steady_rounds(self):
            return [0, 2] if self.name == "operators" else [1, 3]

        def median_and_iqr_s(self, key, rounds=None):
            assert (self.name, rounds) == ("networks", [0, 2])
            return 3.0, 0.1

    def run(todo, progress):
        log.append([part.gives for part in todo])
        return [planted("fp32"), "a point"], {"bandwidth L3": "no room"}

    memory = Number("memory", "litert", 1, 5e6, "B", 0.0, 3, "x")
    all_parts = [Part(gives, 1, None) for gives in (("peak",), ("operators", "memory litert"), ("bandwidth",))]
    monkeypatch.setattr(prediction_errors, "parts", lambda: all_parts)
    monkeypatch.setattr(prediction_errors, "run", run)
    monkeypatch.setattr(prediction_errors, "describe", lambda: {"usable_cores": 77})
    monkeypatch.setattr(prediction_errors, "specs", lambda: ["spec"])
    monkeypatch.setattr(prediction_errors, "prepare", lambda _: ({"spec": "work"}, {"spec": None}, {"GELU int8": "no"}))
    monkeypatch.setattr(prediction_errors, "Turns", Planted)
    monkeypatch.setattr(prediction_errors, "runner", lambda file: file)
    monkeypatch.setattr(prediction_errors, "runtime_memory", lambda n: memory)
    monkeypatch.setattr(prediction_errors, "points", lambda known, turns: (known, turns.name))
    card, times = prediction_errors.measure({("net", "int8"): "file"}, rounds=2)
    assert log == [
        [("peak",), ("bandwidth",)],
        ("operators", ["spec"], SAMPLE_S),
        ("networks", [("net", "int8")], prediction_errors.NETWORK_S),
        *["operators", "networks"] * 2,
    ]
    assert times == {("net", "int8"): (3.0, 0.1)}
    assert [(n.quantity, n.of) for n in card.numbers] == [("peak", "fp32"), ("memory", "litert")]
    assert card.left_out == {"bandwidth L3": "no room", "GELU int8": "no"}
    assert card.operators == ({"spec": "work"}, "operators")
    assert card.machine["usable_cores"] == 77
    assert card.provenance["command"] == prediction_errors.COMMAND


PREDICTED = SimpleNamespace(time_s=2e-4, low_s=1e-4, high_s=3e-4, layers="abc", bound="memory", memory_bytes=99)


@pytest.mark.parametrize(("form", "peak"), [("float32", 1e11), ("int8", 4e11)])
def test_a_row_by_hand(monkeypatch, form, peak):
    """Two layers, one bound by arithmetic and one by bytes; what the peer is asked for is told by its answer."""
    peaks = (("fp32", 1e11, "FLOP/s"), ("int8", 4e11, "OP/s"))
    numbers = [Number("peak", of, 1, value, unit, 0.0, 9, "x") for of, value, unit in peaks]
    numbers.append(Number("bandwidth", "DRAM", 1, 1e10, "B/s", 0.0, 9, "x"))
    card = Card(tuple(numbers), {"machine": {"cpu": "x", "usable_cores": 1}}, {})
    costs = (Cost(macs=10**8, bytes_read=100), Cost(macs=10, other_flops=5, bytes_read=10**7, bytes_written=10**6))
    count = ModelCost("net", tuple(LayerCost(f"l{i}", "Dense", (1,), cost) for i, cost in enumerate(costs)))
    monkeypatch.setattr(prediction_errors, "predict", lambda file, card, model: PREDICTED)
    monkeypatch.setattr(prediction_errors.operators, "cost", lambda file, name: count)
    monkeypatch.setattr(prediction_errors, "peak_memory_bytes", lambda file: 1234)
    monkeypatch.setattr(prediction_errors, "mlsysim_s", lambda name, c, f, roofline, efficiency: efficiency or 0.5)
    row = prediction_errors.row(("alexnet", form), "file", card, (4e-4, 1e-5))
    assert list(row) == list(COLUMNS)
    assert row == {
        "set": "held out", "model": "alexnet", "precision": form, "operators": 3, "predicted_s": 2e-4, "low_s": 1e-4,
        "high_s": 3e-4, "measured_s": 4e-4, "measured_iqr_s": 1e-5, "measured_over_predicted": 2.0,
        "roofline_s": pytest.approx(2e8 / peak + 1.1e7 / 1e10), "flops_over_peak_s": pytest.approx(200_000_025 / peak),
        "mlsysim_s": 0.5, "mlsysim_full_efficiency_s": 1.0, "bound": "memory", "predicted_memory_bytes": 99,
        "measured_memory_bytes": 1234,
    }  # fmt: skip
    row = prediction_errors.row(("mlp", form), "file", card, (4e-4, 1e-5), 55)
    assert (row["set"], row["measured_memory_bytes"]) == ("developed on", 55)


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """An empty data/results; networks 'mlp' and 'alexnet' alone, whose rows say what they were made from."""

    def row(key, file, card, measured, memory_bytes=None):
        name, form = key
        made = dict.fromkeys(COLUMNS, 1.0) | {"set": "held out", "model": name, "precision": form, "bound": card.name}
        made |= {"measured_s": measured[0], "measured_iqr_s": measured[1], "measured_memory_bytes": memory_bytes}
        return made

    def files(names, forms, folder):
        return {(name, form): name + form for name in names for form in forms}

    log = []
    monkeypatch.setattr(data, "path", lambda name: tmp_path)
    monkeypatch.setattr(prediction_models, "DEVELOPED_ON", {"mlp": None})
    monkeypatch.setattr(prediction_models, "HELD_OUT", {"alexnet": None})
    monkeypatch.setattr(prediction_errors, "require_clean_commit", lambda: log.append("clean"))
    monkeypatch.setattr(prediction_errors, "files", files)
    monkeypatch.setattr(prediction_errors, "row", row)
    table = tmp_path / f"{RESULTS}.csv"
    return SimpleNamespace(folder=tmp_path, log=log, csv=table, json=table.with_suffix(".json"))


def test_what_can_t_run_is_named_and_the_others_are_stored(monkeypatch, stored):
    def runner(file):
        if file == "mlpint8":
            raise RuntimeError("this kernel\n takes no such thing")

    def measure(networks):
        stored.log.append(list(networks))
        card = SimpleNamespace(name="card", write=lambda path: stored.log.append(path))
        return card, dict.fromkeys(networks, (2.0, 0.5))

    monkeypatch.setattr(prediction_errors, "runner", runner)
    monkeypatch.setattr(prediction_errors, "measure", measure)
    said = []
    prediction_errors.main(said.append)
    keys = [("mlp", "float32"), ("alexnet", "float32"), ("alexnet", "int8")]
    assert stored.log == ["clean", keys, stored.folder / CARD]
    rows = list(csv.DictReader(stored.csv.read_text().splitlines()))
    assert [(r["model"], r["precision"]) for r in rows] == keys
    record = json.loads(stored.json.read_text())["provenance"]
    assert record["refused"] == {"mlp int8": "this kernel takes no such thing"}
    assert (record["card"], record["rounds"]) == (CARD, prediction_errors.ROUNDS)
    assert "\n".join(record["summary"]) == said[0] == summary(rows)
    assert {"mlsysim", "numpy", "python"} <= set(record["versions"])


def test_predicted_again_what_was_measured_stays(monkeypatch, stored):
    old = dict.fromkeys(COLUMNS, 1.0) | {"set": "held out", "model": "alexnet", "precision": "int8"}
    old |= {"measured_s": 3.0, "measured_iqr_s": 0.5, "measured_memory_bytes": 77}
    store_table(stored.csv, COLUMNS, [old], {"command": "c", "commit": "then"})
    monkeypatch.setattr(prediction_errors, "commit", lambda: "now")
    monkeypatch.setattr(Card, "read", classmethod(lambda cls, path: SimpleNamespace(name=path.name)))
    said = []
    prediction_errors.again(said.append)
    assert stored.log == ["clean"]
    (row,) = csv.DictReader(stored.csv.read_text().splitlines())
    assert (row["bound"], row["measured_s"], row["measured_iqr_s"]) == (CARD, "3", "0.5")
    assert row["measured_memory_bytes"] == "77"
    record = json.loads(stored.json.read_text())["provenance"]
    assert record == {"command": "c", "commit": "then", "summary": said[0].splitlines(), "predicted_again_at": "now"}


def table():
    return list(csv.DictReader(TABLE.read_text().splitlines()))


def error(row, column="predicted_s"):
    return abs(float(row[column]) / float(row["measured_s"]) - 1)


def test_the_stored_errors_hold():
    held = [row for row in table() if row["set"] == "held out"]
    for form in FORMS:
        assert len({row["model"] for row in held if row["precision"] == form}) >= 12, form
    assert mean(map(error, held)) <= 0.10
    assert max(map(error, held)) <= 0.30
    for other in ("roofline_s", "flops_over_peak_s", "mlsysim_s", "mlsysim_full_efficiency_s"):
        assert mean(map(error, held)) < mean(error(row, other) for row in held), other


def test_the_stored_sets_are_named_and_disjoint():
    sets = {which: {r["model"] for r in table() if r["set"] == which} for which in ("held out", "developed on")}
    assert sets["held out"] <= set(prediction_models.HELD_OUT) - set(prediction_models.DEVELOPED_ON)
    assert sets["developed on"] <= set(prediction_models.DEVELOPED_ON)
    assert {row["set"] for row in table()} == set(sets)


def test_the_stored_record_says_what_made_it():
    record = json.loads(TABLE.with_suffix(".json").read_text())["provenance"]
    assert record["command"] == prediction_errors.COMMAND
    assert re.fullmatch("[0-9a-f]{40}", record["commit"])
    assert "mlsysim" in record["versions"]
    assert record["machine"]["cpu"]


@pytest.mark.parametrize("name", SMALL)
def test_stored_predictions_can_be_made_again(name):
    file = prediction_models.export(prediction_models.build(name), "float32")
    (row,) = [r for r in table() if (r["model"], r["precision"]) == (name, "float32")]
    again = predict(file, Card.read(data.path("results") / CARD)).time_s
    assert again == pytest.approx(float(row["predicted_s"]), rel=1e-3)
