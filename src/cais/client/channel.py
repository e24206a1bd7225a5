"""The synchronous face's sockets: one exchange, a stream of pieces, or a hijacked connection."""

import socket
from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeVar

from cais.client.protocol import Call, Exchange
from cais.client.target import Target
from cais.errors import Unavailable

T = TypeVar("T")
PIECE = 1 << 18
USUAL = -1.0
"""A time limit of ``USUAL`` is the engine object's; None is no limit."""


class Channel:
    """Connections to one engine; at most one idle connection is kept for the next exchange."""

    def __init__(self, target: Target, timeout: float | None) -> None:
        self.target = target
        self._timeout = timeout
        self._idle: list[socket.socket] = []

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def connect(self) -> socket.socket:
        """A connected socket. Unavailable if nobody listens; Denied would look the same to the kernel."""
        target = self.target
        try:
            if target.path:
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(self._timeout)
                try:
                    sock.connect(target.path)
                except OSError:
                    sock.close()
                    raise
                return sock
            plain = socket.create_connection((target.name, target.port), self._timeout)
            return (
                target.tls.context().wrap_socket(plain, server_hostname=target.name) if target.tls else plain
            )
        except TimeoutError:
            raise
        except OSError as error:
            raise Unavailable(f"no engine answers at {target.text}: {error}") from error

    def call(
        self, call: Call[T], *, timeout: float | None = USUAL, pieces: Iterable[bytes] | None = None
    ) -> T:
        """Exchange one request. ``pieces`` is a body of unknown length.

        Raises what ``call.failure`` says for a refusal, TimeoutError, Unavailable for a broken connection.
        """
        # a kept connection may have been closed by the engine meanwhile: only a fresh one for what acts
        sock = self._idle.pop() if self._idle and call.method in ("GET", "HEAD") and pieces is None else None
        if sock is not None:
            try:
                return self._exchange(sock, call, timeout, pieces)
            except Unavailable:
                pass
        return self._exchange(self.connect(), call, timeout, pieces)

    def _exchange(
        self, sock: socket.socket, call: Call[T], timeout: float | None, pieces: Iterable[bytes] | None
    ) -> T:
        exchange = Exchange(call)
        kept = False
        try:
            sock.settimeout(self._timeout if timeout == USUAL else timeout)
            send(sock, call, pieces)
            content = b"".join(receive(sock, exchange))
            kept = exchange.reusable and not self._idle
        finally:
            if kept:
                self._idle.append(sock)
            else:
                sock.close()
        if exchange.refused():
            raise exchange.failure(content)
        return call.parse(content)

    def stream(
        self, call: Call[Any], *, pieces: Iterable[bytes] | None = None
    ) -> Generator[bytes, None, None]:
        """The answer's content piece by piece; no time limit between pieces. Closing the iterator ends it. ``pieces``
        is a body of unknown length."""
        with self.connect() as sock:
            send(sock, call, pieces)
            exchange = Exchange(call)
            first = read_head(sock, exchange)
            if exchange.refused():
                raise exchange.failure(b"".join([*first, *receive(sock, exchange)]))
            sock.settimeout(None)
            yield from first
            yield from receive(sock, exchange)

    def patience(self, seconds: int | None) -> float | None:
        """A time limit for an act that may itself take ``seconds`` (None: Docker's ten; below 0: for ever)."""
        if self._timeout is None or (seconds is not None and seconds < 0):
            return None
        return self._timeout + (10 if seconds is None else seconds)

    def hijack(self, call: Call[Any]) -> tuple[socket.socket, bytes]:
        """A connection that has become a stream, and the bytes that came already."""
        sock = self.connect()
        exchange = Exchange(call)
        try:
            send(sock, call, None)
            first = read_head(sock, exchange)
            if exchange.refused():
                raise exchange.failure(b"".join([*first, *receive(sock, exchange)]))
        except BaseException:
            sock.close()
            raise
        sock.settimeout(None)
        return sock, exchange.rest


def send(sock: socket.socket, call: Call[Any], pieces: Iterable[bytes] | None) -> None:
    """Send the request; an engine that answers before it has read everything is listened to."""
    try:
        if pieces is None:
            sock.sendall(call.bytes())
            return
        sock.sendall(call.head(chunked=True))
        for piece in pieces:
            if piece:
                sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        return


def receive(sock: socket.socket, exchange: Exchange) -> Iterator[bytes]:
    """The rest of the answer's content."""
    while not exchange.done:
        try:
            data = sock.recv(PIECE)
        except ConnectionResetError as error:
            raise Unavailable(f"the connection to the engine broke: {error}") from error
        if not data:
            exchange.end()
            return
        yield from exchange.feed(data)


def read_head(sock: socket.socket, exchange: Exchange) -> list[bytes]:
    """Receive until the answer's head is there; content that came with it is returned."""
    first: list[bytes] = []
    while exchange.head is None:
        data = sock.recv(PIECE)
        if not data:
            exchange.end()
        first += exchange.feed(data)
    return first
