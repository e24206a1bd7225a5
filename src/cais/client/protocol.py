"""One request to the engine and its answer, as bytes in and out: what the two faces share. No I/O here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from cais import errors
from cais.spec.http1 import Body, Head, HeadReader, format_request

T = TypeVar("T")

UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "tcp"))


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its answer's content becomes a value.

    ``query`` leaves out None, False and empty values and spells True as 1; ``body`` is JSON, or bytes of the
    ``content_type`` given; ``fields`` are further header fields; ``failure`` turns a refusal (status, message) into an
    exception.
    """

    method: str
    path: str
    parse: Callable[[bytes], T]
    query: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/json"
    hijack: bool = False
    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    failure: Callable[[int, str], Exception] = field(
        default=lambda status, message: make_error(status, message)
    )

    def target(self) -> str:
        """Path and query, percent-encoded."""
        pairs = []
        for name, value in self.query.items():
            if value is None or value is False or value == "":
                continue
            text = "1" if value is True else value
            if isinstance(value, Mapping):
                text = format_filters(value)
            pairs.append((name, text))
        query = urlencode(pairs, doseq=True)
        return f"{self.path}?{query}" if query else self.path

    def head(self, *, chunked: bool = False) -> bytes:
        """The request's head. ``chunked``: the body follows in chunks, of unknown length."""
        fields = [("Host", "localhost"), *self.fields]
        if chunked:
            fields += [("Content-Type", "application/x-tar"), ("Transfer-Encoding", "chunked")]
        elif self.body is not None:
            fields += [("Content-Type", self.content_type), ("Content-Length", str(len(self.body)))]
        elif self.method in ("POST", "PUT"):
            fields.append(("Content-Length", "0"))
        if self.hijack:
            fields += UPGRADE
        return format_request(self.method, self.target(), fields)

    def bytes(self) -> bytes:
        """The whole request."""
        return self.head() + (self.body or b"")


def segment(name: str) -> str:
    """A name as a path segment. Invalid for an empty one, which would name another resource."""
    if not name or name in (".", ".."):
        raise errors.Invalid(f"not a name: {name!r}")
    return quote(name, safe="/:@")


def format_filters(filters: Mapping[str, Any]) -> str:
    """``{"label": ["a", "b"], "status": "running"}`` as the API's JSON."""
    lists = {
        k: [str(v)] if isinstance(v, str | int | bool) else [str(i) for i in v] for k, v in filters.items()
    }
    lists = {k: [v.lower() if v in ("True", "False") else v for v in vs] for k, vs in lists.items()}
    return msgspec.json.encode(lists).decode() if lists else ""


class Exchange:
    """Reads one answer. Feed it what the socket gives until ``done``; pieces of content come back."""

    __slots__ = ("_body", "_call", "_hijacked", "_reader", "head")

    def __init__(self, call: Call[Any]) -> None:
        self._call = call
        self._reader = HeadReader()
        self._body: Body | None = None
        self._hijacked = False
        self.head: Head | None = None

    @property
    def done(self) -> bool:
        """The whole answer is here (for a hijacked connection: its head)."""
        return self._hijacked or (self._body is not None and self._body.done)

    @property
    def rest(self) -> bytes:
        """Bytes that came after the answer."""
        return self._reader.rest if self._hijacked or self._body is None else self._body.rest

    @property
    def reusable(self) -> bool:
        """Whether the connection can serve another request."""
        if self._hijacked or self._body is None or self.head is None:
            return False
        return (
            self._body.done
            and self._body.framed
            and self.head.fields.get("connection", "").lower() != "close"
        )

    def feed(self, data: bytes) -> list[bytes]:
        """Pieces of content in ``data``. Unavailable for bytes that are no HTTP."""
        try:
            if self._body is not None:
                return self._body.feed(data)
            head = self._reader.feed(data)
            while head is not None and head.status == 100:
                rest, self._reader = self._reader.rest, HeadReader()
                head = self._reader.feed(rest) if rest else None
            if head is None:
                return []
            self.head = head
            if self._call.hijack and head.status in (101, 200):
                self._hijacked = True
                return []
            self._body = Body(head, self._call.method)
            return self._body.feed(self._reader.rest)
        except ValueError as error:
            raise errors.Unavailable(f"the engine's answer makes no sense: {error}") from error

    def end(self) -> None:
        """The connection ended. Unavailable if that was too early."""
        if self._body is None:
            raise errors.Unavailable("the engine closed the connection without an answer")
        try:
            self._body.end()
        except ValueError as error:
            raise errors.Unavailable(str(error)) from error

    def refused(self) -> bool:
        """Whether the engine said no; then the content is the reason."""
        return self.head is not None and self.head.status >= 400

    def failure(self, content: bytes) -> Exception:
        """The exception for a refusal with this content."""
        assert self.head is not None
        try:
            message = str(msgspec.json.decode(content)["message"])
        except (msgspec.DecodeError, KeyError, TypeError):
            message = content.decode("utf-8", "replace").strip()
        return self._call.failure(self.head.status, message)


_KINDS: Mapping[int, type[errors.CaisError]] = {
    400: errors.Invalid,
    401: errors.Unauthenticated,
    403: errors.Denied,
    404: errors.NotFound,
    409: errors.Conflict,
    501: errors.Unsupported,
    503: errors.Unavailable,
}
_TAKEN = ("is already in use by container", "already exists")


def make_error(status: int, message: str) -> errors.CaisError:
    """The error of `cais.errors` for an HTTP status and the engine's message."""
    if status == 409 and any(words in message for words in _TAKEN):
        return errors.AlreadyExists(message)
    return _KINDS.get(status, errors.Unavailable)(message)


NOT_FOUND, NOT_EXECUTABLE, NOT_STARTED = 127, 126, 128


def make_start_error(status: int, message: str) -> errors.CaisError:
    """As ``make_error``; a program that cannot be run is TaskFailed with the shell's code (127, 126)."""
    text = message.lower()
    if status in (400, 404, 500) and "no such container" not in text:
        if "executable file not found" in text or "no such file or directory" in text:
            return errors.TaskFailed(message, NOT_FOUND)
        if "permission denied" in text or "is a directory" in text:
            return errors.TaskFailed(message, NOT_EXECUTABLE)
        if status == 500:
            return errors.TaskFailed(message, NOT_STARTED)
    return make_error(status, message)
