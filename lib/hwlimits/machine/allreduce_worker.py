"""One of the processes of `hwlimits.machine.allreduce`, run as `python -m ... RANK PROCESSES PORT TIMEOUT_S`.

It connects to the process that started it, says the token that its environment holds and its rank,
and does what it is told until that connection closes. Between two of the processes there is one TCP
connection; on it goes the token once, and then nothing but elements: both ends know the schedule,
so no message needs a header.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import select
import socket
import struct
import sys
import time

import numpy as np

from hwlimits.collectives import schedule
from hwlimits.machine.sockets import prepared, receive

TOKEN = "HWLIMITS_GROUP_TOKEN"
TOKEN_BYTES = 16
TOKEN_WITHIN_S = 5  # what connects and says nothing is not waited for longer
RANK = struct.Struct("!I")
ELEMENT = np.dtype(np.uint32)  # sums are exact in any order, modulo 2^32; as many bytes as a float32
RECEIVED_AT = 128  # of Linux's struct tcp_info: tcpi_bytes_received, 64 bits


class PeerError(Exception):
    """Another process of the group is gone, or sends and takes nothing. `args`: 'lost' or 'waiting', and its rank."""


def hello(token: bytes, rank: int) -> bytes:
    """What a process of the group says first on a connection."""
    return token + RANK.pack(rank)


def accept(server: socket.socket, token: bytes) -> tuple[int, socket.socket] | None:
    """The rank of a process of the group that connected, and the connection; None if it was somebody else.

    Raises TimeoutError if nobody connected within the server's timeout.
    """
    connection, _ = server.accept()
    try:
        connection.settimeout(TOKEN_WITHIN_S)
        if secrets.compare_digest(receive(connection, TOKEN_BYTES), token):
            return RANK.unpack(receive(connection, RANK.size))[0], prepared(connection)
    except OSError:  # it said too little, or nothing
        pass
    connection.close()
    return None


def own_array(seed: int, rank: int, elements: int) -> np.ndarray:
    """The numbers that a process has before the all-reduce."""
    return np.random.default_rng([seed, rank]).integers(0, 2**32, elements, ELEMENT)


class Worker:
    """The connections of one process: to the one that started it, and to the others by rank."""

    def __init__(self, rank: int, processes: int, port: int, timeout_s: float):
        token = bytes.fromhex(os.environ[TOKEN])
        self.rank, self.processes, self.timeout_s = rank, processes, timeout_s
        self.control = socket.create_connection(("127.0.0.1", port))
        self.control.sendall(hello(token, rank))
        self.lines = self.control.makefile("r", encoding="utf-8")
        self.peers: dict[int, socket.socket] = {}
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.say(port=server.getsockname()[1])
            ports = self.told()["ports"]
            for lower in range(rank):
                self.peers[lower] = prepared(socket.create_connection(("127.0.0.1", ports[lower])))
                self.peers[lower].sendall(hello(token, rank))
            while len(self.peers) < processes - 1:
                if found := accept(server, token):
                    self.peers[found[0]] = found[1]
        for peer in self.peers.values():
            peer.setblocking(False)
        self.sent: dict[int, int] = dict.fromkeys(self.peers, 0)
        self.received: dict[int, int] = dict.fromkeys(self.peers, 0)
        self.say(connected=True)

    def say(self, **what) -> None:
        """Tell the process that started this one."""
        self.control.sendall(json.dumps(what).encode() + b"\n")

    def told(self) -> dict:
        """What it says next. Ends this process if it is gone."""
        line = self.lines.readline()
        if not line:
            sys.exit(0)
        return json.loads(line)

    def wait_for_the_others(self) -> None:
        """Return when every process of the group has come as far."""
        self.say(ready=True)
        self.told()

    def exchange(self, to: int | None, data, source: int | None, into) -> None:
        """Send all of `data` to one process and fill `into` from another, or the same, both at once.

        Whatever comes first is done first: two processes that only sent would wait for each other
        as soon as the system's buffers are full.
        """
        out, room = memoryview(data).cast("B"), memoryview(into).cast("B")
        while out or room:
            moved = 0
            if out:
                try:
                    moved = self.peers[to].send(out)
                    self.sent[to] += moved
                    out = out[moved:]
                except BlockingIOError:
                    pass
                except OSError:
                    raise PeerError("lost", to) from None
            if room:
                try:
                    got = self.peers[source].recv_into(room)
                    if not got:
                        raise PeerError("lost", source)
                    self.received[source] += got
                    moved += got
                    room = room[got:]
                except BlockingIOError:
                    pass
                except OSError:
                    raise PeerError("lost", source) from None
            if (out or room) and not moved:
                readable = [self.control, self.peers[source]] if room else [self.control]
                found, ready, _ = select.select(readable, [self.peers[to]] if out else [], [], self.timeout_s)
                if self.control in found:  # nothing is said to a process at work: the one that started it is gone
                    sys.exit(0)
                if not (found or ready):
                    raise PeerError("waiting", source if room else to)

    def system_received(self) -> dict[int, int] | None:
        """Bytes that came from each process, as Linux counts them; None on other systems."""
        if not sys.platform.startswith("linux"):
            return None
        found = {}
        for rank, peer in self.peers.items():
            info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            if len(info) < RECEIVED_AT + 8:
                return None
            found[rank] = struct.unpack_from("@Q", info, RECEIVED_AT)[0]
        return found

    def all_reduce(self, algorithm: str, elements: int, seed: int, loops: int) -> None:
        """Run it once and count; then `loops` times, timed, each on the result of the one before."""
        plan = schedule(algorithm, self.processes, elements)
        mine = [[m for m in step if self.rank in (m.source, m.target)] for step in plan.steps()]
        rounds = []
        for number, messages in enumerate(mine):
            out = next((m for m in messages if m.source == self.rank), None)
            came = next((m for m in messages if m.target == self.rank), None)
            if out or came:
                rounds.append((number, out, came))
        array, room = own_array(seed, self.rank, elements), np.empty(elements, ELEMENT)

        def run(log: list | None = None) -> None:
            for number, out, came in rounds:
                data = array[out.start : out.stop] if out else b""
                place = array[came.start : came.stop] if came else b""
                into = room[: came.elements] if came and came.kind == "add" else place
                before = sum(self.sent.values()), sum(self.received.values())
                self.exchange(out and out.target, data, came and came.source, into)
                if came and came.kind == "add":
                    np.add(place, into, out=place)
                if log is not None:
                    moved = sum(self.sent.values()) - before[0], sum(self.received.values()) - before[1]
                    log.append([number, out and out.target, moved[0], came and came.source, moved[1]])

        self.sent, self.received = dict.fromkeys(self.peers, 0), dict.fromkeys(self.peers, 0)
        before, log = self.system_received(), []
        self.wait_for_the_others()  # who is early sends early, and that is to be counted as well
        run(log)
        after = self.system_received()
        counted = {
            "sent": self.sent.copy(),
            "received": self.received.copy(),
            "system": after and {rank: after[rank] - before[rank] for rank in after},
            "rounds": log,
            "digest": hashlib.sha256(array).hexdigest(),
        }
        self.wait_for_the_others()
        start_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(loops):
            run()
        end_s, cpu_s = time.perf_counter(), time.process_time() - cpu_s
        again = hashlib.sha256(array).hexdigest()
        self.say(**counted, start_s=start_s, end_s=end_s, cpu_s=cpu_s, digest_after=again)

    def messages(self, size_bytes: int, trips: int, repeats: int) -> None:
        """Processes 0 and 1 send a message to and fro; the first one takes the times of half a round trip."""
        times, cpu_s = [], 0.0
        if self.rank < 2:
            other, data, into = 1 - self.rank, np.ones(size_bytes, np.uint8), np.ones(size_bytes, np.uint8)
            for repeat in range(repeats + 1):  # the first one warms up
                start_s, start_cpu_s = time.perf_counter(), time.process_time()
                for _ in range(trips):
                    if self.rank == 0:
                        self.exchange(other, data, None, b"")
                    self.exchange(None, b"", other, into)
                    if self.rank == 1:
                        self.exchange(other, data, None, b"")
                if repeat:
                    times.append((time.perf_counter() - start_s) / trips / 2)
                    cpu_s += (time.process_time() - start_cpu_s) / trips / 2 / repeats
        self.say(times_s=times, cpu_s=cpu_s)


def main(rank: int, processes: int, port: int, timeout_s: float) -> None:
    """Do what is asked, until the process that started this one closes the connection."""
    worker = Worker(rank, processes, port, timeout_s)
    while True:
        asked = worker.told()
        try:
            {"all-reduce": worker.all_reduce, "messages": worker.messages}[asked.pop("do")](**asked)
        except PeerError as error:
            how, peer = error.args
            worker.say(failed=how, peer=peer)
            sys.exit(3)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), float(sys.argv[4]))
