"""One client's connection: aiohttp's HTTP/1.1 reader, with a way out of HTTP for attach and exec.

aiohttp knows no upgrade but WebSocket: it takes a request with ``Upgrade: tcp`` for an ordinary one and reads
whatever follows it as the next request. A client may send standard input right behind its request, though (a
script with ``nc`` does; Docker's own clients wait for the answer). So a request that may leave HTTP is split
here, before aiohttp's parser sees it: head and body go in, the rest waits in ``_tail`` until the route either
hijacks the connection or declines.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from cais.grpc.frames import PREFACE
from cais.grpc.http2 import Connection as Http2

HEAD_LIMIT = 64 << 10
"""Bytes of a request head that are kept for the split; aiohttp refuses longer ones anyway."""

TAIL_LIMIT = 1 << 20
"""Bytes of early standard input that are kept before reading pauses."""

_HIJACKABLE = re.compile(
    rb"POST /(?:v[0-9.]+/)?(?:containers/[^ ?]+/attach|exec/[^ ?]+/start|session|grpc)[ ?]"
)
_HTTP2 = PREFACE[:14]
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,10})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


class Connection(RequestHandler):
    """aiohttp's connection; ``hijack`` takes the transport over."""

    __slots__ = ("_ended", "_head", "_left", "_tail", "_watchers")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._head = b""
        self._left = 0
        self._tail: bytearray | None = None
        self._ended = False
        self._watchers: set[Callable[[], object]] = set()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client: to aiohttp, except those behind a request that may leave HTTP."""
        if self._tail is not None:
            self._keep(data)
            return
        if data.startswith(_HTTP2) and self._request_count == 0 and not self._head:
            self._hand_over(data)
            return
        if self._left:
            self._pass_body(data)
            return
        if self._head or (self._is_idle() and b"POST /".startswith(data[:6])):
            data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0 and len(data) < HEAD_LIMIT:
                self._head = data
                return
            self._head = b""
            if end >= 0 and _HIJACKABLE.match(data) and not _CHUNKED.search(data, 0, end + 2):
                self._pass_head(data, end + 4)
                return
        super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client will send no more. A connection that may be hijacked stays open: it was a half-close."""
        if self._tail is not None:
            self._ended = True
            return True
        super().eof_received()
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the watchers, then aiohttp."""
        for watcher in tuple(self._watchers):
            watcher()
        super().connection_lost(exc)

    def watch(self, on_lost: Callable[[], object]) -> Callable[[], object]:
        """Call ``on_lost`` when the client has gone; returns the function that ends the watch."""
        self._watchers.add(on_lost)
        return lambda: self._watchers.discard(on_lost)

    def hijack(self, head: bytes) -> tuple[asyncio.Transport, bytes, bool]:
        """Leave HTTP: write ``head`` and give up the transport. Returns it with the bytes that came behind
        the request and whether the client's end was seen. The caller sets its own protocol before it awaits
        anything, else bytes that arrive in between are lost."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        early, ended = bytes(self._tail or b""), self._ended
        self._tail = bytearray()
        transport.write(head)
        return transport, early, ended

    def decline(self) -> bool:
        """The request stays in HTTP. False: bytes came behind it, so the connection cannot be used again."""
        reusable = not self._tail and not self._ended
        self._tail = None
        return reusable

    def _hand_over(self, data: bytes) -> None:
        """The client speaks HTTP/2 from the first byte: gRPC without an upgrade."""
        make = cast(Listener, self._manager).make_http2
        if make is None or self.transport is None:
            super().data_received(data)
            return
        transport, protocol = self.transport, make()
        protocol.watch(lambda: RequestHandler.connection_lost(self, None))
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    def _is_idle(self) -> bool:
        # Only at the start of a request: a body may contain anything. _waiter: aiohttp waits for a request.
        return not self._messages and (self._waiter is not None or self._request_count == 0)

    def _pass_head(self, data: bytes, body: int) -> None:
        length = _LENGTH.search(data, 0, body - 2)
        self._left = int(length[1]) if length else 0
        super().data_received(data[:body])
        self._pass_body(data[body:])

    def _pass_body(self, data: bytes) -> None:
        mine, behind = data[: self._left], data[self._left :]
        self._left -= len(mine)
        if mine:
            super().data_received(mine)
        if not self._left:
            self._tail = bytearray(behind)

    def _keep(self, data: bytes) -> None:
        tail = cast(bytearray, self._tail)
        tail += data
        if len(tail) > TAIL_LIMIT and self.transport is not None:
            self.transport.pause_reading()


class Listener(web.Server):
    """aiohttp's low-level server, with our connections. ``make_http2``: the protocol for who speaks HTTP/2."""

    make_http2: Callable[[], Http2] | None = None

    def __call__(self) -> RequestHandler:
        """A new connection's protocol."""
        return Connection(self, loop=self._loop, **self._kwargs)
