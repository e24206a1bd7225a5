"""From a request to the API to its answer: who asks, whether it fits its route; and what went wrong."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from cais.errors import Invalid, NotFound
from cais.hub.api.callers import identify
from cais.hub.api.document import BINARY, make_document
from cais.hub.api.failures import Refused, answer_failure, as_refused
from cais.hub.api.parameters import PATH
from cais.hub.api.route import Parameter, Route, Router
from cais.hub.api.services import Ask, Services
from cais.hub.api.table import ROUTES

log = logging.getLogger(__name__)
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
PREFIXES = (
    *("/api/", "/v1/", "/openapi.json", "/healthz"),
    *("/v2/search/repositories", "/v2/repositories/"),
)
"""Where the paths of this door begin."""
MAX_BODY = 1 << 20
MAX_FIELDS = 50
_JSON = "application/json"
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_REGISTRY_VERBS = ("/manifests/", "/blobs/", "/referrers/")


class ApiApp:
    """``registry`` answers what of ``/v2/repositories/…`` is a registry's after all."""

    def __init__(self, services: Services, registry: Answer) -> None:
        self._services = services
        self._registry = registry
        self._router = Router(ROUTES)
        self._document = msgspec.Raw(msgspec.json.encode(make_document(ROUTES, PATH, services.config.name)))

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to ``request``; never raises but for cancellation and a client that has gone."""
        path = request.raw_path.partition("?")[0]
        if _is_registry(request.method, path):
            return await self._registry(request)
        try:
            return await self._answer(request, path)
        except ConnectionError:
            raise
        except Exception as error:
            return self._refuse(request, path, as_refused(error), error)

    async def _answer(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        route, found = self._router.find(request.method, path)
        caller = await identify(self._services, request, route)
        ask = Ask(
            services=self._services,
            request=request,
            caller=caller,
            path=_convert_path(found),
            query=_read_query(route, request.raw_path.partition("?")[2]),
            body=await _read_body(request, route.body) if route.body is not None else None,
            document=self._document,
        )
        value = await route.act(ask)
        if route.answer is None:
            return web.Response(status=route.status, headers=_HEADERS)
        if route.answer is bytes:
            return _as_file(value)
        headers = {**_HEADERS, "Content-Type": _JSON, **route.headers}
        return web.Response(
            status=route.status, body=msgspec.json.encode(value, enc_hook=str), headers=headers
        )

    def _refuse(
        self, request: web.BaseRequest, path: str, refused: Refused, error: Exception
    ) -> web.StreamResponse:
        if refused.status == 500:
            log.error("a request to the API failed", exc_info=error)
        if refused.status == 401:
            refused.headers["WWW-Authenticate"] = self._challenge(request, path)
        reply = answer_failure(refused)
        if request.body_exists and not request.content.is_eof():
            reply.force_close()  # the rest of what is being sent is not read
        return reply

    def _challenge(self, request: web.BaseRequest, path: str) -> str:
        """Never Basic: a browser would ask for the password in a window of its own, on behalf of a page's script."""
        if path.startswith(("/v1/", "/v2/")):
            origin = f"{request.scheme}://{request.headers.get('Host', '')}"
            return self._services.gate.challenge(origin, "", ())
        return 'Bearer realm="cais-hub"'


def _as_file(response: web.Response) -> web.Response:
    """Bytes that somebody has pushed: never to be shown as a page of this host."""
    response.headers.update({**_HEADERS, "Content-Type": BINARY, "Content-Security-Policy": "sandbox"})
    return response


def _is_registry(method: str, path: str) -> bool:
    """Whether this, though it begins like Docker Hub's paths, asks for a repository called ``repositories/…``."""
    if not path.startswith("/v2/"):
        return False
    return (
        method not in ("GET", "HEAD")
        or path.endswith("/tags/list")
        or any(v in path for v in _REGISTRY_VERBS)
    )


def _convert_path(found: dict[str, str]) -> dict[str, Any]:
    try:
        return {name: msgspec.convert(text, PATH[name].kind, strict=False) for name, text in found.items()}
    except msgspec.ValidationError:
        raise NotFound("no such page") from None


def _read_query(route: Route, text: str) -> dict[str, Any]:
    """Every parameter of the route, with its default where it was not sent. Raises Invalid."""
    try:
        given = dict(
            reversed(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
        )
    except ValueError:
        raise Invalid("the query is not one") from None
    known = {parameter.name for parameter in route.query}
    unknown = sorted(given.keys() - known)
    if unknown and route.group != "docker":  # tools send Docker Hub more than we know
        raise Invalid(f"no such parameter: {unknown[0][:50]!r}")
    return {parameter.name: _read_parameter(parameter, given) for parameter in route.query}


def _read_parameter(parameter: Parameter, given: dict[str, str]) -> Any:
    text = given.get(parameter.name, "")
    if not text:
        return parameter.default
    try:
        return msgspec.convert(text, parameter.kind, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid(f"invalid parameter {parameter.name}: {_lower(error)}") from None


async def _read_body(request: web.BaseRequest, kind: Any) -> Any:
    """The body, decoded. Raises Refused 413, 415; Invalid. JSON without end is not read to its end: what does not fit
    the type ends it."""
    if request.content_type != _JSON:
        # A page of another site can make a browser send forms and text, with the password it remembers; not this.
        raise Refused(415, f"want Content-Type: {_JSON}")
    if (request.content_length or 0) > MAX_BODY:
        raise Refused(413, f"a request has {MAX_BODY} bytes at most")
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    data = bytearray()
    while piece := await request.content.readany():
        data += piece
        if len(data) > MAX_BODY:
            raise Refused(413, f"a request has {MAX_BODY} bytes at most")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"invalid request: {_lower(error)}") from None


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:300]
