"""A proxy that passes uploads on as they come, and cuts, loses or refuses what it is told to."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from harness.engines import until


@dataclass(slots=True)
class PushFault:
    """What goes wrong with requests whose "METHOD path" matches ``where``, ``times`` times, after ``spare`` others.

    ``status`` answers by itself; ``cut`` breaks both connections after so many bytes of the request's body; ``lose``
    passes the request on and closes the connection in the place of the answer.
    """

    where: str
    times: int = 1
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = -1
    lose: bool = False
    flip: int = -1
    spare: int = 0
    gate: asyncio.Event | None = None


@dataclass(slots=True)
class PushProxy:
    """A server before ``upstream``, which gives relative addresses."""

    upstream: str
    address: str = ""
    faults: list[PushFault] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """"METHOD path?query" and headers of every request."""
    received: int = 0
    """Bytes of all requests' bodies."""

    def count(self, where: str) -> int:
        """Requests that match ``where``."""
        return sum(bool(re.search(where, text)) for text, _ in self.seen)

    def _find(self, line: str) -> PushFault:
        for fault in self.faults:
            if fault.times and re.search(fault.where, line):
                if fault.spare:
                    fault.spare -= 1
                    continue
                fault.times -= 1
                return fault
        return PushFault("")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        line = f"{request.method} {request.path_qs}"
        self.seen.append((line, dict(request.headers)))
        fault = self._find(line)
        if fault.gate:
            await fault.gate.wait()
        if fault.status:
            return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session:
            url = f"http://{self.upstream}{request.path_qs}"
            data = self._read(request, fault) if request.body_exists else None
            try:
                async with session.request(
                    request.method, url, headers=headers, data=data, allow_redirects=False
                ) as reply:
                    body = await reply.read()
            except aiohttp.ClientError:
                return self._hang_up(request)
        if fault.lose:
            return self._hang_up(request)
        kept = {
            k: v for k, v in reply.headers.items() if k not in ("Date", "Transfer-Encoding", "Content-Length")
        }
        if request.method == "HEAD" and "Content-Length" in reply.headers:
            kept["Content-Length"] = reply.headers["Content-Length"]
        return web.Response(
            status=reply.status, headers=kept, body=body if request.method != "HEAD" else None
        )

    async def _read(self, request: web.Request, fault: PushFault) -> AsyncIterator[bytes]:
        left, at = fault.cut, 0
        async for part in request.content.iter_any():
            self.received += len(part)
            if fault.flip in range(at, at + len(part)):
                changed = bytearray(part)
                changed[fault.flip - at] ^= 1
                part = bytes(changed)
            at += len(part)
            if fault.cut >= 0 and len(part) > left:
                yield part[:left]
                raise ConnectionError("cut")
            left -= len(part)
            yield part
        if fault.cut >= 0:
            raise ConnectionError("cut")

    def _hang_up(self, request: web.Request) -> web.StreamResponse:
        if request.transport:
            request.transport.abort()
        return web.Response()


def _connected(ports: set[int]) -> list[str]:
    """Sockets of this process that are connected to one of these ports of loopback."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    there = {f"socket:[{row[9]}]" for row in rows if int(row[2].rpartition(":")[2], 16) in ports}
    found = []
    for number in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if (target := str(number.readlink())) in there:
                found.append(target)
    return found


async def start_push_proxy(upstream: str, defer: Callable[[Any], None]) -> PushProxy:
    """A proxy on loopback; ``defer`` is given what stops it."""
    proxy = PushProxy(upstream)
    runner = web.ServerRunner(web.Server(proxy.handle), shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]

    async def settle() -> None:
        # A connection that was cut has bytes on their way, and closes when they are gone: that is to be in this loop.
        ports = {port, int(upstream.rpartition(":")[2])}
        await until(lambda: not _connected(ports))
        await asyncio.sleep(0)

    defer(settle)
    defer(runner.cleanup)
    proxy.address = f"127.0.0.1:{port}"
    return proxy
