"""Bytes over a pair of sockets: all of them, or an error."""

import socket
import threading

import pytest

from hwlimits.machine.sockets import prepared, receive


@pytest.fixture
def ends():
    here, there = socket.socketpair()
    here.settimeout(5)
    with here, there:
        yield here, there


def test_bytes_that_come_in_pieces_are_received_to_the_last_one_and_no_further(ends):
    here, there = ends

    def say():
        for part in (b"ab", b"c", b"defg"):
            there.sendall(part)

    teller = threading.Thread(target=say)
    teller.start()
    assert [receive(here, size) for size in (0, 1, 4, 2)] == [b"", b"a", b"bcde", b"fg"]
    teller.join()


def test_an_end_that_comes_too_early_is_an_error(ends):
    here, there = ends
    there.sendall(b"abc")
    there.close()
    with pytest.raises(ConnectionError, match="^the process at the other end is gone$"):
        receive(here, 4)


def test_a_prepared_connection_sends_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as plain:
        assert not plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert prepared(plain) is plain
        assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
