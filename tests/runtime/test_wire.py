"""Messages and descriptors between engine and keeper."""

import os
import select
import socket

import pytest

from cais.runtime.wire import LENGTH, Connection


def exchange(a: Connection, b: Connection) -> list[tuple[dict, list[int]]]:  # type: ignore[type-arg]
    """Everything ``a`` has queued, as received by ``b``."""
    found = []
    while True:
        a.flush()
        if select.select([b], [], [], 0)[0]:
            found += b.receive()
        elif not a.waiting:
            return found


@pytest.fixture
def pair():  # type: ignore[no-untyped-def]
    """Two connected ends."""
    left, right = socket.socketpair()
    ends = Connection(left), Connection(right)
    yield ends
    for end in ends:
        end.close()


def test_messages_keep_their_order_and_their_descriptors(pair: tuple[Connection, Connection]) -> None:
    """Each descriptor arrives with the message it was sent with, however large the messages are."""
    a, b = pair
    files = [os.memfd_create(str(n)) for n in range(3)]
    for number, fd in enumerate(files):
        os.write(fd, str(number).encode())
        a.send({"n": number, "pad": "x" * 300_000}, (fd,))
        a.send({"n": -1})
        os.close(fd)
    found = exchange(a, b)
    assert [message["n"] for message, _ in found] == [0, -1, 1, -1, 2, -1]
    for message, fds in found:
        assert len(fds) == (message["n"] >= 0)
        for fd in fds:
            assert os.pread(fd, 10, 0) == str(message["n"]).encode()
            os.close(fd)


def test_the_end_is_told(pair: tuple[Connection, Connection]) -> None:
    """A closed peer is EOFError."""
    a, b = pair
    a.close()
    with pytest.raises(EOFError):
        b.receive()


def test_nonsense_is_refused(pair: tuple[Connection, Connection]) -> None:
    """A length beyond reason is an error before memory is spent on it."""
    a, b = pair
    a.sock.send(LENGTH.pack(1 << 31))
    with pytest.raises(ValueError, match="message of"):
        b.receive()
