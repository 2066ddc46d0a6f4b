"""A sweep from its first task to its last: what is there already, what runs, what failed."""

from __future__ import annotations

import datetime as dt
import queue
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import hwlimits.sweep.cluster as cluster
import hwlimits.sweep.results as results
import hwlimits.sweep.worker as worker
from hwlimits.sweep.results import Done
from hwlimits.sweep.settings import SweepError, key_of, one_line, plain, task_name

WORKER_WITHIN_S = 60  # how long a cluster may be without any worker
LISTED = 5  # failures that an error spells out
KILLED = "each worker that ran it died, in the end with the cluster to itself: out of memory?"


def run(
    task: Callable | str,
    settings: Iterable[Mapping],
    folder: Path | str,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    retries: int = 0,
    say: Callable[[str], None] | None = None,
) -> list[Done]:
    """Run the task with each of the settings, and return what is finished, in that order.

    task       a function `task(settings, folder)` at the top level of a module, or its name "module:function"
    folder     where results are kept, and found again: see `hwlimits.sweep`
    scheduler  address of a Dask cluster ("tcp://host:port"); without it, processes of this computer
    workers    how many processes of this computer; by default one for each core that can be used
    retries    how often a task that raised is tried again
    say        is told of each finished task; by default on stderr

    Raises SweepError for what can't be asked, if there is no cluster, and, after all others are finished, for tasks
    that failed: its `failed` has (settings, why) of each.
    """
    if scheduler is not None and workers is not None:
        raise SweepError(f"workers={workers}: the cluster at {scheduler} has its own; that is for this computer only")
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise SweepError(f"workers={workers!r}: must be a number of processes from 1 up")
    if not isinstance(retries, int) or retries < 0:
        raise SweepError(f"retries={retries!r}: must be a number of further tries, from 0 up")
    name = task_name(task)
    asked = [plain(each) for each in settings]
    sweep = _Sweep(name, {key_of(name, each): each for each in asked}, Path(folder), retries, say or _on_stderr)
    missing = sweep.find()
    if missing:
        try:
            with cluster.remote(scheduler) if scheduler is not None else cluster.local(workers, len(missing)) as client:
                sweep.compute(client, missing, scheduler)
        except KeyboardInterrupt:
            sweep.say(f"interrupted: {sweep.count()}; the same call goes on from there")
            raise
    sweep.check()
    return [sweep.done[key_of(name, each)] for each in asked]


def _on_stderr(text: str) -> None:
    print(f"sweep: {text}", file=sys.stderr, flush=True)


