"""Claims, frontier and figure, from rows that the test writes; the published records against their papers."""

import csv
import json
import random

import pytest

from hwlimits import data, plots
from hwlimits.training import frontier, frontier_choices, frontier_report


def row(name, seed, file_bytes, error, **more):
    base = {"name": name, "architecture": "lenet-5", "parameters": 431_080, "nonzero": 9_000, "file_bytes": file_bytes,
            "test_error": error, "test_images": 10_000, "seed": seed, "source": "ours", "max_bytes": 8_621,
            "max_error": 0.008, "counts": "the file", "bits": 4, "rate": 1.0, "sparsity": 0.9, "teacher": 0.7,
            "coding": "contexts", "file": "frontier/x.hwz"}  # fmt: skip
    return base | more


@pytest.fixture
def table(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(data, "path", lambda name: tmp_path / name)
    with (folder / "frontier.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, frontier.COLUMNS)
        writer.writeheader()
        writer.writerows([row("lenet-5", 0, 8_000, 0.0079), row("lenet-5", 1, 8_600, 0.0081)])
        writer.writerow({"name": "MIRACLE", "architecture": "lenet-5", "file_bytes": 1520, "source": "a paper"})
    (folder / "frontier.json").write_text(json.dumps({"provenance": {"date": "2026-11-27"}}))
    return folder


def test_measured_rows_are_ours_with_numbers(table):
    rows, made_by = frontier_report.measured()
    assert [r["seed"] for r in rows] == [0, 1]
    assert rows[1]["file_bytes"] == 8_600
    assert rows[1]["max_error"] == 0.008
    assert made_by == {"date": "2026-11-27"}


def test_trials_are_the_rows_of_one_code_with_numbers(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(data, "path", lambda name: tmp_path / name)
    base = dict.fromkeys(frontier_choices.COLUMNS, 0) | {"bits": 3, "rate": 1.5, "held_out_error": 0.02}
    with (tmp_path / "results/frontier_choices.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, frontier_choices.COLUMNS)
        writer.writeheader()
        writer.writerows([base | {"coding": code, "file_bytes": 700 + len(code)} for code in ("rans", "contexts")])
    (found,) = frontier_report.tried()
    assert (found["file_bytes"], found["bits"], found["rate"], found["held_out_error"]) == (708, 3, 1.5, 0.02)
    assert [row["file_bytes"] for row in frontier_report.tried("rans")] == [704]


def test_a_claim_is_the_mean_error_and_the_largest_file():
    (claim,) = frontier_report.claims([row("a", 0, 8_000, 0.007), row("a", 1, 8_600, 0.009)])
    assert (claim["file_bytes"], claim["seeds"]) == (8_600, 2)
    assert claim["test_error"] == pytest.approx(0.008)
    assert claim["held"]


@pytest.mark.parametrize(("size", "error"), [(8_622, 0.005), (8_000, 0.0082)])
def test_one_seed_too_large_or_a_mean_too_high_is_not_held(size, error):
    (claim,) = frontier_report.claims([row("a", 0, 8_000, 0.008), row("a", 1, size, error)])
    assert not claim["held"]


def test_the_frontier_is_what_no_point_beats():
    rng = random.Random(0)
    points = [(rng.randrange(1, 60), rng.randrange(1, 60) / 10) for _ in range(300)]
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]}
    assert frontier_report.frontier(points) == sorted(set(points) - beaten)


def test_each_record_says_what_its_size_counts():
    records = frontier_report.records()
    assert {r["kind"] for r in records} == set(frontier_report.KINDS)
    for record in records:  # a size that is bytes gives its paper's ratio, but for MIRACLE's, by a few percent
        if record["ratio"]:
            whole = {"lenet-300-100": 266_610 * 4, "lenet-5": 431_080 * 4}[record["architecture"]]
            assert whole / record["file_bytes"] == pytest.approx(record["ratio"], rel=0.035), record["name"]


def test_a_kind_that_is_none_is_told(tmp_path, monkeypatch):
    (tmp_path / "papers.yaml").write_text("mnist_compression:\n  - {name: A, kind: guess}\n")
    monkeypatch.setattr(data, "path", lambda name: tmp_path / name)
    with pytest.raises(ValueError, match="papers.yaml: A has the kind 'guess': bytes, estimate"):
        frontier_report.records()


def test_the_figure_has_every_point_and_its_text():
    records = frontier_report.records()
    rows = [row("lenet-5", s, 8_000 + s, 0.0079 + s / 1e4) for s in range(3)]
    figure, alt = frontier_report.figure(rows, records)
    axes = figure.axes[0]
    drawn = {(x, round(y, 6)) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)}
    assert {(r["file_bytes"], round(100 * r["error"], 6)) for r in records} <= drawn
    assert (8_002, 0.8) in drawn, "the star of ours"
    assert axes.get_xscale() == "log"
    for name in ("MIRACLE lowest error", "BitNetMCU 64"):
        assert any(t.get_text() == name for t in axes.texts), name
    assert "3,030 bytes, 0.69 %" in alt
    assert "ours, lenet-5: 8,002 bytes, 0.80 % (seeds 0.79 to 0.81)" in alt
    plots.png(figure)
