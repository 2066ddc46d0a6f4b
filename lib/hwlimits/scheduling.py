"""Who does which task, and when: load balancing as a deterministic simulation in discrete events. Chapter 06.

Tasks have costs, workers have speeds: a task takes cost / speed seconds, is done by one worker, in one piece, and
does not wait for others. What is asked for is the *makespan*, when the last worker ends. The least possible one
takes exponential time to find (Garey and Johnson 1979, problem SS8); `optimum` finds it for a few tasks,
`lower_bound` bounds it for any number. The policies:

static     each worker gets a block of the tasks, as many as the others, before the run
weighted   the same, blocks in proportion to the workers' speeds
lpt        longest processing time first: planned before the run, each task to whom it ends first with
chunked    whoever is free takes the next tasks from a shared queue, `chunk` at a time; with 1 it is list scheduling
guided     the same; a chunk is the p-th part of what is left, rounded up (Polychronopoulos and Kuck 1987)
stealing   static blocks; whoever has none left steals one task from another's end (Blumofe and Leiserson 1999)

The first three are plans: they cost nothing in the run, and trust what they were told. The others find out.
Of workers that are free at the same time, the first in the list goes first.

>>> run("static", costs=[4, 4, 1, 1], speeds=[1, 1]).makespan_s, run("lpt", [4, 4, 1, 1], [1, 1]).makespan_s
(8.0, 5.0)
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from hwlimits.collectives import cuts

MOST_TASKS = 14  # for which `optimum` searches; a second or so, each more up to `workers` times as long
VICTIMS = ("most", "random")


class SchedulingError(ValueError):
    """Tasks, workers or a policy that can't be; the text says what to do."""


@dataclass(frozen=True)
class Span:
    """What one worker does from `start_s` to `stop_s`.

    kind   'work'; 'take', from the shared queue; or 'steal', tried or done
    task   its place in the list of costs; None if the span is no work
    """

    worker: int
    start_s: float
    stop_s: float
    kind: str
    task: int | None = None

    @property
    def duration_s(self) -> float:
        return self.stop_s - self.start_s


@dataclass(frozen=True)
class Run:
    """A simulated run: its spans in the order of their start, and of the workers."""

    policy: str
    costs: tuple[float, ...]
    speeds: tuple[float, ...]
    spans: tuple[Span, ...]

    @property
    def makespan_s(self) -> float:
        """Seconds until the last task is done."""
        return max((span.stop_s for span in self.spans if span.kind == "work"), default=0.0)

    @property
    def busy_s(self) -> tuple[float, ...]:
        """Seconds of work of each worker; what it spends on taking and stealing is not work."""
        busy = [0.0] * len(self.speeds)
        for span in self.spans:
            busy[span.worker] += span.duration_s * (span.kind == "work")
        return tuple(busy)

    @property
    def utilization(self) -> float:
        """Share of all workers' time up to the makespan in which they work."""
        return sum(self.busy_s) / (len(self.speeds) * self.makespan_s) if self.makespan_s else 1.0

    @property
    def efficiency(self) -> float:
        """The least time if tasks could be cut at will, sum(costs) / sum(speeds), over the makespan.

        With equal speeds it is the utilization. With others a slow worker that is busy to the end may be what all
        wait for: utilization does not see it, this does.
        """
        return sum(self.costs) / sum(self.speeds) / self.makespan_s if self.makespan_s else 1.0

    @property
    def steals(self) -> int:
        """Steals, failed ones included."""
        return sum(span.kind == "steal" for span in self.spans)

    @property
    def worker_of(self) -> tuple[int, ...]:
        """The worker of each task, in the order of the costs."""
        done = {span.task: span.worker for span in self.spans if span.kind == "work"}
        return tuple(done[task] for task in range(len(self.costs)))

    def timeline(self, worker: int) -> list[Span]:
        """The spans of one worker, in order."""
        return [span for span in self.spans if span.worker == worker]

    def rows(self) -> list[dict]:
        """The spans as a table, for a Gantt chart: worker, start_s, duration_s, kind, task."""
        return [
            {"worker": s.worker, "start_s": s.start_s, "duration_s": s.duration_s, "kind": s.kind, "task": s.task}
            for s in self.spans
        ]


