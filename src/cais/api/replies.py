"""The shapes of answers: JSON in one write, streams of JSON lines, streams of bytes, empty."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from cais.api.call import Call
from cais.api.version import ENGINE_VERSION, MAX_VERSION, format_version

T = TypeVar("T")

JSON = "application/json"
RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"

COMMON_HEADERS = {
    "Api-Version": format_version(MAX_VERSION),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"Cais/{ENGINE_VERSION} (linux)",
}
"""On every answer; clients read the engine's version and system from them."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_JSON_HEADERS = {**COMMON_HEADERS, "Content-Type": JSON}


def _encode_other(value: Any) -> str:
    """msgspec takes texts only, not their subclasses (``Digest``)."""
    if isinstance(value, str):
        return str.__str__(value)
    raise NotImplementedError(f"no JSON form for {type(value).__name__}")


_encoder = msgspec.json.Encoder(enc_hook=_encode_other)


def json_bytes(value: Any) -> bytes:
    """``value`` as one line of a stream."""
    return _encoder.encode(value) + b"\n"


def json_reply(value: Any, *, status: int = 200) -> web.Response:
    """``value`` as JSON, ended by a newline as Go's encoder does."""
    return web.Response(body=json_bytes(value), status=status, headers=_JSON_HEADERS)


def empty_reply(status: int = 204) -> web.Response:
    """No body."""
    return web.Response(status=status, headers=COMMON_HEADERS)


async def start_stream(
    call: Call, content_type: str = JSON, headers: Mapping[str, str] = NO_HEADERS
) -> web.StreamResponse:
    """Send status and headers now; the body follows in chunks. The docker CLI waits for these headers of
    ``wait`` before it starts the container."""
    reply = web.StreamResponse(headers={**COMMON_HEADERS, **headers, "Content-Type": content_type})
    reply.enable_chunked_encoding()
    await reply.prepare(call.request)
    return reply


async def stream_json(
    call: Call, values: AsyncIterator[Any], describe: Callable[[Exception], Any] | None = None
) -> web.StreamResponse:
    """One JSON value a line, each sent at once. An error before the first value is an ordinary error answer;
    after it, it is a last line made by ``describe``."""
    reply: web.StreamResponse | None = None
    try:
        async with closing_parts(values):
            async for value in values:
                if reply is None:
                    reply = await start_stream(call)
                await reply.write(_encoder.encode(value) + b"\r\n")
    except ConnectionError:
        raise
    except Exception as error:
        if reply is None or describe is None:
            raise
        await reply.write(_encoder.encode(describe(error)) + b"\r\n")
    if reply is None:
        reply = await start_stream(call)
    await reply.write_eof()
    return reply


async def stream_bytes(
    call: Call, parts: AsyncIterator[bytes], content_type: str, headers: Mapping[str, str] = NO_HEADERS
) -> web.StreamResponse:
    """Bytes as they come. An error before the first part is an ordinary error answer; after it the connection
    is cut, so that the client cannot take a part for the whole."""
    reply: web.StreamResponse | None = None
    try:
        async with closing_parts(parts):
            async for part in parts:
                if reply is None:
                    reply = await start_stream(call, content_type, headers)
                await reply.write(part)
    except Exception:
        if reply is not None:
            call.connection.force_close()
        raise
    if reply is None:
        reply = await start_stream(call, content_type, headers)
    await reply.write_eof()
    return reply


@asynccontextmanager
async def closing_parts(parts: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close the generator behind ``parts`` when the block ends early: its files and watches go at once."""
    try:
        yield parts
    finally:
        close = getattr(parts, "aclose", None)
        if close is not None:
            await close()


@contextmanager
def cancelled_when_gone(call: Call) -> Iterator[None]:
    """Cancel the block when the client closes its connection: for answers that may wait for ever."""
    task = asyncio.current_task()
    assert task is not None
    unwatch = call.connection.watch(lambda: task.cancel())
    try:
        yield
    finally:
        unwatch()


async def wait_while_connected(call: Call, awaitable: Awaitable[Any]) -> Any:
    """The result of ``awaitable``, cancelled when the client closes its connection."""
    with cancelled_when_gone(call):
        return await awaitable
