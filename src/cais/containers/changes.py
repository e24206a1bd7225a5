"""What a container changed of its image's files, for people: ``diff``. Read from the writable layer alone.

Walked by descriptors with only the current folder open, as for a commit: a running container goes on meanwhile.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from enum import IntEnum

import msgspec

from cais.containers.commit import STUB_FILES, STUB_FOLDERS
from cais.errors import Conflict
from cais.store.layers.compare import list_below, lstat_at, opened
from cais.store.layers.diff import DiffSource
from cais.store.layers.lower import FOLDER_FLAGS, Found, LowerView, is_opaque, is_whiteout, walk_names


class Kind(IntEnum):
    """Docker's numbers."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


class Change(msgspec.Struct, frozen=True):
    """One name that is not as in the image; ``path`` is absolute."""

    path: str
    kind: Kind


def make_source(source: DiffSource, destinations: Sequence[str]) -> DiffSource:
    """``source`` with everything that the engine makes in a root: the usual targets, and ``destinations`` of mounts
    with the folders above them."""
    paths = [destination.strip("/") for destination in destinations]
    targets = {*STUB_FILES, *STUB_FOLDERS, *paths}
    above = {os.fsdecode(name) for path in targets for name in list(walk_names(os.fsencode(path)))[1:-1]}
    return DiffSource(source.root, source.lowers, frozenset(targets), frozenset(targets | above))


def list_changes(source: DiffSource) -> list[Change]:
    """All changes, a folder before what is in it, names in order; folders above a change are modified. Blocks."""
    overlay = source.root.type == "overlay"
    with opened(os.open(source.root.upper if overlay else source.root.lower[0], FOLDER_FLAGS)) as root:
        return list(_Walk(root, source, whole=not overlay).run())


class _Level(msgspec.Struct):
    """One folder on the way down. ``own``: what is to be said of it if something in it has changed."""

    path: bytes
    names: Iterator[tuple[bytes, os.stat_result | None]]
    identity: tuple[int, int]
    own: Change | None = None


class _Walk:
    """``whole``: the tree is a copy of the layers with the changes in it, not the changes alone."""

    def __init__(self, root: int, source: DiffSource, *, whole: bool) -> None:
        self._here = os.open(".", FOLDER_FLAGS, dir_fd=root)
        self._whole = whole
        self._lowers = source.lowers
        self._view = LowerView(source.lowers)
        self._files = frozenset(map(os.fsencode, source.stub_files))
        self._folders = frozenset(map(os.fsencode, source.stub_folders))
        self._levels: list[_Level] = []

    def run(self) -> Iterator[Change]:
        try:
            self._enter(b"", None, self._view.find(b""))
            levels = self._levels
            while levels:
                step = next(levels[-1].names, None)
                if step is not None:
                    name, found = step
                    path = levels[-1].path + b"/" + name if levels[-1].path else name
                    yield from self._visit(name, path, found)
                    continue
                levels.pop()
                if levels:
                    self._leave(levels[-1])
        finally:
            os.close(self._here)

    def _visit(self, name: bytes, path: bytes, found: os.stat_result | None) -> Iterator[Change]:
        below = self._view.find(path)
        if found is None or is_whiteout(found):
            if below is not None:
                yield from self._tell(_change(path, Kind.DELETED))
            return
        kind = Kind.MODIFIED if below is not None else Kind.ADDED
        if stat.S_ISDIR(found.st_mode):
            if self._is_changed_folder(path, found, below):
                yield from self._tell(_change(path, kind))
                self._descend(name, path, None, below)
            else:
                self._descend(name, path, _change(path, kind), below)
        elif not self._is_stub(path, found, below) and not (self._whole and _is_same(found, below)):
            yield from self._tell(_change(path, kind))

    def _tell(self, change: Change) -> Iterator[Change]:
        for level in self._levels:
            if level.own is not None:
                yield level.own
                level.own = None
        yield change

    def _descend(self, name: bytes, path: bytes, own: Change | None, below: Found | None) -> None:
        try:
            child = os.open(name, FOLDER_FLAGS, dir_fd=self._here)
        except (FileNotFoundError, NotADirectoryError):
            return  # it was a folder when it was listed
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link by now
                return
            raise
        os.close(self._here)
        self._here = child
        self._enter(path, own, below)

    def _enter(self, path: bytes, own: Change | None, below: Found | None) -> None:
        with os.scandir(self._here) as entries:
            names = {os.fsencode(entry.name) for entry in entries}
        if below is not None and below.is_folder and (self._whole or is_opaque(self._here)):
            # What it hides of the layers below is gone.
            names |= set(list_below(self._lowers, path))
        listed = ((name, lstat_at(name, self._here)) for name in sorted(names))
        self._levels.append(_Level(path, listed, _identity(self._here), own))

    def _leave(self, parent: _Level) -> None:
        above = os.open("..", FOLDER_FLAGS, dir_fd=self._here)
        os.close(self._here)
        self._here = above
        if _identity(above) != parent.identity:
            raise Conflict("the container moved a folder meanwhile: try again")

    def _is_changed_folder(self, path: bytes, found: os.stat_result, below: Found | None) -> bool:
        if below is None:
            made = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o755, 0, 0)
            return not (made and path in self._folders)
        # The engine's own targets change the time of the folder that they are made in.
        return not _is_same(found, below, times=path not in self._folders)

    def _is_stub(self, path: bytes, found: os.stat_result, below: Found | None) -> bool:
        """An empty file that the engine made as the target of a mount."""
        plain = (stat.S_IFMT(found.st_mode), found.st_size, found.st_uid, found.st_gid)
        return below is None and path in self._files and plain == (stat.S_IFREG, 0, 0, 0)


def _is_same(found: os.stat_result, below: Found | None, *, times: bool = True) -> bool:
    if below is None:
        return False
    old = below.stat
    if (found.st_mode, found.st_uid, found.st_gid) != (old.st_mode, old.st_uid, old.st_gid):
        return False
    if not stat.S_ISDIR(found.st_mode) and found.st_size != old.st_size:
        return False
    return not times or found.st_mtime_ns == old.st_mtime_ns


def _change(path: bytes, kind: Kind) -> Change:
    return Change("/" + os.fsdecode(path), kind)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