def run(
    policy: str,
    costs: Sequence[float],
    speeds: Sequence[float],
    *,
    chunk: int = 1,
    overhead_s: float = 0.0,
    steal_s: float = 0.0,
    victim: str = "most",
    seed: int = 0,
    planned_costs: Sequence[float] | None = None,
    planned_speeds: Sequence[float] | None = None,
) -> Run:
    """The run of a policy, one of POLICIES, event by event.

    costs            of the tasks, in seconds of a worker of speed 1
    speeds           of the workers
    chunk            'chunked': tasks taken at a time; 'guided': the least of them
    overhead_s       of taking from the shared queue, however many tasks; takers do not wait for each other
    steal_s          of a steal, failed ones too; taking from its own block costs a worker nothing
    victim           'most': steal from who has most tasks left, of several the first; or 'random', with `seed`
    planned_costs    what 'lpt' is told of the costs, if it is not the truth
    planned_speeds   what 'lpt' and 'weighted' are told of the speeds

    A worker that finds nothing to take or to steal stops. Raises SchedulingError for an unknown policy, for costs
    below 0, for speeds not above 0, and without workers.

    >>> uneven = run("chunked", costs=[1] * 9, speeds=[2, 1])
    >>> uneven.makespan_s, uneven.worker_of
    (3.0, (0, 1, 0, 0, 1, 0, 0, 1, 0))
    """
    if policy not in _POLICIES:
        raise SchedulingError(f"run(policy={policy!r}): choose from {', '.join(POLICIES)}")
    costs, speeds = _costs(costs), _speeds("speeds", speeds)
    told_costs = costs if planned_costs is None else _costs(planned_costs, "planned_costs")
    told_speeds = speeds if planned_speeds is None else _speeds("planned_speeds", planned_speeds)
    if len(told_costs) != len(costs) or len(told_speeds) != len(speeds):
        raise SchedulingError(
            f"run: {len(told_costs)} planned costs for {len(costs)} tasks and {len(told_speeds)} planned speeds for "
            f"{len(speeds)} workers; a plan needs one for each"
        )
    if isinstance(chunk, bool) or not isinstance(chunk, Integral) or chunk < 1:
        raise SchedulingError(f"run(chunk={chunk!r}): must be a whole number, at least 1")
    for name, value in (("overhead_s", overhead_s), ("steal_s", steal_s)):
        if not 0 <= value < math.inf:
            raise SchedulingError(f"run({name}={value}): must be a number of at least 0")
    if victim not in VICTIMS:
        raise SchedulingError(f"run(victim={victim!r}): choose 'most' or 'random'")
    if policy in ("static", "weighted", "lpt", "stealing"):
        blocks = _POLICIES[policy](told_costs, told_speeds)
        rng = np.random.default_rng(seed) if victim == "random" else None
        work = _Blocks(blocks, steal_s, rng) if policy == "stealing" else _Blocks(blocks)
    else:
        work = _Queue(len(costs), _POLICIES[policy](len(speeds), int(chunk)), overhead_s)
    return Run(policy, costs, speeds, tuple(_events(work, costs, speeds)))


def _events(work, costs: tuple[float, ...], speeds: tuple[float, ...]) -> list[Span]:
    """Whoever is free next does what `work` has for them, until it has nothing."""
    free, spans = [(0.0, worker) for worker in range(len(speeds))], []
    while free:
        now, worker = heapq.heappop(free)  # the earliest; of equal ones the first in the list
        found = work.next(worker)
        if found is None:
            continue
        kind, spent_s, tasks = found
        if kind:
            spans.append(Span(worker, now, now + spent_s, kind))
            now += spent_s
        for task in tasks:
            spans.append(Span(worker, now, now + costs[task] / speeds[worker], "work", task))
            now = spans[-1].stop_s
        heapq.heappush(free, (now, worker))
    return sorted(spans, key=lambda s: (s.start_s, s.worker, s.stop_s, s.kind == "work"))


