"""Predicted times beside values by hand, and a row's numbers beside their definitions."""

import pytest

from hwlimits import scheduling
from hwlimits.machine import side_by_side
from hwlimits.machine.provenance import store_table
from hwlimits.machine.record import Card, CardError, Number
from hwlimits.machine.side_by_side import BOUNDS, COLUMNS, Overhead, PredictError, Prediction, Rates, predict, row
from hwlimits.machine.timing import Timing

CORES2 = Rates(one=10.0, all_cores=16.0, cores=2)


@pytest.mark.parametrize(("workers", "together"), [(1, 10.0), (2, 16.0), (4, 16.0)])
def test_cores_share_what_they_have_together(workers, together):
    assert CORES2.together(workers) == together
    assert predict([40.0] * 4, CORES2, workers, resource="compute").predicted_s == pytest.approx(160 / together)


def test_one_core_has_one_rate_however_many_workers_there_are():
    assert [Rates(10.0, 10.5, cores=1).together(n) for n in (1, 2, 4)] == [10.0] * 3


def test_a_task_that_is_alone_has_a_core_for_itself_and_the_other_waits():
    found = predict([160.0], CORES2, 2, resource="compute")
    assert (found.work_s, found.wait_s, found.bound) == (10.0, 6.0, "imbalance")  # 16 s at 10, of which 16 a second


@pytest.mark.parametrize(
    ("policy", "makespan", "handed"), [("static", 20.0, 2), ("chunked", 13.0, 4), ("lpt", 12.0, 2)]
)
def test_waiting_and_handing_out_depend_on_the_policy(policy, makespan, handed):
    """Of 1, 3, 12 and 8 s: blocks of 4 and 20; as they come, 1 + 12 and 3 + 8; longest first, 12 and 8 + 3 + 1."""
    costs = [8.0, 24.0, 96.0, 64.0]
    found = predict(costs, CORES2, 2, resource="compute", policy=policy, overhead=Overhead(5.0, 0.25, 0.125))
    simulated = scheduling.run(policy, costs, [8.0, 8.0]).makespan_s
    assert found.work_s == 192 / 16
    assert found.work_s + found.wait_s == pytest.approx(simulated)
    assert simulated == makespan
    assert found.overhead_s == 0.25 + handed * 0.125
    assert found.predicted_s == pytest.approx(5.0 + 0.25 + handed * 0.125 + simulated)


@pytest.mark.parametrize(
    ("parts", "bound"),
    [({"work_s": 2.0}, "memory bandwidth"), ({"work_s": 2.0, "wait_s": 0.2}, "memory bandwidth"),
     ({"work_s": 2.0, "wait_s": 0.21}, "imbalance"), ({"work_s": 2.0, "startup_s": 2.5}, "start-up"),
     ({"work_s": 2.0, "overhead_s": 2.5}, "overhead"), ({"work_s": 2.0, "exchange_s": 2.5}, "network"),
     ({"work_s": 2.0, "wait_s": 1.0, "overhead_s": 2.5}, "imbalance")],
)  # fmt: skip
def test_what_takes_most_of_the_time_bounds_it(parts, bound):
    found = Prediction(**parts, resource="memory bandwidth")
    assert found.bound == bound
    assert found.bound in BOUNDS
    assert found.predicted_s == pytest.approx(sum(parts.values()))


def test_overheads_are_the_cards_and_a_call_is_one_without_its_task():
    numbers = [Number("overhead", f"dask_{of}", 1, value, "s", 0.0, 5, "by hand")
               for of, value in (("start", 2.0), ("call", 0.5), ("task", 0.125))]  # fmt: skip
    card = Card(tuple(numbers), {"machine": {"cpu": "some", "usable_cores": 2}})
    assert Overhead.of_card(card, "dask") == Overhead(2.0, 0.375, 0.125)
    with pytest.raises(CardError, match=r"no overhead of 'threads_start'.* `hwlimits calibrate` makes a card"):
        Overhead.of_card(card, "threads")


def test_a_row_has_what_its_columns_say():
    prediction = predict([80.0] * 2, CORES2, 2, resource="compute", overhead=Overhead(0.0, 0.0, 0.5))
    found = row("threads", "compute", prediction, Timing((12.0, 12.0, 13.0)), workers=2, tasks=2, serial_s=18.0)
    assert tuple(found) == COLUMNS
    assert (found["predicted_s"], found["measured_s"], found["iqr_s"]) == (11.0, 12.0, 0.5)
    assert found["ratio"] == 12 / 11
    assert (found["speedup"], found["efficiency"]) == (1.5, 0.75)
    assert found["karp_flatt"] == pytest.approx((2 / 3 - 1 / 2) / (1 / 2))
    assert (found["repeats"], found["noisy"], found["bound"]) == (3, False, "compute")
    alone = row("serial", "compute", prediction, Timing((3.0, 3.0, 3.0)), workers=1, tasks=1)
    assert (alone["serial_s"], alone["speedup"], alone["karp_flatt"]) == (3.0, 1.0, "")


@pytest.mark.parametrize(
    ("call", "text"),
    [(lambda: predict([1.0], CORES2, 0, resource="compute"),
      "predict(workers=0): a whole number of at least 1 is needed"),
     (lambda: predict([], CORES2, 2, resource="compute"),
      "predict: there are no tasks; give the amount of at least one"),
     (lambda: predict([1.0], CORES2, 1, resource="disk"), "resource 'disk': choose from compute, memory bandwidth"),
     (lambda: Prediction(work_s=-1.0), "a prediction can't have {'work_s': -1.0}: each part is a number of at least 0"),
     (lambda: Rates(0.0, 1.0, 2),
      "Rates(one=0.0, all_cores=1.0, cores=2): rates must be above 0, and there is at least one core")],
)  # fmt: skip
def test_what_can_not_be_predicted(call, text):
    with pytest.raises(PredictError) as error:
        call()
    assert str(error.value) == text


def test_a_column_is_there_once():
    assert len(set(side_by_side.COLUMNS)) == len(side_by_side.COLUMNS)


def test_stored_rows_are_numbers_again(tmp_path, monkeypatch):
    prediction = predict([80.0] * 2, CORES2, 2, resource="compute")
    rows = [row("threads", "compute", prediction, Timing(times), workers=n, tasks=2, serial_s=18.0)
            for n, times in ((1, (12.0, 12.0, 12.0)), (2, (9.0, 18.0, 27.0)))]  # fmt: skip
    store_table(tmp_path / "scaling.csv", COLUMNS, rows, {})
    monkeypatch.setattr(side_by_side.data, "path", lambda name: tmp_path / name.removeprefix("results/"))
    expected = [{name: None if value == "" else value for name, value in r.items()} for r in rows]
    found = side_by_side.stored()
    assert found == [
        {k: pytest.approx(v, rel=1e-5) if isinstance(v, float) else v for k, v in r.items()} for r in expected
    ]
    assert [(r["noisy"], r["karp_flatt"] is None) for r in found] == [(False, True), (True, False)]
    assert [type(found[0][name]) for name in ("tasks", "ratio", "way", "noisy")] == [int, float, str, bool]