class _Sweep:
    """The points of one sweep by key: which are done, and why others failed."""

    def __init__(self, name: str, points: dict[str, dict], root: Path, retries: int, say: Callable[[str], None]):
        self.name, self.points, self.root, self.retries, self.say = name, points, root.absolute(), retries, say
        self.done: dict[str, Done] = {}
        self.failed: dict[str, str] = {}
        self.start_s = time.monotonic()
        values = list(points.values())
        self.varied = [
            k for k in {k: 0 for v in values for k in v} if any(v.get(k) != values[0].get(k) for v in values)
        ]

    def find(self) -> list[str]:
        """Look for finished results; the keys of those that are missing."""
        results.prepare(self.root)
        for key, settings in self.points.items():
            try:
                found = results.look(self.root, key, self.name, settings)
            except results.DamagedError as error:
                self.say(f"{error}; it is moved aside, and made again")
                results.set_aside(self.root, key, self.name, settings)
                continue
            if found:
                self.done[key] = found
        if self.done:
            self.say(f"{len(self.done)} of {len(self.points)} are there already")
        return [key for key in self.points if key not in self.done]

    def compute(self, client, missing: list[str], address: str | None) -> None:
        """Run the tasks of these keys; what fails is in `failed` then."""
        run = _Run(self, client, address)
        if address:
            missing = run.meet_workers(missing)
        killed = run.drive(missing)
        if killed:
            self.say(f"{len(killed)} whose workers died: each once more, with the cluster to itself")
            for key in run.drive(killed, alone=True):
                self.fail(key, KILLED)

    def finish(self, key: str) -> None:
        """Tell of a result that is in the folder now."""
        self.done[key] = results.look(self.root, key, self.name, self.points[key])
        (self.root / "work" / f"{key}.error.txt").unlink(missing_ok=True)
        self.say(f"{self.count()}: {self.describe(key)} ({_span(self.done[key].seconds)})")

    def fail(self, key: str, why: str, traceback: str = "") -> None:
        """Keep why a task failed."""
        self.failed[key] = why
        settings = f"{self.name} with {self.points[key]}"
        results.write_text(self.root / "work" / f"{key}.error.txt", f"{settings}\n{why}\n\n{traceback}")
        self.say(f"{self.count()}: {self.describe(key)} FAILED: {why}")

    def count(self) -> str:
        """How far it is."""
        left = len(self.points) - len(self.done) - len(self.failed)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        elapsed = _span(time.monotonic() - self.start_s)
        return f"{len(self.done)} of {len(self.points)} done{failed}, {left} to go, after {elapsed}"

    def describe(self, key: str) -> str:
        """The settings of a point as far as they tell it from the others."""
        settings = self.points[key]
        text = ", ".join(f"{name}={settings[name]}" for name in (self.varied or settings) if name in settings)
        return text if len(text) <= 120 else f"{text[:117]}..."

    def check(self) -> None:
        """Raise SweepError if tasks failed."""
        if not self.failed:
            return
        lines = [f"{self.points[key]}: {why}" for key, why in list(self.failed.items())[:LISTED]]
        more = f"; and {len(self.failed) - LISTED} more" if len(self.failed) > LISTED else ""
        kept = f"{len(self.done)} results are kept in {self.root}, and the same call tries only what failed again"
        said = f"{self.root / 'work' / next(iter(self.failed))}.error.txt"
        error = SweepError(
            f"{len(self.failed)} of {len(self.points)} tasks of {self.name} failed: {'; '.join(lines)}{more}. "
            f"{kept}; the whole of the first error is in {said}"
        )
        error.failed = tuple((self.points[key], why) for key, why in self.failed.items())
        raise error


