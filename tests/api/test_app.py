"""The application: versions, unknown routes, errors as Docker's answers, keep-alive."""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from cais import errors
from cais.api.call import Call
from cais.api.errors import STATUS, message_of, status_of
from cais.api.replies import empty_reply, json_reply
from cais.api.router import Route

Serve = Callable[[list[Route]], Awaitable[str]]
Exchange = Callable[..., Awaitable[bytes]]


async def show(call: Call) -> web.StreamResponse:
    """The version a handler sees."""
    return json_reply(call.version)


async def fail(call: Call) -> web.StreamResponse:
    """Raises what its name says."""
    raise getattr(errors, call.name)("no such container: x")


async def broken(call: Call) -> web.StreamResponse:
    """A programming error."""
    raise ZeroDivisionError("division by zero")


async def nothing(call: Call) -> web.StreamResponse:
    """204."""
    return empty_reply()


ROUTES = [
    Route("GET", "/show", show),
    Route("GET", "/fail/*", fail),
    Route("GET", "/broken", broken),
    Route("GET", "/nothing", nothing),
]


def get(*targets: str) -> bytes:
    """Requests one behind the other on one connection; the last closes it."""
    requests = [f"GET {target} HTTP/1.1\r\nHost: d\r\n" for target in targets]
    return ("\r\n".join(requests) + "Connection: close\r\n\r\n").encode()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/show", "[1,51]"),
        ("/v1.24/show", "[1,24]"),
        ("/v1.51/show", "[1,51]"),
        (
            "/v1.52/show",
            '{"message":"client version 1.52 is too new. Maximum supported API version is 1.51"}',
        ),
        ("/v1.51/nope", '{"message":"page not found"}'),
        (
            "/v1.10/show",
            "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade",
        ),
    ],
)
async def test_versions(serve: Serve, exchange: Exchange, target: str, expected: str) -> None:
    """With a version, without one, and with one that is not spoken; clients before 1.24 get plain text."""
    answer = (await exchange(await serve(ROUTES), get(target))).decode()
    assert answer.partition("\r\n\r\n")[2].startswith(expected)


@pytest.mark.parametrize("kind", [kind.__name__ for kind in STATUS if kind.__module__ == "cais.errors"][:-1])
async def test_statuses(serve: Serve, exchange: Exchange, kind: str) -> None:
    """Each kind of error has its status, and the message is spelled as dockerd does."""
    answer = await exchange(await serve(ROUTES), get(f"/fail/{kind}"))
    assert answer.startswith(f"HTTP/1.1 {STATUS[getattr(errors, kind)]} ".encode())
    assert b'{"message":"No such container: x"}' in answer or kind == "NotModified"


async def test_unexpected_error(serve: Serve, exchange: Exchange, caplog: pytest.LogCaptureFixture) -> None:
    """500 with the text, the trace in the log, and the engine goes on."""
    path = await serve(ROUTES)
    answer = await exchange(path, get("/broken", "/show"), half_close=False)
    assert answer.startswith(b"HTTP/1.1 500") and answer.endswith(b"[1,51]\n")
    assert "ZeroDivisionError" in caplog.text


async def test_keep_alive(serve: Serve, exchange: Exchange) -> None:
    """Many requests, refused ones too, go over one connection."""
    answer = await exchange(
        await serve(ROUTES), get("/show", "/nope", "/nothing", "/fail/NotFound", "/show"), half_close=False
    )
    assert answer.count(b"HTTP/1.1 ") == 5


async def test_common_headers(serve: Serve, exchange: Exchange) -> None:
    """Clients read versions and system from every answer."""
    answer = await exchange(await serve(ROUTES), get("/nothing"))
    for line in (b"Api-Version: 1.51", b"Ostype: linux", b"Docker-Experimental: false", b"Server: Cais/"):
        assert line in answer
    assert answer.startswith(b"HTTP/1.1 204 No Content\r\n")


def test_nearest_class_decides() -> None:
    """A subclass has the status of its nearest listed parent; all else is 500."""

    class Busy(errors.Conflict):
        """Somebody's subclass."""

    assert (status_of(Busy()), status_of(ValueError())) == (409, 500)


def test_messages() -> None:
    """Beginnings that scripts look for get dockerd's capital; an empty text becomes the kind."""
    assert message_of(errors.NotFound("no such image: x")) == "No such image: x"
    assert message_of(errors.NotFound("get v: no such volume")) == "get v: no such volume"
    assert message_of(errors.Conflict()) == "Conflict"
