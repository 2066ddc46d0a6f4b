"""Several workers on this computer: start them, watch them, and start all again when one dies.

    found = run(2, Settings(epochs=3), "build/workers")
    found["error"], found["sent_bytes_per_step"]

    make workers N=2

On several hosts somebody else starts the workers and starts them again: see clusters/. Each is then
`python -m hwlimits.training.workers --hosts node1:2222,node2:2222 --index 0`, with its own index.

The workers are processes with a TF_CONFIG, as they would be on as many hosts; between them is the loopback network.
An all-reduce needs all of them, so one that dies takes the job down: whoever is left waits for it until it is told to
stop. This supervisor does what a cluster's scheduler does: it ends the others and starts all of them again, and they
go on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from hwlimits import progress
from hwlimits.training.placement import DistributeError, Settings, cluster

WORKER = ("-m", "hwlimits.training.worker")
POLL_S = 0.05


class WorkerError(RuntimeError):
    """The workers died more often than they were to be started again, or did not end in time."""


@dataclass(frozen=True)
class Kill:
    """An accident to be had: worker number `worker` is killed when it has made `step` steps, in the first attempt."""

    worker: int
    step: int


def run(
    workers: int,
    settings: Settings,
    folder: str | Path,
    *,
    source: str = "best",
    kill: Kill | None = None,
    restarts: int = 3,
    limit_s: float = 3600.0,
    say: Callable[[str], None] = print,
) -> dict:
    """Train with so many workers; what the first of them found, with `attempts` and `deaths`.

    `folder` keeps checkpoints, and the workers' words by attempt; a job that was cut off goes on from there, with as
    many workers as it gets now. Raises WorkerError if they die more than `restarts` times or take longer than `limit_s`
    in all, with the last words of the one that died last; DistributeError for what can't be asked of them.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise DistributeError(f"run(workers={workers!r}): a whole number of at least 1 is needed")
    if settings.batch % workers:
        raise DistributeError(f"a batch of {settings.batch} is not to be divided among {workers} workers")
    if kill is not None and not 0 <= kill.worker < workers:
        raise DistributeError(f"run({kill}): there are {workers} workers, from 0 on")
    folder = Path(folder).absolute()
    _same_job(folder, {"settings": asdict(settings), "source": source})
    deaths, until = [], time.monotonic() + limit_s
    for attempt in range(restarts + 1):
        place = folder / f"attempt-{attempt}"
        place.mkdir(parents=True, exist_ok=True)
        for left in [*place.glob("steps-*"), *place.glob("found.json")]:
            left.unlink()  # by an earlier job in this folder, whose steps would be taken for this one's
        with _started(workers, settings, source, folder, place) as processes:
            dead = _watch(processes, place, kill if attempt == 0 else None, until)
        if dead is None:
            found = json.loads((place / "found.json").read_text(encoding="utf-8"))
            return found | {"workers": workers, "attempts": attempt + 1, "deaths": deaths}
        index, code = dead
        deaths.append({"worker": index, "exit": code})
        words = (place / f"worker-{index}.log").read_text(encoding="utf-8", errors="replace").strip()[-2000:]
        if attempt < restarts:
            say(
                f"worker {index} of {workers} ended with {_named(code)}; all are started again from the last checkpoint"
            )
    raise WorkerError(
        f"{workers} workers were started {restarts + 1} times, and each time one died; the last was worker {index}, "
        f"with {_named(code)}. Its last words: {words or 'none'}"
    )


