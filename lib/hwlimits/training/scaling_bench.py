"""What several workers are worth on this computer, predicted and measured: data/results/scaling.csv.

    make results-scaling

Threads, processes and Dask do the tasks of `hwlimits.sweep.scaling_rows`; here come a training over workers, a row a
step, and images scored over Dask. Predicted is a step as one worker's with its part of the batch, measured alone, and
the ring of chapter 03 over this computer's loopback; a scoring as one process's rate times the workers', what the card
has for Dask's tasks, and the way of the images to the workers and through the scheduler. The card's start is that of
workers with numba ready; those that score load LiteRT instead, and end within the time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwlimits import data, progress
from hwlimits.bandwidth import LinkModel
from hwlimits.collectives import schedule, time_on_cores_s
from hwlimits.machine.allreduce import Group
from hwlimits.machine.card import Card, card
from hwlimits.machine.processor import usable_cores
from hwlimits.machine.provenance import provenance, require_clean_commit, store_table
from hwlimits.machine.side_by_side import COLUMNS, Overhead, Prediction, Rates, predict, row
from hwlimits.machine.timing import Timing, measure
from hwlimits.sweep import cluster, scaling_rows, ways
from hwlimits.training import mnist, scoring, workers
from hwlimits.training.litert import LiteRTFile
from hwlimits.training.placement import Settings

COMMAND = "make results-scaling"
FILE = "results/case_study/quantized-seed0.tflite"
BATCH = 128  # of a step, whatever the number of workers
EPOCHS = 2
IMAGES = 16_000  # to be scored
HOPS = 2  # of a part's bytes: to the scheduler, and to the worker
NOT_GAINED = ("serial_s", "speedup", "efficiency", "karp_flatt")  # by an all-reduce, that one worker does not need
LEAST_PART = 16  # images of a worker in a step
MESSAGES = (1, 1000, 10_000, 100_000, 1_000_000)  # bytes


def step_prediction(part_s: float, workers: int, cores: int, parameters: int, link: LinkModel, work: LinkModel):
    """A step of so many workers: one's time for its part of the batch, as often as they share a core; and the ring.

    part_s   of a step with a part of the batch, one worker alone
    link     between two of them, and `work`, the processor time of a message, as `Group.messages` finds both

    >>> fast = LinkModel(0.0, 1e9)
    >>> step_prediction(0.01, workers=2, cores=2, parameters=250_000, link=fast, work=fast).exchange_s
    0.001
    """
    exchange_s = 0.0
    if workers > 1:
        exchange_s = time_on_cores_s(schedule("ring", workers, parameters), link, work, cores)
    return Prediction(work_s=part_s * max(1.0, workers / cores), exchange_s=exchange_s)


def training_rows(counts: Sequence[int], **settings) -> Iterator[dict[str, Any]]:
    """A step of the same batch by one worker and by several: the median over the steps of a training."""
    cores = usable_cores()
    settings = {"epochs": EPOCHS, "batch": BATCH, "save_steps": 10_000} | settings
    batch = settings["batch"]
    alone = {n: _steps(1, **settings | {"batch": batch // n}) for n in sorted({1, *counts})}
    whole = _steps(1, **settings)
    with Group(2) as group:
        found = group.messages(MESSAGES)
    link, work = found.link().link, found.work().link
    for n in counts:
        parameters = whole["parameters"]
        predicted = step_prediction(_timing(alone[n]).median_s, n, cores, parameters, link, work)
        found = whole if n == 1 else _steps(n, **settings)
        serial_s = None if n == 1 else _timing(whole).median_s
        how = {"workers": n, "tasks": n, "policy": "static"}
        yield row("workers", "train", predicted, _timing(found), serial_s=serial_s, **how)
        if n > 1:
            for task, elements in (("all-reduce", parameters), ("all-reduce of 1", 1)):
                ring = step_prediction(0.0, n, cores, elements, link, work)
                times = found["all_reduce_one_times_s" if elements == 1 else "all_reduce_times_s"]
                yield row("workers", task, ring, Timing(tuple(times)), **how) | dict.fromkeys(NOT_GAINED, "")


def _steps(count: int, **settings) -> dict[str, Any]:
    """What the first of so many workers found in a training."""
    with tempfile.TemporaryDirectory() as folder:
        return workers.run(count, Settings(**settings), folder, source="mnist-5k", restarts=0)


def _timing(found: dict[str, Any]) -> Timing:
    return Timing(tuple(found["steps_s"]))


def scoring_rows(here: Card, images: np.ndarray, counts: Sequence[int], size: scaling_rows.Size) -> Iterator[dict]:
    """Images scored over Dask: by workers that are there, and on all cores by those that must be started first."""
    file, cores = LiteRTFile.read(data.path(FILE)), usable_cores()
    parts = -(-len(images) // scoring.PART)
    loopback = here.bandwidth_bytes_per_s("loopback")
    exchange_s = HOPS * (images.nbytes + parts * len(file.content)) / loopback
    sample = images[: 4 * scoring.PART]
    rate = len(sample) / measure(lambda: file.outputs(sample), repeats=size.repeats, min_sample_s=1e-9).median_s
    rates = Rates(rate, cores * rate, cores)
    sizes = [len(images[at : at + scoring.PART]) for at in range(0, len(images), scoring.PART)]
    alone = predict([len(images)], rates, 1, resource="compute", policy="static")
    serial = measure(lambda: file.outputs(images), repeats=size.repeats, min_sample_s=1e-9)
    yield row("serial", "score", alone, serial, workers=1, tasks=1, policy="static")

    started, what = Overhead.of_card(here, "dask"), {"resource": "compute", "exchange_s": exchange_s}
    for n in counts:
        predicted = predict(sizes, rates, n, overhead=replace(started, start_s=0.0), **what)
        with cluster.local(n, n) as client:
            client.wait_for_workers(n, timeout=ways.START_S)
            address = client.scheduler_info()["address"]
            _score(images[: 4 * n], n, part=1, scheduler=address)  # each worker loads what it needs
            measured = _scored(images, n, size.repeats, scheduler=address)
        yield row("dask", "score", predicted, measured, workers=n, tasks=parts, serial_s=serial.median_s)
        if n == cores:
            cold = predict(sizes, rates, n, overhead=started, **what)
            measured = _scored(images, n, size.cold)
            yield row("dask", "score", cold, measured, workers=n, tasks=parts, serial_s=serial.median_s, pool="cold")


def _scored(images: np.ndarray, count: int, repeats: int, **how) -> Timing:
    return scaling_rows.again(lambda: _score(images, count, **how), repeats)


def _score(images: np.ndarray, count: int, **how) -> float:
    """Seconds of one scoring. Raises RuntimeError if it gave another number of scores."""
    begun = time.perf_counter()
    found = scoring.score(data.path(FILE), images, workers=count, **how)
    took_s = time.perf_counter() - begun
    if len(found) != len(images):
        raise RuntimeError(f"{len(images)} images were to be scored, and {len(found)} were")
    return took_s


def all_rows(here: Card, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Every row; `quick`: small ones, no training."""
    size, counts = (scaling_rows.QUICK if quick else scaling_rows.FULL), scaling_rows.counts(usable_cores())
    yield from scaling_rows.rows(here, size)
    given = mnist.load("mnist-5k").x_train
    images = np.resize(given, (2000 if quick else IMAGES, *given.shape[1:]))
    yield from scoring_rows(here, images, counts[:-1], size)
    if not quick:
        yield from training_rows([n for n in counts if BATCH % n == 0 and BATCH // n >= LEAST_PART])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all and store it; with --quick some, shown and not stored."""
    parser = argparse.ArgumentParser(prog="python -m hwlimits.training.scaling_bench", description=COMMAND)
    parser.add_argument("--quick", action="store_true", help="small ones, no training; shown, not stored")
    options = parser.parse_args(arguments)
    if not options.quick:
        require_clean_commit()
    here = card()
    made_by = provenance(COMMAND, seeds=[0], card=here.provenance)
    found: list[dict[str, Any]] = []
    for each in (seen := progress.bar(all_rows(here, options.quick), desc="scaling", unit="row")):
        found.append(each)
        if options.quick:
            seen.write(
                f"{each['way']:<10}{each['task']:<8} {each['policy']:<8}{each['pool']:<5}{each['tasks']:>5} tasks, "
                f"{each['workers']} workers: {each['predicted_s']:.3g} s predicted, {each['measured_s']:.3g} s "
                f"measured, ratio {each['ratio']:.2f}, {each['bound']}"
            )
    if not options.quick:
        store_table(data.path("results") / "scaling.csv", COLUMNS, found, made_by)


if __name__ == "__main__":
    main()
