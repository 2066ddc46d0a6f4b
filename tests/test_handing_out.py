"""What handing tasks out costs: numbers that come out as they went in, and all of them on this computer."""

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest

from hwlimits.machine.record import Card, Number
from hwlimits.machine.side_by_side import Overhead
from hwlimits.sweep import handing_out
from hwlimits.sweep.ways import WAYS

NAMES = [f"{way}_{of}" for way in WAYS[1:] for of in ("start", "call", "task")]


class Clock:
    """Starting takes 7 s, a call 2 s, and each of its tasks 3 s; the first calls are slower."""

    def __init__(self):
        self.now, self.calls, self.asked = 0.0, 0, []

    @contextmanager
    def started(self, way, workers, kind):
        self.now += 7.0
        self.asked.append((way, workers, kind))
        yield self.do

    def do(self, blocks):
        assert all(block == [] for block in blocks)
        self.calls += 1
        self.now += 2.0 + 3.0 * len(blocks) + (100.0 if self.calls <= handing_out.SETTLE else 0.0)


def test_start_call_and_task_come_out_as_they_went_in(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(handing_out, "started", clock.started)
    monkeypatch.setattr(handing_out.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(handing_out, "usable_cores", lambda: 4)
    found = handing_out.measure("processes", starts=2, calls=3)
    assert [(n.quantity, n.of, n.unit, n.n) for n in found] == [
        ("overhead", "processes_start", "s", 2), ("overhead", "processes_call", "s", 3),
        ("overhead", "processes_task", "s", 3),
    ]  # fmt: skip
    assert [n.value for n in found] == pytest.approx([7.0, 5.0, 3.0])
    assert "4 workers, processes" in found[0].how
    assert clock.asked == [("processes", 4, "compute")] * 2
    card = Card(tuple(found), {"machine": {"cpu": "some", "usable_cores": 4}})
    assert Overhead.of_card(card, "processes") == Overhead(7.0, 2.0, 3.0)


def test_all_of_them_are_measured_here():
    """In a process of its own, as calibration does it."""
    command = [sys.executable, "-m", "hwlimits.sweep.handing_out", "--quick"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(said.splitlines()[-1])
    assert found["left_out"] == {}
    numbers = [Number(**row) for row in found["numbers"]]
    assert [number.of for number in numbers] == NAMES
    assert all(0 < number.value < 60 for number in numbers)


def test_a_way_that_fails_leaves_the_others(monkeypatch, capsys):
    def measure(way, **how):
        if way == "dask":
            raise ImportError("no module\nof that name")
        return [Number.from_samples("overhead", f"{way}_start", "s", [1.0], "by hand")]

    monkeypatch.setattr(handing_out, "measure", measure)
    handing_out.main([])
    found = json.loads(capsys.readouterr().out)
    assert [row["of"] for row in found["numbers"]] == ["threads_start", "processes_start"]
    assert found["left_out"] == {"overhead dask": "ImportError: no module of that name"}
