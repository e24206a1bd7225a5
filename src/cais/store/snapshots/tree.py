"""What both snapshotters do to folders: measure them, and copy what a file is besides its bytes."""

import os
import stat

from cais.errors import Invalid

_KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")

_OVERLAY = ("trusted.overlay.", "user.overlay.")


def check_key(key: str) -> str:
    """``key`` if it is safe as a folder's name. Raises Invalid."""
    if not key or len(key) > 128 or not _KEY_CHARACTERS.issuperset(key):
        raise Invalid(f"invalid snapshot key: {key!r}")
    return key


def measure(path: str) -> int:
    """Bytes of everything below ``path`` that is no folder; a hard-linked file counts once.

    Files may come and go meanwhile (a container writes): what has gone counts nothing.
    """
    total, seen, folders = 0, set[tuple[int, int]](), [path]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            # Gone or replaced meanwhile, or nested deeper than a path can be long: a container may do all that.
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(entry.path)
            elif status.st_nlink == 1:
                total += status.st_size
            elif (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total


def copy_attributes(source: str, target: str) -> None:
    """Give ``target`` owner, xattrs, mode and times of ``source``; neither is followed if it is a symlink.

    What overlayfs notes about a layer's folders (``trusted.overlay.opaque``) is not theirs to pass on.
    """
    status = os.lstat(source)
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    # After chown: chown clears security.capability, and the set-id bits of the mode.
    for name in os.listxattr(source, follow_symlinks=False):
        if not name.startswith(_OVERLAY):
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(target, name, value, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
