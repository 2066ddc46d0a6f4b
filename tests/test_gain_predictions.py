"""Predicted signs: verdicts, rows and the sentence on them, on made-up numbers; and the stored table."""

import csv
import json
import re
from types import SimpleNamespace

import pytest

from hwlimits import data
from hwlimits.machine.timing import Comparison
from hwlimits.training import gain_predictions
from hwlimits.training.gain_predictions import (
    CARD,
    COLUMNS,
    OPTIMISATIONS,
    RESULTS,
    Gain,
    predicted_speedup,
    stored_card,
    summary,
    verdict,
)

TABLE = data.path("results") / f"{RESULTS}.csv"


@pytest.mark.parametrize(
    ("speedup", "said"), [(1.051, "faster"), (1.049, "equal"), (1, "equal"), (0.951, "equal"), (0.949, "slower")]
)
def test_equal_is_within_one_part_in_twenty(speedup, said):
    assert verdict(speedup) == said


def test_the_summary_counts_right_signs_and_what_never_would_have():
    rows = [{"sign_right": right, "measured": m} for right, m in
            ((True, "faster"), (False, "equal"), (True, "slower"), (False, "VOID"), (True, "faster"))]  # fmt: skip
    assert summary(rows).startswith("3 of 5 right (60%); answering 'not faster' each time has 2 right")
    assert summary(rows).endswith("1 void")


FASTER, VOID = (Comparison(None, None, 1.2, 1.1, 1.3, control, attempts=2) for control in (1.01, 1.2))


@pytest.mark.parametrize(
    ("predicted", "measured", "signs"),
    [(0.9, FASTER, ("slower", "faster", False)), (1.2, FASTER, ("faster", "faster", True)),
     (1.2, VOID, ("faster", "VOID", False))],
)  # fmt: skip
def test_a_row_by_hand(predicted, measured, signs):
    row = Gain("net", "int8", predicted, measured).row()
    numbers = {"predicted_speedup": predicted, "measured_speedup": 1.2, "low": 1.1, "high": 1.3,
               "aa_control": measured.aa_ratio, "attempts": 2}  # fmt: skip
    assert row == {"model": "net", "optimisation": "int8"} | numbers | dict(
        zip(("predicted", "measured", "sign_right"), signs, strict=True)
    )
    assert set(row) == set(COLUMNS)


@pytest.fixture
def times(monkeypatch):
    """Predictions that are made up: the file is its time."""
    monkeypatch.setattr(gain_predictions, "predict", lambda file, card: SimpleNamespace(time_s=file))


def test_the_speedup_is_before_over_after(times):
    assert predicted_speedup(3.0, 2.0, None) == 1.5


@pytest.mark.parametrize(("there", "same", "found"), [(1, 1, "stored"), (1, 0, "this"), (0, 1, "this")])
def test_the_stored_card_is_taken_if_it_is_this_computer_s(monkeypatch, tmp_path, there, same, found):
    card = SimpleNamespace(same_computer=lambda: bool(same))
    monkeypatch.setattr(gain_predictions.data, "path", lambda name: tmp_path)
    monkeypatch.setattr(gain_predictions, "Card", SimpleNamespace(read=lambda path: card))
    monkeypatch.setattr(gain_predictions, "this_card", lambda: "this")
    if there:
        (tmp_path / CARD).touch()
    assert stored_card() == (card if found == "stored" else "this")


def test_all_is_predicted_before_anything_is_run_and_then_stored(monkeypatch, tmp_path, times):
    log, said, forms = [], [], ("float32", *OPTIMISATIONS)
    made = {(m, form): float(10 * i + j) for i, m in enumerate("ab", 1) for j, form in enumerate(forms)}
    predicted = gain_predictions.predicted_speedup

    def compare(before, after, **_):
        log.append(("run", before, after))
        return FASTER

    def predict(before, after, card):
        log.append(("predict", before, after))
        return predicted(before, after, card)

    monkeypatch.setattr(gain_predictions, "GAINS", ("a", "b"))
    monkeypatch.setattr(gain_predictions, "require_clean_commit", lambda: log.append("clean"))
    monkeypatch.setattr(gain_predictions, "stored_card", lambda: SimpleNamespace(provenance={"date": "a day"}))
    monkeypatch.setattr(gain_predictions, "files", lambda names, forms, folder: made)
    monkeypatch.setattr(gain_predictions, "predicted_speedup", predict)
    monkeypatch.setattr(gain_predictions, "runner", lambda file: file)
    monkeypatch.setattr(gain_predictions, "compare", compare)
    monkeypatch.setattr(gain_predictions.data, "path", lambda name: tmp_path)
    gain_predictions.main(said.append)
    pairs = [(made[m, "float32"], made[m, form]) for m in "ab" for form in OPTIMISATIONS]
    assert log == ["clean", *(("predict", *pair) for pair in pairs), *(("run", *pair) for pair in pairs)]
    rows = list(csv.DictReader((tmp_path / f"{RESULTS}.csv").read_text().splitlines()))
    assert [(r["model"], r["optimisation"]) for r in rows] == [(m, form) for m in "ab" for form in OPTIMISATIONS]
    assert float(rows[-1]["predicted_speedup"]) == pytest.approx(20 / 24, rel=1e-5)
    record = json.loads((tmp_path / f"{RESULTS}.json").read_text())["provenance"]
    assert (record["command"], record["card_date"]) == (gain_predictions.COMMAND, "a day")
    assert [record["summary"]] == said == [summary([r | {"sign_right": r["sign_right"] == "True"} for r in rows])]


def test_each_optimisation_is_made_of_the_float32_file():
    assert OPTIMISATIONS == ("float16", "dynamic", "int8", "pruned")


def test_the_columns_are_those_that_others_read():
    assert {"model", "optimisation", "predicted", "measured", "sign_right"} <= set(COLUMNS)


def test_the_stored_signs_hold():
    rows = list(csv.DictReader(TABLE.read_text().splitlines()))
    models = {row["model"] for row in rows}
    assert len(models) >= 4
    assert sorted((r["model"], r["optimisation"]) for r in rows) == sorted(
        (m, o) for m in models for o in OPTIMISATIONS
    )
    assert "VOID" not in {row["measured"] for row in rows}
    for row in rows:
        assert (row["sign_right"] == "True") == (row["predicted"] == row["measured"])
        assert row["predicted"] == verdict(float(row["predicted_speedup"]))
    right = sum(row["sign_right"] == "True" for row in rows)
    assert right >= 0.9 * len(rows)
    assert right > sum(row["measured"] != "faster" for row in rows)
    record = json.loads(TABLE.with_suffix(".json").read_text())["provenance"]
    assert re.fullmatch("[0-9a-f]{40}", record["commit"])
