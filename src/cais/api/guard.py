"""What is asked of requests over TCP: a browser must not be talked into using the engine.

A page may send requests to a loopback port (cross-site request forgery) and, after its own name was pointed
at 127.0.0.1 (DNS rebinding), read the answers. Browsers always tell on themselves: by ``Origin`` on what
changes things, by the page's name in ``Host`` after rebinding.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from cais.api.errors import error_reply
from cais.errors import Denied

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_LOOPBACK = frozenset(("localhost", "127.0.0.1", "[::1]", ""))


class Guard:
    """Lets a request through to ``handler`` when no browser page can have sent it.

    ``any_host``: the listener asks for client certificates, so its name may be anything.
    """

    def __init__(self, handler: Handler, *, any_host: bool) -> None:
        self._handler = handler
        self._any_host = any_host

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The handler's answer, or 403."""
        reason = refusal(request.headers.get("Host", ""), "Origin" in request.headers, self._any_host)
        if reason:
            reply = error_reply(Denied(reason), "")
            reply.force_close()
            return reply
        return await self._handler(request)


def refusal(host: str, has_origin: bool, any_host: bool) -> str:
    """Why a request is refused; empty: it is not."""
    if has_origin:
        return "requests from web pages are not allowed"
    if any_host:
        return ""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.lower() not in _LOOPBACK:
        return f"host {host!r} is not allowed: use localhost or 127.0.0.1"
    return ""
