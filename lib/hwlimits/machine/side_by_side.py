"""How long tasks take on several workers of one computer, predicted: start-up, overheads, work, and waiting.

    time = start-up + (call + tasks x overhead) + exchange + work at the shared rate + waiting for the slowest

Rates and overheads are the machine card's; nothing is fitted to the times that are predicted. The dispatcher hands out
one task after the other, and its time counts in full: where a core is free beside the workers some of it hides behind
their work, and the prediction is too long.

>>> rates = Rates(one=10.0, all_cores=15.0, cores=2)  # two cores together are not twice as fast
>>> found = predict([30.0] * 4, rates, workers=2, resource="memory bandwidth")
>>> found.predicted_s, found.bound
(8.0, 'memory bandwidth')
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwlimits import data, parallel, scheduling
from hwlimits.machine.record import Card
from hwlimits.machine.timing import Timing

WAITING = 0.1  # of the work's time: from here on, imbalance bounds what work would
RESOURCES = ("compute", "memory bandwidth")
BOUNDS = (*RESOURCES, "start-up", "overhead", "network", "imbalance")
PARTS = ("startup_s", "overhead_s", "exchange_s", "work_s", "wait_s")


class PredictError(ValueError):
    """Rates, workers or overheads that can't be; the text says what to do."""


@dataclass(frozen=True)
class Rates:
    """Work a second of one core alone, and of all `cores` together."""

    one: float
    all_cores: float
    cores: int

    def __post_init__(self):
        if not (0 < self.one < math.inf and 0 < self.all_cores < math.inf and self.cores >= 1):
            raise PredictError(f"{self}: rates must be above 0, and there is at least one core")

    def together(self, workers: int) -> float:
        """Of so many workers: as many times one, until all cores' rate is reached, and no more with more workers.

        >>> [Rates(10.0, 25.0, cores=4).together(n) for n in (1, 2, 3, 4, 8)]
        [10.0, 20.0, 25.0, 25.0, 25.0]
        """
        if self.cores == 1 or workers == 1:
            return self.one
        return min(workers * self.one, self.all_cores)


@dataclass(frozen=True)
class Overhead:
    """What tasks cost beside their work: start_s to start workers, call_s once a call, task_s for each task."""

    start_s: float = 0.0
    call_s: float = 0.0
    task_s: float = 0.0

    @classmethod
    def of_card(cls, card: Card, way: str) -> Overhead:
        """Of 'threads', 'processes' or 'dask', as the machine card has it; its call is that of one empty task.

        Raises CardError for a card without them.
        """
        start_s, call_s, task_s = (card.overhead_s(f"{way}_{of}") for of in ("start", "call", "task"))
        return cls(start_s, max(0.0, call_s - task_s), task_s)


@dataclass(frozen=True)
class Prediction:
    """The parts of a predicted time, in s.

    work_s     of all workers together, if none ever waits
    wait_s     that the last one ends after that
    resource   what bounds the work
    """

    work_s: float
    wait_s: float = 0.0
    startup_s: float = 0.0
    overhead_s: float = 0.0
    exchange_s: float = 0.0
    resource: str = "compute"

    def __post_init__(self):
        if self.resource not in RESOURCES:
            raise PredictError(f"resource {self.resource!r}: choose from {', '.join(RESOURCES)}")
        if wrong := {part: getattr(self, part) for part in PARTS if not 0 <= getattr(self, part) < math.inf}:
            raise PredictError(f"a prediction can't have {wrong}: each part is a number of at least 0")

    @property
    def predicted_s(self) -> float:
        return sum(getattr(self, part) for part in PARTS)

    @property
    def bound(self) -> str:
        """What takes most of the time: one of BOUNDS. Work and waiting go together, under the name of what counts."""
        parts = {"start-up": self.startup_s, "overhead": self.overhead_s, "network": self.exchange_s}
        work = "imbalance" if self.wait_s > WAITING * self.work_s else self.resource
        parts[work] = self.work_s + self.wait_s
        return max(parts, key=parts.get)


