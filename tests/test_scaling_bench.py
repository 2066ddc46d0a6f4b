"""Training and scoring by several workers: predictions by hand, small live rows, and the stored table."""

import csv
import json
import types

import numpy as np
import pytest

from hwlimits import data
from hwlimits.bandwidth import LinkModel
from hwlimits.machine.record import Card, Number
from hwlimits.machine.side_by_side import BOUNDS, COLUMNS, PARTS
from hwlimits.sweep import scaling_rows
from hwlimits.training import mnist, scaling_bench

TABLE = "results/scaling.csv"


def test_a_step_is_the_parts_step_and_the_ring():
    link, work = LinkModel(1e-4, 1e9), LinkModel(0.0, 1e12)
    two = scaling_bench.step_prediction(0.02, 2, 2, 1_000_000, link, work)
    assert two.exchange_s == pytest.approx(2 * (1e-4 + 2e6 / 1e9))  # two steps, of half the array each
    assert two.predicted_s == pytest.approx(0.02 + 0.0042)
    four = scaling_bench.step_prediction(0.02, 4, 2, 1_000_000, link, work)
    assert four.work_s == 0.04
    assert four.exchange_s == pytest.approx(6 * (1e-4 + 1e6 / 1e9))
    assert scaling_bench.step_prediction(0.02, 1, 2, 1_000_000, link, work).predicted_s == 0.02


def test_rows_of_a_training_begin_with_parts_alone(monkeypatch):
    asked = []

    def steps(count, **settings):
        asked.append((count, settings["batch"]))
        times = {"all_reduce_times_s": [0.5] * 3, "all_reduce_one_times_s": [0.25] * 3} if count > 1 else {}
        return {"steps_s": [0.01 * settings["batch"] / count] * 3, "parameters": 1000, **times}

    class Group:
        def __init__(self, processes):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def messages(self, sizes):
            return self

        def link(self):
            return types.SimpleNamespace(link=LinkModel(1e-6, 1e9))

        work = link

    monkeypatch.setattr(scaling_bench, "_steps", steps)
    monkeypatch.setattr(scaling_bench, "usable_cores", lambda: 2)
    monkeypatch.setattr(scaling_bench, "Group", Group)
    found = list(scaling_bench.training_rows([1, 2, 4], batch=64))
    assert asked == [(1, 64), (1, 32), (1, 16), (1, 64), (2, 64), (4, 64)], (
        "one is measured again beside its prediction"
    )
    trained = [r for r in found if r["task"] == "train"]
    assert [(r["workers"], r["work_s"], r["measured_s"]) for r in trained] == [
        (1, 0.64, 0.64), (2, 0.32, 0.32), (4, 0.32, 0.16),
    ]  # fmt: skip
    assert (trained[1]["speedup"], trained[0]["exchange_s"]) == (2.0, 0.0)
    reduced = [
        (r["task"], r["workers"], r["measured_s"], r["bound"], r["speedup"]) for r in found if "all" in r["task"]
    ]
    assert reduced == [
        (task, n, s, "network", "") for n in (2, 4) for task, s in (("all-reduce", 0.5), ("all-reduce of 1", 0.25))
    ]
    ring = {(r["task"], r["workers"]): r["predicted_s"] for r in found}
    assert ring["all-reduce", 2] == trained[1]["exchange_s"] > ring["all-reduce of 1", 2] > 0


def card():
    numbers = [Number("bandwidth", "loopback", 1, 4e9, "B/s", 0.0, 5, "by hand")]
    numbers += [Number("overhead", f"dask_{of}", 1, value, "s", 0.0, 5, "by hand")
                for of, value in (("start", 60.0), ("call", 0.5), ("task", 0.1))]  # fmt: skip
    return Card(tuple(numbers), {"machine": {"cpu": "some", "usable_cores": 2}})


def test_a_few_images_are_scored_and_predicted(monkeypatch):
    monkeypatch.setattr(scaling_bench, "usable_cores", lambda: 2)
    images = mnist.load("mnist-5k").x_train[:1100]
    size = scaling_rows.Size(repeats=3, cold=1)
    serial, warm, cold = scaling_bench.scoring_rows(card(), images, [2], size)
    assert [(r["way"], r["pool"], r["tasks"]) for r in (serial, warm, cold)] == [
        ("serial", "warm", 1), ("dask", "warm", 3), ("dask", "cold", 3),
    ]  # fmt: skip
    content = len(data.path(scaling_bench.FILE).read_bytes())
    assert warm["exchange_s"] == pytest.approx(2 * (1100 * 784 + 3 * content) / 4e9)
    assert (warm["startup_s"], warm["speedup"]) == (0.0, serial["measured_s"] / warm["measured_s"])
    assert cold["bound"] == "start-up"
    assert cold["startup_s"] == 60.0
    assert warm["overhead_s"] == cold["overhead_s"] == pytest.approx(0.4 + 3 * 0.1)


