"""The tar of a build's context, made while it is sent: a folder without what its .dockerignore names."""

from __future__ import annotations

import os
import stat

from cais.cli.failure import Failure
from cais.cli.late import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PIECE = 1 << 20
_BLOCK = 512
_MAGIC = 257


class Context:
    """A folder to send. ``dockerfile`` is its path there, empty if the engine does not read it there; ``ignore``: the
    ignore file that goes with a Dockerfile from elsewhere."""

    __slots__ = ("_ignore", "_kept", "_links", "dockerfile", "folder")

    def __init__(self, folder: str, dockerfile: str = "", ignore: bytes | None = None) -> None:
        self.folder = folder
        self.dockerfile = dockerfile
        # The engine needs these two even if they are ignored, and takes care itself that nobody copies them then.
        self._kept = (dockerfile, ".dockerignore") if dockerfile else ()
        self._links: dict[tuple[int, int], str] = {}
        self._ignore = (
            self._read_ignore() if ignore is None else load("cais.spec.ignore:parse_ignore")(ignore)
        )

    def _read_ignore(self) -> Any:
        parse = load("cais.spec.ignore:parse_ignore")
        for name in (f"{self.dockerfile}.dockerignore", ".dockerignore"):
            try:
                with open(os.path.join(self.folder, name), "rb") as file:
                    return parse(file.read())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise Failure(f"cannot read {name}: {(error.strerror or '').lower()}") from None
        return parse(b"")

    def pieces(self) -> Iterator[bytes]:
        """The tar, in large pieces: headers of small files are not sent one by one. Raises Failure for a file that
        cannot be read."""
        waiting: list[bytes] = []
        size = 0
        for part in self._parts():
            waiting.append(part)
            size += len(part)
            if size >= PIECE:
                yield b"".join(waiting)
                waiting, size = [], 0
        if waiting:
            yield b"".join(waiting)

    def _parts(self) -> Iterator[bytes]:
        for path, status in self._walk(""):
            yield from self._file(path, status)
        yield bytes(2 * _BLOCK)

    def _walk(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        where = os.path.join(self.folder, folder) if folder else self.folder
        try:
            names = sorted(os.listdir(where))
        except OSError as error:
            raise Failure(f"cannot read {where}: {(error.strerror or '').lower()}") from None
        for name in names:
            path = f"{folder}/{name}" if folder else name
            status = os.lstat(os.path.join(self.folder, path))
            is_folder = stat.S_ISDIR(status.st_mode)
            excluded = self._ignore.excludes(path) and path not in self._kept
            if not excluded and not stat.S_ISSOCK(status.st_mode):
                yield path, status
            if is_folder and (not excluded or self._ignore.has_exceptions or self._holds_dockerfile(path)):
                yield from self._walk(path)

    def _holds_dockerfile(self, folder: str) -> bool:
        return bool(self._kept) and self.dockerfile.startswith(f"{folder}/")

    def _file(self, path: str, status: os.stat_result) -> Iterator[bytes]:
        mode = status.st_mode
        link = ""
        if stat.S_ISLNK(mode):
            link, kind = os.readlink(os.path.join(self.folder, path)), b"2"
        elif stat.S_ISDIR(mode):
            kind = b"5"
        elif stat.S_ISREG(mode):
            first = (
                self._links.setdefault((status.st_dev, status.st_ino), path) if status.st_nlink > 1 else path
            )
            link, kind = ("", b"0") if first == path else (first, b"1")
        else:
            return  # devices and pipes are no use to a build
        size = status.st_size if kind == b"0" else 0
        yield _header(path, kind, stat.S_IMODE(mode), size, int(status.st_mtime), link)
        if kind == b"0":
            yield from self._content(path, size)

    def _content(self, path: str, size: int) -> Iterator[bytes]:
        """Exactly ``size`` bytes, whatever happens to the file meanwhile."""
        try:
            number = os.open(os.path.join(self.folder, path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise Failure(f"cannot read {path}: {(error.strerror or '').lower()}") from None
        try:
            left = size
            while left:
                piece = os.read(number, min(left, PIECE)) or bytes(min(left, PIECE))
                left -= len(piece)
                yield piece
        finally:
            os.close(number)
        if size % _BLOCK:
            yield bytes(-size % _BLOCK)


class Dockerfile:
    """Where the Dockerfile is: ``name`` in the context; or its ``text``, with the ``ignore`` file beside it, if any."""

    __slots__ = ("ignore", "name", "text")

    def __init__(self, name: str, text: bytes | None = None, ignore: bytes | None = None) -> None:
        self.name = name
        self.text = text
        self.ignore = ignore


def find_dockerfile(path: str, dockerfile: str) -> Dockerfile:
    """The Dockerfile at ``dockerfile`` (empty: in the folder ``path``; ``-``: standard input). Raises Failure."""
    if dockerfile == "-":
        return Dockerfile("Dockerfile", b"".join(iter(lambda: os.read(0, PIECE), b"")))
    name = dockerfile or os.path.join(path, "Dockerfile")
    if not os.path.isfile(name):
        if not dockerfile and os.path.isfile(os.path.join(path, "dockerfile")):
            return Dockerfile("dockerfile")
        raise Failure(
            f"unable to prepare context: unable to evaluate symlinks in Dockerfile path: no such file: {name}"
        )
    inside = os.path.relpath(os.path.realpath(name), os.path.realpath(path))
    if inside != ".." and not inside.startswith("../"):
        return Dockerfile(inside)
    return Dockerfile(os.path.basename(name), _read(name), _read(f"{name}.dockerignore", missing=None))


def _read(path: str, missing: bytes | None = b"") -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return missing
    except OSError as error:
        raise Failure(f"cannot read {path}: {(error.strerror or '').lower()}") from None


def check_folder(path: str) -> None:
    """Raises Failure for what is no folder."""
    if not os.path.isdir(path):
        shown = "no such file or directory" if not os.path.exists(path) else "not a directory"
        raise Failure(f"unable to prepare context: path {path!r}: {shown}")


def read_stream() -> tuple[bytes | None, Iterator[bytes]]:
    """The context on standard input: a Dockerfile alone, or the pieces of an archive as it is."""
    head = os.read(0, PIECE)
    while len(head) < _BLOCK and (more := os.read(0, PIECE)):
        head += more
    rest = iter(lambda: os.read(0, PIECE), b"")
    if _is_archive(head):
        return None, _archive(head, rest)
    return head + b"".join(rest), iter(())


def _archive(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _is_archive(head: bytes) -> bool:
    compressed = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
    return head[_MAGIC : _MAGIC + 5] == b"ustar" or head.startswith(compressed)


def _header(name: str, kind: bytes, mode: int, size: int, mtime: int, link: str) -> bytes:
    """A GNU header: names of any length and any bytes, numbers of any size (GNU tar manual, "Basic Tar Format").
    Owners are root: those of this machine mean nothing to an image."""
    raw, target = os.fsencode(name) + (b"/" if kind == b"5" else b""), os.fsencode(link)
    long = b""
    if len(raw) > 100:
        long += _long(b"L", raw)
    if len(target) > 100:
        long += _long(b"K", target)
    return long + _fields(raw, kind, mode, size, mtime, target)


def _long(kind: bytes, text: bytes) -> bytes:
    data = text + b"\0"
    return _fields(b"././@LongLink", kind, 0, len(data), 0, b"") + data + bytes(-len(data) % _BLOCK)


def _fields(name: bytes, kind: bytes, mode: int, size: int, mtime: int, link: bytes) -> bytes:
    raw = b"".join(
        (
            name[:100].ljust(100, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % 0,
            b"%07o\0" % 0,
            _number(size),
            _number(max(mtime, 0)),
            b" " * 8,
            kind,
            link[:100].ljust(100, b"\0"),
            b"ustar  \0",
        )
    ).ljust(_BLOCK, b"\0")
    return raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]


def _number(value: int) -> bytes:
    return b"%011o\0" % value if value < 1 << 33 else b"\x80" + value.to_bytes(11, "big")
