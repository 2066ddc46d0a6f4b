"""Predicted signs: verdicts, rows and the sentence on them, on made-up numbers; and the stored table."""

import csv
import json
import re

import pytest

from hwlimits import data
from hwlimits.training.gain_predictions import COLUMNS, OPTIMISATIONS, RESULTS, summary, verdict

TABLE = data.path("results") / f"{RESULTS}.csv"


@pytest.mark.parametrize(
    ("speedup", "said"), [(1.051, "faster"), (1.049, "equal"), (1, "equal"), (0.951, "equal"), (0.949, "slower")]
)
def test_equal_is_within_one_part_in_twenty(speedup, said):
    assert verdict(speedup) == said


def test_the_summary_counts_right_signs_and_what_never_would_have():
    rows = [{"sign_right": right, "measured": m} for right, m in
            ((True, "faster"), (False, "equal"), (True, "slower"), (False, "VOID"))]  # fmt: skip
    assert summary(rows).startswith("2 of 4 right (50%); answering 'not faster' each time has 2 right")
    assert summary(rows).endswith("1 void")


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
