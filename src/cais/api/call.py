"""One API call: what a route's function reads from the request."""

import asyncio
from contextlib import suppress
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, unquote

import msgspec
from aiohttp import ClientError, StreamReader, web

from cais.api.connection import Connection
from cais.api.version import Version
from cais.errors import Invalid
from cais.spec.container import parse_body

JSON_LIMIT = 4 << 20
"""Bytes of a JSON body; a create request of Docker's largest clients is a few kilobytes."""

_DISCARD_SECONDS = 10.0

S = TypeVar("S")

_FALSE = frozenset(("", "0", "no", "false", "none"))


class Call:
    """The request of one route: ``name`` is what stood for ``*`` in the route's pattern."""

    __slots__ = ("_query", "name", "request", "version")

    def __init__(self, request: web.BaseRequest, version: Version, name: str, query: str) -> None:
        self.request = request
        self.version = version
        self.name = name
        try:
            self._query = parse_qs(query, keep_blank_values=True, max_num_fields=1000) if query else {}
        except ValueError as error:
            raise Invalid(f"invalid query: {error}") from error

    @property
    def connection(self) -> Connection:
        """The client's connection."""
        return cast(Connection, self.request.protocol)

    @property
    def stream(self) -> StreamReader:
        """The body as it arrives."""
        return self.request.content

    def has(self, key: str) -> bool:
        """Is ``key`` in the query?"""
        return key in self._query

    def text(self, key: str, default: str = "") -> str:
        """The first value of ``key``."""
        values = self._query.get(key)
        return values[0] if values else default

    def texts(self, key: str) -> list[str]:
        """All values of ``key``."""
        return self._query.get(key, [])

    def flag(self, key: str, default: bool = False) -> bool:
        """Docker's booleans: empty, 0, no, false, none are false, all else is true."""
        values = self._query.get(key)
        return default if values is None else values[0].strip().lower() not in _FALSE

    def number(self, key: str) -> int | None:
        """The integer at ``key``, ``None`` when absent or empty. Raises ``Invalid`` in Go's words."""
        text = self.text(key)
        if not text:
            return None
        try:
            value = int(text, 10)
        except ValueError:
            raise Invalid(f'strconv.Atoi: parsing "{text}": invalid syntax') from None
        if not -(1 << 63) <= value < 1 << 63 or not text.lstrip("+-").isdecimal():
            raise Invalid(f'strconv.Atoi: parsing "{text}": value out of range')
        return value

    def size(self, key: str, what: str) -> int:
        """An unsigned 32-bit number that must be there (terminal sizes). Raises ``Invalid``."""
        text = self.text(key)
        if not (text.isascii() and text.isdecimal()):
            raise Invalid(f'invalid resize {what} "{text}": invalid syntax')
        value = int(text)
        if value >= 1 << 32:
            raise Invalid(f'invalid resize {what} "{text}": value out of range')
        return value

    def filters(self) -> dict[str, list[str]]:
        """The ``filters`` parameter: ``{"label": ["a"]}``, or the older ``{"label": {"a": true}}``."""
        text = self.text("filters")
        if not text:
            return {}
        try:
            found = msgspec.json.decode(text, type=dict[str, list[str] | dict[str, bool]])
        except msgspec.DecodeError as error:
            raise Invalid(f"invalid filter: {error}") from error
        return {
            key: values if isinstance(values, list) else [value for value, wanted in values.items() if wanted]
            for key, values in found.items()
        }

    async def read(self, limit: int = JSON_LIMIT) -> bytes:
        """The whole body, at most ``limit`` bytes. Raises ``Invalid`` when it is longer."""
        parts: list[bytes] = []
        size = 0
        while part := await self.request.content.readany():
            size += len(part)
            if size > limit:
                raise Invalid(f"request body is larger than {limit} bytes")
            parts.append(part)
        return b"".join(parts)

    async def discard(self) -> None:
        """Drop what is left of the body, as far as it comes soon: a client that is still sending when the connection
        is closed reads no answer."""
        with suppress(TimeoutError, OSError, ClientError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while await self.request.content.readany():
                    continue

    async def body(self, kind: type[S]) -> S:
        """The JSON body as ``kind``; an absent body is an empty object. Raises ``Invalid`` naming the
        field."""
        data = await self.json()
        try:
            return parse_body(data, kind)
        except msgspec.DecodeError as error:
            raise Invalid(f"invalid JSON: {error}") from error
        except RecursionError as error:
            raise Invalid("invalid JSON: nested too deeply") from error

    async def json(self) -> bytes:
        """The body's bytes, empty when there is none. Raises ``Invalid`` when it does not say it is JSON."""
        data = await self.read()
        kind = self.request.headers.get("Content-Type", "")
        if kind or data:
            media = kind.partition(";")[0].strip().lower()
            if not media:
                raise Invalid("malformed Content-Type header (): mime: no media type")
            if media != "application/json":
                raise Invalid(f"unsupported Content-Type header ({kind}): must be 'application/json'")
        return data


def split_target(target: str) -> tuple[str, str]:
    """The decoded path and the raw query of a request target (RFC 9112 section 3.2; origin or absolute
    form)."""
    if not target.startswith("/"):
        _, _, rest = target.partition("://")
        target = "/" + rest.partition("/")[2]
    path, _, query = target.partition("?")
    return (unquote(path) if "%" in path else path), query


def as_builtins(value: Any) -> Any:
    """A Struct as plain dicts and lists, to add or drop keys for old API versions."""
    return msgspec.to_builtins(value)
