"""A build's context as a tar, for an engine that cannot read the folder itself."""

import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cais.spec.ignore import Ignore, parse_ignore

_PIECE = 1 << 20


def pack_folder(path: str, dockerfile: str, ignore: bytes | None) -> Iterator[bytes]:
    """The folder as a tar, without what is ignored. ``dockerfile``: empty if the engine does not read it there;
    ``ignore``: a file from elsewhere. Raises OSError, Invalid."""
    return gather(_pack(path, dockerfile, ignore))


def _pack(path: str, dockerfile: str, ignore: bytes | None) -> Iterator[bytes]:
    rules = parse_ignore(ignore) if ignore is not None else _find_ignore(path, dockerfile)
    # The engine needs these two even if they are ignored, and takes care itself that nobody copies them then.
    kept = frozenset((dockerfile, ".dockerignore") if dockerfile else ())
    links: dict[tuple[int, int], str] = {}
    for name, status in _walk(path, "", _Wanted(rules, kept)):
        info = _describe(path, name, status, links)
        if info is not None:
            yield info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            if info.isreg():
                yield from _content(os.path.join(path, name), info.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _find_ignore(path: str, dockerfile: str) -> Ignore:
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            return parse_ignore(Path(path, name).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
    return Ignore()


@dataclass(frozen=True, slots=True)
class _Wanted:
    rules: Ignore
    kept: frozenset[str]

    def excludes(self, path: str) -> bool:
        return bool(self.rules.rules) and path not in self.kept and self.rules.excludes(path)

    def may_hold(self, folder: str) -> bool:
        return self.rules.has_exceptions or any(name.startswith(f"{folder}/") for name in self.kept)


def _walk(top: str, folder: str, wanted: _Wanted) -> Iterator[tuple[str, os.stat_result]]:
    for name in sorted(os.listdir(os.path.join(top, folder))):
        path = f"{folder}/{name}" if folder else name
        status = os.lstat(os.path.join(top, path))
        excluded = wanted.excludes(path)
        if not excluded:
            yield path, status
        if stat.S_ISDIR(status.st_mode) and (not excluded or wanted.may_hold(path)):
            yield from _walk(top, path, wanted)


def _describe(
    top: str, name: str, status: os.stat_result, links: dict[tuple[int, int], str]
) -> tarfile.TarInfo | None:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, str(Path(top, name).readlink())
    elif stat.S_ISREG(status.st_mode):
        first = links.setdefault((status.st_dev, status.st_ino), name) if status.st_nlink > 1 else name
        if first == name:
            info.size = status.st_size
        else:
            info.type, info.linkname = tarfile.LNKTYPE, first
    else:
        return None
    return info


def _content(path: str, size: int) -> Iterator[bytes]:
    """Exactly ``size`` bytes and what fills the last block, whatever happens to the file meanwhile."""
    with open(path, "rb", opener=_no_link) as file:
        left = size
        while left:
            piece = file.read(min(left, _PIECE)) or bytes(min(left, _PIECE))
            left -= len(piece)
            yield piece
    if size % tarfile.BLOCKSIZE:
        yield bytes(-size % tarfile.BLOCKSIZE)


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def gather(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in large pieces."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= _PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
