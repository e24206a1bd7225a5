"""One request to the registry, taken apart; and small answers."""

from collections.abc import Mapping
from urllib.parse import quote, unquote

import msgspec
from aiohttp import web

from cais.registry.base import Caller
from cais.registry.refusal import Refusal

VERSION_HEADER = {"Docker-Distribution-Api-Version": "registry/2.0"}
"""Older Docker clients take a server without it for a registry of version 1."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a route gets. ``rest`` is what stands behind the repository's verb: a tag, digest or id."""

    request: web.BaseRequest
    caller: Caller
    repository: str
    rest: str
    query: Mapping[str, str]


def split_path(raw: str) -> tuple[str, dict[str, str]]:
    """Path and query of a request line. Raises Refusal NAME_INVALID for what is no text."""
    path, _, rest = raw.partition("?")
    query: dict[str, str] = {}
    for part in rest.split("&") if rest else ():
        key, _, value = part.partition("=")
        query.setdefault(unquote(key.replace("+", " ")), unquote(value.replace("+", " ")))
    if "%" in path:
        try:
            path = unquote(path, errors="strict")
        except UnicodeDecodeError:
            raise Refusal("NAME_INVALID", "invalid path") from None
    if "\0" in path or "//" in path:
        raise Refusal("NAME_INVALID", "invalid path")
    return path, query


def find_verb(path: str) -> tuple[str, str, str]:
    """Repository, verb and rest of a path below ``/v2/``. A repository's name may contain the verbs' words, so they
    are looked for from the end. Raises Refusal NAME_UNKNOWN."""
    body = path.removeprefix("/v2/")
    name, _, last = body.rpartition("/")
    head, _, verb = name.rpartition("/")
    if verb in ("manifests", "referrers") and head:
        return head, verb, last
    if body.endswith("/tags/list"):
        return body.removesuffix("/tags/list"), "tags", ""
    if head.endswith("/blobs") and verb == "uploads":
        return head.removesuffix("/blobs"), "uploads", last
    if name.endswith("/blobs") and last == "uploads":
        return name.removesuffix("/blobs"), "uploads", ""
    if verb == "blobs" and head:
        return head, verb, last
    raise Refusal("NAME_UNKNOWN", "no such page", status=404)


def answer(status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    """Without a body."""
    return web.Response(status=status, headers={**VERSION_HEADER, **(headers or {})})


def answer_json(
    value: object,
    headers: Mapping[str, str] | None = None,
    *,
    media_type: str = "application/json",
    status: int = 200,
) -> web.Response:
    """With ``value`` as JSON."""
    merged = {**VERSION_HEADER, "Content-Type": media_type, **(headers or {})}
    return web.Response(status=status, body=msgspec.json.encode(value, enc_hook=str), headers=merged)


def next_link(path: str, **query: str) -> dict[str, str]:
    """The header that says where the next page is (RFC 8288)."""
    text = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items() if value)
    return {"Link": f'<{path}?{text}>; rel="next"'}
