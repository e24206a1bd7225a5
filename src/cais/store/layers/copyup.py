"""Copies one object of a lower layer into the layer that is being made, as overlayfs does on a first write."""

import os
import stat

from cais.store.layers.lower import Found, open_below, read_xattrs

_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PART = 1 << 30


def copy_up(found: Found, folder: int, name: bytes) -> None:
    """Copy a file, symlink or node to ``name`` in the open ``folder``, with all attributes. Raises OSError."""
    status = found.stat
    if stat.S_ISREG(status.st_mode):
        _copy_file(found, folder, name)
        return
    if stat.S_ISLNK(status.st_mode):
        parent, _, last = found.path.rpartition(b"/")
        source = open_below(found.layer, parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.symlink(os.readlink(last, dir_fd=source), name, dir_fd=folder)
        finally:
            os.close(source)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=folder)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=folder)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=folder, follow_symlinks=False)


def _copy_file(found: Found, folder: int, name: bytes) -> None:
    status = found.stat
    source = open_below(found.layer, found.path, os.O_RDONLY)
    try:
        fd = os.open(name, _FILE_FLAGS, 0o600, dir_fd=folder)
        try:
            while os.copy_file_range(source, fd, _PART):
                pass
            os.fchown(fd, status.st_uid, status.st_gid)
            for key, value in read_xattrs(source).items():  # after chown, which clears file capabilities
                os.setxattr(fd, key, value)
            os.fchmod(fd, stat.S_IMODE(status.st_mode))  # after chown, which clears setuid and setgid
            os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(fd)
    finally:
        os.close(source)
