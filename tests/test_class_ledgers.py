"""A class's ledgers side by side: ratios, medians, what is refused, and the figure."""

import json
import statistics

import numpy as np
import pytest
from typer.testing import CliRunner

from hwlimits.cli import app
from hwlimits.machine.class_ledgers import class_ledgers
from hwlimits.machine.ledger import Ledger, LedgerError

RATIOS = {"ada": {"one row": 1.5, "a sum": 0.25}, "ben": {"one row": 3.0}, "chen": {"one row": 0.9, "a sum": 1.0}}


@pytest.fixture
def folder(tmp_path):
    """Ledgers of three students, as `Ledger.save` writes them; one comparison is void, one not made."""
    for student, ratios in RATIOS.items():
        ledger = Ledger()
        for name, ratio in ratios.items():
            ledger.predict(name, 2e-3, "s")
            ledger.measure(name, ratio * 2e-3)
        if student == "ben":
            ledger.predict("a sum", 2e-3, "s")
            ledger.measure("a sum", 1.0, void=True)
        if student == "ada":
            ledger.predict("not done", 1.0, "s")
        ledger.save(tmp_path / f"{student}.json")
    return tmp_path


def test_ratios_are_those_that_were_measured(folder):
    found = class_ledgers(sorted(folder.glob("*.json")))
    for student, ratios in RATIOS.items():
        for name, ratio in ratios.items():
            assert found.ratios[name][student] == pytest.approx(ratio)
    assert "ben" not in found.ratios["a sum"]
    assert found.void == {"a sum": 1, "not done": 1}


def test_rows_are_numpy_s_quartiles(folder):
    rows = {row["prediction"]: row for row in class_ledgers(sorted(folder.glob("*.json"))).rows()}
    assert rows["one row"]["median"] == pytest.approx(statistics.median([1.5, 3.0, 0.9]))
    assert rows["one row"]["lower_quartile"] == pytest.approx(np.percentile([1.5, 3.0, 0.9], 25))
    assert (rows["one row"]["students"], rows["one row"]["within_factor_2"]) == (3, 2)
    assert (rows["a sum"]["students"], rows["a sum"]["void"], rows["a sum"]["within_factor_2"]) == (2, 1, 1)
    assert rows["not done"]["students"] == 0
    assert rows["not done"]["median"] is None


@pytest.mark.parametrize(
    ("content", "why"),
    [("{", "Expecting"), ("{}", "a list of predictions"), ('[{"predicted": 1}]', "a list of predictions"),
     ("[" * 100000, "recursion"), (" " * 1_000_001, "more than 1,000,000 bytes")],
    ids=["no JSON", "no list", "no names", "nested", "too large"],
)  # fmt: skip
def test_a_file_that_is_no_ledger_is_named_and_the_others_kept(folder, content, why):
    (folder / "zoe.json").write_text(content)
    found = class_ledgers(sorted(folder.glob("*.json")))
    assert why in found.refused["zoe.json"]
    assert len(found.ratios["one row"]) == 3


@pytest.mark.parametrize("value", [None, "2", True, float("nan"), 0, -1, 1e400])
@pytest.mark.parametrize("field", ["predicted", "measured"])
def test_a_number_that_is_none_is_no_ratio(folder, field, value):
    row = {"name": "one row", "predicted": 1.0, "measured": 2.0, "ratio": 7.0, field: value}
    (folder / "zoe.json").write_text(json.dumps([row]))
    found = class_ledgers(sorted(folder.glob("*.json")))
    assert "zoe" not in found.ratios["one row"]
    assert found.void["one row"] == 1


def test_nothing_to_pool_is_said(tmp_path):
    with pytest.raises(LedgerError, match=r"no ledger to pool \(no file was given\); a student writes one with ledger"):
        class_ledgers([])
    with pytest.raises(LedgerError, match=r"no ledger to pool \(gone.json: No such file"):
        class_ledgers([tmp_path / "gone.json"])


def test_the_figure_has_a_dot_for_each_student_and_says_so(folder):
    figure, text = class_ledgers(sorted(folder.glob("*.json"))).figure()
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert sorted(x for line in dots for x in line.get_xdata()) == pytest.approx([0.25, 0.9, 1.0, 1.5, 3.0])
    assert "one row: median 1.50 of 3; a sum: median 0.62 of 2" in text
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one row", "a sum"]


def test_ledgers_without_a_measurement_are_no_figure(tmp_path):
    ledger = Ledger()
    ledger.predict("not done", 1.0, "s")
    ledger.save(tmp_path / "ada.json")
    with pytest.raises(LedgerError, match="none of the ledgers has a prediction that was measured"):
        class_ledgers([tmp_path / "ada.json"]).figure()


def cards(folder, *options):
    from test_card import example

    card = folder.parent / "card.json"
    example().write(card)
    return CliRunner().invoke(app, ["cards", str(card), *map(str, options)])


def test_the_command_draws_and_tells(folder, tmp_path):
    (folder / "zoe.json").write_text("{}")
    done = cards(folder, "--ledgers", folder, "--errors", tmp_path / "errors.png", "--plot", tmp_path / "class.png")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "class.png").exists()
    assert "no ledger: zoe.json" in done.stderr
    assert done.stdout.index("a sum") < done.stdout.rindex("one row"), "the worst first"


def test_the_command_gives_json(folder):
    found = json.loads(cards(folder, "--ledgers", folder, "--json").stdout)
    assert [row["prediction"] for row in found["predictions"]] == ["one row", "a sum", "not done"]
    assert found["no_ledgers"] == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--errors", "x.png"], "give --ledgers"), (["--ledgers", "gone"], "gone is no folder of ledgers"),
     (["--errors", "x.pdf", "--ledgers", "."], "must end in .png")],
)  # fmt: skip
def test_the_command_refuses(folder, options, said):
    done = cards(folder, *options)
    assert done.exit_code == 2
    assert said in done.stderr