def test_a_scoring_that_loses_images_is_none(monkeypatch):
    monkeypatch.setattr(scaling_bench.scoring, "score", lambda path, images, **how: images[:-1])
    with pytest.raises(RuntimeError, match="^4 images were to be scored, and 3 were$"):
        scaling_bench._score(np.zeros((4, 28, 28), np.uint8), 2)


def test_all_rows_are_of_tasks_scoring_and_training(monkeypatch):
    asked = []
    monkeypatch.setattr(scaling_bench, "usable_cores", lambda: 16)
    monkeypatch.setattr(scaling_rows, "rows", lambda card, size: asked.append(size) or ["tasks"])
    monkeypatch.setattr(scaling_bench, "scoring_rows", lambda card, x, n, size: asked.append((len(x), n)) or ["score"])
    monkeypatch.setattr(scaling_bench, "training_rows", lambda n: asked.append(n) or ["train"])
    assert list(scaling_bench.all_rows(card())) == ["tasks", "score", "train"]
    assert asked == [scaling_rows.FULL, (16_000, [1, 2, 4, 8, 16]), [1, 2, 4, 8]], "no worker with next to no images"
    assert list(scaling_bench.all_rows(card(), quick=True)) == ["tasks", "score"]


@pytest.fixture(scope="module")
def table():
    try:
        path = data.path(TABLE)
    except FileNotFoundError:
        pytest.skip("data/results/scaling.csv is not there yet: `make results-scaling`")
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_stored_table_has_every_way_and_each_line_once(table):
    assert tuple(table[0]) == COLUMNS
    assert {r["way"] for r in table} == {"serial", "threads", "processes", "dask", "workers"}
    lines = [tuple(r[c] for c in ("way", "task", "policy", "pool", "tasks", "workers")) for r in table]
    assert len(set(lines)) == len(lines)
    for way in ("threads", "processes", "dask"):
        mine = [r for r in table if r["way"] == way]
        assert {r["task"] for r in mine} >= {"compute", "memory", "unequal"}
        assert {r["pool"] for r in mine} == {"warm", "cold"}
        for kind in ("compute", "memory"):
            grains = {int(r["tasks"]) for r in mine if r["task"] == kind}
            cores = max(int(r["workers"]) for r in mine if r["pool"] == "cold")
            assert grains >= {round(cores * k) for k in scaling_rows.FULL.grains}
        assert {r["policy"] for r in mine if r["task"] == "unequal"} == set(scaling_rows.POLICIES)
    assert {int(r["workers"]) for r in table if r["task"] == "train"} >= {1, 2}
    assert [r["pool"] for r in table if r["task"] == "score" and r["way"] == "dask"].count("cold") == 1
    record = json.loads(data.path(TABLE).with_suffix(".json").read_text(encoding="utf-8"))["provenance"]
    assert record["command"] == scaling_bench.COMMAND
    assert len(record["commit"]) == 40


def test_the_stored_numbers_follow_from_each_other(table):
    for r in table:
        n, measured = int(r["workers"]), float(r["measured_s"])
        assert float(r["predicted_s"]) == pytest.approx(sum(float(r[part]) for part in PARTS), rel=1e-4)
        assert float(r["ratio"]) == pytest.approx(measured / float(r["predicted_s"]), rel=1e-4)
        assert r["bound"] in BOUNDS
        if r["task"].startswith("all-reduce"):
            assert {r[name] for name in scaling_bench.NOT_GAINED} == {""}
            continue
        assert float(r["speedup"]) == pytest.approx(float(r["serial_s"]) / measured, rel=1e-4)
        assert float(r["efficiency"]) == pytest.approx(float(r["speedup"]) / n, rel=1e-4)
        if n == 1:
            assert r["karp_flatt"] == ""
        else:
            serial_share = (1 / float(r["speedup"]) - 1 / n) / (1 - 1 / n)
            assert float(r["karp_flatt"]) == pytest.approx(serial_share, rel=1e-3, abs=1e-4)
