"""Reading back what a container wrote: from the keeper's log files to the bytes a client gets.

A container may have written gigabytes. The keeper logs whole chunks of output with one time each, so the same tail
(``","stream":"stdout","time":"…"}``) ends thousands of lines in a row: such a run is found by galloping and turned
into text by one ``bytes.replace``. Memory stays at one block whatever the file's size.
"""

import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from cais.spec.image import parse_time_ns

BLOCK = 1 << 20
"""Bytes read at once; longer only for a longer line."""

_HEAD = b'{"log":"'
_LINE = re.compile(
    rb'\{"log":"((?:[^"\\]|\\.)*)","stream":"(stdout|stderr)"(?:,"attrs":\{[^}]*\})?,"time":"([^"]{1,64})"\}\n',
    re.DOTALL,
)
_TAIL = re.compile(rb'","stream":"(stdout|stderr)","time":"([^"]{1,64})"\}\n')
_RECORD = struct.Struct(">IBq")
_MAX_RECORD = 64 << 20
_FRAME = struct.Struct(">BxxxI")
_STREAMS = {b"stdout": 1, b"stderr": 2}


class LogsWanted(msgspec.Struct, frozen=True):
    """What to read. Times in nanoseconds since the epoch, 0 for no bound; ``tail`` the last so many entries, -1 all;
    ``raw`` without the frames of the multiplexed stream (a terminal's log)."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    since_ns: int = 0
    until_ns: int = 0
    tail: int = -1
    raw: bool = False


class Run(msgspec.Struct, frozen=True):
    """Consecutive entries of one stream and time. ``pieces``: one item per entry when they must be told apart, else
    all text in one."""

    stream: int
    time_ns: int
    pieces: tuple[bytes, ...]


def format_run(run: Run, wanted: LogsWanted) -> bytes:
    """What the client gets for the run: empty if it is not wanted."""
    if not (wanted.stdout if run.stream == 1 else wanted.stderr):
        return b""
    prefix = (fixed_time(run.time_ns) + b" " if wanted.timestamps else b"") + (
        b" " if wanted.details else b""
    )
    text = b"".join(prefix + piece for piece in run.pieces) if prefix else b"".join(run.pieces)
    if wanted.raw or not text:
        return text
    return _FRAME.pack(run.stream, len(text)) + text


def fixed_time(time_ns: int) -> bytes:
    """RFC 3339 with all nine digits, as ``logs --timestamps`` shows it."""
    seconds, rest = divmod(time_ns, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{rest:09d}Z".encode()


class JsonReader:
    """Takes json-file bytes block by block; gives runs. ``split``: every entry on its own."""

    def __init__(self, *, split: bool) -> None:
        self._split = split
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Run]:
        """Runs of the whole lines in what came so far."""
        data = self._rest + data if self._rest else data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        at = 0
        while at < end:
            run, at = self._next(data, at, end)
            if run:
                yield run

    def _next(self, data: bytes, at: int, end: int) -> tuple[Run | None, int]:
        newline = data.find(b"\n", at, end) + 1
        start = data.rfind(b'","stream":"', at, newline)
        tail = data[start:newline] if start >= 0 else b""
        found = _TAIL.fullmatch(tail)
        if not found or not data.startswith(_HEAD, at):
            return _single(data[at:newline]), newline
        last = _run_end(data, newline, end, tail)
        body = data[at + len(_HEAD) : last - len(tail)]
        between = tail + _HEAD
        pieces = tuple(map(unescape, body.split(between))) if self._split else (_join(body, between),)
        try:
            time_ns = parse_time_ns(found[2].decode("ascii", "replace"))
        except ValueError:
            time_ns = 0
        return Run(_STREAMS[found[1]], time_ns, pieces), last


def _join(body: bytes, between: bytes) -> bytes:
    """The text of a run: what stands between its entries taken out, escapes undone."""
    # Nearly every entry ends with a newline and has no other escape: one pass does both.
    plain = body.replace(b"\\n" + between, b"\n")
    if plain.endswith(b"\\n"):
        plain = plain[:-2] + b"\n"
    if b"\\" in plain or between in plain:
        return unescape(body.replace(between, b""))
    return plain


def _run_end(data: bytes, at: int, end: int, tail: bytes) -> int:
    """The end of the last line of those from ``at`` on that have the same tail: galloping, then bisection. They are
    in a row, since times only grow; a clock that was set back merely makes the run shorter or a line's time wrong by
    that."""
    step, good = 4096, at
    while good < end:
        probe = data.find(b"\n", min(good + step, end - 1), end) + 1
        if probe and probe > good and data.endswith(tail, at, probe):
            good, step = probe, step * 2
        elif step > 1:
            step //= 8
            if step < 1:
                break
        else:
            break
    return good


def _single(line: bytes) -> Run | None:
    """A line in another form (attributes, another writer); ``None`` for what is no log line (a torn write)."""
    found = _LINE.fullmatch(line)
    if not found:
        return None
    try:
        return Run(
            _STREAMS[found[2]], parse_time_ns(found[3].decode("ascii", "replace")), (unescape(found[1]),)
        )
    except ValueError:
        return None


def unescape(text: bytes) -> bytes:
    """The inside of a JSON string as UTF-8."""
    plain = text.replace(b"\\n", b"\n")
    if b"\\" not in plain:
        return plain
    try:
        decoded: str = msgspec.json.decode(b'"' + text + b'"', type=str)
    except msgspec.DecodeError:
        return plain
    return decoded.encode("utf-8", "surrogatepass")


class LocalReader:
    """Takes bytes of our ``local`` format: records of many lines."""

    def __init__(self, *, split: bool) -> None:
        self._split = split
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Run]:
        """Runs of the whole records in what came so far."""
        data = self._rest + data if self._rest else data
        at = 0
        while len(data) - at >= _RECORD.size:
            length, stream, time_ns = _RECORD.unpack_from(data, at)
            last = at + _RECORD.size + length
            if length > _MAX_RECORD or stream not in (1, 2):
                # Not a record: nothing behind it can be read either.
                self._rest = b""
                return
            if last > len(data):
                break
            text = data[at + _RECORD.size : last]
            yield Run(stream, time_ns, tuple(text.splitlines(keepends=True)) if self._split else (text,))
            at = last
        self._rest = data[at:]


Reader = JsonReader | LocalReader


def make_reader(driver: str, *, split: bool) -> Reader:
    """The reader of a log driver's files."""
    return LocalReader(split=split) if driver == "local" else JsonReader(split=split)


def log_files(path: Path) -> list[Path]:
    """The newest file and its rotated predecessors, oldest first."""
    numbered: list[tuple[int, Path]] = []
    for entry in path.parent.glob(path.name + ".*"):
        suffix = entry.name.removeprefix(path.name + ".")
        if suffix.isdecimal():
            numbered.append((int(suffix), entry))
    return [entry for _, entry in sorted(numbered, reverse=True)] + [path]


def tail_offset(file: BinaryIO, count: int) -> tuple[int, int]:
    """Where the last ``count`` lines of a json-file begin, and how many lines are still wanted from older files."""
    at = file.seek(0, 2)
    if count <= 0:
        return at, 0
    seen = -1  # the newline at the very end belongs to the last line
    while at > 0:
        size = min(BLOCK, at)
        at -= size
        file.seek(at)
        block = file.read(size)
        newlines = block.count(b"\n")
        if seen + newlines < count:
            seen += newlines
            continue
        position = len(block)
        while seen < count:
            position = block.rfind(b"\n", 0, position)
            seen += 1
        return at + position + 1, 0
    return 0, count - (seen + 1)
