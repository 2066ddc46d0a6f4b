"""Tasks of a known amount: cut exactly, done wholly, with what they compute checked beside NumPy."""

import numpy as np
import pytest

from hwlimits.kernels import peak
from hwlimits.machine import tasks
from hwlimits.machine.record import Card, Number
from hwlimits.machine.tasks import TaskError, cut, do, task_amount

STEP = peak.CHAINS * peak.INSTRUCTIONS["fp32"].operations


@pytest.fixture
def arrays(monkeypatch):
    """Small ones of this test's own: 10 lines of 8."""
    found = [np.arange(80.0), np.arange(80.0) ** 2, np.zeros(80)]
    monkeypatch.setattr(tasks, "_arrays", found)
    return found


@pytest.mark.parametrize(("kind", "unit"), [("compute", STEP), ("memory", 192)])
def test_a_cut_has_all_of_the_work_and_each_unit_once(kind, unit):
    for shares in ([1], [1] * 7, [1, 2, 4], [1.4**i for i in range(12)]):
        found = cut(kind, 10_000 * unit, shares)
        units = [u for _, first, n in found for u in range(first, first + n)]
        assert units == list(range(10_000))
        exact = 10_000 * unit * np.array(shares) / sum(shares)
        assert np.abs(np.array([task_amount(t) for t in found]) - exact).max() <= unit


def test_a_triad_task_writes_its_lines_and_begins_again_at_the_end(arrays):
    a, b, out = arrays
    assert do([("memory", 8, 3)]) == 3 * 192  # lines 8, 9 and 0
    touched = np.r_[0:8, 64:80]
    assert np.array_equal(out[touched], (a + 3 * b)[touched])
    assert not out[8:64].any()
    assert do([("memory", 31, 1), ("memory", 2, 1)]) == 2 * 192
    assert np.array_equal(out[8:24], (a + 3 * b)[8:24])
    assert do([("memory", 0, 25)]) == 25 * 192, "more than the arrays hold"


def test_compute_does_what_it_says_and_nothing_is_nothing():
    assert do([("compute", 0, 10), ("compute", 10, 5)]) == 15 * STEP
    assert do([]) == 0


def test_prepared_arrays_are_far_larger_than_the_caches_and_stay(monkeypatch):
    monkeypatch.setattr(tasks, "_arrays", [])
    monkeypatch.setattr(tasks, "dram_bytes", lambda caches, available: 192 * 1000)
    tasks.prepare("memory", processes=2)
    made = tasks._arrays[0]
    assert [len(x) for x in tasks._arrays] == [4000] * 3
    tasks.prepare("memory", processes=1)
    assert tasks._arrays[0] is made


def test_memory_tasks_need_arrays(monkeypatch):
    monkeypatch.setattr(tasks, "_arrays", [])
    with pytest.raises(TaskError, match=r"^do: this process has no arrays for memory tasks; call prepare\('memory'\)"):
        do([("memory", 0, 1)])


@pytest.mark.parametrize(
    ("asked", "text"),
    [(("disk", 1e9, [1]), "kind 'disk': choose from compute, memory"),
     (("memory", 1e9, []), "cut(shares=[]): give at least one share, each a number above 0"),
     (("memory", 1e9, [1, 0]), "cut(shares=[1, 0]): give at least one share, each a number above 0"),
     (("memory", 192 * 2, [1] * 3), "cut('memory', amount=384): that is 2 units of 192 B, too few for 3 tasks; "
                                   "give a larger amount or fewer shares")],
)  # fmt: skip
def test_what_can_not_be_cut(asked, text):
    with pytest.raises(TaskError) as error:
        cut(*asked)
    assert str(error.value) == text


def test_rates_are_the_cards():
    def number(quantity, of, threads, value):
        return Number(quantity, of, threads, value, "B/s", 0.0, 5, "by hand")

    numbers = [number("peak", "fp32", 1, 100.0), number("peak", "fp32", 2, 190.0), number("peak", "fp64", 1, 50.0)]
    numbers += [number("bandwidth", "DRAM", 1, 20.0), number("bandwidth", "DRAM", 2, 30.0)]
    card = Card(tuple(numbers), {"machine": {"cpu": "some", "usable_cores": 2}})
    assert tasks.card_rates(card, "compute") == (100.0, 190.0)
    assert tasks.card_rates(card, "memory") == (20.0, 30.0)
