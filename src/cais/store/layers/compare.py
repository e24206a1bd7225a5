"""What a comparison with the layers below asks: listings, attributes and contents, by descriptors."""

import os
import stat
from contextlib import suppress

from cais.store.layers.lower import FOLDER_FLAGS, Found, is_opaque, is_whiteout, open_below
from cais.store.layers.pack import Member

_CHUNK = 256 << 10
_FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class opened:
    """Closes a descriptor at the end of the block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def list_below(layers: tuple[str, ...], path: bytes) -> dict[bytes, Found]:
    """What the merged view of ``layers`` (top first) lists in the folder at ``path``, by name."""
    found: dict[bytes, Found] = {}
    hidden: set[bytes] = set()
    for layer in layers:
        fd, goes_on = _open_level(layer, path)
        if fd >= 0:
            with opened(fd):
                for name in map(os.fsencode, os.listdir(fd)):
                    if name in found or name in hidden:
                        continue
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if is_whiteout(status):
                        hidden.add(name)
                    else:
                        found[name] = Found(layer, path + b"/" + name if path else name, status)
        if not goes_on:
            break
    return found


def _open_level(layer: str, path: bytes) -> tuple[int, bool]:
    """The folder at ``path`` in one layer, or -1, and whether layers below may show through."""
    goes_on = True
    fd = os.open(layer, FOLDER_FLAGS)
    for name in path.split(b"/") if path else ():
        goes_on = goes_on and not is_opaque(fd)
        try:
            below = os.open(name, FOLDER_FLAGS, dir_fd=fd)
        except FileNotFoundError:
            os.close(fd)
            return -1, goes_on
        except OSError:
            os.close(fd)
            return -1, False  # a whiteout, or a file that hides the folder of that name below
        os.close(fd)
        fd = below
    return fd, goes_on and not is_opaque(fd)


def read_kept_xattrs(fd: int, names: list[str] | None = None) -> dict[str, bytes]:
    """Those that a layer keeps: file capabilities, ACLs, the user's own; labels are the machine's."""
    found: dict[str, bytes] = {}
    for name in os.listxattr(fd) if names is None else names:
        kept = name == "security.capability" or name.startswith(("user.", "system.posix_acl_"))
        if kept and not name.startswith("user.overlay."):
            with suppress(OSError):
                found[name] = os.getxattr(fd, name)
    return found


def attributes_of(member: Member) -> tuple[object, ...]:
    """Mode, owner and xattrs, to be compared with ``attributes_below``."""
    return member.mode, member.uid, member.gid, member.xattrs


def attributes_below(found: Found) -> tuple[object, ...]:
    """The same of a file or folder of the layers. Not for devices: it is opened."""
    with opened(open_below(found.layer, found.path, _FILE_FLAGS)) as fd:
        xattrs = read_kept_xattrs(fd)
    return stat.S_IMODE(found.stat.st_mode), found.stat.st_uid, found.stat.st_gid, xattrs


def read_link(found: Found) -> bytes:
    """A symlink's text in the layers."""
    parent, _, name = found.path.rpartition(b"/")
    with opened(open_below(found.layer, parent, FOLDER_FLAGS)) as fd:
        return os.readlink(name, dir_fd=fd)


def have_same_content(first: int, second: int) -> bool:
    """Whether two open files hold the same bytes."""
    offset = 0
    while True:
        one, two = os.pread(first, _CHUNK, offset), os.pread(second, _CHUNK, offset)
        if one != two:
            return False
        if not one:
            return True
        offset += len(one)


def lstat_at(name: bytes, folder: int) -> os.stat_result | None:
    """What stands at ``name``; None if it has gone meanwhile."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
