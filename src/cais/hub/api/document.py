"""The OpenAPI description (3.1), made from the routes and the types that they take and give."""

from collections.abc import Sequence
from typing import Any

import msgspec

from cais import __version__
from cais.hub.api.callers import CSRF_HEADER
from cais.hub.api.failures import KINDS, Failed
from cais.hub.api.route import Parameter, Route
from cais.hub.pages.visit import SESSION_COOKIE

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
BINARY = "application/octet-stream"
_TEXT = (
    "Every GET is there as HEAD too. Times are RFC 3339 in UTC, sizes are bytes. Fields of a request that are not "
    "described are refused. What one may not know of is answered like what is not there: 404.\n\n"
    "Lists: ask again with `last` (or `before`) as the answer's `next` says, until that is empty (or 0)."
)
_SCHEMES: dict[str, Any] = {
    "basic": {"type": "http", "scheme": "basic", "description": "Name, and password or kept token."},
    "token": {"type": "http", "scheme": "bearer", "description": "A kept token: `cais_…`."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIE,
        "description": "A browser's login.",
    },
    "csrf": {
        "type": "apiKey",
        "in": "header",
        "name": CSRF_HEADER,
        "description": "What a browser that has logged in sends with all but GET.",
    },
}


def make_document(routes: Sequence[Route], paths: dict[str, Parameter], name: str) -> dict[str, Any]:
    """The whole document. ``paths``: the parameters that stand in paths; ``name``: what the hub is called."""
    types = [kind for route in routes for kind in (route.body, route.answer) if kind not in (None, bytes)]
    kinds = [parameter.kind for route in routes for parameter in route.query]
    kinds += [parameter.kind for parameter in paths.values()]
    everything = [*types, *kinds, Failed]
    schemas, components = msgspec.json.schema_components(everything, schema_hook=_any_json, ref_template=_REF)
    known = _Schemas(everything, schemas)
    described: dict[str, Any] = {}
    for route in routes:
        described.setdefault(route.path, {})[route.method.lower()] = _describe(route, paths, known)
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": __version__, "description": _TEXT},
        "paths": described,
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }


class _Schemas:
    """Schemas by type. Types with bounds have no hash of their own, hence a list."""

    def __init__(self, kinds: Sequence[Any], schemas: Sequence[dict[str, Any]]) -> None:
        self._pairs = list(zip(kinds, schemas, strict=True))

    def of(self, kind: Any) -> dict[str, Any]:
        return next(schema for known, schema in self._pairs if known is kind)


def _any_json(kind: type) -> dict[str, Any]:
    if kind is msgspec.Raw:
        return {"type": "object"}
    raise NotImplementedError


def _describe(route: Route, paths: dict[str, Parameter], known: _Schemas) -> dict[str, Any]:
    parameters = [_parameter(paths[name], "path", known) for name in route.parameters]
    parameters += [_parameter(parameter, "query", known) for parameter in route.query]
    operation: dict[str, Any] = {
        "operationId": f"{route.group}_{route.act.__name__}",
        "tags": [route.group],
        "summary": route.summary,
        "parameters": parameters,
        "security": _security(route),
        "responses": _responses(route, known),
    }
    if route.body is not None:
        content = {_JSON: {"schema": known.of(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameter(parameter: Parameter, where: str, known: _Schemas) -> dict[str, Any]:
    schema = dict(known.of(parameter.kind))
    if where == "query":
        schema["default"] = parameter.default
    return {
        "name": parameter.name,
        "in": where,
        "required": where == "path",
        "description": parameter.help,
        "schema": schema,
    }


def _security(route: Route) -> list[dict[str, list[str]]]:
    if route.access == "open":
        return []
    session: dict[str, list[str]] = {"session": []} if route.method == "GET" else {"session": [], "csrf": []}
    nobody: list[dict[str, list[str]]] = [{}] if route.access == "anyone" else []
    return [*nobody, {"basic": []}, {"token": []}, session]


def _responses(route: Route, known: _Schemas) -> dict[str, Any]:
    done: dict[str, Any] = {"description": route.summary}
    if route.answer is bytes:
        done["content"] = {BINARY: {}}
    elif route.answer is not None:
        done["content"] = {_JSON: {"schema": known.of(route.answer)}}
    responses = {str(route.status): done}
    for status in list_failures(route):
        refused: dict[str, Any] = {
            "description": KINDS[status],
            "content": {_JSON: {"schema": known.of(Failed)}},
        }
        if status == 429:
            refused["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
        responses[str(status)] = refused
    return responses


def list_failures(route: Route) -> list[int]:
    """Statuses with which the route may refuse."""
    found = {429, 503, *route.errors}
    if route.query or route.body is not None or route.parameters:
        found.add(400)
    if route.access != "open":
        found.add(401)
    if route.access in ("account", "person", "admin"):
        found.add(403)
    if route.parameters or route.access == "account":
        found.add(404)
    if route.body is not None:
        found |= {413, 415}
    return sorted(found)
