"""Tasks side by side: in every way all the work is done, by so many workers; and a small table of it."""

import os
import threading
import types
from contextlib import contextmanager

import pytest

from hwlimits.machine import side_by_side, tasks
from hwlimits.machine.record import Card, Number
from hwlimits.machine.tasks import TaskError
from hwlimits.sweep import scaling_rows, ways
from hwlimits.sweep.ways import WAYS, assign, started

CUT = tasks.cut("compute", 1e7, [1] * 9)
SMALL = scaling_rows.Size(serial_s=0.001, grains=(0.5, 4), grain=2, repeats=3, cold=1)


@pytest.mark.parametrize("way", WAYS)
def test_all_the_work_is_done_and_by_so_many_workers(way, monkeypatch):
    monkeypatch.setattr(tasks, "_arrays", [])
    with started(way, 2, "compute") as do:
        assert do([[task] for task in CUT]) == sum(map(tasks.task_amount, CUT))
        assert do([CUT[:5], CUT[5:]]) == sum(map(tasks.task_amount, CUT))
        assert do([[]] * 3) == 0


def test_threads_are_there_before_their_first_task():
    before = threading.active_count()
    with started("threads", 4, "compute"):
        assert threading.active_count() == before + 4


def test_workers_of_dask_are_as_many_as_asked(monkeypatch):
    local, clients = ways.cluster.local, []

    @contextmanager
    def kept(*asked):
        with local(*asked) as client:
            clients.append(client)
            yield client

    monkeypatch.setattr(ways.cluster, "local", kept)
    with started("dask", 2, "compute"):
        assert len(clients[0].scheduler_info()["workers"]) == 2


def test_threads_are_as_many_as_asked():
    meet, seen = threading.Barrier(3, timeout=20), set()

    def do(tasks):
        meet.wait()  # a thread less, and this is never passed
        seen.add(threading.get_ident())
        return 0

    with pytest.MonkeyPatch.context() as patch, started("threads", 3, "compute") as run:
        patch.setattr(ways.tasks, "do", do)
        run([[]] * 3)
    assert len(seen) == 3
    assert threading.get_ident() not in seen


def test_processes_are_others_and_as_many_as_asked():
    import psutil

    before = set(psutil.Process().children(recursive=True))
    with started("processes", 2, "compute") as do:
        new = set(psutil.Process().children(recursive=True)) - before
        assert len([p for p in new if "spawn_main" in " ".join(p.cmdline())]) == 2
        assert do([CUT[:1]]) == tasks.task_amount(CUT[0])
    assert os.getpid() not in {p.pid for p in new}


def test_a_process_is_prepared_and_then_waits_for_all_others(monkeypatch):
    order = []
    monkeypatch.setattr(ways.tasks, "prepare", lambda *asked: order.append(asked))
    ways._ready(types.SimpleNamespace(wait=lambda limit_s: order.append(limit_s)), "memory", 3)
    assert order == [("memory", 3), ways.START_S]


def test_dask_is_told_that_equal_tasks_are_not_the_same(monkeypatch):
    """It would do one of them, and give its answer to all."""
    asked = []

    @contextmanager
    def local(workers, tasks):
        asked.append((workers, tasks))
        yield types.SimpleNamespace(
            wait_for_workers=lambda n, timeout: asked.append(n),
            run=lambda *what: asked.append(what),
            map=lambda function, blocks, pure: asked.append(pure) or [function(b) for b in blocks],
            gather=lambda futures: futures,
        )

    monkeypatch.setattr(ways.cluster, "local", local)
    with started("dask", 3, "compute") as do:
        assert do([CUT[:1]] * 2) == 2 * tasks.task_amount(CUT[0])
    assert asked == [(3, 3), 3, (tasks.prepare, "compute", 3), False]


@pytest.mark.parametrize("policy", ["static", "chunked", "lpt"])
def test_each_task_is_assigned_once(policy):
    cut = tasks.cut("compute", 1e8, scaling_rows.COSTS)
    blocks = assign(policy, cut, 2)
    assert sorted(task for block in blocks for task in block) == sorted(cut)
    assert len(blocks) == (12 if policy == "chunked" else 2)


def test_longest_first_is_nearly_even_and_blocks_are_not():
    cut = tasks.cut("compute", 1e9, scaling_rows.COSTS)
    loads = {p: sorted(sum(map(tasks.task_amount, b)) for b in assign(p, cut, 2)) for p in ("static", "lpt")}
    assert loads["lpt"][1] / loads["lpt"][0] < 1.01
    assert loads["static"][1] / loads["static"][0] > 7


@pytest.mark.parametrize(
    ("asked", "text"),
    [(("smoke", 2, "compute"), "started('smoke'): choose from serial, threads, processes, dask"),
     (("threads", 0, "compute"), "started(workers=0): a whole number of at least 1 is needed"),
     (("threads", 2, "disk"), "started(kind='disk'): choose from compute, memory")],
)  # fmt: skip
def test_what_can_not_be_started(asked, text):
    with pytest.raises(TaskError) as error, started(*asked):
        pass
    assert str(error.value) == text
    with pytest.raises(TaskError, match=r"^assign\('guided'\): choose from static, lpt, chunked$"):
        assign("guided", CUT, 2)


def test_a_time_in_which_something_else_was_done_is_none():
    with pytest.raises(RuntimeError, match=r"^\d+ were to be done, and 3 were; this time is none of the work's$"):
        scaling_rows.checked(lambda blocks: 3, [CUT])


