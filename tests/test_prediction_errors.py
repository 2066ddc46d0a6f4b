"""How wrong predictions are: the summary on made-up numbers, files, the peer's formula by hand; the stored table."""

import csv
import json
import re
from statistics import mean
from types import SimpleNamespace

import pytest

from hwlimits import data
from hwlimits.machine.card import Card
from hwlimits.training import prediction_errors, prediction_models
from hwlimits.training.litert import LiteRTFile
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
            | dict.fromkeys(others, 0.5) for p, high in ((1.1, 1.2), (0.7, 0.95))]  # fmt: skip
    said = summary(rows).splitlines()
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


def test_the_sets_share_no_network():
    assert not set(prediction_models.HELD_OUT) & set(prediction_models.DEVELOPED_ON)
