"""Sending a file: by the kernel where it can, from the page cache to the socket, without a copy through Python.

sendfile(2) is called on a duplicate of the connection's descriptor: the event loop's own must not be watched by anybody
else, and uvloop has no ``sendfile``.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import BinaryIO

from aiohttp import web

from cais.registry.arrivals import Arrival
from cais.registry.refusal import Refusal

PIECE = 4 << 20
COPY = 256 << 10
"""Bytes a copy through Python takes at a time (TLS)."""
PATIENCE = 60.0
"""Seconds in which a client must take at least a byte."""


async def send_file(
    request: web.BaseRequest,
    status: int,
    headers: Mapping[str, str],
    file: BinaryIO,
    span: range,
    arrival: Arrival | None = None,
) -> web.StreamResponse:
    """Answer with the bytes ``span`` of ``file``; ``headers`` say how many they are. ``arrival``: they are still being
    written, and it says how far. Raises ConnectionError: the client has gone, or the rest does not come."""
    reply = web.StreamResponse(status=status, headers=headers)
    await reply.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    await request.writer.drain()
    copies = transport.get_extra_info("sslcontext") is not None or not await _flushed(transport)
    start, end = span.start, span.stop
    while start < end:
        stop = end if arrival is None else min(end, await _wait(arrival, start, transport))
        if copies:
            await _copy(reply, file, start, stop)
        else:
            await _send(transport, file.fileno(), start, stop)
        start = stop
    request.writer.length = 0  # aiohttp counts what it writes itself: the body has gone past it
    await reply.write_eof()
    return reply


async def _wait(arrival: Arrival, start: int, transport: asyncio.Transport) -> int:
    try:
        return await arrival.wait_beyond(start)
    except Refusal as refusal:
        # The head has gone out: all that can still be said is that this is not the whole.
        transport.abort()
        raise ConnectionResetError(str(refusal)) from refusal


async def _flushed(transport: asyncio.Transport) -> bool:
    """Whether the answer's head has left for the kernel: what sendfile sends must come behind it."""
    for _ in range(3):
        if not transport.get_write_buffer_size():
            return True
        await asyncio.sleep(0)
    return False


async def _send(transport: asyncio.Transport, source: int, start: int, end: int) -> None:
    loop = asyncio.get_running_loop()
    target = os.dup(transport.get_extra_info("socket").fileno())
    try:
        while start < end:
            try:
                sent = os.sendfile(target, source, start, min(end - start, PIECE))
            except BlockingIOError:
                await _writable(loop, transport, target)
                continue
            if not sent:
                transport.abort()
                raise ConnectionResetError("the file is shorter than it was")
            start += sent
            # Others shall have their turn between two pieces.
            await asyncio.sleep(0)
    finally:
        os.close(target)


async def _writable(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, fd: int) -> None:
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await ready.wait()
    except TimeoutError:
        transport.abort()
        raise ConnectionResetError("the client takes nothing") from None
    finally:
        loop.remove_writer(fd)
    if transport.is_closing():
        raise ConnectionResetError("the client has gone")


async def _copy(reply: web.StreamResponse, file: BinaryIO, start: int, end: int) -> None:
    while start < end:
        data = os.pread(file.fileno(), min(COPY, end - start), start)
        if not data:
            raise ConnectionResetError("the file is shorter than it was")
        start += len(data)
        await reply.write(data)
