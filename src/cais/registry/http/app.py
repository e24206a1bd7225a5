"""``/v2/``: from a request to its answer."""

import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from cais.errors import NotFound, Unauthenticated
from cais.registry.base import Action, Gate
from cais.registry.http.ask import VERSION_HEADER, Ask, answer_json, find_verb, next_link, split_path
from cais.registry.http.pull import Puller
from cais.registry.http.push import Pusher
from cais.registry.naming import parse_name, parse_page
from cais.registry.refusal import Refusal, as_refusal, format_refusal
from cais.registry.registry import Registry

log = logging.getLogger(__name__)
Route = Callable[[Ask], Awaitable[web.StreamResponse]]
ACTIONS: dict[Action, tuple[str, ...]] = {"pull": ("pull",), "push": ("pull", "push"), "delete": ("delete",)}
"""What a client is told to ask its token for."""


class RegistryApp:
    """Answers everything below ``/v2/``; never raises but for cancellation."""

    def __init__(self, registry: Registry, gate: Gate, *, max_blob: int = 0) -> None:
        self._registry = registry
        self._gate = gate
        pull, push = Puller(registry), Pusher(registry, gate, max_blob)
        self._routes: Mapping[tuple[str, str], tuple[Route, Action]] = {
            ("manifests", "GET"): (pull.manifest, "pull"),
            ("manifests", "HEAD"): (pull.manifest, "pull"),
            ("manifests", "PUT"): (push.put_manifest, "push"),
            ("manifests", "DELETE"): (push.delete_manifest, "delete"),
            ("blobs", "GET"): (pull.blob, "pull"),
            ("blobs", "HEAD"): (pull.blob, "pull"),
            ("blobs", "DELETE"): (push.delete_blob, "delete"),
            ("uploads", "POST"): (push.start, "push"),
            ("uploads", "PATCH"): (push.chunk, "push"),
            ("uploads", "PUT"): (push.finish, "push"),
            ("uploads", "GET"): (push.status, "push"),
            ("uploads", "DELETE"): (push.cancel, "push"),
            ("tags", "GET"): (pull.tags, "pull"),
            ("tags", "HEAD"): (pull.tags, "pull"),
            ("referrers", "GET"): (pull.referrers, "pull"),
            ("referrers", "HEAD"): (pull.referrers, "pull"),
        }

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to ``request``."""
        try:
            return await self._answer(request)
        except ConnectionError:
            # The client has gone, and what is answered goes nowhere; raised, aiohttp would log it as a failure.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=499)
        except Exception as error:
            reply = _refuse(error)
            if request.body_exists and not request.content.is_eof():
                reply.force_close()  # refused while the client still sends: the rest is not read
            return reply

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, query = split_path(request.raw_path)
        address = request.remote or "unix"
        authorization = request.headers.get("Authorization", "")
        try:
            caller = await self._gate.identify(authorization, address)
            if path in ("/v2/", "/v2", "/v2/_catalog") and request.method not in ("GET", "HEAD"):
                raise _unsupported(request)
            if path in ("/v2/", "/v2"):
                await self._gate.check(caller, "", "pull")
                return answer_json({})
            if path == "/v2/_catalog":
                return await self._list(
                    Ask(request=request, caller=caller, repository="", rest="", query=query)
                )
        except Unauthenticated as error:
            raise self._challenged(request, error, "", ()) from None
        repository, verb, rest = find_verb(path)
        parse_name(repository)
        route = self._routes.get((verb, request.method))
        if route is None:
            raise _unsupported(request)
        act, action = route
        try:
            await self._gate.check(caller, repository, action)
        except Unauthenticated as error:
            raise self._challenged(request, error, repository, ACTIONS[action]) from None
        if action == "push":
            self._registry.check_push(repository)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await _continue(request)
        return await act(Ask(request=request, caller=caller, repository=repository, rest=rest, query=query))

    async def _list(self, ask: Ask) -> web.StreamResponse:
        """GET ``/v2/_catalog``: the names that the caller may know of."""
        count, after = parse_page(ask.query.get("n")), ask.query.get("last", "")
        names: list[str] = []
        while len(names) <= count:
            page = await self._registry.catalog.list_repositories(after, count + 1)
            names += await self._gate.visible(ask.caller, page)
            if len(page) <= count:
                break
            after = page[-1]
        more = len(names) > count > 0
        link = next_link("/v2/_catalog", n=str(count), last=names[count - 1]) if more else {}
        return answer_json({"repositories": names[:count]}, link)

    def _challenged(
        self, request: web.BaseRequest, error: Exception, repository: str, actions: tuple[str, ...]
    ) -> Refusal:
        refusal = Refusal("UNAUTHORIZED", str(error) or "say who you are")
        origin = f"{request.scheme}://{request.host}"
        refusal.headers["WWW-Authenticate"] = self._gate.challenge(origin, repository, actions)
        return refusal


def _unsupported(request: web.BaseRequest) -> Refusal:
    return Refusal("UNSUPPORTED", f"{request.method} is not done here")


def _refuse(error: Exception) -> web.Response:
    refusal = as_refusal(error)
    if refusal.code == "UNKNOWN":
        log.error("a request failed", exc_info=error)
    if isinstance(error, NotFound):
        refusal.status = 404
    headers = {**VERSION_HEADER, "Content-Type": "application/json", **refusal.headers}
    return web.Response(status=refusal.status, body=format_refusal(refusal), headers=headers)


async def _continue(request: web.BaseRequest) -> None:
    """Tell a client that asked first (curl, for large bodies) to send its body."""
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # it is no part of the answer
