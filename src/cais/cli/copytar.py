"""The tars of `cais cp`: what is here packed as it is, and what comes from a container unpacked below one folder."""

from __future__ import annotations

import os
import stat
import tarfile
from typing import IO, cast

from cais.cli.buildfolder import Unpacking
from cais.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 20
_CAPABILITY = "security.capability"
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def pack(path: str, name: str) -> Iterator[bytes]:
    """The tar of ``path`` and all below, under ``name``, in large pieces. Raises Failure for what cannot be read."""
    waiting: list[bytes] = []
    size = 0
    for part in _Packing().run(path, name):
        waiting.append(part)
        size += len(part)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join([*waiting, bytes(2 * tarfile.BLOCKSIZE)])


class _Packing:
    def __init__(self) -> None:
        self._links: dict[tuple[int, int], str] = {}

    def run(self, path: str, name: str) -> Iterator[bytes]:
        try:
            found = os.lstat(path)
            kind = _KINDS.get(stat.S_IFMT(found.st_mode))
            if kind is None:
                return  # a socket
            yield from self._member(path, name, found, kind)
            if kind == tarfile.DIRTYPE:
                for child in sorted(os.listdir(path)):
                    yield from self.run(os.path.join(path, child), f"{name}/{child}")
        except OSError as error:
            raise Failure(f"cannot read {path}: {(error.strerror or '').lower()}") from None

    def _member(self, path: str, name: str, found: os.stat_result, kind: bytes) -> Iterator[bytes]:
        info = tarfile.TarInfo(name)
        info.type, info.mode = kind, stat.S_IMODE(found.st_mode)
        info.uid, info.gid, info.mtime = found.st_uid, found.st_gid, int(found.st_mtime)
        first = self._links.setdefault((found.st_dev, found.st_ino), name) if found.st_nlink > 1 else name
        if kind == tarfile.SYMTYPE:
            info.linkname = os.readlink(path)
        elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
        elif kind == tarfile.REGTYPE and first != name:
            info.type, info.linkname = tarfile.LNKTYPE, first
        elif kind == tarfile.REGTYPE:
            yield from _file(path, info)
            return
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _file(path: str, info: tarfile.TarInfo) -> Iterator[bytes]:
    with open(path, "rb") as file:
        info.size = left = os.fstat(file.fileno()).st_size
        if _CAPABILITY in os.listxattr(file.fileno()):
            value = os.getxattr(file.fileno(), _CAPABILITY)
            info.pax_headers = {f"SCHILY.xattr.{_CAPABILITY}": value.decode("utf-8", "surrogateescape")}
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        while left:
            # What the header says, also of a file that shrinks meanwhile.
            piece = file.read(min(left, PIECE)) or bytes(min(left, PIECE))
            left -= len(piece)
            yield piece
    yield bytes(-info.size % tarfile.BLOCKSIZE)


def unpack(pieces: Iterator[bytes], folder: str, name: str) -> None:
    """Write the tar's members below ``folder``; ``name`` takes the place of the first part of all their names, unless
    it is empty. Raises Failure."""
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with tarfile.open(fileobj=cast(IO[bytes], _Source(pieces)), mode="r|", bufsize=PIECE) as tar:
                Unpacking(root).take_all(cast(tarfile.TarFile, _Renamed(tar, name)))
            for _ in pieces:
                continue  # an error of the engine's in the middle shows at the end
        finally:
            os.close(root)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise Failure(f"cannot write to {folder}: {error}") from None


class _Source:
    """Pieces as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        part, self._rest = self._rest[:size], self._rest[size:]
        return part


class _Renamed:
    """A tar whose members have another first part."""

    def __init__(self, tar: tarfile.TarFile, name: str) -> None:
        self._tar = tar
        self._name = name

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        for member in self._tar:
            member.name = self._rename(member.name)
            if member.islnk():
                member.linkname = self._rename(member.linkname)
            yield member

    def _rename(self, name: str) -> str:
        return "/".join([self._name, *name.rstrip("/").split("/")[1:]]) if self._name else name

    def extractfile(self, member: tarfile.TarInfo) -> IO[bytes] | None:
        return self._tar.extractfile(member)
