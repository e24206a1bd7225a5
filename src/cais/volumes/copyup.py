"""Filling an empty volume with what an image has at its mount point.

The image is hostile and so may be a container that already writes to the volume: the source is found by openat2
inside the image's root (no link leads out of it), and the target is only ever named by descriptors and new names,
never by a path that somebody could swap for a link in between (CVE-2018-15664, CVE-2019-10152).
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from cais.linux.mounts import clone_tree
from cais.linux.overlay import make_overlay
from cais.linux.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKED = 512
"""Hard-linked files remembered by descriptor; what is over it is copied twice."""

_CHUNK = 1 << 22


def copy_up(lower: tuple[str, ...], destination: str, target: str) -> None:
    """Copy the folder ``destination`` of the image made of the layers ``lower`` (top first) into ``target``, with the
    folder's own owner and mode. Nothing happens if it is not there or no folder. On failure ``target`` is emptied."""
    with _image_root(lower) as root, ExitStack() as stack:
        try:
            source = openat2(
                root, destination, _FOLDER & ~os.O_NOFOLLOW, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
            )
        except (FileNotFoundError, NotADirectoryError):
            return
        stack.callback(os.close, source)
        place = os.open(target, _FOLDER)
        stack.callback(os.close, place)
        try:
            _Copy(stack).folder(source, place)
        except BaseException:
            _empty(target)
            raise


@contextmanager
def _image_root(lower: tuple[str, ...]) -> Iterator[int]:
    """A descriptor of the image's root as a detached mount: it appears in no mount table and goes with us."""
    # An overlay without an upper folder needs two layers at least.
    fd = make_overlay(list(lower), "", "") if len(lower) > 1 else clone_tree(lower[0], recursive=False)
    try:
        yield fd
    finally:
        os.close(fd)


def _empty(folder: str) -> None:
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):
                os.unlink(entry.path)  # noqa: PTH108


class _Copy:
    """One walk; ``stack`` closes the descriptors of hard-linked files at its end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._linked: dict[tuple[int, int], int] = {}

    def folder(self, source: int, target: int) -> None:
        """Copy what is in ``source`` (descriptors both), then what the folder itself is."""
        for name in os.listdir(source):
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._subfolder(source, target, name)
            elif stat.S_ISREG(status.st_mode):
                self._file(source, target, name, status)
            else:
                _special(source, target, name, status)
        _attributes(source, target)

    def _subfolder(self, source: int, target: int, name: str) -> None:
        os.mkdir(name, 0o700, dir_fd=target)
        inner = os.open(name, _FOLDER, dir_fd=source)
        try:
            made = os.open(name, _FOLDER, dir_fd=target)
            try:
                self.folder(inner, made)
            finally:
                os.close(made)
        finally:
            os.close(inner)

    def _file(self, source: int, target: int, name: str, status: os.stat_result) -> None:
        key = (status.st_dev, status.st_ino)
        if key in self._linked:
            # By descriptor: the name of the first copy may be something else by now.
            os.link(f"/proc/self/fd/{self._linked[key]}", name, dst_dir_fd=target, follow_symlinks=True)
            return
        inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=source)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            made = os.open(name, flags, 0o600, dir_fd=target)
            try:
                while os.sendfile(made, inner, None, _CHUNK):
                    pass
                _attributes(inner, made)
                if status.st_nlink > 1 and len(self._linked) < _MAX_LINKED:
                    self._linked[key] = os.dup(made)
                    self._stack.callback(os.close, self._linked[key])
            finally:
                os.close(made)
        finally:
            os.close(inner)


def _attributes(source: int, target: int) -> None:
    """Owner, xattrs, mode, times: in this order, chown clears set-id bits and file capabilities."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _special(source: int, target: int, name: str, status: os.stat_result) -> None:
    """Symlinks, devices, FIFOs, sockets. A 0:0 character device is a whiteout of a single layer: nothing."""
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        _set_mode(target, name, stat.S_IMODE(status.st_mode))
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _set_mode(folder: int, name: str, mode: int) -> None:
    """mknod obeys the umask. Through a descriptor: chmod(2) would follow a link that took the node's place."""
    node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not stat.S_ISLNK(os.fstat(node).st_mode):
            os.chmod(f"/proc/self/fd/{node}", mode)  # noqa: PTH101
    finally:
        os.close(node)
