"""The network of this computer with itself: TCP between two processes over 127.0.0.1.

Several workers on one computer talk like this. The other process is this module, run as
`python -m hwlimits.machine.loopback PORT`: it connects, says the token that its environment holds
(any program here may connect, only this one knows it), serves, and ends with the connection.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import BinaryIO

from hwlimits.machine.record import Number
from hwlimits.machine.sockets import prepared, receive

TIMEOUT_S = 20
TOKEN_WITHIN_S = 5  # what connects and says nothing is not waited for longer
TOKEN_BYTES = 16
TOKEN = "HWLIMITS_LOOPBACK_TOKEN"
CHUNK_BYTES = 2**20
HEADER = struct.Struct("!cQ")  # what is asked, and how often or how many bytes


def measure_loopback(*, repeats: int, round_trips: int, size_bytes: int, tick: Callable[[str], None]) -> list[Number]:
    """Latency in s (half a round trip of one byte) and bandwidth in B/s (one way), as medians of `repeats` samples.

    Raises OSError if there are no sockets here, or the other process does not answer in time or ends;
    then with its exit status and the last line of what it said.
    """
    latencies, rates = [], []
    token = secrets.token_bytes(TOKEN_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryFile() as complaint:
        command = [sys.executable, "-m", __name__, str(server.getsockname()[1])]
        environment = os.environ | {TOKEN: token.hex()}
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=complaint, env=environment)
        try:
            with prepared(_accept(server, child, token)) as connection:
                connection.settimeout(TIMEOUT_S)
                _half_round_trip_s(connection, round_trips)  # warm-up
                for _ in range(repeats):
                    tick("loopback")
                    latencies.append(_half_round_trip_s(connection, round_trips))
                    rates.append(_bytes_per_s(connection, size_bytes))
        except OSError as error:
            if how := _how_it_ended(child, complaint):
                raise ConnectionError(how) from error
            raise
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


def _accept(server: socket.socket, child: subprocess.Popen, token: bytes) -> socket.socket:
    """The connection that begins with the token; others are closed."""
    end_s = time.monotonic() + TIMEOUT_S
    server.settimeout(0.1)
    while child.poll() is None and time.monotonic() < end_s:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        try:
            connection.settimeout(min(TOKEN_WITHIN_S, TIMEOUT_S))
            if secrets.compare_digest(receive(connection, TOKEN_BYTES), token):
                return connection
        except OSError:  # it said too little, or nothing
            pass
        connection.close()
    raise TimeoutError(f"the other process had not connected after {TIMEOUT_S:g} s")


def _how_it_ended(child: subprocess.Popen, complaint: BinaryIO) -> str:
    """Exit status and last words of a process that ended by itself; nothing if it still runs."""
    try:
        status = child.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return ""
    complaint.seek(0)
    last = complaint.read().decode(errors="replace").strip().splitlines()[-1:]
    return ": ".join([f"the other process ended with status {status}", *last])


def _half_round_trip_s(connection: socket.socket, round_trips: int) -> float:
    connection.sendall(HEADER.pack(b"e", round_trips))
    start = time.perf_counter()
    for _ in range(round_trips):
        connection.sendall(b"x")
        receive(connection, 1)
    return (time.perf_counter() - start) / round_trips / 2


def _bytes_per_s(connection: socket.socket, size_bytes: int) -> float:
    data = memoryview(bytes(CHUNK_BYTES))
    start = time.perf_counter()
    connection.sendall(HEADER.pack(b"s", size_bytes))
    for sent in range(0, size_bytes, CHUNK_BYTES):
        connection.sendall(data[: size_bytes - sent])
    receive(connection, 1)
    return size_bytes / (time.perf_counter() - start)


def _serve(port: int) -> None:
    """The other end: echoes bytes, or takes them and answers when it has all, until the connection closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        prepared(connection).sendall(bytes.fromhex(os.environ[TOKEN]))
        into = bytearray(CHUNK_BYTES)
        while True:
            try:
                asked, amount = HEADER.unpack(receive(connection, HEADER.size))
            except ConnectionError:
                return
            if asked == b"e":
                for _ in range(amount):
                    connection.sendall(receive(connection, 1))
                continue
            while amount:
                got = connection.recv_into(into, min(amount, CHUNK_BYTES))
                if not got:
                    return
                amount -= got
            connection.sendall(b"x")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
