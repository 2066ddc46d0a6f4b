"""The simulator of load balancing: against all assignments, proved bounds, and hand-made runs."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwlimits import scheduling
from hwlimits.scheduling import (
    POLICIES,
    SchedulingError,
    list_bound,
    list_worst,
    lower_bound,
    lpt_bound,
    lpt_worst,
    optimum,
    run,
)

each_policy = pytest.mark.parametrize("policy", POLICIES)
some_costs = st.lists(st.integers(0, 12) | st.floats(0, 12, allow_nan=False), max_size=12)
some_speeds = st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0]), min_size=1, max_size=5)
quick = settings(max_examples=60, deadline=None)


def brute_force(costs, speeds):
    """The least makespan of all assignments, tried one by one."""
    best = float("inf")
    for who in itertools.product(range(len(speeds)), repeat=len(costs)):
        ends = [0.0] * len(speeds)
        for cost, worker in zip(costs, who, strict=True):
            ends[worker] += cost / speeds[worker]
        best = min(best, max(ends))
    return best


# what every run keeps


@each_policy
@given(costs=some_costs, speeds=some_speeds, chunk=st.integers(1, 4), spent=st.sampled_from([0.0, 0.25]),
       victim=st.sampled_from(["most", "random"]))  # fmt: skip
@quick
def test_every_task_is_done_once_and_no_worker_does_two_things(policy, costs, speeds, chunk, spent, victim):
    found = run(policy, costs, speeds, chunk=chunk, overhead_s=spent, steal_s=spent, victim=victim)
    work = [span for span in found.spans if span.kind == "work"]
    assert sorted(span.task for span in work) == list(range(len(costs)))
    for span in work:
        assert span.duration_s == pytest.approx(costs[span.task] / speeds[span.worker])
    for worker in range(len(speeds)):
        timeline = found.timeline(worker)
        assert all(a.stop_s <= b.start_s for a, b in itertools.pairwise(timeline)), timeline
        assert found.busy_s[worker] == pytest.approx(sum(s.duration_s for s in timeline if s.kind == "work"))
    assert found.makespan_s == max((span.stop_s for span in work), default=0)
    assert found.makespan_s >= lower_bound(costs, speeds) * (1 - 1e-12)
    assert 0 <= found.utilization <= 1 + 1e-12
    assert 0 <= found.efficiency <= 1 + 1e-12
    assert len(found.rows()) == len(found.spans)
    assert run(policy, costs, speeds, chunk=chunk, overhead_s=spent, steal_s=spent, victim=victim) == found


@pytest.mark.parametrize("policy", ["chunked", "guided", "stealing"])
@given(costs=some_costs, speeds=some_speeds)
@quick
def test_nobody_is_idle_while_something_could_be_taken(policy, costs, speeds):
    """Without overhead, a worker stops for good, and not before the last task that was not taken yet has begun.

    With one task at a time: a guided chunk belongs to its worker as soon as it is taken.
    """
    found = run(policy, costs, speeds)
    last_taken = max((s.start_s for s in found.spans if s.kind == "work"), default=0)
    if policy == "guided":
        firsts = [t for t in range(len(costs)) if t == 0 or found.worker_of[t] != found.worker_of[t - 1]]
        last_taken = max((s.start_s for s in found.spans if s.task in firsts), default=0)
    for worker in range(len(speeds)):
        timeline = found.timeline(worker)
        assert all(a.stop_s == b.start_s for a, b in itertools.pairwise(timeline)), "no gaps"
        end = timeline[-1].stop_s if timeline else 0
        assert end >= last_taken or len(costs) == 0


# the optimum


@given(
    costs=st.lists(st.integers(0, 20), max_size=7), speeds=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3)
)
@quick
def test_the_optimum_is_that_of_all_assignments(costs, speeds):
    found = optimum(costs, speeds)
    assert found.makespan_s == pytest.approx(brute_force(costs, speeds))
    assert found.makespan_s >= lower_bound(costs, speeds) * (1 - 1e-12)
    for policy in POLICIES:
        assert run(policy, costs, speeds).makespan_s >= found.makespan_s * (1 - 1e-12), policy


def test_the_lower_bound_by_hand():
    assert lower_bound([3, 3, 3], [1, 1]) == 4.5, "all work"
    assert lower_bound([10, 1, 1], [1, 2]) == 5, "the longest task by the fastest worker"
    assert lower_bound([6, 6, 0.5], [1, 2, 1]) == 4, "the two longest by the two fastest"
    assert lower_bound([], [1]) == 0


# proved bounds


@given(costs=st.lists(st.integers(1, 30), min_size=1, max_size=9), workers=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_grahams_bounds(costs, workers):
    """Equal workers. What is work-conserving, list scheduling and stealing: 2 - 1/m. Longest first: 4/3 - 1/(3m)."""
    speeds = [1] * workers
    best = optimum(costs, speeds).makespan_s
    for policy in ("chunked", "stealing"):
        assert run(policy, costs, speeds).makespan_s <= list_bound(workers) * best * (1 + 1e-12), policy
    assert run("lpt", costs, speeds).makespan_s <= lpt_bound(workers) * best * (1 + 1e-12)


@given(costs=st.lists(st.integers(1, 30), min_size=1, max_size=8), speeds=some_speeds)
@settings(max_examples=150, deadline=None)
def test_longest_first_on_workers_of_different_speeds(costs, speeds):
    """Within 2 m / (m + 1) of the optimum: Gonzalez, Ibarra and Sahni 1977."""
    m = len(speeds)
    assert run("lpt", costs, speeds).makespan_s <= 2 * m / (m + 1) * optimum(costs, speeds).makespan_s * (1 + 1e-12)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 6])
def test_the_worst_cases_reach_the_bounds(workers):
    m, speeds = workers, [1] * workers
    costs = lpt_worst(m)
    assert len(costs) == 2 * m + 1
    assert run("lpt", costs, speeds).makespan_s == 4 * m - 1
    assert sum(costs) == m * 3 * m, "so 3 m is the least possible, if it can be: the optimum says"
    if len(costs) <= scheduling.MOST_TASKS:
        assert optimum(costs, speeds).makespan_s == 3 * m
    assert (4 * m - 1) / (3 * m) == pytest.approx(lpt_bound(m))
    costs = list_worst(m)
    assert run("chunked", costs, speeds).makespan_s == 2 * m - 1
    assert run("lpt", costs, speeds).makespan_s == m == lower_bound(costs, speeds)
    assert (2 * m - 1) / m == pytest.approx(list_bound(m))


# the policies, by hand


def test_static_blocks_are_those_of_array_split():
    for tasks, workers in ((10, 4), (3, 5), (0, 2), (7, 7)):
        found = run("static", [1] * tasks, [1] * workers)
        expected = [w for w, part in enumerate(np.array_split(np.arange(tasks), workers)) for _ in part]
        assert list(found.worker_of) == expected
    assert run("static", [1] * 12, [3, 1]).makespan_s == 6, "half of the tasks for the slow one"


def test_weighted_blocks_follow_the_speeds_that_it_was_told():
    found = run("weighted", [1] * 12, [3, 1])
    assert found.worker_of == (0,) * 9 + (1,) * 3
    assert found.makespan_s == 3
    assert found.efficiency == 1
    wrong = run("weighted", [1] * 12, [1, 1], planned_speeds=[3, 1])
    assert wrong.makespan_s == 9, "the plan was for other workers"
    assert run("chunked", [1] * 12, [1, 1], planned_speeds=[3, 1]).makespan_s == 6, "who finds out needs no plan"


@given(costs=some_costs, workers=st.integers(1, 4))
@quick
def test_list_scheduling_is_the_least_loaded_worker_next(costs, workers):
    """The usual two lines, on equal workers."""
    loads, who = [0.0] * workers, []
    for cost in costs:
        who.append(min(range(workers), key=lambda w: loads[w]))
        loads[who[-1]] += cost
    found = run("chunked", costs, [1] * workers)
    assert found.makespan_s == pytest.approx(max(loads))
    assert list(found.worker_of) == who


def test_chunks_and_their_overhead():
    """10 tasks of 1 s, 2 workers, 3 at a time, 0.5 s a take: 3 + 3 beside 3 + 1; the first ends at 2 x (0.5 + 3)."""
    found = run("chunked", [1] * 10, [1, 1], chunk=3, overhead_s=0.5)
    assert [len(list(g)) for _, g in itertools.groupby(found.worker_of)] == [3, 3, 3, 1]
    assert found.makespan_s == 7
    assert sum(span.kind == "take" for span in found.spans) == 4
    assert found.utilization == pytest.approx(10 / 14)
    one = [run("chunked", [1] * 10, [1, 1], chunk=k, overhead_s=0.5).makespan_s for k in (1, 2, 5)]
    assert one == [7.5, 7.5, 5.5], "5 x 1.5; 3 x 2.5; 0.5 + 5"


def test_guided_chunks_are_those_of_the_rule():
    """100 iterations, 4 workers: ceil(left / 4) each time."""
    found = run("guided", [0] * 100, [1, 1, 1, 1], overhead_s=1)
    takes = [s for s in found.spans if s.kind == "take"]
    sizes = [25, 19, 14, 11, 8, 6, 5, 3, 3, 2, 1, 1, 1, 1]
    assert len(takes) == len(sizes)
    assert sum(sizes) == 100
    per_worker = [[25, 8, 3, 1], [19, 6, 2, 1], [14, 5, 1], [11, 3, 1]]  # they come round in turn
    for worker, expected in enumerate(per_worker):
        kinds = "".join(s.kind[0] for s in found.timeline(worker))
        assert sorted(len(part) for part in kinds.split("t")[1:]) == sorted(expected)
    least = run("guided", [1] * 20, [1, 1], chunk=4, overhead_s=1e-9)
    assert sum(s.kind == "take" for s in least.spans) == 4, "10, 5, 4 and what is left, 1"


def test_stealing_by_hand():
    """Blocks 0-3 and 4-7; worker 1 has short ones, ends at 0.4 and steals 3, the last of worker 0's, at 1 s a steal."""
    costs = [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]
    found = run("stealing", costs, [1, 1], steal_s=1)
    assert found.worker_of == (0, 0, 0, 1, 1, 1, 1, 1)
    assert found.steals == 1
    assert found.makespan_s == 3, "worker 0 keeps three; worker 1 has stolen from 0.4 to 1.4 and works to 2.4"
    assert [round(s.start_s, 9) for s in found.timeline(1)] == [0, 0.1, 0.2, 0.3, 0.4, 1.4]
    free = run("stealing", costs, [1, 1])
    assert free.makespan_s == pytest.approx(2.4), "0.4 + 1 + 1 beside 2"
    assert run("static", costs, [1, 1]).makespan_s == 4


