"""The table of routes: from method and path to the function that answers, in two dictionary look-ups."""

from collections.abc import Awaitable, Callable, Iterable

import msgspec
from aiohttp import web

from cais.api.call import Call
from cais.errors import NotFound

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Route(msgspec.Struct, frozen=True):
    """``pattern`` is literal (``/containers/json``) or has one ``*`` for a name, which may contain slashes:
    ``/images/*/json``, ``/volumes/*``."""

    method: str
    pattern: str
    handler: Handler


class Router:
    """All routes. A name is everything between the first part of the path and the last."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._handlers: dict[tuple[str, str], Handler] = {}
        for route in routes:
            key = (route.method, route.pattern)
            if key in self._handlers:
                raise ValueError(f"route {route.method} {route.pattern} is there twice")
            self._handlers[key] = route.handler

    def find(self, method: str, path: str) -> tuple[Handler, str]:
        """The handler and the name in the path (empty for literal routes). Raises ``NotFound``, Docker's
        text."""
        handler = self._handlers.get((method, path))
        if handler is not None:
            return handler, ""
        # What Docker does not have stands below /cais, in the same forms.
        start = "/cais" if path.startswith("/cais/") else ""
        noun, _, rest = path[len(start) + 1 :].partition("/")
        name, slash, verb = rest.rpartition("/")
        if slash and name:
            handler = self._handlers.get((method, f"{start}/{noun}/*/{verb}"))
            if handler is not None:
                return handler, name
        if rest:
            handler = self._handlers.get((method, f"{start}/{noun}/*"))
            if handler is not None:
                return handler, rest
        raise NotFound("page not found")
