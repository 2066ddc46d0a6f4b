"""Tasks over threads, processes and Dask: each time is predicted, then measured, and makes a row.

    rows(card(), QUICK)          # some rows in half a minute; FULL are those of data/results/scaling.csv

Equal tasks show where scaling stops: more workers than cores, a memory that all share, grains so fine that what a task
costs counts for more than the task. Unequal ones show what it costs to share them badly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hwlimits.machine import tasks
from hwlimits.machine.processor import usable_cores
from hwlimits.machine.record import Card
from hwlimits.machine.side_by_side import Overhead, Rates, predict, row
from hwlimits.machine.tasks import TaskError
from hwlimits.machine.timing import Timing, measure
from hwlimits.sweep.ways import WAYS, Do, assign, started

COSTS = tuple(1.4**i for i in range(12))  # of unequal tasks for two workers
POLICIES = ("static", "chunked", "lpt")
RESOURCE = {"compute": "compute", "memory": "memory bandwidth"}
ONCE_S = 1e-9  # a sample is one call, however short


@dataclass(frozen=True)
class Size:
    """How much is measured.

    serial_s   of the work on one core, by the card
    grains     numbers of equal tasks for each core, on all cores; with other numbers of workers, it is `grain`
    cold       repeats of what starts its workers itself
    """

    serial_s: float = 0.2
    grains: tuple[float, ...] = (0.5, 2, 8, 32, 128, 512)
    grain: int = 8
    repeats: int = 7
    cold: int = 3


FULL = Size()
QUICK = Size(serial_s=0.05, grains=(0.5, 8, 128), repeats=3)


def counts(cores: int) -> list[int]:
    """Numbers of workers: 1, the cores, twice the cores; and the powers of two between."""
    return sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores, 2 * cores})


def rows(
    card: Card, size: Size = FULL, ways: tuple[str, ...] = WAYS[1:], kinds: tuple[str, ...] = tuple(tasks.KINDS)
) -> Iterator[dict[str, Any]]:
    """Rows of `hwlimits.machine.side_by_side.COLUMNS`; for each kind of work first the serial one."""
    cores = usable_cores()
    if card.machine["usable_cores"] != cores:
        raise TaskError(
            f"the card is of {card.machine['usable_cores']} usable cores, and there are {cores} now: make a card of "
            "these with `hwlimits calibrate`, or give the others back"
        )
    overheads = {way: Overhead.of_card(card, way) for way in ways}  # a card without them is seen before the work
    for kind in kinds:
        one, all_cores = tasks.card_rates(card, kind)
        rates, amount = Rates(one, all_cores, cores), one * size.serial_s
        with started("serial", 1, kind) as loop:
            whole = tasks.cut(kind, amount, [1])
            predicted = predict([tasks.task_amount(whole[0])], rates, 1, resource=RESOURCE[kind], policy="static")
            yield row("serial", kind, predicted, timed(loop, [whole], size), workers=1, tasks=1, policy="static")
            for way in ways:
                serial_s = timed(loop, [whole], size).median_s  # again, in the minutes of what is compared with it
                for workers in counts(cores):
                    yield from _warm(way, kind, workers, amount, rates, overheads[way], serial_s, size)
                if kind == "compute":
                    yield _cold(way, kind, cores, amount, rates, overheads[way], serial_s, size)


def _warm(way, kind, workers, amount, rates, overhead, serial_s, size) -> Iterator[dict[str, Any]]:
    """Workers that are there: equal tasks, and on all cores all grains and, without memory, unequal ones."""
    full = workers == rates.cores
    grains = [max(1, round(rates.cores * k)) for k in (size.grains if full else (size.grain,))]
    cases = [(kind, "chunked", [1] * k) for k in grains]
    if full and kind == "compute":
        cases += [("unequal", policy, unequal(workers)) for policy in POLICIES]
    with started(way, workers, kind) as do:
        there = replace(overhead, start_s=0.0)
        for task, policy, shares in cases:
            cut = tasks.cut(kind, amount, shares)
            amounts = [tasks.task_amount(t) for t in cut]
            predicted = predict(
                amounts, rates, workers, resource=RESOURCE[kind], policy=policy, overhead=there
            )  # before anything of it has run
            measured = timed(do, assign(policy, cut, workers), size)
            yield row(way, task, predicted, measured, workers=workers, tasks=len(cut), serial_s=serial_s, policy=policy)


def _cold(way, kind, workers, amount, rates, overhead, serial_s, size) -> dict[str, Any]:
    """The same work by workers that have to be started first."""
    cut = tasks.cut(kind, amount, [1] * (rates.cores * size.grain))
    blocks = assign("chunked", cut, workers)
    amounts = [tasks.task_amount(t) for t in cut]
    predicted = predict(amounts, rates, workers, resource=RESOURCE[kind], overhead=overhead)

    def once() -> float:
        begun = time.perf_counter()
        with started(way, workers, kind) as do:
            checked(do, blocks)
            return time.perf_counter() - begun

    measured = again(once, size.cold)
    return row(way, kind, predicted, measured, workers=workers, tasks=len(cut), serial_s=serial_s, pool="cold")


def unequal(workers: int) -> list[float]:
    """Costs of unequal tasks, the longest last: with any number of workers it is somewhat more than half of a share.

    >>> [round(max(unequal(n)) / (sum(unequal(n)) / n), 2) for n in (1, 2, 8, 64)]
    [0.29, 0.58, 0.58, 0.58]
    """
    return sorted(COSTS * max(1, workers // 2))


def timed(do: Do, blocks: list[list[tasks.Task]], size: Size) -> Timing:
    """Repeated times of a call, each of which has done all of the work."""
    return measure(lambda: checked(do, blocks), repeats=size.repeats, min_sample_s=ONCE_S)


def checked(do: Do, blocks: list[list[tasks.Task]]) -> None:
    """Have blocks done. Raises RuntimeError if that was another amount than asked."""
    asked, done = sum(tasks.task_amount(t) for block in blocks for t in block), do(blocks)
    if done != asked:
        raise RuntimeError(f"{asked} were to be done, and {done} were; this time is none of the work's")


def again(once_s: Callable[[], float], repeats: int) -> Timing:
    """Repeats of what says its own seconds, as it does more than what is to be timed."""
    return Timing(tuple(once_s() for _ in range(repeats)))
