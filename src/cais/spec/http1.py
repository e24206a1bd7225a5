"""HTTP/1.1 messages as bytes: the client's half of RFC 9112, without a socket, for `cli` and `client`.

No dataclasses here, nor `typing` at run time: importing either costs more than a whole `cais ps`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HEAD_LIMIT = 64 << 10
"""Bytes of a response head; an engine that sends more is not an engine."""

LINE_LIMIT = 4096
"""Bytes of a chunk-size or trailer line."""

_HEX = frozenset(b"0123456789abcdefABCDEF")


class Head:
    """A response's status line and header fields (names in lower case; the last of a repeated name wins)."""

    __slots__ = ("fields", "reason", "status")

    def __init__(self, status: int, reason: str, fields: Mapping[str, str]) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields


def format_request(method: str, target: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """A request head. ValueError for a space, CR or LF that would end a line early (header injection)."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if len(lines[0].split()) != 3:
        raise ValueError(f"not a request target: {target!r}")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("line break in a request head")
    return (text + "\r\n\r\n").encode("latin-1")


def parse_head(data: bytes) -> Head:
    """The response head in ``data`` (up to, without, the empty line). ValueError when it is none."""
    status_line, _, rest = data.decode("latin-1").partition("\r\n")
    version, _, after = status_line.partition(" ")
    code, _, reason = after.partition(" ")
    if not version.startswith("HTTP/1.") or len(code) != 3 or not code.isascii() or not code.isdigit():
        raise ValueError(f"not an HTTP response: {status_line[:80]!r}")
    fields = {}
    for line in rest.split("\r\n") if rest else ():
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError(f"not a header field: {line[:80]!r}")
        fields[name.lower()] = value.strip()
    return Head(int(code), reason, fields)


class HeadReader:
    """Collects bytes until a whole head is there; what came after it is in ``rest``."""

    __slots__ = ("_buffer", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self.rest = b""

    def feed(self, data: bytes) -> Head | None:
        """The head once complete, else None. ValueError when it is too long or malformed."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise ValueError("the response head is too long")
            return None
        head = parse_head(self._buffer[:end])
        self.rest = self._buffer[end + 4 :]
        self._buffer = b""
        return head


class Body:
    """Takes a response's bytes off the wire and gives back its content (RFC 9112 section 6.3)."""

    __slots__ = ("_buffer", "_chunked", "_left", "_state", "done", "framed", "rest")

    def __init__(self, head: Head, method: str) -> None:
        self.rest = b""
        self.done = False
        self._buffer = b""
        self._state = "size"
        self._chunked = "chunked" in head.fields.get("transfer-encoding", "").lower()
        length = head.fields.get("content-length", "")
        self.framed = self._chunked or bool(length)
        """The end is in the bytes; if not, it is the end of the connection."""
        self._left = 0
        if method == "HEAD" or head.status in (204, 304) or (head.status < 200 and head.status != 101):
            self.done = self.framed = True
        elif not self._chunked and length:
            if not length.isascii() or not length.isdigit():
                raise ValueError(f"not a content length: {length[:40]!r}")
            self._left = int(length)
            self.done = self._left == 0

    def feed(self, data: bytes) -> list[bytes]:
        """The content in ``data``; bytes after the end stay in ``rest``."""
        if self.done:
            self.rest += data
            return []
        if self._chunked:
            return self._feed_chunked(data)
        if not self.framed:
            return [data]
        part, self.rest = data[: self._left], data[self._left :]
        self._left -= len(part)
        self.done = self._left == 0
        return [part]

    def end(self) -> None:
        """The connection ended: ValueError if that was too early."""
        if self.framed and not self.done:
            raise ValueError("the connection ended in the middle of a response")
        self.done = True

    def _feed_chunked(self, data: bytes) -> list[bytes]:
        data = self._buffer + data if self._buffer else data
        parts: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            if self._state == "data":
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if self._left == 0:
                    self._state = "end"
                continue
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                break
            self._take_line(data[at:line_end])
            at = line_end + 2
        self._buffer = b"" if self.done else data[at:]
        if len(self._buffer) > LINE_LIMIT:
            raise ValueError("a chunk line is too long")
        if self.done:
            self.rest = data[at:]
        return parts

    def _take_line(self, line: bytes) -> None:
        if self._state == "size":
            size = line.partition(b";")[0].strip()
            # int() would also take "0x10", "1_0" and "-5": the forms of request smuggling
            if not size or len(size) > 16 or not _HEX.issuperset(size):
                raise ValueError(f"not a chunk size: {line[:40]!r}")
            self._left = int(size, 16)
            self._state = "data" if self._left else "trailer"
        elif self._state == "end":
            if line:
                raise ValueError("a chunk is longer than its size")
            self._state = "size"
        elif not line:
            self.done = True
