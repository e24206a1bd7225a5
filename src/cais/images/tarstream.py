"""Splitting a tar archive into its entries while its bytes arrive, in pieces of any size."""

from typing import Protocol

import msgspec

from cais.errors import Corrupt, Invalid

BLOCK = 512
MAX_NAME = 1 << 16
"""Bytes of one long name or PAX record set; more is an attack, not a name."""

_FILES = frozenset(b"\x0007")
_META = frozenset(b"LKxg")


class Entry(msgspec.Struct, frozen=True):
    """One member. ``kind``: file, hardlink, symlink, folder or other; ``target`` is that of a link, as
    written."""

    name: str
    kind: str
    size: int
    target: str = ""


class Sink(Protocol):
    """Receives entries in the archive's order; an exception of its methods ends the splitting."""

    def begin(self, entry: Entry) -> None:
        """An entry starts."""
        ...

    def write(self, data: memoryview) -> None:
        """Some bytes of the current file; the view is valid during the call only."""
        ...

    def end(self) -> None:
        """The current entry is complete."""
        ...


class TarSplitter:
    """Reads ustar, PAX and GNU long names (POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual).

    Raises Corrupt for broken and Invalid for malicious headers.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._header = bytearray()
        self._left = 0
        self._padding = 0
        self._in_entry = False
        self._meta: tuple[int, bytearray] | None = None
        self._pax: dict[str, str] = {}
        self._done = False

    def feed(self, data: bytes | memoryview) -> None:
        """The next bytes of the archive; what follows the end marker is ignored."""
        view = memoryview(data)
        while view and not self._done:
            if self._left:
                used = min(self._left, len(view))
                self._take(view[:used])
            elif self._padding:
                used = min(self._padding, len(view))
                self._padding -= used
            else:
                used = BLOCK - len(self._header)
                self._header += view[:used]
                if len(self._header) == BLOCK:
                    self._parse(bytes(self._header))
                    self._header.clear()
            view = view[used:]

    def finish(self) -> None:
        """There are no more bytes. Raises Corrupt if the archive ends inside an entry."""
        if not self._done and (self._left or self._padding or self._header or self._meta or self._pax):
            raise Corrupt("archive/tar: unexpected EOF")

    def _take(self, view: memoryview) -> None:
        self._left -= len(view)
        if self._meta:
            self._meta[1].extend(view)
        else:
            self._sink.write(view)
        if not self._left:
            self._end()

    def _end(self) -> None:
        if self._meta:
            kind, data = self._meta
            self._meta = None
            self._remember(kind, bytes(data))
        elif self._in_entry:
            self._in_entry = False
            self._sink.end()

    def _remember(self, kind: int, data: bytes) -> None:
        """Names and sizes that did not fit the next header; global PAX headers say nothing of use here."""
        match chr(kind):
            case "L":
                self._pax["path"] = _text(data)
            case "K":
                self._pax["linkpath"] = _text(data)
            case "x":
                self._pax.update(parse_pax(data))

    def _parse(self, header: bytes) -> None:
        if not any(header):
            self._done = True
            return
        check_sum(header)
        kind = header[156]
        size = _number(header[124:136])
        if kind not in _META:
            size = _pax_size(self._pax, size)
        if size < 0:
            raise Corrupt("archive/tar: invalid tar header")
        self._left, self._padding = size, -size % BLOCK
        if kind in _META:
            if size > MAX_NAME:
                raise Invalid(f"archive has a name of {size} bytes")
            self._meta = (kind, bytearray())
        else:
            self._begin(header, kind, size)
        if not size:
            self._end()

    def _begin(self, header: bytes, kind: int, size: int) -> None:
        name = self._pax.get("path") or _header_name(header)
        target = self._pax.get("linkpath") or _text(header[157:257])
        self._pax = {}
        self._in_entry = True
        self._sink.begin(Entry(name, _kind(kind, name), size, target))


def check_sum(header: bytes) -> None:
    """Raise Corrupt unless the header's checksum is right (signed sums of old tars are accepted)."""
    want = _number(header[148:156])
    body = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(body)
    if want != unsigned and want != unsigned - 256 * sum(byte > 127 for byte in body):
        raise Corrupt("archive/tar: invalid tar header")


def parse_pax(data: bytes) -> dict[str, str]:
    """The ``length key=value`` records of a PAX header. Raises Corrupt."""
    records, start = {}, 0
    while start < len(data):
        space = data.find(b" ", start)
        digits = data[start:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        record = data[space + 1 : start + length]
        if start + length > len(data) or not record.endswith(b"\n") or b"=" not in record:
            raise Corrupt("archive/tar: invalid tar header")
        key, _, value = record[:-1].partition(b"=")
        records[_text(key)] = _text(value)
        start += length
    return records


def _pax_size(pax: dict[str, str], size: int) -> int:
    text = pax.get("size")
    if text is None:
        return size
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Corrupt("archive/tar: invalid tar header")
    return int(text)


def _header_name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _kind(kind: int, name: str) -> str:
    if kind in _FILES:
        # Before ustar a folder was a file whose name ends with a slash.
        return "folder" if name.endswith("/") else "file"
    return {0x31: "hardlink", 0x32: "symlink", 0x35: "folder"}.get(kind, "other")


def _number(field: bytes) -> int:
    """An octal number, or GNU's base-256 when the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big") if field[0] == 0x80 else -1
    digits = field.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise Corrupt("archive/tar: invalid tar header") from None


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")