def predict(
    amounts: Sequence[float],
    rates: Rates,
    workers: int,
    *,
    resource: str,
    policy: str = "chunked",
    overhead: Overhead = Overhead(),
    exchange_s: float = 0.0,
) -> Prediction:
    """The time of tasks of these amounts, shared among workers by a policy of `hwlimits.scheduling`.

    The makespan is that of the simulator. Each worker that has something to do has an equal part of the rate that they
    have together, all the time: when some have ended, the others would have more of a shared memory, and are predicted
    too slow. With a plan (static, lpt) what is handed out are the workers' blocks, and not the single tasks.

    Raises PredictError for less than one worker, and SchedulingError as `scheduling.run` does.

    >>> rates = Rates(one=1.0, all_cores=2.0, cores=2)
    >>> [predict([1, 1, 2, 4], rates, 2, resource="compute", policy=p).wait_s for p in ("static", "chunked", "lpt")]
    [2.0, 1.0, 0.0]
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise PredictError(f"predict(workers={workers!r}): a whole number of at least 1 is needed")
    if not len(amounts):
        raise PredictError("predict: there are no tasks; give the amount of at least one")
    active = min(workers, len(amounts))
    speed = rates.together(active) / active
    makespan_s = scheduling.run(policy, amounts, [speed] * active).makespan_s
    work_s = sum(amounts) / rates.together(workers)
    handed = active if policy in ("static", "weighted", "lpt") else len(amounts)
    return Prediction(
        work_s=work_s, wait_s=_from_0(makespan_s - work_s, work_s), startup_s=overhead.start_s,
        overhead_s=overhead.call_s + handed * overhead.task_s, exchange_s=exchange_s, resource=resource,
    )  # fmt: skip


def _from_0(wait_s: float, work_s: float) -> float:
    """No less than 0, and 0 where it is the rounding of sums."""
    return wait_s if wait_s > 1e-9 * work_s else 0.0


COLUMNS = (
    "way", "task", "policy", "pool", "tasks", "workers", *PARTS, "predicted_s", "measured_s", "iqr_s", "repeats",
    "noisy", "ratio", "serial_s", "speedup", "efficiency", "karp_flatt", "bound",
)  # fmt: skip


def row(
    way: str,
    task: str,
    prediction: Prediction,
    measured: Timing,
    *,
    workers: int,
    tasks: int,
    serial_s: float | None = None,
    policy: str = "chunked",
    pool: str = "warm",
) -> dict[str, Any]:
    """A line of the table, COLUMNS: a prediction, what was measured, and what the workers were worth.

    serial_s   of the same work without workers, as it was measured; None for this line itself
    pool       'warm': workers were there before the clock ran; 'cold': starting them is part of the time

    ratio is measured over predicted. The Karp-Flatt metric of one worker is not defined, and ''.
    """
    measured_s = measured.median_s
    serial_s = measured_s if serial_s is None else serial_s
    gained = parallel.speedup(serial_s, measured_s)
    parts = {part: float(getattr(prediction, part)) for part in PARTS}
    return {
        "way": way, "task": task, "policy": policy, "pool": pool, "tasks": tasks, "workers": workers, **parts,
        "predicted_s": prediction.predicted_s, "measured_s": measured_s, "iqr_s": measured.iqr_s,
        "repeats": len(measured.samples_s), "noisy": measured.noisy, "ratio": measured_s / prediction.predicted_s,
        "serial_s": serial_s, "speedup": gained, "efficiency": parallel.efficiency(serial_s, measured_s, workers),
        "karp_flatt": parallel.karp_flatt(gained, workers) if workers > 1 else "", "bound": prediction.bound,
    }  # fmt: skip


def stored() -> list[dict[str, Any]]:
    """The rows of data/results/scaling.csv, numbers as numbers; where nothing is defined, None.

    Raises FileNotFoundError that says how it is made if there is no such table.
    """
    words = {"way", "task", "policy", "pool", "bound"}
    whole = {"tasks", "workers", "repeats"}

    def value(name: str, text: str) -> Any:
        if name in words:
            return text
        if name == "noisy":
            return text == "True"
        return (int if name in whole else float)(text) if text else None

    with data.path("results/scaling.csv").open(encoding="utf-8", newline="") as lines:
        return [{name: value(name, text) for name, text in line.items()} for line in csv.DictReader(lines)]