class _Queue:
    """Tasks that all take from; `size(left)` says how many at a time."""

    def __init__(self, tasks: int, size, overhead_s: float):
        self.first, self.tasks, self.size, self.overhead_s = 0, tasks, size, overhead_s

    def next(self, worker: int):
        left = self.tasks - self.first
        if not left:
            return None
        taken = range(self.first, self.first + min(left, self.size(left)))
        self.first = taken.stop
        return "take" if self.overhead_s else "", self.overhead_s, taken


class _Blocks:
    """Tasks of each worker's own, first to last; thieves take the last. Without `steal_s` nobody steals."""

    def __init__(self, blocks: Sequence[Sequence[int]], steal_s: float | None = None, rng=None):
        self.own, self.steal_s, self.rng = [deque(block) for block in blocks], steal_s, rng

    def next(self, worker: int):
        if self.own[worker]:
            return "", 0.0, [self.own[worker].popleft()]
        if self.steal_s is None or not any(self.own):
            return None
        if self.rng is None:
            victim = max(range(len(self.own)), key=lambda w: len(self.own[w]))  # of equal ones the first
        else:
            victim = int(self.rng.integers(len(self.own) - 1))
            victim += victim >= worker
        return "steal", self.steal_s, [self.own[victim].pop()] if self.own[victim] else []


def _static(costs: tuple[float, ...], speeds: tuple[float, ...]) -> list[range]:
    cut = cuts(len(costs), len(speeds))
    return [range(a, b) for a, b in zip(cut, cut[1:], strict=False)]


def _weighted(costs: tuple[float, ...], speeds: tuple[float, ...]) -> list[range]:
    """Blocks of whole tasks, whose ends are nearest to the exact shares."""
    ends = [round(len(costs) * share) for share in np.cumsum(speeds) / sum(speeds)]
    return [range(a, b) for a, b in zip([0, *ends], ends, strict=False)]


def _lpt(costs: tuple[float, ...], speeds: tuple[float, ...]) -> list[list[int]]:
    """Each task, the longest first, to the worker with whom it ends first: Gonzalez, Ibarra and Sahni 1977.

    With equal speeds that is the worker who is free first: Graham 1969.
    """
    blocks, ends = [[] for _ in speeds], [0.0] * len(speeds)
    for task in sorted(range(len(costs)), key=lambda t: -costs[t]):
        worker = min(range(len(speeds)), key=lambda w: ends[w] + costs[task] / speeds[w])
        ends[worker] += costs[task] / speeds[worker]
        blocks[worker].append(task)
    return blocks