def test_a_random_victim_may_have_nothing():
    costs = [0.001] * 12 + [1.0] * 4
    found = run("stealing", costs, [1, 1, 1, 1], steal_s=0.01, victim="random", seed=1)
    failed = found.steals - sum(a.kind == "steal" and b.kind == "work"
                                for w in range(4) for a, b in itertools.pairwise(found.timeline(w)))  # fmt: skip
    assert failed > 0
    assert found != run("stealing", costs, [1, 1, 1, 1], steal_s=0.01, victim="random", seed=2)
    most = run("stealing", costs, [1, 1, 1, 1], steal_s=0.01)
    assert most.steals == 3
    assert most.makespan_s == pytest.approx(0.004 + 0.01 + 1)


def test_longest_first_trusts_what_it_was_told():
    costs = [1, 1, 1, 9]
    assert run("lpt", costs, [1, 1]).makespan_s == 9
    assert run("lpt", costs, [1, 1], planned_costs=[5, 1, 1, 1]).makespan_s == 11
    fast = run("lpt", [4, 4], [1, 4])
    assert fast.worker_of == (1, 1), "the slow one would end later even if it had one task alone"
    assert fast.makespan_s == 2


def test_dynamic_allocation_by_speed():
    """The article's advice: workers of speeds 4, 2, 1, 1 on 64 equal tasks. Equal blocks wait for the slow ones."""
    speeds = [4, 2, 1, 1]
    assert run("static", [1] * 64, speeds).makespan_s == 16
    for policy in ("weighted", "lpt", "chunked", "stealing"):
        assert run(policy, [1] * 64, speeds).makespan_s == 8 == lower_bound([1] * 64, speeds), policy
    assert run("static", [1] * 64, speeds).efficiency == 0.5


