"""Routes: names may hold slashes, literals win, nothing else matches."""

import pytest
from aiohttp import web

from cais.api.call import Call
from cais.api.router import Route, Router
from cais.errors import NotFound


async def one(call: Call) -> web.StreamResponse:
    """A handler."""
    raise AssertionError


async def two(call: Call) -> web.StreamResponse:
    """Another."""
    raise AssertionError


ROUTER = Router(
    [
        Route("GET", "/images/json", one),
        Route("GET", "/images/*/json", two),
        Route("DELETE", "/images/*", two),
        Route("GET", "/_ping", one),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/images/json", (one, "")),
        ("GET", "/images/a/json", (two, "a")),
        ("GET", "/images/host:5000/a/b:t@sha256:1/json", (two, "host:5000/a/b:t@sha256:1")),
        ("DELETE", "/images/a/b/json", (two, "a/b/json")),
        ("GET", "/_ping", (one, "")),
    ],
)
def test_find(method: str, path: str, found: object) -> None:
    """The handler and the name."""
    assert ROUTER.find(method, path) == found


@pytest.mark.parametrize(
    "target", ["GET /", "GET /images", "POST /images/json", "GET /images//json", "DELETE /images/"]
)
def test_not_found(target: str) -> None:
    """Docker's text for everything else, a wrong method included."""
    method, _, path = target.partition(" ")
    with pytest.raises(NotFound, match=r"^page not found$"):
        ROUTER.find(method, path)


def test_no_route_twice() -> None:
    """A table that says two things of one path is a programming error."""
    with pytest.raises(ValueError, match="twice"):
        Router([Route("GET", "/a", one), Route("GET", "/a", two)])
