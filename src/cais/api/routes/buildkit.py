"""Where BuildKit's clients leave HTTP/1.1: ``POST /grpc`` (they call us) and ``POST /session`` (we call them)."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from cais.api.buildkit.door import BuildkitDoor
from cais.api.call import Call
from cais.api.hijack import Hijacked
from cais.api.router import Route
from cais.errors import Invalid
from cais.grpc.http2 import Connection

_HEAD = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


class BuildkitRoutes:
    """``/grpc`` and ``/session``."""

    def __init__(self, door: BuildkitDoor) -> None:
        self._door = door

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("POST", "/grpc", self.grpc),
            Route("POST", "/session", self.session),
        ]

    async def grpc(self, call: Call) -> web.StreamResponse:
        """The connection is gRPC's from here on."""
        return await _upgrade(call, self._door.accept)

    async def session(self, call: Call) -> web.StreamResponse:
        """The connection is a session's from here on."""
        headers: dict[str, tuple[str, ...]] = {}
        for name, value in call.request.headers.items():
            headers[name.lower()] = (*headers.get(name.lower(), ()), value)
        return await _upgrade(call, lambda: self._door.sessions.accept(headers).channel.connection)


async def _upgrade(call: Call, make: Callable[[], Connection]) -> web.StreamResponse:
    """Answer, hand the connection over, and wait for its end."""
    await call.read()
    if call.request.headers.get("Upgrade", "").lower() != "h2c":
        raise Invalid("want the headers Connection: Upgrade and Upgrade: h2c")
    lost = asyncio.Event()
    connection = make()
    connection.watch(lost.set)
    transport, early, _ = call.connection.hijack(_HEAD)
    transport.set_protocol(connection)
    connection.connection_made(transport)
    transport.resume_reading()
    if early:
        connection.data_received(early)
    try:
        await lost.wait()
    finally:
        transport.close()
        # aiohttp counts it still.
        call.connection.connection_lost(None)
    return Hijacked()