# errors


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: run("best", [1], [1]),
            "run(policy='best'): choose from static, weighted, lpt, chunked, guided, stealing",
        ),
        (lambda: run("static", [1, -2], [1]), "costs: -2.0 is below 0; a task takes at least no time"),
        (lambda: run("static", [1, float("nan")], [1]), "costs: nan is not a number"),
        (lambda: run("static", [1, "a"], [1]), "costs: 'a' is not a number"),
        (lambda: run("static", [1], []), "speeds=[]: give at least one worker, each with a speed above 0"),
        (lambda: run("static", [1], [1, 0]), "speeds=[1.0, 0.0]: give at least one worker"),
        (lambda: run("chunked", [1], [1], chunk=0), "run(chunk=0): must be a whole number, at least 1"),
        (lambda: run("chunked", [1], [1], overhead_s=-1), "run(overhead_s=-1): must be a number of at least 0"),
        (lambda: run("stealing", [1], [1], steal_s=float("inf")), "run(steal_s=inf): must be a number of at least 0"),
        (lambda: run("stealing", [1], [1], victim="rich"), "run(victim='rich'): choose 'most' or 'random'"),
        (
            lambda: run("lpt", [1, 2], [1], planned_costs=[1]),
            "run: 1 planned costs for 2 tasks and 1 planned speeds for 1 workers; a plan needs one for each",
        ),
        (lambda: optimum([1] * 15, [1]), "optimum: 15 tasks; it searches for at most 14. Compare with `lower_bound`"),
        (lambda: lpt_bound(0), "lpt_bound(workers=0): must be a whole number, at least 1"),
    ],
)
def test_errors_say_what_was_asked(call, text):
    with pytest.raises(SchedulingError, match=re.escape(text)):
        call()
