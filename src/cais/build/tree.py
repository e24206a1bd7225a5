"""Trees of files that builds copy from and to: a context, the layers of a stage. Nothing is mounted.

Symbolic links are followed here, by text, inside the tree: the kernel is never asked to walk a path that somebody else
wrote, so no link leads out of a tree (CVE-2024-23651, CVE-2024-23653 and their kind).
"""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from cais.errors import Invalid
from cais.store.layers import tar
from cais.store.layers.compare import list_below, opened, read_kept_xattrs, read_link
from cais.store.layers.lower import Found, LowerView, open_below

CHUNK = 256 << 10
_MAX_LINKS = 255
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK
_KINDS = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFDIR: tar.FOLDER,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFIFO: tar.FIFO,
}


class Node(msgspec.Struct, frozen=True, gc=False):
    """One file, folder or other thing. ``kind`` as in tar headers; ``size`` bytes; ``mtime`` seconds; ``identity`` is
    the same for hard links to one file (empty: it has no other name)."""

    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = {}
    identity: tuple[int, ...] = ()

    @property
    def is_folder(self) -> bool:
        """A folder."""
        return self.kind == tar.FOLDER


ROOT = Node(tar.FOLDER, 0o755)

Look = Callable[[bytes], Node | None]


class Tree(Protocol):
    """Paths are relative bytes without dots; the empty one is the root, which is always there."""

    def look(self, path: bytes) -> Node | None:
        """What stands there, by the folders above it as they are: no link is followed."""
        ...

    def names(self, path: bytes) -> Sequence[bytes]:
        """The names in the folder at ``path``, sorted."""
        ...

    def read(self, path: bytes) -> Iterator[bytes]:
        """The bytes of the file at ``path``, exactly as many as its node says."""
        ...


def resolve(look: Look, path: bytes, *, last: bool = True) -> bytes:
    """Where ``path`` leads when links are followed inside the tree, the last one only if ``last``. What is not there is
    taken as written. Raises Invalid for links that go round."""
    done: list[bytes] = []
    waiting = deque(part for part in path.split(b"/") if part not in (b"", b"."))
    links = 0
    while waiting:
        part = waiting.popleft()
        if part == b"..":
            del done[-1:]
            continue
        node = look(b"/".join((*done, part)))
        if node is None or node.kind != tar.SYMLINK or not (waiting or last):
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise Invalid(f"too many symbolic links in {show(path)}")
        if node.link.startswith(b"/"):
            done = []
        waiting.extendleft(part for part in reversed(node.link.split(b"/")) if part not in (b"", b"."))
    return b"/".join(done)


def join(folder: bytes, name: bytes) -> bytes:
    """``name`` in ``folder``."""
    return folder + b"/" + name if folder and name else folder or name


def show(path: bytes) -> str:
    """A path for messages."""
    return "/" + path.decode("utf-8", "backslashreplace").lstrip("/")


class LayersTree:
    """The merged view of unpacked layers, top first, read by descriptors without following any link."""

    def __init__(self, lowers: tuple[str, ...]) -> None:
        self._lowers = lowers
        self._view = LowerView(lowers)
        self._found: dict[bytes, Found] = {}
        self._there: dict[bytes, bool] = {b"": True}

    def look(self, path: bytes) -> Node | None:
        """Tree.look."""
        found = self._find(path)
        if found is None:
            return None if path else ROOT
        status = found.stat
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return None  # a socket: no layer can hold it
        is_many = status.st_nlink > 1 and kind != tar.FOLDER
        return Node(
            kind,
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_size if kind == tar.REGULAR else 0,
            status.st_mtime_ns // 1_000_000_000,
            read_link(found) if kind == tar.SYMLINK else b"",
            (os.major(status.st_rdev), os.minor(status.st_rdev)) if status.st_rdev else (0, 0),
            _xattrs(found) if kind in (tar.REGULAR, tar.FOLDER) else {},
            (status.st_dev, status.st_ino) if is_many else (),
        )

    def names(self, path: bytes) -> Sequence[bytes]:
        """Tree.names."""
        found = list_below(self._lowers, path)
        self._found = {each.path: each for each in found.values()}
        return sorted(found)

    def read(self, path: bytes) -> Iterator[bytes]:
        """Tree.read."""
        found = self._view.find(path)
        if found is None or not stat.S_ISREG(found.stat.st_mode):
            raise Invalid(f"no such file: {show(path)}")
        with opened(open_below(found.layer, found.path, _READ_FLAGS)) as fd:
            yield from read_exactly(fd, 0, found.stat.st_size)

    def _find(self, path: bytes) -> Found | None:
        # The folder that was listed last has been looked at as a whole.
        found = self._found.get(path)
        if found is None and self._is_there(path.rpartition(b"/")[0]):
            found = self._view.find(path)
        return found

    def _is_there(self, folder: bytes) -> bool:
        """Remembered, for most of what is copied goes to a new folder: without this, each of its files would be looked
        for in every layer."""
        known = self._there.get(folder)
        if known is not None:
            return known
        parts, known = folder.split(b"/"), True
        for count in range(1, len(parts) + 1):
            here = b"/".join(parts[:count])
            if here not in self._there:
                self._there[here] = known and self._view.find(here) is not None
            known = self._there[here]
        return known


def _xattrs(found: Found) -> dict[str, bytes]:
    with opened(open_below(found.layer, found.path, _READ_FLAGS)) as fd:
        return read_kept_xattrs(fd)


def read_exactly(fd: int, offset: int, size: int) -> Iterator[bytes]:
    """``size`` bytes from ``offset``; zeros for what has gone."""
    end = offset + size
    while offset < end:
        part = os.pread(fd, min(CHUNK, end - offset), offset) or bytes(min(CHUNK, end - offset))
        yield part
        offset += len(part)


class MemoryTree:
    """Files in memory: here-documents."""

    def __init__(self, files: dict[bytes, bytes], mode: int = 0o644, mtime: int = 0) -> None:
        self._files = files
        self._mode = mode
        self._mtime = mtime

    def look(self, path: bytes) -> Node | None:
        """Tree.look."""
        if not path:
            return ROOT
        data = self._files.get(path)
        return None if data is None else Node(tar.REGULAR, self._mode, size=len(data), mtime=self._mtime)

    def names(self, path: bytes) -> Sequence[bytes]:
        """Tree.names."""
        return sorted(self._files) if not path else ()

    def read(self, path: bytes) -> Iterator[bytes]:
        """Tree.read."""
        yield self._files[path]
