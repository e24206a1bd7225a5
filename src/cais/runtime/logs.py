"""Log files as the keeper writes them: Docker's json-file lines or compact records, rotated by size.

A container may write hundreds of megabytes a second. What the keeper does with them is done to whole chunks,
with operations that run in C: a chunk of a thousand plain lines becomes a thousand JSON lines by one
``bytes.replace``."""

import os
import struct
import time

PARTIAL = 16384
"""A line longer than this is logged in pieces of this many bytes, as dockerd does
(daemon/logger/copier.go)."""

RECORD = struct.Struct(">IBq")
"""Header of a ``local`` record: length of the text, stream (1 stdout, 2 stderr), nanoseconds since the
epoch."""

_NEWLINE = b"\n"
# What JSON or dockerd's encoder escapes, and what may be invalid UTF-8; a chunk without any of it goes the
# fast way.
_PLAIN = bytes(range(0x20, 0x7F)).translate(None, b'"\\<>&') + _NEWLINE
_CONTROLS = tuple((bytes((c,)), b"\\u%04x" % c) for c in (*range(0x20), 0x7F) if c not in b"\t\n\r")
_ESCAPES = (
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"\t", b"\\t"),
    (b"\r", b"\\r"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
)
_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))  # line ends to JavaScript
# A pass each, in C; a regular expression with a function costs 0.3 µs for every byte it changes.
_REPLACEMENTS = (*_ESCAPES, *_CONTROLS, *_SEPARATORS)


def format_time(time_ns: int) -> bytes:
    """RFC 3339 with nanoseconds in UTC, trailing zeros cut as Go's RFC3339Nano does."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{text}{fraction}Z".encode("ascii")


def escape(data: bytes) -> bytes:
    """``data`` as the inside of a JSON string, newlines left alone; bytes that are not UTF-8 become
    U+FFFD."""
    if not data.translate(None, _PLAIN):
        return data
    if not data.isascii():
        data = data.decode("utf-8", "replace").encode()
    for character, replacement in _REPLACEMENTS:
        # looked for first: a search is much cheaper than the copy that replace makes in any case
        if character in data:
            data = data.replace(character, replacement)
    return data


def split_long(data: bytes) -> list[bytes]:
    """``data`` cut so that no line in a piece exceeds ``PARTIAL``; pieces that end without newline are
    partial lines."""
    pieces: list[bytes] = []
    start = position = 0
    end = len(data)
    while end - position > PARTIAL:
        newline = data.rfind(_NEWLINE, position, position + PARTIAL + 1)
        if newline < 0:
            if position > start:
                pieces.append(data[start:position])
            pieces.append(data[position : position + PARTIAL])
            start = position = position + PARTIAL
        else:
            position = newline + 1
    pieces.append(data[start:])
    return pieces


def encode_json(data: bytes, stream: str, time_ns: int) -> bytes:
    """Lines of a json-file log for ``data``: whole lines, or one partial line without newline."""
    tail = b'","stream":"%s","time":"%s"}\n' % (stream.encode(), format_time(time_ns))
    text = escape(data)
    whole = text.endswith(_NEWLINE)
    if whole:
        text = text[:-1]
    body = text.replace(_NEWLINE, b"\\n" + tail + b'{"log":"')
    return b'{"log":"' + body + (b"\\n" if whole else b"") + tail


def encode_local(data: bytes, stream: str, time_ns: int) -> bytes:
    """One ``local`` record."""
    return RECORD.pack(len(data), 1 if stream == "stdout" else 2, time_ns) + data


class LogFile:
    """Appends chunks to a log and rotates it. Never raises for a full disk: a container must not die of its
    log; what could not be written is counted in ``lost`` (bytes)."""

    __slots__ = ("_encode", "_fd", "_max_files", "_max_size", "_path", "_pending", "_size", "lost")

    def __init__(self, driver: str, path: str, max_size: int, max_files: int) -> None:
        self._encode = encode_local if driver == "local" else encode_json
        self._path, self._max_size, self._max_files = path, max_size, max(max_files, 1)
        self._fd = -1
        self._pending = {"stdout": b"", "stderr": b""}
        self.lost = self._size = 0
        if driver != "none" and path:
            self._open()

    def _open(self) -> None:
        self._fd = os.open(
            self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640
        )
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, data: bytes, time_ns: int) -> None:
        """Log the whole lines of ``data``; the rest waits for its newline, at most ``PARTIAL`` bytes of
        it."""
        if self._fd < 0:
            return
        data = self._pending[stream] + data
        cut = data.rfind(_NEWLINE) + 1
        whole, rest = data[:cut], data[cut:]
        for piece in split_long(whole) if whole else ():
            self._append(self._encode(piece, stream, time_ns))
        while len(rest) >= PARTIAL:
            self._append(self._encode(rest[:PARTIAL], stream, time_ns))
            rest = rest[PARTIAL:]
        self._pending[stream] = rest

    def _append(self, encoded: bytes) -> None:
        if not encoded:
            return
        if not self._max_size:
            self._put(encoded)
            return
        start = 0
        while start < len(encoded):
            if self._size >= self._max_size:
                self._rotate()
            room = start + self._max_size - self._size
            # a record is never torn: json-file records end with a newline, a local record is written whole
            newline = encoded.find(_NEWLINE, max(room - 1, start)) if self._encode is encode_json else -1
            end = newline + 1 if newline >= 0 else len(encoded)
            self._put(encoded[start:end])
            start = end

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._fd, view)
            except OSError:
                self.lost += len(view)
                return
            self._size += written
            view = view[written:]

    def _rotate(self) -> None:
        try:
            for number in range(self._max_files - 1, 0, -1):
                older = f"{self._path}.{number - 1}" if number > 1 else self._path
                try:
                    os.rename(older, f"{self._path}.{number}")
                except FileNotFoundError:
                    continue
            if self._max_files == 1:
                os.unlink(self._path)
            os.close(self._fd)
            self._fd = -1
            self._open()
        except OSError:
            self._size = 0  # the folder is gone or full: go on with what there is
            if self._fd < 0:
                self.lost += 1

    def pending(self) -> dict[str, str]:
        """Unfinished lines, for a successor of this keeper (latin-1 carries any byte through JSON)."""
        return {name: data.decode("latin-1") for name, data in self._pending.items() if data}

    def finish(self, stream: str, time_ns: int) -> None:
        """The stream has ended: its last line, which has no newline, is logged as it is."""
        rest, self._pending[stream] = self._pending[stream], b""
        if rest and self._fd >= 0:
            self._append(self._encode(rest, stream, time_ns))

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
