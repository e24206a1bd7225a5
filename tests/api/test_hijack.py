"""Leaving HTTP: early input, half-closes, back pressure, detaching, clients that vanish."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from cais.api.call import Call
from cais.api.detach import DEFAULT_KEYS, DetachScanner
from cais.api.hijack import Hijacked, Relay, hijack_head
from cais.api.replies import json_reply
from cais.api.router import Route

HEAD = (
    b"POST /v1.41/containers/x/attach?stdin=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    b"Content-Length: 0\r\n\r\n"
)

Serve = Callable[[list[Route]], Awaitable[str]]
Exchange = Callable[..., Awaitable[bytes]]


class Program:
    """Stands where the keeper is: the other end of the socket a route gets."""

    def __init__(self, run: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.run = run
        self.detached: list[bool] = []

    async def attach(self, call: Call) -> web.StreamResponse:
        """The route."""
        await call.read()
        relay = Relay(call, scanner=DetachScanner(DEFAULT_KEYS))
        relay.open(hijack_head(call, multiplexed=True))
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        running = asyncio.ensure_future(self.run(reader, writer))
        self.detached.append(await relay.run(ours))
        await running
        writer.close()
        await writer.wait_closed()
        return Hijacked()

    def routes(self) -> list[Route]:
        """With a route that stays in HTTP beside it."""
        return [Route("POST", "/containers/*/attach", self.attach), Route("GET", "/ok", self.ok)]

    async def ok(self, call: Call) -> web.StreamResponse:
        """An ordinary answer."""
        return json_reply("ok")


async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads to the end, then says how much it was."""
    data = await reader.read()
    writer.write(b"got %d %s" % (len(data), data[:16]))
    await writer.drain()
    writer.write_eof()


async def test_input_behind_the_request(serve: Serve, exchange: Exchange) -> None:
    """Bytes sent right behind the request are standard input, and the answer comes after the client's
    half-close."""
    path = await serve(Program(count).routes())
    answer = await exchange(path, HEAD + b"early", b" and late")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n") and b"Upgrade: tcp" in head
    assert body == b"got 14 early and late"


async def test_request_in_pieces(serve: Serve, exchange: Exchange) -> None:
    """Wherever the request is cut, body and input are told apart."""
    request = HEAD.replace(b"Length: 0", b"Length: 4") + b"bodyINPUT"
    path = await serve(Program(count).routes())
    for cut in (1, 6, 30, len(request) - 11, len(request) - 7, len(request) - 5, len(request) - 2):
        answer = await exchange(path, request[:cut], request[cut:])
        assert answer.endswith(b"got 5 INPUT"), cut


async def test_without_upgrade(serve: Serve, exchange: Exchange) -> None:
    """Without the Upgrade header the stream begins with 200 and the raw stream's content type."""
    plain = HEAD.replace(b"Connection: Upgrade\r\nUpgrade: tcp\r\n", b"")
    answer = await exchange(await serve(Program(count).routes()), plain)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n")


async def test_multiplexed_content_type(serve: Serve, exchange: Exchange) -> None:
    """From API 1.42 the upgraded stream says that it has frames."""
    answer = await exchange(await serve(Program(count).routes()), HEAD.replace(b"v1.41", b"v1.42"))
    assert b"Content-Type: application/vnd.docker.multiplexed-stream\r\n" in answer


async def test_large_output_to_a_slow_reader(serve: Serve) -> None:
    """64 MiB arrive whole although the client reads late and in sips: the program was held back meanwhile."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(1024):
            writer.write(number.to_bytes(4, "big") * (1 << 14))
            await writer.drain()
        writer.write_eof()

    reader, writer = await asyncio.open_unix_connection(await serve(Program(flood).routes()))
    writer.write(HEAD)
    await reader.readuntil(b"\r\n\r\n")
    for number in range(1024):
        assert await reader.readexactly(1 << 16) == number.to_bytes(4, "big") * (1 << 14)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_detach_keys(serve: Serve, exchange: Exchange) -> None:
    """The keys end the connection although the program goes on; what was typed before them reached it."""
    program = Program(count)
    answer = await exchange(await serve(program.routes()), HEAD, b"typed\x10\x11lost", half_close=False)
    assert answer.endswith(b"\r\n\r\n") and program.detached == [True]


async def test_client_vanishes_after_half_close(serve: Serve) -> None:
    """A client that half-closed and then ends is noticed, though both look like end of file."""
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await reader.read()
        ended.set()

    program = Program(wait)
    reader, writer = await asyncio.open_unix_connection(await serve(program.routes()))
    writer.write(HEAD)
    await reader.readuntil(b"\r\n\r\n")
    writer.write_eof()
    writer.close()
    await writer.wait_closed()
    await asyncio.wait_for(ended.wait(), 5)


async def test_declined_request_keeps_the_connection(serve: Serve, exchange: Exchange) -> None:
    """A refused attach is an ordinary answer, and the next request is served."""
    path = await serve([Route("GET", "/ok", Program(count).ok)])
    answer = await exchange(
        path, HEAD, b"GET /ok HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n", half_close=False
    )
    assert answer.startswith(b"HTTP/1.1 404") and b'{"message":"page not found"}' in answer


async def test_declined_request_with_input_closes(serve: Serve, exchange: Exchange) -> None:
    """Input behind a refused attach is not taken for a request."""
    path = await serve([Route("GET", "/ok", Program(count).ok)])
    answer = await exchange(path, HEAD + b"GET /ok HTTP/1.1\r\nHost: d\r\n\r\n", half_close=False)
    assert answer.startswith(b"HTTP/1.1 404") and answer.count(b"HTTP/1.1") == 1
