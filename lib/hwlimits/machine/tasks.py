"""Work that can be cut into tasks of any size, to be run side by side: what chapter 06 measures.

compute   multiply-adds in registers (`hwlimits.kernels.peak`), FLOP: no memory, so cores don't disturb each other
memory    the triad out = a + s b (`hwlimits.kernels.stream`), bytes: next to no arithmetic, and all cores share the bus

Both are what the machine card's rates are measured with, so that the card predicts their times; and both release the
GIL. The triad's tasks lie one behind the other on arrays larger than all caches, and begin again at their end: however
fine it is cut, what a task needs has long left the caches.

>>> _ = prepare("compute")
>>> tasks = cut("compute", amount=1e6, shares=[1, 2, 1])
>>> do(tasks) == sum(task_amount(task) for task in tasks)
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwlimits.machine.processor import available_memory_bytes, caches
from hwlimits.machine.record import Card
from hwlimits.machine.throughput import ITEM, LINE_BYTES, aligned, dram_bytes

PRECISION = "fp32"
LINE = LINE_BYTES // ITEM.itemsize  # elements; tasks begin on a cache line, or vectors would cross lines
KINDS = {"compute": "FLOP", "memory": "B"}

Task = tuple[str, int, int]  # kind, first unit, units: steps of all chains, or lines of the arrays

_arrays: list[np.ndarray] = []  # of this process, all its threads work on them


class TaskError(ValueError):
    """A kind of work, an amount or shares that can't be; the text says what to do."""


def prepare(kind: str, processes: int = 1) -> None:
    """Make this process ready: compile the kernel, and make the arrays.

    processes   that share the memory: all their arrays together are as large as the card's. Arrays that are there stay.

    Raises TaskError for an unknown kind.
    """
    unit = _unit(kind)
    if kind == "memory" and not _arrays:
        n = dram_bytes(caches(), available_memory_bytes()) // processes // 3 // ITEM.itemsize
        _arrays.extend(aligned(n // LINE * LINE, 3))
    if do([(kind, 0, 1)]) != unit:
        raise RuntimeError(f"prepare({kind!r}): the kernel did another amount of work than one unit")


def cut(kind: str, amount: float, shares: Sequence[float]) -> list[Task]:
    """Tasks that are `amount` (FLOP or bytes) together, in proportion to the shares, each in whole units.

    Raises TaskError for shares that are not above 0, and for an amount of fewer units than tasks.

    >>> [task_amount(task) for task in cut("memory", amount=192 * 8, shares=[1, 3])]
    [384, 1152]
    """
    units = round(amount / _unit(kind))
    if not len(shares) or not all(0 < share < math.inf for share in shares):
        raise TaskError(f"cut(shares={list(shares)}): give at least one share, each a number above 0")
    if units < len(shares):
        raise TaskError(
            f"cut({kind!r}, amount={amount:g}): that is {units} units of {_unit(kind)} {KINDS[kind]}, too few for "
            f"{len(shares)} tasks; give a larger amount or fewer shares"
        )
    ends = [0, *(round(units * part) for part in np.cumsum(shares) / sum(shares))]
    return [(kind, a, b - a) for a, b in zip(ends, ends[1:], strict=False)]


def task_amount(task: Task) -> int:
    """FLOP or bytes of a task, by STREAM's count."""
    return task[2] * _unit(task[0])


def do(tasks: Sequence[Task]) -> int:
    """Do tasks, one after the other, in this thread; the FLOP or bytes that were done. No tasks are nothing to do.

    Raises TaskError for memory tasks in a process that was not prepared for them.
    """
    return sum(_DO[kind](first, units) for kind, first, units in tasks)


def card_rates(card: Card, kind: str) -> tuple[float, float]:
    """The card's rate for this work, FLOP/s or B/s: of one thread, and of a thread on each core together."""
    _unit(kind)
    what = ("peak", PRECISION) if kind == "compute" else ("bandwidth", "DRAM")
    return card.number(*what).value, card.number(*what, threads="all").value


def _unit(kind: str) -> int:
    """FLOP or bytes of the least task."""
    if kind == "memory":
        return 3 * LINE_BYTES
    if kind != "compute":
        raise TaskError(f"kind {kind!r}: choose from {', '.join(KINDS)}")
    from hwlimits.kernels import peak  # numba, not before it is needed

    return peak.CHAINS * peak.INSTRUCTIONS[PRECISION].operations


def _compute(first: int, units: int) -> int:
    from hwlimits.kernels import peak

    return peak.run(PRECISION, units)


def _memory(first: int, units: int) -> int:
    from hwlimits.kernels import stream

    if not _arrays:
        raise TaskError("do: this process has no arrays for memory tasks; call prepare('memory') in it first")
    a, b, out = _arrays
    at, left, done = first * LINE % a.size, units * LINE, 0
    while left:
        n = min(left, a.size - at)
        stream.LOOPS["triad"](a[at : at + n], b[at : at + n], 3.0, out[at : at + n], 1)
        at, left, done = 0, left - n, done + n  # whatever is left begins again at the start
    return 3 * done * ITEM.itemsize


_DO = {"compute": _compute, "memory": _memory}
