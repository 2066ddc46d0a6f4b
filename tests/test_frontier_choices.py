"""What is tried for the frontier, and the stored table of it."""

import csv
import itertools

import pytest

from hwlimits import data
from hwlimits.training import frontier_choices
from hwlimits.training.frontier import CODES
from hwlimits.training.frontier_training import Settings

OWN = ("held_out", "coding")  # of the task, not of the training


def test_the_trials_are_all_combinations_and_each_can_be_trained():
    trials = frontier_choices.trials()
    for trial in trials:
        Settings(**{name: value for name, value in trial.items() if name not in OWN})
    dense = [t for t in trials if t["architecture"] == "lenet-300-100"]
    assert {(t.get("sparsity", 0), t["bits"], t["rate"]) for t in dense} == set(
        itertools.product((0, 0.9), (3, 4), (0, 1.5))
    )
    others = [(t["bits"], t["rate"], t["teacher"]) for t in trials if t["architecture"] == "cnn-8-10-12-14-16"]
    assert sorted(others) == sorted(itertools.product((2, 3, 4), (1, 4), (0, 0.7)))
    assert len(trials) == 20
    assert {t["held_out"] for t in trials} == {5000}


def test_a_trial_is_a_row_for_each_code():
    found = {"parameters": 10, "nonzero": 4, "error": 0.25, "images": 8}
    found |= {f"file_bytes_{code}": 100 + number for number, code in enumerate(CODES)}
    rows = frontier_choices.rows({"architecture": "lenet-5", "bits": 3, "rate": 1.0, "seed": 7, "held_out": 8}, found)
    assert [(row["coding"], row["file_bytes"]) for row in rows] == [("huffman", 100), ("rans", 101), ("contexts", 102)]
    for row in rows:
        assert set(row) == set(frontier_choices.COLUMNS)
        assert (row["sparsity"], row["teacher"], row["plain_share"]) == (0.0, 0.7, 0.5)  # what is not set
        assert (row["held_out_error"], row["images"], row["nonzero"], row["seed"]) == (0.25, 8, 4, 7)


@pytest.fixture
def stored():
    path = data.path("results") / "frontier_choices.csv"
    if not path.exists():
        pytest.skip("data/results/frontier_choices.csv is not there: `make results-frontier-choices` makes it")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_stored_table_has_every_trial_in_every_code(stored):
    trials = frontier_choices.trials()
    assert len(stored) == len(CODES) * len(trials)
    columns = ("architecture", "bits", "rate", "seed")
    expected = [tuple(str(trial[name]) for name in columns) for trial in trials for _ in CODES]
    assert [(row["architecture"], row["bits"], str(float(row["rate"])), row["seed"]) for row in stored] == expected
    assert [row["coding"] for row in stored] == list(CODES) * len(trials)


def test_contexts_are_the_shortest_of_the_stored_codes(stored):
    sizes = {code: [int(row["file_bytes"]) for row in stored if row["coding"] == code] for code in CODES}
    assert all(c < r and c < h for h, r, c in zip(*(sizes[code] for code in CODES), strict=True))
