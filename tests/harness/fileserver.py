"""A real HTTP server with files that tests change while it runs."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from cais.linux.netns import entered

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FileServer:
    """``files`` by path: bytes, or what answers. ``requests``: (method, path with query, headers), in order."""

    files: dict[str, bytes | Answer] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    """How many bodies."""
    port: int = 0

    def url(self, path: str) -> str:
        """Of a file."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request; entity tags are kept to."""
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        content = self.files.get(request.path)
        if content is None:
            raise web.HTTPNotFound
        if not isinstance(content, bytes):
            return await content(request)
        headers = self.headers.get(request.path, {})
        tag, since = headers.get("ETag"), headers.get("Last-Modified")
        if tag and request.headers.get("If-None-Match") == tag:
            raise web.HTTPNotModified(headers=headers)
        if since and not tag and request.headers.get("If-Modified-Since") == since:
            raise web.HTTPNotModified(headers=headers)
        self.sent += 1
        return web.Response(body=content, headers=headers)


def listen(netns: int = 0) -> socket.socket:
    """A listening socket on loopback, in the network namespace of the process ``netns`` (0: in ours)."""
    if not netns:
        return socket.create_server(("127.0.0.1", 0))
    with Path(f"/proc/{netns}/ns/net").open("rb") as namespace, entered(namespace.fileno()):
        return socket.create_server(("127.0.0.1", 0))


@asynccontextmanager
async def serving(ssl_context: Any = None, netns: int = 0) -> AsyncIterator[FileServer]:
    """A server on loopback."""
    server = FileServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.SockSite(runner, listen(netns), ssl_context=ssl_context)
        await site.start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()
