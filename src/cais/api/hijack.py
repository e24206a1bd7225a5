"""Hijacked connections: attach and exec leave HTTP, bytes flow between client and keeper."""

import asyncio
import select
import socket
from contextlib import suppress
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from cais.api.call import Call
from cais.api.detach import DetachScanner
from cais.api.replies import COMMON_HEADERS, MULTIPLEXED_STREAM, RAW_STREAM

SETTLE_SECONDS = 5.0
"""Between the end of a task's output and the word that it has ended; normally less than a millisecond."""

BUFFER = 1 << 20
"""Bytes that may wait for a slow reader before its peer is not read any more."""


class Hijacked(web.StreamResponse):
    """Stands for an answer that was written by hand: aiohttp sends nothing more and closes the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write nothing."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing."""


class _End(asyncio.Protocol):
    """One end of the pair: what it receives goes to the other; a full other end stops it from being read."""

    def __init__(self, relay: "Relay") -> None:
        self.relay = relay
        self.transport: asyncio.Transport | None = None
        self.other: _End
        self.early = bytearray()
        self.ended = False
        self.paused = False
        self.is_full = False
        self._writable: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The end is ready: send what the other end had for it meanwhile."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=BUFFER)
        if self.early:
            self.transport.write(self.early)
            self.early = bytearray()
        if self.other.ended:
            self.write_end()
        if self.paused:
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """To the other end."""
        self.other.send(data)

    def eof_received(self) -> bool:
        """Half-close: the other end gets it too, and this one stays open for what comes the other way."""
        self.ended = True
        self.relay.half_closed(self)
        return True

    def pause_writing(self) -> None:
        """Too much is waiting here: read no more from the other end."""
        self.is_full = True
        self.other.pause(True)

    def resume_writing(self) -> None:
        """Enough has gone."""
        self.is_full = False
        self.other.pause(False)
        self._wake()

    async def wait_writable(self) -> None:
        """Until enough has gone, or the end is lost."""
        self._writable = asyncio.get_running_loop().create_future()
        await self._writable

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        """This end is gone altogether."""
        self.is_full = False
        self.relay.lost()
        self._wake()

    def pause(self, wanted: bool) -> None:
        """Stop or go on reading; remembered until there is a transport."""
        self.paused = wanted
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if wanted:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def send(self, data: bytes) -> None:
        """Write ``data`` here, or keep it until there is a transport."""
        if self.transport is None:
            self.early += data
        elif not self.transport.is_closing():
            self.transport.write(data)

    def write_end(self) -> None:
        """Shut down writing here, after all that was written."""
        if self.transport is not None and not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()

    def close(self) -> None:
        """Close after all that was written has been sent."""
        if self.transport is not None:
            self.transport.close()


class _Client(_End):
    """The client's end: watches for the detach keys, and for a client that has gone without a word."""

    def __init__(self, relay: "Relay", scanner: DetachScanner | None) -> None:
        super().__init__(relay)
        self.scanner = scanner

    def data_received(self, data: bytes) -> None:
        """Standard input."""
        if self.scanner is not None:
            data, found = self.scanner.feed(data)
            if found:
                self.other.send(data)
                self.relay.detach()
                return
        if data:
            self.other.send(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell aiohttp too: it still counts the connection."""
        super().connection_lost(exc)
        self.relay.connection.connection_lost(exc)


class Relay:
    """Joins a client with the socket of its container until the container's end of it is closed.

    Half-closes go through in both directions. ``run`` returns true when the client typed the detach keys.
    """

    def __init__(self, call: Call, *, scanner: DetachScanner | None = None) -> None:
        self.connection = call.connection
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._detached = False
        self._hangup: select.epoll | None = None
        self._client = _Client(self, scanner)
        self._task = _End(self)
        self._client.other, self._task.other = self._task, self._client

    def open(self, head: bytes) -> None:
        """Leave HTTP: from here the client is answered with ``head`` and raw bytes."""
        transport, early, ended = self.connection.hijack(head)
        transport.set_protocol(self._client)
        self._client.ended = ended
        self._client.connection_made(transport)
        transport.resume_reading()
        if early:
            self._client.data_received(early)
        if ended:
            self._watch_hangup()

    async def send(self, data: bytes) -> None:
        """Bytes for the client from the engine itself; waits while the client is slow. Raises
        ``ConnectionResetError`` when it has gone."""
        self._client.send(data)
        while self._client.is_full:
            await self._client.wait_writable()
        if self._done.done():
            raise ConnectionResetError("the client has gone")

    async def run(self, task: socket.socket, settled: asyncio.Event | None = None) -> bool:
        """Move bytes until the end; takes ``task`` over and closes it. When the task has ended, the client is told
        only once ``settled`` is set (or after ``SETTLE_SECONDS``): it will ask for the exit code at once."""
        try:
            task.setblocking(False)
            await self._loop.create_unix_connection(lambda: self._task, sock=task)
            await self._done
            if settled is not None and self._task.ended:
                with suppress(TimeoutError):
                    await asyncio.wait_for(settled.wait(), SETTLE_SECONDS)
        finally:
            self.close()
        return self._detached

    def close(self) -> None:
        """Close both ends; what was written is still sent."""
        if self._hangup is not None:
            self._loop.remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None
        self._task.close()
        self._client.close()

    def half_closed(self, end: _End) -> None:
        """One end will send no more."""
        if end is self._client:
            self._task.write_end()
            self._watch_hangup()
        else:
            # All output was delivered: the container's part is over.
            self._finish()

    def lost(self) -> None:
        """One end is gone: nothing more can be moved."""
        self._finish()

    def detach(self) -> None:
        """The client typed the keys."""
        self._detached = True
        self._finish()

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _watch_hangup(self) -> None:
        """A client that ends (kill -9 of a docker CLI) looks like one that only half-closed: both read as end
        of file. The kernel tells them apart by EPOLLHUP, which uvloop does not pass on; so an epoll of its
        own, whose descriptor becomes readable then."""
        transport = self._client.transport
        peer = transport.get_extra_info("socket") if transport is not None else None
        if peer is None or self._hangup is not None or peer.fileno() < 0:
            return
        self._hangup = select.epoll()
        self._hangup.register(peer.fileno(), 0)
        self._loop.add_reader(self._hangup.fileno(), self._hung_up)

    def _hung_up(self) -> None:
        if self._hangup is not None:
            self._loop.remove_reader(self._hangup.fileno())
        self._finish()


def hijack_head(call: Call, *, multiplexed: bool) -> bytes:
    """Status and headers that begin the raw stream: 101 when the client asked for an upgrade, else 200.

    From API 1.42 an upgraded stream says whether it is multiplexed (dockerd, container_routes.go).
    """
    upgrade = "Upgrade" in call.request.headers
    lines = ["HTTP/1.1 101 UPGRADED" if upgrade else "HTTP/1.1 200 OK"]
    frames = multiplexed and upgrade and call.version >= (1, 42)
    lines.append(f"Content-Type: {MULTIPLEXED_STREAM if frames else RAW_STREAM}")
    if upgrade:
        lines += ["Connection: Upgrade", "Upgrade: tcp"]
    lines += [f"{name}: {value}" for name, value in COMMON_HEADERS.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
