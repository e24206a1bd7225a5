"""The asynchronous face's connections: one exchange, a stream of pieces, or a hijacked connection."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from cais.client.channel import PIECE, USUAL
from cais.client.protocol import Call, Exchange
from cais.client.target import Target
from cais.errors import Unavailable

T = TypeVar("T")
Pieces = Iterable[bytes] | AsyncIterable[bytes]


class Wire:
    """A connection: both ends of asyncio's streams."""

    __slots__ = ("reader", "writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self) -> bytes:
        """Some bytes; empty at the end."""
        try:
            return await self.reader.read(PIECE)
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        """Close it, without waiting for what was written last."""
        self.writer.close()

    async def closed(self) -> None:
        """Close it and wait until it is."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, TimeoutError):
            return  # it broke: it is closed all the more


class AsyncChannel:
    """Connections to one engine; each exchange has its own (a unix socket costs 50 µs)."""

    def __init__(self, target: Target, timeout: float | None) -> None:
        self.target = target
        self._timeout = timeout

    async def connect(self) -> Wire:
        """A connection. Unavailable if nobody listens."""
        target = self.target
        try:
            if target.path:
                return Wire(*await asyncio.open_unix_connection(target.path, limit=PIECE))
            context = target.tls.context() if target.tls else None
            return Wire(*await asyncio.open_connection(target.name, target.port, ssl=context, limit=PIECE))
        except OSError as error:
            raise Unavailable(f"no engine answers at {target.text}: {error}") from error

    async def call(self, call: Call[T], *, limit: float | None = USUAL, pieces: Pieces | None = None) -> T:
        """Exchange one request; as ``Channel.call`` (``limit``: seconds)."""
        exchange = Exchange(call)
        async with (
            asyncio.timeout(self._timeout if limit == USUAL else limit),
            self._open(call, pieces) as wire,
        ):
            content = b"".join([piece async for piece in receive(wire, exchange)])
        if exchange.refused():
            raise exchange.failure(content)
        return call.parse(content)

    async def stream(self, call: Call[Any], *, pieces: Pieces | None = None) -> AsyncGenerator[bytes, None]:
        """The answer's content piece by piece; no time limit. Closing the iterator ends it. ``pieces`` is a body of
        unknown length."""
        async with self._open(call, pieces) as wire:
            exchange = Exchange(call)
            first = await read_head(wire, exchange)
            if exchange.refused():
                rest = [piece async for piece in receive(wire, exchange)]
                raise exchange.failure(b"".join([*first, *rest]))
            for piece in first:
                yield piece
            async for piece in receive(wire, exchange):
                yield piece

    async def hijack(self, call: Call[Any]) -> tuple[Wire, bytes]:
        """A connection that has become a stream, and the bytes that came already."""
        wire = await self.connect()
        exchange = Exchange(call)
        try:
            async with asyncio.timeout(self._timeout):
                await send(wire, call, None)
                first = await read_head(wire, exchange)
                if exchange.refused():
                    rest = [piece async for piece in receive(wire, exchange)]
                    raise exchange.failure(b"".join([*first, *rest]))
        except BaseException:
            await wire.closed()
            raise
        return wire, exchange.rest

    @asynccontextmanager
    async def _open(self, call: Call[Any], pieces: Pieces | None) -> AsyncIterator[Wire]:
        wire = await self.connect()
        try:
            await send(wire, call, pieces)
            yield wire
        finally:
            await wire.closed()


async def send(wire: Wire, call: Call[Any], pieces: Pieces | None) -> None:
    """Send the request; an engine that answers before it has read everything is listened to."""
    try:
        if pieces is None:
            wire.writer.write(call.bytes())
            await wire.writer.drain()
            return
        wire.writer.write(call.head(chunked=True))
        async for piece in _each(pieces):
            if piece:
                wire.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await wire.writer.drain()
        wire.writer.write(b"0\r\n\r\n")
        await wire.writer.drain()
    except (BrokenPipeError, ConnectionResetError):
        return


async def _each(pieces: Pieces) -> AsyncIterator[bytes]:
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece


async def receive(wire: Wire, exchange: Exchange) -> AsyncIterator[bytes]:
    """The rest of the answer's content."""
    while not exchange.done:
        data = await wire.read()
        if not data:
            exchange.end()
            return
        for piece in exchange.feed(data):
            yield piece


async def read_head(wire: Wire, exchange: Exchange) -> list[bytes]:
    """Receive until the answer's head is there; content that came with it is returned."""
    first: list[bytes] = []
    while exchange.head is None:
        data = await wire.read()
        if not data:
            exchange.end()
        first += exchange.feed(data)
    return first
