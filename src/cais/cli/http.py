"""The CLI's HTTP client: one connection, one request at a time, hijack included."""

from __future__ import annotations

from cais.cli.failure import Refused, Unreachable
from cais.cli.wirejson import format_json, parse_json
from cais.spec.http1 import Body, HeadReader, format_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

PIECE = 1 << 18
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~/:")


def escape(text: str) -> str:
    """Percent-encoding for a path segment or query value (RFC 3986 section 2.3, and ``/`` and ``:``)."""
    data = text.encode("utf-8", "surrogateescape")
    if _SAFE.issuperset(data):
        return text
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in data)


def format_target(path: str, query: Iterable[tuple[str, object]]) -> str:
    """``path?query``; None and empty values are left out, True is 1, lists repeat, other objects are JSON."""
    parts = []
    for name, value in query:
        if value is None or value is False or value == "":
            continue
        for item in value if isinstance(value, list) else (value,):
            text = "1" if item is True else format_json(item) if isinstance(item, dict) else str(item)
            parts.append(f"{name}={escape(text)}")
    return f"{path}?{'&'.join(parts)}" if parts else path


class Response:
    """Status and header fields; the content is read through it, once."""

    __slots__ = ("_body", "_connection", "_first", "fields", "status")

    def __init__(self, connection: Connection, body: Body, fields: Any, status: int) -> None:
        self._connection = connection
        self._body = body
        # Behind 101 come the bytes of another protocol: whoever takes the connection takes them, too.
        self._first = [] if status == 101 else body.feed(connection.take_rest())
        self.fields = fields
        self.status = status

    def pieces(self) -> Iterator[bytes]:
        """The content as it arrives."""
        first, self._first = self._first, []
        yield from first
        while not self._body.done:
            data = self._connection.receive()
            if not data:
                self._connection.ended(self._body)
                return
            yield from self._body.feed(data)
        if self._body.framed and self.fields.get("connection", "").lower() != "close":
            self._connection.give_back(self._body.rest)

    def read(self) -> bytes:
        """All of the content."""
        return b"".join(self.pieces())

    def json(self) -> Any:
        """The content as a JSON value; None if there is none."""
        data = self.read()
        return parse_json(data) if data.strip() else None


class Connection:
    """A socket to the engine, or to another server, which is called ``name``."""

    __slots__ = ("_name", "_rest", "idle", "sock")

    def __init__(self, sock: Any, name: str = "localhost") -> None:
        self.sock = sock
        self._name = name
        self.idle = True
        self._rest = b""

    def send(
        self, method: str, target: str, body: Any = None, fields: Iterable[tuple[str, str]] = ()
    ) -> Response:
        """One request with a JSON body (or none, or an iterator of bytes); the answer's head has been read.

        Raises Refused for a status of 400 and above, Unreachable when the connection breaks.
        """
        self.idle = False
        sent: list[tuple[str, str]] = [("Host", self._name), *fields]
        data = b""
        if body is None:
            if method == "POST":
                sent.append(("Content-Length", "0"))
        elif isinstance(body, dict):
            data = format_json(body).encode("utf-8", "surrogateescape")
            sent += [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
        else:
            sent += [("Content-Type", "application/x-tar"), ("Transfer-Encoding", "chunked")]
        try:
            self.sock.sendall(format_request(method, target, sent) + data)
            if body is not None and not isinstance(body, dict):
                self._send_chunks(body)
            return self._answer(method)
        except OSError as error:
            raise Unreachable(f"the connection to the engine broke: {error}") from error

    def _send_chunks(self, pieces: Iterable[bytes]) -> None:
        try:
            for piece in pieces:
                self.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.sock.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # the engine answered early: its answer says why

    def _answer(self, method: str) -> Response:
        reader = HeadReader()
        data, self._rest = self._rest, b""
        while True:
            head = reader.feed(data) if data else None
            if head is None:
                data = self.receive()
                if not data:
                    raise Unreachable("the engine closed the connection without an answer")
            elif head.status == 100:
                data, reader = reader.rest, HeadReader()
            else:
                break
        self._rest = reader.rest
        body = Body(head, method)
        response = Response(self, body, head.fields, head.status)
        if head.status >= 400:
            raise make_refused(response)
        return response

    def receive(self) -> bytes:
        """Some bytes; empty at the end."""
        try:
            data: bytes = self.sock.recv(PIECE)
        except ConnectionResetError:
            return b""
        return data

    def take_rest(self) -> bytes:
        """Bytes that came after a head."""
        rest, self._rest = self._rest, b""
        return rest

    def give_back(self, rest: bytes) -> None:
        """The response is over: the connection can serve the next request."""
        self._rest = rest
        self.idle = True

    def ended(self, body: Body) -> None:
        """The engine closed the connection; an early end is Unreachable."""
        try:
            body.end()
        except ValueError as error:
            raise Unreachable(str(error)) from error

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


def make_refused(response: Response) -> Refused:
    """The error the engine's answer describes."""
    data = response.read()
    try:
        value = parse_json(data)
        message = value["message"] if isinstance(value, dict) else data.decode("utf-8", "replace")
    except (ValueError, KeyError):
        message = data.decode("utf-8", "replace")
    return Refused(response.status, str(message).rstrip("\n"))
