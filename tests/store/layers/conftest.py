"""Shared by the layer tests: building tars, applying them, looking at folders."""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cais.linux.overlay import make_overlay
from cais.store.layers.apply import AppliedLayer, apply_layer
from cais.store.layers.lower import LowerView

Member = tuple[tarfile.TarInfo, bytes]
TYPES = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "link": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


class TarMaker:
    """Builds members and archives: ``tar.make(tar.file("a", b"data"), tar.folder("d"))``."""

    def member(self, kind: str, name: str, data: bytes = b"", **fields: Any) -> Member:
        """One member; ``fields`` are TarInfo's: mode, uid, linkname, pax_headers, …"""
        info = tarfile.TarInfo(name)
        info.type = TYPES[kind]
        info.mode = 0o755 if kind == "folder" else 0o644
        info.size = len(data)
        for key, value in fields.items():
            setattr(info, key, value)
        return info, data

    def file(self, name: str, data: bytes = b"", **fields: Any) -> Member:
        return self.member("file", name, data, **fields)

    def folder(self, name: str, **fields: Any) -> Member:
        return self.member("folder", name, **fields)

    def symlink(self, name: str, to: str, **fields: Any) -> Member:
        return self.member("symlink", name, linkname=to, **fields)

    def link(self, name: str, to: str) -> Member:
        return self.member("link", name, linkname=to)

    def make(self, *members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
        """The archive's bytes."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=format, errors="surrogateescape") as archive:
            for info, data in members:
                archive.addfile(info, io.BytesIO(data))
        return out.getvalue()


@pytest.fixture
def tar() -> TarMaker:
    """A maker of tars."""
    return TarMaker()


@pytest.fixture
def layer(tmp_path: Path, tar: TarMaker) -> Callable[..., tuple[Path, AppliedLayer]]:
    """Applies members to a new folder: ``path, applied = layer(member, …, below=[…])``."""

    def apply(
        *members: Member, below: Sequence[Path] | None = None, **options: Any
    ) -> tuple[Path, AppliedLayer]:
        target = tmp_path / f"layer{len(list(tmp_path.iterdir()))}"
        target.mkdir()
        view = None if below is None else LowerView([str(path) for path in below])
        return target, apply_layer(io.BytesIO(tar.make(*members)), target, below=view, **options)

    return apply


@pytest.fixture
def merged(tmp_path: Path) -> Callable[..., Any]:
    """``with merged(top, …, bottom) as path``: the overlay of layer folders, in no mount table."""

    @contextmanager
    def mount(*lowers: Path | str) -> Iterator[Path]:
        upper, work = tmp_path / "upper", tmp_path / "work"
        upper.mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
        fd = make_overlay([str(path) for path in lowers], str(upper), str(work))
        try:
            yield Path(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    return mount


@pytest.fixture
def tree() -> Callable[[Path], dict[str, str]]:
    """Everything below a folder: path to a word for what it is (file content, link target, or kind)."""
    return describe


def describe(root: Path) -> dict[str, str]:
    """One line for each object below ``root``; whiteouts are called so."""
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder) / name
            found[str(path.relative_to(root))] = describe_one(path)
    return found


def describe_one(path: Path) -> str:
    """A word for one object."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "listed but not there"
    if stat.S_ISLNK(status.st_mode):
        return f"-> {os.readlink(path)}"
    if stat.S_ISREG(status.st_mode):
        return f"= {path.read_bytes().decode('latin-1')}"
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return "whiteout"
    return {stat.S_IFDIR: "folder", stat.S_IFIFO: "fifo", stat.S_IFCHR: "char", stat.S_IFBLK: "block"}[
        stat.S_IFMT(status.st_mode)
    ]