class _Run:
    """Tasks of a sweep on a cluster."""

    def __init__(self, sweep: _Sweep, client, address: str | None):
        self.sweep, self.client, self.address = sweep, client, address
        self.where = f"at {address}" if address else "on this computer"
        self.run = uuid.uuid4().hex[:8]
        self.submitted = 0
        self.no_worker_since_s: float | None = None

    def meet_workers(self, missing: list[str]) -> list[str]:
        """Hold every worker's version against ours, and fetch what they finished for a sweep that was cut off."""
        while not self._threads():
            time.sleep(0.2)
        greetings = self._ask(worker.greet, self._points(missing))
        for address, greeting in sorted(greetings.items()):
            if isinstance(greeting, BaseException):
                wrong = f"no hwlimits of this version ({one_line(greeting)})"
            else:
                wrong = worker.differences(greeting["about"], worker.about())
            if wrong:
                raise SweepError(
                    f"the worker {address} has {wrong}: install the same there as here, and start the worker again"
                )
        for address, greeting in greetings.items():
            for key in greeting["finished"]:
                if key not in self.sweep.done:
                    (parcel,) = self._ask(worker.hand_over, *self._points([key])[0], workers=[address]).values()
                    if isinstance(parcel, dict):
                        self._receive(key, parcel)
        return [key for key in missing if key not in self.sweep.done]

    def _points(self, keys: list[str]) -> list[tuple[str, str, dict]]:
        return [(key, self.sweep.name, self.sweep.points[key]) for key in keys]

    def _ask(self, function: Callable, *arguments, **where) -> dict:
        try:
            return self.client.run(function, *arguments, on_error="return", **where)
        except (OSError, RuntimeError, TimeoutError, ValueError) as error:
            raise self._lost(error) from error

    def _lost(self, why: str | BaseException) -> SweepError:
        return SweepError(
            f"the cluster {self.where} is gone ({why if isinstance(why, str) else one_line(why)}): "
            f"{self.sweep.count()}; the same call goes on from there"
        )

    def _threads(self) -> int:
        """Tasks that the cluster can run at once. Raises SweepError if it has had no worker for too long."""
        try:
            threads = sum(self.client.nthreads().values())
        except (OSError, RuntimeError, TimeoutError, ValueError, AttributeError) as error:
            raise self._lost(error) from error
        now_s = time.monotonic()
        if threads:
            self.no_worker_since_s = None
        elif self.no_worker_since_s is None:
            self.no_worker_since_s = now_s
        elif now_s - self.no_worker_since_s > WORKER_WITHIN_S:
            raise SweepError(
                f"the cluster {self.where} has had no worker for {WORKER_WITHIN_S} s"
                + (f": start one with `dask worker {self.address} --nthreads 1`" if self.address else "")
                + f"; {self.sweep.count()}, and the same call goes on from there"
            )
        return threads

    def drive(self, keys: list[str], alone: bool = False) -> list[str]:
        """Run these tasks, no more at once than the cluster has threads; the keys of those whose workers died.

        A scheduler counts a worker's death against every task it had given to it: none waits at a worker in vain.
        """
        waiting, ended, running, killed = deque(keys), queue.SimpleQueue(), {}, []
        tries = dict.fromkeys(keys, 0)
        while waiting or running:
            room = 1 if alone else max(1, self._threads())
            while waiting and len(running) < room:
                key = waiting.popleft()
                tries[key] += 1
                future = self._submit(key)
                running[future.key] = future, key
                future.add_done_callback(lambda future: ended.put(future.key))
            try:
                future, key = running.pop(ended.get(timeout=1))
            except queue.Empty:
                self._threads()  # to see that the cluster is still there
                continue
            answer = self._answer(future)
            if answer is None:
                killed.append(key)
            elif "fatal" in answer:
                raise SweepError(f"{answer['fatal']}; {self.sweep.count()}")
            elif "error" not in answer:
                self._receive(key, answer)
            elif tries[key] <= self.sweep.retries:
                self.sweep.say(f"{self.sweep.describe(key)}: {answer['error']}; once more")
                waiting.append(key)
            else:
                self.sweep.fail(key, answer["error"], answer["traceback"])
        return killed

    def _submit(self, key: str):
        self.submitted += 1
        folder = None if self.address else str(self.sweep.root)
        return self.client.submit(
            worker.execute, self.sweep.name, self.sweep.points[key], key, folder, worker.about(),
            key=f"sweep-{key}-{self.run}-{self.submitted}", pure=False,
        )  # fmt: skip

    def _answer(self, future) -> dict | None:
        """What a task that ended says; None if its workers died."""
        from distributed.scheduler import KilledWorker

        if future.status == "cancelled":
            raise self._lost("its scheduler is not there any more")
        if future.status in ("lost", "pending"):
            return None  # it had ended, and its worker died before it could tell
        try:
            error = future.exception(timeout=cluster.ANSWER_WITHIN_S)
            if error is None:
                return future.result()
        except (OSError, TimeoutError, RuntimeError) as problem:
            raise self._lost(problem) from problem
        if isinstance(error, KilledWorker):
            return None
        return {"error": one_line(error), "traceback": ""}

    def _receive(self, key: str, answer: dict) -> None:
        """Write what came over the network; a worker of this computer has written it already."""
        sweep = self.sweep
        if self.address:
            try:
                result = results.checked(results.Result(answer["row"], answer["files"]), sweep.name)
                record = {"task": sweep.name, "settings": sweep.points[key], "row": result.row}
                more = {"seconds": answer["seconds"], "made_by": answer["made_by"]}
                results.keep(sweep.root, key, record | more, result.files)
            except OSError as error:
                raise SweepError(f"a result can't be kept in {sweep.root}: {error.strerror or error}") from error
        sweep.finish(key)
        if self.address:
            self._ask(worker.forget, [key])


def _span(seconds: float) -> str:
    """A time for people.

    >>> _span(0.25), _span(75), _span(3661)
    ('0.2 s', '0:01:15', '1:01:01')
    """
    return f"{seconds:.1f} s" if seconds < 60 else str(dt.timedelta(seconds=round(seconds)))
