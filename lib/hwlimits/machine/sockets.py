"""What the processes that talk over this computer's loopback share: bytes received to the last one, sent at once."""

from __future__ import annotations

import socket


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly that many bytes from a socket that blocks. Raises ConnectionError if there are no more."""
    got = b""
    while len(got) < size:
        part = connection.recv(size - len(got))
        if not part:
            raise ConnectionError("the process at the other end is gone")
        got += part
    return got


def prepared(connection: socket.socket) -> socket.socket:
    """The connection, small messages leaving at once (TCP_NODELAY)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