_POLICIES = {
    "static": _static,
    "weighted": _weighted,
    "lpt": _lpt,
    "chunked": lambda workers, chunk: lambda left: chunk,
    "guided": lambda workers, chunk: lambda left: max(chunk, -(-left // workers)),
    "stealing": _static,
}
POLICIES = tuple(_POLICIES)


# --- what is possible --------------------------------------------------------------------------


def lower_bound(costs: Sequence[float], speeds: Sequence[float]) -> float:
    """Seconds below which no policy can be: all work by all workers, and the k longest tasks by the k fastest workers.

    It is the optimum if a task may be interrupted and go on elsewhere (Horvath, Lam and Sethi 1977).
    Raises SchedulingError as `run` does.

    >>> lower_bound([3, 3, 3], speeds=[1, 1]), lower_bound([6, 1, 1], speeds=[1, 2])
    (4.5, 3.0)
    """
    costs, speeds = sorted(_costs(costs), reverse=True), sorted(_speeds("speeds", speeds), reverse=True)
    least = sum(costs) / sum(speeds)
    for k in range(1, min(len(costs), len(speeds))):
        least = max(least, sum(costs[:k]) / sum(speeds[:k]))
    return least


def optimum(costs: Sequence[float], speeds: Sequence[float]) -> Run:
    """A run of the least possible makespan, by trying all assignments but those that can't beat the best so far.

    Raises SchedulingError for more than MOST_TASKS, and as `run` does.

    >>> optimum([3, 3, 2, 2, 2], speeds=[1, 1]).makespan_s, run("lpt", [3, 3, 2, 2, 2], [1, 1]).makespan_s
    (6.0, 7.0)
    """
    costs, speeds = _costs(costs), _speeds("speeds", speeds)
    if len(costs) > MOST_TASKS:
        raise SchedulingError(
            f"optimum: {len(costs)} tasks; it searches for at most {MOST_TASKS}. Compare with `lower_bound` instead"
        )
    order = sorted(range(len(costs)), key=lambda t: -costs[t])
    planned = _lpt(costs, speeds)
    best = [max(sum(costs[t] for t in block) / v for block, v in zip(planned, speeds, strict=True)), planned]
    blocks, ends = [[] for _ in speeds], [0.0] * len(speeds)

    def place(at: int) -> None:
        if at == len(order):
            best[:] = max(ends), [list(block) for block in blocks]
            return
        task, tried = order[at], set()
        for worker in range(len(speeds)):
            state = ends[worker], speeds[worker]  # two workers alike in both: one of them is enough
            end = ends[worker] + costs[task] / speeds[worker]
            if state in tried or end >= best[0]:
                continue
            tried.add(state)
            before, ends[worker] = ends[worker], end
            blocks[worker].append(task)
            place(at + 1)
            blocks[worker].pop()
            ends[worker] = before

    place(0)
    return Run("optimum", costs, speeds, tuple(_events(_Blocks(best[1]), costs, speeds)))


def list_bound(workers: int) -> float:
    """How many times the optimum a work-conserving policy can take at most, on equal workers: 2 - 1 / m.

    Source: Graham, "Bounds for Certain Multiprocessing Anomalies" (1966). `list_worst` reaches it.

    >>> list_bound(2)
    1.5
    """
    return 2 - 1 / _workers("list_bound", workers)


def lpt_bound(workers: int) -> float:
    """How many times the optimum the longest-first policy can take at most, on equal workers: 4/3 - 1 / (3 m).

    Source: Graham, "Bounds on Multiprocessing Timing Anomalies" (1969). `lpt_worst` reaches it.

    >>> round(lpt_bound(2), 6)
    1.166667
    """
    return 4 / 3 - 1 / (3 * _workers("lpt_bound", workers))


def list_worst(workers: int) -> list[float]:
    """Costs for which list scheduling takes 2 m - 1 and the optimum is m: m (m - 1) short tasks, and then a long one.

    >>> list_worst(3)
    [1, 1, 1, 1, 1, 1, 3]
    """
    m = _workers("list_worst", workers)
    return [1] * (m * (m - 1)) + [m]


def lpt_worst(workers: int) -> list[float]:
    """Costs for which longest-first takes 4 m - 1 and the optimum is 3 m: two each of 2 m - 1 down to m, and a third m.

    >>> lpt_worst(2), lpt_worst(3)
    ([3, 3, 2, 2, 2], [5, 5, 4, 4, 3, 3, 3])
    """
    m = _workers("lpt_worst", workers)
    return [cost for size in range(2 * m - 1, m - 1, -1) for cost in (size, size)] + [m]


# --- checks ------------------------------------------------------------------------------------


def _numbers(name: str, values) -> Iterator[float]:
    for value in values:
        if not (isinstance(value, int | float | np.number) and math.isfinite(value)):
            raise SchedulingError(f"{name}: {value!r} is not a number")
        yield float(value)


def _costs(costs, name: str = "costs") -> tuple[float, ...]:
    found = tuple(_numbers(name, costs))
    if any(cost < 0 for cost in found):
        raise SchedulingError(f"{name}: {min(found)} is below 0; a task takes at least no time")
    return found


def _speeds(name: str, speeds) -> tuple[float, ...]:
    found = tuple(_numbers(name, speeds))
    if not found or any(speed <= 0 for speed in found):
        raise SchedulingError(f"{name}={list(found)}: give at least one worker, each with a speed above 0")
    return found


def _workers(function: str, workers) -> int:
    if isinstance(workers, bool) or not isinstance(workers, Integral) or workers < 1:
        raise SchedulingError(f"{function}(workers={workers!r}): must be a whole number, at least 1")
    return int(workers)
