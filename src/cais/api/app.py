"""The HTTP application: version, route, errors; one level deep."""

import logging
from collections.abc import Iterable
from typing import cast

from aiohttp import web

from cais.api.call import Call, split_target
from cais.api.connection import Connection
from cais.api.errors import error_reply
from cais.api.hijack import Hijacked
from cais.api.router import Route, Router
from cais.api.version import MAX_VERSION, parse_version, split_version

log = logging.getLogger(__name__)


class App:
    """Answers requests; give it to a ``Listener`` as the handler."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._router = Router(routes)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to ``request``; never raises but for cancellation."""
        version = ""
        try:
            path, query = split_target(request.raw_path)
            version, path = split_version(path)
            number = parse_version(version) if version else MAX_VERSION
            handler, name = self._router.find(request.method, path)
            if request.headers.get("Expect", "").lower() == "100-continue":
                await _continue(request)
            reply = await handler(Call(request, number, name, query))
        except Exception as error:
            reply = error_reply(error, version)
            if request.body_exists and not request.content.is_eof():
                # Refused while the client is still sending (a large load): read no more of it.
                reply.force_close()
        if not isinstance(reply, Hijacked) and not cast(Connection, request.protocol).decline():
            reply.force_close()
        return reply


async def _continue(request: web.BaseRequest) -> None:
    """Tell a client that asked first (curl, for large bodies) to send its body; it waits a second otherwise."""
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # It is not a part of the answer: the error handling asks whether that has begun.
    request.writer.output_size = 0
