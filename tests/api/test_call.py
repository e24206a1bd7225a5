"""Reading requests: query values, filters, bodies; what is wrong is refused with its name."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from cais.api.call import JSON_LIMIT, Call, split_target
from cais.api.replies import json_reply
from cais.api.router import Route
from cais.errors import Invalid
from cais.spec.container import CreateRequest

Serve = Callable[[list[Route]], Awaitable[str]]
Exchange = Callable[..., Awaitable[bytes]]


def call(query: str) -> Call:
    """A call of which only the query matters."""
    request: Any = SimpleNamespace()
    return Call(request, (1, 51), "", query)


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("", False),
        ("a", False),
        ("a=", False),
        ("a=0", False),
        ("a=False", False),
        ("a=none", False),
        ("a=1", True),
        ("a=true", True),
        ("a=anything", True),
        ("b=1", False),
    ],
)
def test_flag(query: str, value: bool) -> None:
    """Docker's booleans."""
    assert call(query).flag("a") is value


def test_flag_default() -> None:
    """A default holds only where the key is absent."""
    assert call("").flag("a", True) and not call("a=0").flag("a", True)


def test_number() -> None:
    """Numbers with a sign; absent and empty are None; the rest is refused in Go's words."""
    assert (call("t=-1").number("t"), call("t=").number("t"), call("").number("t")) == (-1, None, None)
    for text in ("x", "1.5", "0x1", "1_0", "9" * 30):
        with pytest.raises(Invalid, match=r"strconv\.Atoi"):
            call(f"t={text}").number("t")


@pytest.mark.parametrize("text", ["", "-1", "x", "4294967296", "%2B1"])
def test_size_refuses(text: str) -> None:
    """Terminal sizes are unsigned 32-bit numbers that must be there."""
    with pytest.raises(Invalid, match="invalid resize height"):
        call(f"h={text}").size("h", "height")


def test_filters() -> None:
    """Lists, and the maps of older clients; only what is true counts."""
    assert call('filters={"a":["b","c"]}').filters() == {"a": ["b", "c"]}
    assert call('filters={"a":{"b":true,"c":false}}').filters() == {"a": ["b"]}
    for text in ("x", "[]", '{"a":1}', '{"a":[1]}'):
        with pytest.raises(Invalid, match="invalid filter"):
            call(f"filters={text}").filters()


def test_too_many_fields() -> None:
    """A query cannot be used to keep the engine busy."""
    with pytest.raises(Invalid, match="invalid query"):
        call("&".join(f"a{number}=1" for number in range(2000)))


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("/a/b?c=d", ("/a/b", "c=d")),
        ("/a%2Fb/%41", ("/a/b/A", "")),
        ("http://host:1/a?b", ("/a", "b")),
        ("/a?b?c", ("/a", "b?c")),
        ("*", ("/", "")),
    ],
)
def test_split_target(target: str, parts: tuple[str, str]) -> None:
    """Origin form and absolute form; the path is decoded, the query is not."""
    assert split_target(target) == parts


async def create(call: Call) -> web.StreamResponse:
    """A route that reads a typed body."""
    body = await call.body(CreateRequest)
    return json_reply({"image": body.image})


def post(body: bytes, kind: str = "application/json") -> bytes:
    """A whole request."""
    head = f"POST /create HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + (f"Content-Type: {kind}\r\n" if kind else "").encode() + b"\r\n" + body


@pytest.mark.parametrize(
    ("request_bytes", "status", "message"),
    [
        (post(b'{"Image":"a","Unknown":1}'), 200, '{"image":"a"}'),
        (post(b'{"Image":5}'), 400, "invalid JSON: Expected `str`, got `int` - at `$.Image`"),
        (post(b'{"HostConfig":{"Memory":"1"}}'), 400, "at `$.HostConfig.Memory`"),
        (post(b'{"Image":'), 400, "invalid JSON: Input data was truncated"),
        (post(b"[]"), 400, "invalid JSON: Expected `object`, got `array`"),
        (
            post(b"{}", "text/plain"),
            400,
            "unsupported Content-Type header (text/plain): must be 'application/json'",
        ),
        (post(b"{}", "application/json; charset=utf-8"), 200, '{"image":""}'),
        (post(b"{}", ""), 400, "Content-Type"),
        (post(b"", ""), 200, '{"image":""}'),
        (post(b'{"a":' * 10_000), 400, "invalid JSON"),
    ],
)
async def test_body(
    serve: Serve, exchange: Exchange, request_bytes: bytes, status: int, message: str
) -> None:
    """Wrong types are 400 with the field's name, unknown fields are ignored, the content type counts."""
    answer = (await exchange(await serve([Route("POST", "/create", create)]), request_bytes)).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert message in answer


async def test_body_limit(serve: Serve, exchange: Exchange) -> None:
    """A body above the limit is refused before it is kept."""
    path = await serve([Route("POST", "/create", create)])
    answer = await exchange(path, post(b" " * (JSON_LIMIT + 1)), half_close=False)
    assert b"400 Bad Request" in answer and b"larger than 4194304 bytes" in answer


async def test_expect_continue(serve: Serve, exchange: Exchange) -> None:
    """A client that asks first is told to send its body."""
    request = post(b'{"Image":"a"}').replace(b"Host", b"Expect: 100-continue\r\nHost")
    answer = await exchange(await serve([Route("POST", "/create", create)]), request, half_close=False)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