def _same_job(folder: Path, job: dict) -> None:
    """Note what is trained here. Raises DistributeError if a checkpoint in the folder is of something else."""
    path = folder / "job.json"
    if path.exists() and any(folder.glob("backup/*")):
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            begun = {"job.json": "damaged"}
        if begun != job:
            raise DistributeError(
                f"{folder} has the checkpoint of another training, {json.dumps(begun)}; give that one's settings to "
                "go on with it, or another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"job-{socket.gethostname()}-{os.getpid()}.part")
    part.write_text(json.dumps(job), encoding="utf-8")
    part.replace(path)  # whole at once: workers of other hosts read it at the same time


@contextlib.contextmanager
def _started(workers: int, settings: Settings, source: str, folder: Path, place: Path):
    """The processes; none is left behind, but by a supervisor that is killed by SIGKILL, which nobody can answer."""
    processes: list[subprocess.Popen] = []
    try:
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
        task = _task(settings, source, folder, place)
        for index in range(workers):
            environment = os.environ | {"TF_CONFIG": _config(addresses, index)}
            with (place / f"worker-{index}.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, *WORKER, task],
                    env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                )  # fmt: skip
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()  # it may hang in a collective, where it hears nothing else
        for process in processes:
            process.wait()


def _task(settings: Settings, source: str, folder: Path, place: Path) -> str:
    return json.dumps({"settings": asdict(settings), "source": source, "folder": str(folder), "place": str(place)})


def _config(addresses: Sequence[str], index: int) -> str:
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}})


def become(hosts: str, index: int, settings: Settings, folder: Path, source: str) -> NoReturn:
    """Let this process become worker number `index` of those at `hosts`, 'HOST:PORT,HOST:PORT'; it does not return.

    `folder` is one that all hosts see. Raises DistributeError where TF_CONFIG would name no such worker.
    """
    config = _config([host.strip() for host in hosts.split(",")], index)
    cluster(config)
    _same_job(folder.absolute(), {"settings": asdict(settings), "source": source})
    place = folder.absolute() / "hosts"
    place.mkdir(parents=True, exist_ok=True)
    os.environ["TF_CONFIG"] = config
    os.execv(sys.executable, [sys.executable, *WORKER, _task(settings, source, folder.absolute(), place)])


def _watch(processes: list[subprocess.Popen], place: Path, kill: Kill | None, until: float) -> tuple[int, int] | None:
    """Wait for all to end. The first that dies and its exit code, or None if all ended well."""
    with progress.bar(desc=f"{len(processes)} workers", unit="step") as seen:
        while True:
            codes = [process.poll() for process in processes]
            for index, code in enumerate(codes):
                if code:
                    return index, code
            if not any(code is None for code in codes):
                return None
            if time.monotonic() > until:
                raise WorkerError(f"{len(processes)} workers did not end in the time they were given; see {place}")
            if kill is not None and _steps(place, kill.worker) >= kill.step:
                processes[kill.worker].send_signal(signal.SIGKILL)
                kill = None
            seen.update(_steps(place, 0) - seen.n)
            time.sleep(POLL_S)


def _steps(place: Path, worker: int) -> int:
    """Steps that a worker says it has made."""
    try:
        return len((place / f"steps-{worker}").read_bytes())
    except FileNotFoundError:
        return 0


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now. One that is taken meanwhile ends the attempt, and the next one asks anew."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _named(code: int) -> str:
    """An exit code as people know it.

    >>> _named(-9), _named(1)
    ('signal SIGKILL', 'exit code 1')
    """
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hwlimits.training.workers", description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--source", default="best", help="'mnist', 'mnist-5k', or what there is")
    parser.add_argument("--folder", type=Path, default=Path("build/workers"))
    parser.add_argument("--kill", type=int, metavar="STEP", help="kill the last worker after so many steps")
    parser.add_argument("--hosts", help="be one worker of these, 'HOST:PORT,HOST:PORT', instead of starting all here")
    parser.add_argument("--index", type=int, default=0, help="with --hosts: which of them")
    options = parser.parse_args(arguments)
    settings = Settings(epochs=options.epochs)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what schedulers send: workers are ended, then this
    kill = None if options.kill is None else Kill(options.workers - 1, options.kill)
    try:
        if options.hosts:
            become(options.hosts, options.index, settings, options.folder, options.source)
        found = run(options.workers, settings, options.folder, source=options.source, kill=kill)
    except (DistributeError, WorkerError) as error:
        raise SystemExit(str(error)) from None
    for name in [name for name, value in found.items() if name.endswith("s_s")]:
        del found[name]  # all times; their medians stay
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
