"""The merged view of the layers below: what overlayfs would show at a path, without mounting anything."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec

OPAQUE = "trusted.overlay.opaque"
OVERLAY_PREFIXES = ("trusted.overlay.", "user.overlay.")
WHITEOUT_DEVICE = os.makedev(0, 0)

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Found(msgspec.Struct, frozen=True):
    """One object of the merged view: the layer folder that shows it, and its path in there."""

    layer: str
    path: bytes
    stat: os.stat_result

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)


class LowerView:
    """Looks paths up in layer folders, from the top one down (kernel: filesystems/overlayfs.rst)."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers = tuple(layers)

    def find(self, path: bytes) -> Found | None:
        """What stands at ``path`` (relative, no symlink is followed, empty is the root); None if nothing shows."""
        for layer in self._layers:
            found, goes_on = _look(layer, path)
            if found or not goes_on:
                return found
        return None


def _look(layer: str, path: bytes) -> tuple[Found | None, bool]:
    """The object in one layer, and whether layers below may show through when it has none."""
    goes_on = True
    fd = os.open(layer, FOLDER_FLAGS)
    try:
        names = path.split(b"/") if path else []
        for index, name in enumerate(names, 1):
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return None, goes_on
            if is_whiteout(status):
                return None, False
            if index == len(names):
                return Found(layer, path, status), False
            if not stat.S_ISDIR(status.st_mode):
                return None, False  # a file hides the folder of that name below
            below = os.open(name, FOLDER_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = below
            goes_on = goes_on and not is_opaque(fd)
        return Found(layer, path, os.fstat(fd)), False
    finally:
        os.close(fd)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an lstat result is overlayfs's mark for a deleted name: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == WHITEOUT_DEVICE


def is_opaque(fd: int) -> bool:
    """Whether the folder hides everything below it."""
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False


def read_xattrs(fd: int) -> dict[str, bytes]:
    """All extended attributes but overlayfs's own."""
    found: dict[str, bytes] = {}
    for name in os.listxattr(fd):
        if not name.startswith(OVERLAY_PREFIXES):
            with suppress(OSError):  # listed but not ours to read
                found[name] = os.getxattr(fd, name)
    return found


def open_below(layer: str, path: bytes, flags: int) -> int:
    """Open ``path`` in ``layer`` component by component, no symlink followed; the caller closes."""
    *parents, last = path.split(b"/") if path else [b"."]
    fd = os.open(layer, FOLDER_FLAGS)
    for name in parents:
        try:
            below = os.open(name, FOLDER_FLAGS, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    try:
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    finally:
        os.close(fd)


def walk_names(path: bytes) -> Iterator[bytes]:
    """The root, every folder above ``path`` from the top, then ``path``: ``a/b`` gives empty, ``a``, ``a/b``."""
    if path:
        yield b""
    position = path.find(b"/")
    while position >= 0:
        yield path[:position]
        position = path.find(b"/", position + 1)
    yield path
