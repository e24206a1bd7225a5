"""Streams: headers at once, errors before and after the first piece, clients that go away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from cais.api.call import Call
from cais.api.replies import cancelled_when_gone, start_stream, stream_bytes, stream_json
from cais.api.router import Route
from cais.errors import Corrupt

Serve = Callable[[list[Route]], Awaitable[str]]
Exchange = Callable[..., Awaitable[bytes]]

GET = b"GET /it HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"


async def good(count: int, *, fail: bool = False) -> AsyncIterator[dict[str, int]]:
    """Some values, and then maybe an error."""
    for number in range(count):
        yield {"n": number}
    if fail:
        raise Corrupt("broken pipe organ")


async def test_json_lines(serve: Serve, exchange: Exchange) -> None:
    """One value a line, in chunks."""

    async def it(call: Call) -> web.StreamResponse:
        return await stream_json(call, good(2))

    answer = await exchange(await serve([Route("GET", "/it", it)]), GET)
    assert b"Transfer-Encoding: chunked" in answer and answer.count(b'"}\r\n') == 0
    assert b'{"n":0}\r\n' in answer and answer.endswith(b'{"n":1}\r\n\r\n0\r\n\r\n')


async def test_error_before_the_first_value(serve: Serve, exchange: Exchange) -> None:
    """It is an ordinary error answer."""

    async def it(call: Call) -> web.StreamResponse:
        return await stream_json(call, good(0, fail=True), lambda error: {"error": str(error)})

    answer = await exchange(await serve([Route("GET", "/it", it)]), GET)
    assert answer.startswith(b"HTTP/1.1 500 ") and b'{"message":"broken pipe organ"}' in answer


async def test_error_after_the_first_value(serve: Serve, exchange: Exchange) -> None:
    """It is the last line."""

    async def it(call: Call) -> web.StreamResponse:
        return await stream_json(call, good(1, fail=True), lambda error: {"error": str(error)})

    answer = await exchange(await serve([Route("GET", "/it", it)]), GET)
    assert answer.startswith(b"HTTP/1.1 200 ") and b'{"error":"broken pipe organ"}' in answer


async def test_broken_bytes_are_not_taken_for_whole(serve: Serve, exchange: Exchange) -> None:
    """A byte stream that fails ends without the last chunk."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"half"
        raise Corrupt("broken pipe organ")

    async def it(call: Call) -> web.StreamResponse:
        return await stream_bytes(call, parts(), "application/x-tar")

    answer = await exchange(await serve([Route("GET", "/it", it)]), GET)
    assert b"half" in answer and b"0\r\n\r\n" not in answer


async def test_headers_go_at_once(serve: Serve) -> None:
    """The docker CLI starts a container only when it has the headers of ``wait``."""
    release = asyncio.Event()

    async def it(call: Call) -> web.StreamResponse:
        reply = await start_stream(call)
        await release.wait()
        await reply.write_eof(b"{}\n")
        return reply

    reader, writer = await asyncio.open_unix_connection(await serve([Route("GET", "/it", it)]))
    writer.write(GET)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    release.set()
    assert head.startswith(b"HTTP/1.1 200 OK") and b"{}" in await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_gone_client_ends_the_wait(serve: Serve) -> None:
    """What waits for ever is cancelled when its client closes the connection."""
    ended = asyncio.Event()

    async def it(call: Call) -> web.StreamResponse:
        reply = await start_stream(call)
        try:
            with cancelled_when_gone(call):
                await asyncio.Event().wait()
        finally:
            ended.set()
        return reply

    reader, writer = await asyncio.open_unix_connection(await serve([Route("GET", "/it", it)]))
    writer.write(GET)
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    await asyncio.wait_for(ended.wait(), 5)