@pytest.mark.parametrize(
    ("cores", "expected"), [(1, [1, 2]), (2, [1, 2, 4]), (6, [1, 2, 4, 6, 12]), (8, [1, 2, 4, 8, 16])]
)
def test_numbers_of_workers(cores, expected):
    assert scaling_rows.counts(cores) == expected


def card():
    rates = {("peak", "fp32"): (1e11, 2e11), ("bandwidth", "DRAM"): (2e10, 3e10)}
    numbers = [Number(*what, n, value, "B/s", 0.0, 5, "by hand")
               for what, values in rates.items() for n, value in zip((1, 2), values, strict=True)]  # fmt: skip
    numbers += [Number("overhead", f"threads_{of}", 1, value, "s", 0.0, 5, "by hand")
                for of, value in (("start", 0.5), ("call", 3e-4), ("task", 1e-4))]  # fmt: skip
    return Card(tuple(numbers), {"machine": {"cpu": "some", "usable_cores": 2}})


def test_a_small_table_predicts_each_line_before_it_is_measured(monkeypatch):
    monkeypatch.setattr(scaling_rows, "usable_cores", lambda: 2)
    monkeypatch.setattr(tasks, "_arrays", [])
    monkeypatch.setattr(tasks, "dram_bytes", lambda caches, available: 192 * 1000)
    order = []
    predict, timed = scaling_rows.predict, scaling_rows.timed
    monkeypatch.setattr(scaling_rows, "predict", lambda *a, **k: (order.append("predict"), predict(*a, **k))[1])
    monkeypatch.setattr(
        scaling_rows, "timed", lambda do, blocks, size: (order.append(len(blocks)), timed(do, blocks, size))[1]
    )
    serials, measured = [], scaling_rows.timed

    def kept(do, blocks, size):
        timing = measured(do, blocks, size)
        serials.append(timing.median_s)
        return timing

    monkeypatch.setattr(scaling_rows, "timed", kept)
    found = list(scaling_rows.rows(card(), SMALL, ways=("threads",)))
    assert all(tuple(r) == side_by_side.COLUMNS for r in found)
    lines = [(r["way"], r["task"], r["policy"], r["pool"], r["tasks"], r["workers"]) for r in found]
    warm = [("chunked", "warm", 4, 1), ("chunked", "warm", 1, 2), ("chunked", "warm", 8, 2)]
    unequal = [("threads", "unequal", policy, "warm", 12, 2) for policy in ("static", "chunked", "lpt")]
    last = ("chunked", "warm", 4, 4)
    assert lines == [
        ("serial", "compute", "static", "warm", 1, 1), *[("threads", "compute", *w) for w in warm], *unequal,
        ("threads", "compute", *last), ("threads", "compute", "chunked", "cold", 4, 2),
        ("serial", "memory", "static", "warm", 1, 1), *[("threads", "memory", *w) for w in (*warm, last)],
    ]  # fmt: skip
    for at, what in enumerate(order):
        if what != "predict" and order[at - 1] != "predict":
            assert what == 1, "only the serial reference of a way is timed without a prediction"
    handed = {(r["tasks"], r["policy"], r["pool"]): r["overhead_s"] for r in found if r["way"] == "threads"}
    assert handed[8, "chunked", "warm"] == pytest.approx(2e-4 + 8 * 1e-4)
    assert handed[12, "lpt", "warm"] == pytest.approx(2e-4 + 2 * 1e-4)
    assert [r["startup_s"] for r in found if r["pool"] == "cold"] == [0.5]
    assert {r["startup_s"] for r in found if r["pool"] == "warm"} == {0.0}
    work = {(r["task"], r["workers"]): r["work_s"] for r in found}
    assert work["memory", 1] == pytest.approx(0.001, rel=1e-3)
    assert work["memory", 2] == work["memory", 4] == pytest.approx(0.001 * 2e10 / 3e10, rel=1e-3), (
        "a bus that is shared"
    )
    assert work["compute", 2] == pytest.approx(0.0005, rel=1e-3)
    for r in found:
        assert r["measured_s"] > 0
        assert r["speedup"] == pytest.approx(r["serial_s"] / r["measured_s"])
        assert r["serial_s"] in serials or r["way"] == "serial"
        assert r["ratio"] == pytest.approx(r["measured_s"] / r["predicted_s"])


def test_the_time_of_workers_to_be_started_has_their_start_in_it(monkeypatch):
    now = [0.0]

    @contextmanager
    def slow(way, workers, kind):
        now[0] += 5.0
        yield lambda blocks: now.__setitem__(0, now[0] + 2.0) or sum(tasks.task_amount(t) for b in blocks for t in b)

    monkeypatch.setattr(scaling_rows, "started", slow)
    monkeypatch.setattr(scaling_rows.time, "perf_counter", lambda: now[0])
    rates = side_by_side.Rates(1e9, 2e9, 2)
    overhead = side_by_side.Overhead(4.0, 0.0, 0.25)
    found = scaling_rows._cold("dask", "compute", 2, 1e8, rates, overhead, 1.0, SMALL)
    assert (found["measured_s"], found["startup_s"], found["overhead_s"], found["tasks"]) == (7.0, 4.0, 1.0, 4)


def test_a_card_of_other_cores_is_refused_before_the_work(monkeypatch):
    monkeypatch.setattr(scaling_rows, "usable_cores", lambda: 3)
    with pytest.raises(TaskError, match="^the card is of 2 usable cores, and there are 3 now: make a card of these"):
        next(scaling_rows.rows(card(), SMALL))
