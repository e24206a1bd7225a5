"""One row of the API's table, and finding the row that a request means."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import unquote

import msgspec

from cais.errors import NotFound
from cais.hub.api.failures import Refused

Access = Literal["open", "anyone", "account", "person", "admin"]
"""Who may call at all. ``open``: without asking who it is; ``anyone``: like a pull, anonymously where the hub allows
that; ``account``: who has logged in; ``person``: and by no token with limits; ``admin``: and administers the hub. What
one may do with a repository or a namespace, the routes ask on top of it."""

_PARAMETER = re.compile(r"\{([a-z]+)\}")
_SEGMENT = r"[^/]+"
_NAME = r"(?!-(?:/|$))[^/]+(?:/(?!-(?:/|$))[^/]+)*"
"""A repository's name has slashes; ``-`` alone is never a part of one, so what stands behind ``/-/`` is not."""


class Parameter(msgspec.Struct, frozen=True):
    """One that stands in the path or behind the question mark. ``kind``: its type, with bounds."""

    name: str
    kind: Any
    help: str
    default: Any = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the API does. ``body`` and ``answer`` are types; an ``answer`` of None is an empty 204, and for one of
    ``bytes`` the route makes the response, which is for saving and not for showing."""

    method: str
    path: str
    act: Callable[..., Awaitable[Any]]
    summary: str
    access: Access
    group: str
    query: tuple[Parameter, ...] = ()
    body: Any = None
    answer: Any = None
    status: int = 200
    errors: tuple[int, ...] = ()
    """Statuses of failures beside those that access, path and body bring with them."""
    headers: Mapping[str, str] = {}
    """Of the answer."""

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters in the path."""
        return _PARAMETER.findall(self.path)


class Router:
    """Finds routes. Methods of one path stand together, and HEAD is there wherever GET is."""

    def __init__(self, routes: Sequence[Route]) -> None:
        paths: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = paths.setdefault(route.path, {})
            if route.method in methods:
                raise ValueError(f"route {route.method} {route.path} is there twice")
            methods[route.method] = route
        # The longer one first: what one path calls a name, another one takes apart.
        self._paths = [
            (_compile(path), methods)
            for path, methods in sorted(paths.items(), key=lambda item: -len(item[0]))
        ]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and the parameters in the (undecoded) path. Raises NotFound; Refused 405 with Allow."""
        for pattern, methods in self._paths:
            match = pattern.fullmatch(path)
            if match:
                route = methods.get("GET" if method == "HEAD" else method)
                if route is None:
                    allow = sorted({*methods, "HEAD"} if "GET" in methods else methods)
                    raise Refused(405, f"{method[:20]} is not done here", {"Allow": ", ".join(allow)})
                return route, _decode(match.groupdict())
        raise NotFound("no such page")


def _compile(path: str) -> re.Pattern[str]:
    parts = _PARAMETER.split(path)
    text = "".join(
        re.escape(part) if at % 2 == 0 else f"(?P<{part}>{_NAME if part == 'name' else _SEGMENT})"
        for at, part in enumerate(parts)
    )
    return re.compile(text + "?" if path.endswith("/") else text)


def _decode(values: Mapping[str, str]) -> dict[str, str]:
    try:
        return {name: unquote(value, errors="strict") for name, value in values.items()}
    except UnicodeDecodeError:
        raise NotFound("no such page") from None
