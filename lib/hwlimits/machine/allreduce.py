"""All-reduces between real processes of this computer, over TCP, their bytes counted.

with Group(processes=4) as group:
    run = group.all_reduce("ring", elements=1000)
    run.sent_bytes, run.time_s                  # counted in each process; the median time
    group.messages([1, 1000, 1_000_000])        # the link between two of them

The processes, `hwlimits.machine.allreduce_worker`, belong to the group alone: who connects to one of
them has to say a token that only they know. One that dies or hangs ends the group, with an error
that says which it was and what it said. Bytes are those of the elements; there are no headers
between the processes, and what TCP and IP put around them is not counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwlimits.bandwidth import LinkFit, fit, whole
from hwlimits.collectives import schedule
from hwlimits.machine import allreduce_worker as worker

CONNECT_S = 60  # an import is slow on a computer at work
TIMEOUT_S = 20  # without a byte, between two processes
LIMIT_S = 300  # for the first of them to answer what was asked
GRACE_S = 1.0  # when one process failed, the others have this long to say what they saw
MOST_LOOPS = 1000
SAMPLE_S = 0.02  # a sample is at least as long as this


class GroupError(RuntimeError):
    """A process of the group died, hangs, or has another sum than it should; the group is ended then."""


@dataclass(frozen=True)
class Run:
    """What an all-reduce did. Counts are of one; times and processor time are means over the loops of a sample.

    steps           in which at least one byte moved
    sent_bytes      by each process, as what its calls to send returned; received_bytes likewise
    pairs           bytes by (source, target), counted by the source
    system_pairs    the same as the system counted them in the target; None where it does not tell
    rounds          by process, in order: (step, target or None, bytes sent, source or None, bytes received)
    times_s         samples: from the first process that began to the last one that ended
    cpu_s           processor seconds of one all-reduce, of all processes together
    """

    algorithm: str
    processes: int
    elements: int
    steps: int
    sent_bytes: tuple[int, ...]
    received_bytes: tuple[int, ...]
    pairs: dict[tuple[int, int], int]
    system_pairs: dict[tuple[int, int], int] | None
    rounds: tuple[tuple[tuple, ...], ...]
    times_s: tuple[float, ...]
    cpu_s: float

    @property
    def time_s(self) -> float:
        return statistics.median(self.times_s)


@dataclass(frozen=True)
class Messages:
    """Times of messages between two processes: for each size, samples of half a round trip, and processor seconds.

    cpu_s   of a message, both ends together; 0 where the clock of the processor is too coarse
    """

    sizes_bytes: tuple[int, ...]
    times_s: tuple[tuple[float, ...], ...]
    cpu_s: tuple[float, ...]

    def medians_s(self) -> list[float]:
        return [statistics.median(times) for times in self.times_s]

    def link(self) -> LinkFit:
        """The latency and bandwidth that explain the times."""
        return fit(self.sizes_bytes, self.medians_s(), "loopback, two processes")

    def work(self) -> LinkFit:
        """The same form for the processor time: seconds for a message, and bytes a second of processor time."""
        return fit(self.sizes_bytes, self.cpu_s, "loopback, processor time")


class Group:
    """Processes of this computer, each connected with each, that wait to be asked. Use it with `with`.

    Raises GroupError if one of them does not start or connect.
    """

    def __init__(self, processes: int, *, timeout_s: float = TIMEOUT_S, limit_s: float = LIMIT_S):
        self.processes = whole("Group", "processes", processes)
        self.timeout_s, self.limit_s = timeout_s, limit_s
        self._children: list[subprocess.Popen] = []
        self._controls: list[socket.socket] = []
        self._left: dict[int, bytes] = {}  # what came after a line
        self._ended = ""
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            self._complaints = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(self.processes)]
            self._start()
            self._stack = stack.pop_all()

    def _start(self) -> None:
        token = secrets.token_bytes(worker.TOKEN_BYTES)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
            for rank in range(self.processes):
                command = [sys.executable, "-m", worker.__name__, str(rank), str(self.processes), port]
                self._children.append(
                    subprocess.Popen(
                        [*command, str(self.timeout_s)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=self._complaints[rank],
                        env=os.environ | {worker.TOKEN: token.hex()},
                    )
                )
            server.settimeout(0.1)
            found, end_s = {}, time.monotonic() + CONNECT_S
            while len(found) < self.processes:
                if gone := [r for r, c in enumerate(self._children) if r not in found and c.poll() is not None]:
                    self._fail(self._how_it_ended(gone[0]))
                if time.monotonic() > end_s:
                    missing = [r for r in range(self.processes) if r not in found]
                    self._fail(f"{self._names(missing)} had not connected after {CONNECT_S:g} s")
                with contextlib.suppress(TimeoutError):
                    if said := worker.accept(server, token):
                        found[said[0]] = said[1]
        self._controls = [found[rank] for rank in range(self.processes)]
        ports = [said["port"] for said in self._answers()]
        self._tell(ports=ports)
        self._answers()

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End all processes of the group."""
        for control in self._controls:
            control.close()
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
        self._ended = self._ended or "it was closed"
        if stack := self.__dict__.pop("_stack", None):
            stack.close()

    @property
    def pids(self) -> list[int]:
        """The processes' numbers in the system, in their order."""
        return [child.pid for child in self._children]

    def all_reduce(self, algorithm: str, elements: int, *, repeats: int = 3, seed: int = 0) -> Run:
        """Run an all-reduce of `elements` numbers of 4 bytes: once counted, then `repeats` samples timed.

        Raises BandwidthError as `hwlimits.collectives.schedule` does, before anything runs, and GroupError
        if a process fails, or ends with a sum that is not exactly that of all arrays.
        """
        plan, asked = schedule(algorithm, self.processes, elements), {"algorithm": algorithm, "elements": elements}
        whole("all_reduce", "repeats", repeats)
        expected = sum(
            (worker.own_array(seed, rank, elements) for rank in range(1, self.processes)),
            worker.own_array(seed, 0, elements),
        )
        loops, times, cpu = 1, [], []
        while len(times) < repeats:
            self._tell(do="all-reduce", seed=seed, loops=loops, **asked)
            for _ in ("to count", "to time"):
                self._answers()
                self._tell(go=True)
            said = self._answers()
            self._check(said, expected, loops)
            time_s = (max(s["end_s"] for s in said) - min(s["start_s"] for s in said)) / loops
            if not times and loops < MOST_LOOPS and time_s * loops < SAMPLE_S:  # this one found out how many are needed
                loops = min(2 * loops + int(SAMPLE_S / time_s), MOST_LOOPS)
                continue
            times.append(time_s)
            cpu.append(sum(s["cpu_s"] for s in said) / loops)
        pairs = {(r, int(to)): n for r, s in enumerate(said) for to, n in s["sent"].items() if n}
        system = None
        if all(s["system"] is not None for s in said):
            system = {(int(source), r): n for r, s in enumerate(said) for source, n in s["system"].items() if n}
        return Run(
            algorithm, self.processes, plan.elements,
            steps=len({entry[0] for s in said for entry in s["rounds"] if entry[2] or entry[4]}),
            sent_bytes=tuple(sum(s["sent"].values()) for s in said),
            received_bytes=tuple(sum(s["received"].values()) for s in said),
            pairs=dict(sorted(pairs.items())),
            system_pairs=system and dict(sorted(system.items())),
            rounds=tuple(tuple(map(tuple, s["rounds"])) for s in said),
            times_s=tuple(times),
            cpu_s=statistics.median(cpu),
        )  # fmt: skip

    def _check(self, said: list[dict], expected: np.ndarray, loops: int) -> None:
        """All processes hold the sum, to the bit; and after `loops` more, the sum of sums."""
        factor = np.uint32(pow(self.processes, loops, 2**32))
        wanted = [hashlib.sha256(array).hexdigest() for array in (expected, expected * factor)]
        for name, digest in zip(("digest", "digest_after"), wanted, strict=True):
            for rank in (rank for rank, answer in enumerate(said) if answer[name] != digest):
                self._fail(f"process {rank} of {self.processes} ended with a sum that is wrong")

    def messages(self, sizes_bytes: Sequence[int], *, repeats: int = 7) -> Messages:
        """Times of messages of these sizes between processes 0 and 1, to and fro.

        Raises BandwidthError for sizes that are not whole numbers above 0, and for a group of one.
        """
        whole("Group.messages", "processes", self.processes, 2)
        sizes = [whole("Group.messages", "size", size) for size in sizes_bytes]
        times, cpu = [], []
        for size in sizes:
            trips, wanted = 1, 0
            while True:  # the first round finds out how many a sample needs
                asked = {"size_bytes": size, "trips": trips, "repeats": repeats if wanted else 1}
                self._tell(2, do="messages", **asked)
                said = self._answers(2)
                if wanted:
                    break
                wanted = max(1, min(2000, int(SAMPLE_S / 2 / max(said[0]["times_s"][0], 1e-6))))
                trips = wanted
            times.append(tuple(said[0]["times_s"]))
            cpu.append(said[0]["cpu_s"] + said[1]["cpu_s"])
        return Messages(tuple(sizes), tuple(times), tuple(cpu))

    def _tell(self, first: int | None = None, /, **what) -> None:
        """Ask all processes, or the first so many."""
        if self._ended:
            raise GroupError(f"this group of {self.processes} processes has ended: {self._ended}. Make a new one.")
        for control in self._controls[:first]:
            with contextlib.suppress(OSError):  # whoever is gone is noticed when it does not answer
                control.sendall(json.dumps(what).encode() + b"\n")

    def _answers(self, first: int | None = None) -> list[dict]:
        """One answer from each process that was asked. Raises GroupError, the group being ended, if one fails.

        They do the same and wait for each other, so that all have to answer soon after the first.
        """
        asked = range(self.processes)[:first]
        found: dict[int, dict] = {}
        gone: set[int] = set()
        end_s = time.monotonic() + self.limit_s
        with selectors.DefaultSelector() as waiting:
            for rank in asked:
                waiting.register(self._controls[rank], selectors.EVENT_READ, rank)
            while len(found) + len(gone) < len(asked) and (left_s := end_s - time.monotonic()) > 0:
                for key, _ in waiting.select(left_s):
                    line = self._line(key.data)
                    if line is None:
                        continue
                    waiting.unregister(key.fileobj)
                    if line:
                        found[key.data] = json.loads(line)
                    else:
                        gone.add(key.data)
                    failed = not line or "failed" in found[key.data]
                    end_s = min(end_s, time.monotonic() + GRACE_S + (0 if failed else self.timeout_s))
        complaints = {rank: said for rank, said in found.items() if "failed" in said}
        if gone:
            self._fail(self._how_it_ended(min(gone)))
        silent = [rank for rank in asked if rank not in found]
        if silent or complaints:
            who = silent or sorted({said["peer"] for said in complaints.values()})
            since = f"moved nothing for {self.timeout_s if found else self.limit_s:g} s"
            self._fail(f"{self._names(who)} {since}; all were ended")
        return [found[rank] for rank in asked]

    def _names(self, ranks: list[int]) -> str:
        return f"process{'es' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} of {self.processes}"

    def _line(self, rank: int) -> bytes | None:
        """A whole line that came; None if it is not whole yet, nothing if the connection ended."""
        try:
            part = self._controls[rank].recv(2**16)
        except OSError:
            part = b""
        if not part:
            return b""
        line, newline, rest = (self._left.pop(rank, b"") + part).partition(b"\n")
        self._left[rank] = rest if newline else line
        return line if newline else None

    def _how_it_ended(self, rank: int) -> str:
        """Exit status and last words of a process that is gone."""
        try:
            status = self._children[rank].wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            return f"process {rank} of {self.processes} closed its connection"
        self._complaints[rank].seek(0)
        last = self._complaints[rank].read().decode(errors="replace").strip().splitlines()[-1:]
        return ": ".join([f"process {rank} of {self.processes} ended with status {status}", *last])

    def _fail(self, why: str) -> None:
        self._ended = why
        self.close()
        raise GroupError(f"all-reduce: {why}.")
