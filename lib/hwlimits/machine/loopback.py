"""The network of this computer with itself: TCP between two processes over 127.0.0.1.

Several workers on one computer talk like this. The other process is this module, run as
`python -m hwlimits.machine.loopback PORT`: it connects, serves, and ends with the connection.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

from hwlimits.machine.record import Number

TIMEOUT_S = 20
CHUNK_BYTES = 2**20
HEADER = struct.Struct("!cQ")  # what is asked, and how often or how many bytes


def measure_loopback(*, repeats: int, round_trips: int, size_bytes: int, tick: Callable[[str], None]) -> list[Number]:
    """Latency in s (half a round trip of one byte) and bandwidth in B/s (one way), as medians of `repeats` samples.

    Raises OSError if there are no sockets here, or the other process does not answer in time.
    """
    latencies, rates = [], []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_S)
        command = [sys.executable, "-m", __name__, str(server.getsockname()[1])]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            connection, _ = server.accept()
            with connection:
                _prepare(connection)
                _half_round_trip_s(connection, round_trips)  # warm-up
                for _ in range(repeats):
                    tick("loopback")
                    latencies.append(_half_round_trip_s(connection, round_trips))
                    rates.append(_bytes_per_s(connection, size_bytes))
        finally:
            child.kill()
            child.wait()
    latency = f"Half of a TCP round trip of one byte between two processes (TCP_NODELAY), mean of {round_trips:,}."
    rate = (
        f"TCP, {size_bytes:,} bytes one way between two processes, {CHUNK_BYTES:,} at a time, until the other has all."
    )
    return [
        Number.from_samples("overhead", "loopback", "s", latencies, latency),
        Number.from_samples("bandwidth", "loopback", "B/s", rates, rate),
    ]


def _prepare(connection: socket.socket) -> None:
    connection.settimeout(TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _half_round_trip_s(connection: socket.socket, round_trips: int) -> float:
    connection.sendall(HEADER.pack(b"e", round_trips))
    start = time.perf_counter()
    for _ in range(round_trips):
        connection.sendall(b"x")
        _receive(connection, 1)
    return (time.perf_counter() - start) / round_trips / 2


def _bytes_per_s(connection: socket.socket, size_bytes: int) -> float:
    data = memoryview(bytes(CHUNK_BYTES))
    start = time.perf_counter()
    connection.sendall(HEADER.pack(b"s", size_bytes))
    for sent in range(0, size_bytes, CHUNK_BYTES):
        connection.sendall(data[: size_bytes - sent])
    _receive(connection, 1)
    return size_bytes / (time.perf_counter() - start)


def _receive(connection: socket.socket, size: int) -> bytes:
    """Exactly that many bytes."""
    got = b""
    while len(got) < size:
        part = connection.recv(size - len(got))
        if not part:
            raise ConnectionError("the process at the other end is gone")
        got += part
    return got


def _serve(port: int) -> None:
    """The other end: echoes bytes, or takes them and answers when it has all, until the connection closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        _prepare(connection)
        into = bytearray(CHUNK_BYTES)
        while True:
            try:
                asked, amount = HEADER.unpack(_receive(connection, HEADER.size))
            except ConnectionError:
                return
            if asked == b"e":
                for _ in range(amount):
                    connection.sendall(_receive(connection, 1))
                continue
            while amount:
                got = connection.recv_into(into, min(amount, CHUNK_BYTES))
                if not got:
                    return
                amount -= got
            connection.sendall(b"x")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
