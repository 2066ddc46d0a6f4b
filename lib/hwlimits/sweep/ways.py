"""Ways to run tasks side by side on this computer, all used alike: a loop, threads, processes, Dask.

with started("processes", workers=2, kind="compute") as do:
    do([[task] for task in tasks])     # each list goes to whoever is free; the amount that was done

Workers are ready when `with` is entered: their kernels compiled, their arrays made.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager

from hwlimits import scheduling
from hwlimits.machine import tasks
from hwlimits.machine.tasks import Task, TaskError
from hwlimits.sweep import cluster

START_S = 120  # a worker that is not ready after this will not be

Do = Callable[[Sequence[Sequence[Task]]], int]


@contextmanager
def started(way: str, workers: int, kind: str) -> Iterator[Do]:
    """Start workers that are ready for a kind of task; a function that has blocks of tasks done, and waits for all.

    A block is done by one worker, its tasks one after the other; blocks wait in one queue. It returns the amount that
    was done, FLOP or bytes. 'serial' is a loop in this thread, whatever the number of workers.

    Raises TaskError for an unknown way or kind and for less than one worker; SweepError as `cluster.local` does. In a
    program of your own, a call for processes must stand below `if __name__ == "__main__":`.
    """
    if way not in WAYS:
        raise TaskError(f"started({way!r}): choose from {', '.join(WAYS)}")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise TaskError(f"started(workers={workers!r}): a whole number of at least 1 is needed")
    if kind not in tasks.KINDS:
        raise TaskError(f"started(kind={kind!r}): choose from {', '.join(tasks.KINDS)}")
    with _WAYS[way](workers, kind) as do:
        yield do


def assign(policy: str, cut: Sequence[Task], workers: int) -> list[list[Task]]:
    """Blocks of tasks as a policy of `hwlimits.scheduling` has it: one for each worker, or each task for itself.

    >>> [len(block) for block in assign("static", [("compute", 0, 1)] * 5, workers=2)]
    [3, 2]
    >>> [len(block) for block in assign("chunked", [("compute", 0, 1)] * 3, workers=2)]
    [1, 1, 1]
    """
    if policy == "chunked":
        return [[task] for task in cut]
    if policy not in ("static", "lpt"):
        raise TaskError(f"assign({policy!r}): choose from static, lpt, chunked")
    amounts = [tasks.task_amount(task) for task in cut]
    spans = scheduling.run(policy, amounts, [1.0] * workers)
    blocks = [[cut[span.task] for span in spans.timeline(worker)] for worker in range(workers)]
    return [block for block in blocks if block]


@contextmanager
def _serial(workers: int, kind: str) -> Iterator[Do]:
    tasks.prepare(kind)
    yield lambda blocks: sum(tasks.do(block) for block in blocks)


@contextmanager
def _threads(workers: int, kind: str) -> Iterator[Do]:
    tasks.prepare(kind)
    all_there = threading.Barrier(workers + 1)
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(workers):  # a thread is started for each, as nobody is idle
            pool.submit(all_there.wait, START_S)
        all_there.wait(START_S)
        yield lambda blocks: sum(pool.map(tasks.do, blocks))


@contextmanager
def _processes(workers: int, kind: str) -> Iterator[Do]:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    ready = context.Barrier(workers)
    with ProcessPoolExecutor(workers, context, initializer=_ready, initargs=(ready, kind, workers)) as pool:
        for future in [pool.submit(tasks.do, []) for _ in range(workers)]:  # a process is started for each
            future.result()
        yield lambda blocks: sum(pool.map(tasks.do, blocks))


def _ready(barrier, kind: str, workers: int) -> None:
    """In a new process: nobody begins before all are there, or the first would do the work of all."""
    tasks.prepare(kind, workers)
    barrier.wait(START_S)


@contextmanager
def _dask(workers: int, kind: str) -> Iterator[Do]:
    with cluster.local(workers, workers) as client:
        client.wait_for_workers(workers, timeout=START_S)
        client.run(tasks.prepare, kind, workers)
        yield lambda blocks: sum(client.gather(client.map(tasks.do, blocks, pure=False)))


_WAYS = {"serial": _serial, "threads": _threads, "processes": _processes, "dask": _dask}
WAYS = tuple(_WAYS)
