"""A container's root as a tar: walked by descriptors, for a hostile container may change it meanwhile.

A stopped container's root is an overlay made for the walk, read-only and detached, so that it never stands in
any mount table. A running one is seen through ``/proc/<pid>/root``: a second overlay over a writable folder
in use is undefined (Documentation/filesystems/overlayfs.rst, "Changes to underlying filesystems").
"""

import os
import stat
import tarfile
from collections.abc import Iterator

import msgspec

from cais.errors import Conflict, Unavailable
from cais.linux.overlay import make_overlay
from cais.spec.runtimespec import RootMount

CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a file may have become a FIFO since it was looked at, and opening that would wait for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
"""What a tar can hold: sockets are left out, as Docker does."""


def open_stopped_root(root: RootMount) -> int:
    """A descriptor of the root folder of a container that does not run; the caller closes it."""
    if root.type != "overlay":
        return os.open(root.lower[0], _FOLDER)
    layers = [root.upper, *root.lower] if root.upper else list(root.lower)
    if len(layers) == 1:
        return os.open(layers[0], _FOLDER)
    # The writable folder stands on top as one more lower one: nothing can be changed, not even by us.
    mount = make_overlay(layers, "", "")
    try:
        return os.open(".", _FOLDER, dir_fd=mount)
    finally:
        os.close(mount)


def open_running_root(process: int) -> int:
    """The root as the process behind ``process`` (a descriptor of its folder in /proc) sees it. The caller
    has made sure that the process is the container's *after* it opened the folder, else a reused process id
    would show another root; and closes what this returns."""
    try:
        # The one link that must be followed: magic, it leads to the root itself, not to a name.
        return os.open("root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
    except OSError as error:
        raise Unavailable("the container ended while its root was opened; try again") from error


def walk_tar(root: int) -> Iterator[bytes]:
    """The tar (pax) of everything on the mount whose root folder is ``root``: names sorted, hard links once,
    other mounts as the empty folders and files that lie under them. Blocks: run it in a thread."""
    return _Walk(root).run()


class _Level(msgspec.Struct):
    """One folder on the way down: what is left in it, and what it is, to find the way back up."""

    path: str
    names: Iterator[str]
    identity: tuple[int, int]
    undone: list[str] = msgspec.field(default_factory=list)


class _Walk:
    """One walk. Only the current folder is open, whatever the depth: a container may nest folders deeper than
    there are descriptors."""

    def __init__(self, root: int) -> None:
        self._here = os.open(".", _FOLDER, dir_fd=root)
        self._mount = mount_id(self._here)
        self._links: dict[tuple[int, int], str] = {}

    def run(self) -> Iterator[bytes]:
        try:
            levels = [self._enter("")]
            while levels:
                name = next(levels[-1].names, None)
                if name is None:
                    levels.pop()
                    if levels:
                        self._leave(levels[-1])
                    continue
                path = levels[-1].path + name
                found = _lstat(name, self._here)
                if found is None or stat.S_IFMT(found.st_mode) not in _KINDS:
                    continue
                yield from self._entry(name, path, found)
                if stat.S_ISDIR(found.st_mode) and self._descend(name, found):
                    levels.append(self._enter(path + "/"))
            yield bytes(2 * tarfile.BLOCKSIZE)
        finally:
            os.close(self._here)

    def _enter(self, path: str) -> _Level:
        with os.scandir(self._here) as entries:
            names = sorted(entry.name for entry in entries)
        found = os.fstat(self._here)
        return _Level(path, iter(names), (found.st_dev, found.st_ino))

    def _descend(self, name: str, found: os.stat_result) -> bool:
        """Make the folder ``name`` the current one, unless something is mounted on it or it has changed."""
        try:
            child = os.open(name, _FOLDER, dir_fd=self._here)
        except OSError:
            return False
        if not self._is_ours(child):
            os.close(child)
            return False
        os.close(self._here)
        self._here = child
        return True

    def _leave(self, parent: _Level) -> None:
        above = os.open("..", _FOLDER, dir_fd=self._here)
        found = os.fstat(above)
        os.close(self._here)
        self._here = above
        if (found.st_dev, found.st_ino) != parent.identity:
            raise Conflict("the container moved a folder while it was exported; stop or pause it first")

    def _is_ours(self, fd: int) -> bool:
        """Is it on the mount we walk? Devices do not tell: a bind mount of the same file system has the same."""
        return mount_id(fd) == self._mount

    def _entry(self, name: str, path: str, found: os.stat_result) -> Iterator[bytes]:
        info = tarfile.TarInfo(path)
        info.type = _KINDS[stat.S_IFMT(found.st_mode)]
        info.mode = stat.S_IMODE(found.st_mode)
        info.uid, info.gid = found.st_uid, found.st_gid
        info.mtime = int(found.st_mtime)
        if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
        elif info.type == tarfile.SYMTYPE:
            try:
                info.linkname = os.readlink(name, dir_fd=self._here)
            except OSError:
                return
        elif info.type == tarfile.REGTYPE:
            yield from self._file(name, info, found)
            return
        yield _header(info)

    def _file(self, name: str, info: tarfile.TarInfo, found: os.stat_result) -> Iterator[bytes]:
        key = found.st_dev, found.st_ino
        if found.st_nlink > 1 and key in self._links:
            info.type, info.linkname = tarfile.LNKTYPE, self._links[key]
            yield _header(info)
            return
        try:
            fd = os.open(name, _FILE, dir_fd=self._here)
        except OSError:
            return
        try:
            now = os.fstat(fd)
            if not stat.S_ISREG(now.st_mode):
                return
            if not self._is_ours(fd):
                # Something is mounted on the file (/etc/hosts): what lies under it is an empty one of root's.
                info.mode, info.uid, info.gid = 0o644, 0, 0
                yield _header(info)
                return
            if found.st_nlink > 1:
                self._links[key] = info.name
            info.size = now.st_size
            info.pax_headers = _xattrs(fd)
            yield _header(info)
            yield from _content(fd, info.size)
        finally:
            os.close(fd)


def _content(fd: int, size: int) -> Iterator[bytes]:
    """Exactly ``size`` bytes and the padding, also of a file that shrinks or grows meanwhile."""
    left = size
    while left:
        part = os.read(fd, min(CHUNK, left))
        if not part:
            break
        left -= len(part)
        yield part
    while left:
        part = bytes(min(CHUNK, left))
        left -= len(part)
        yield part
    if size % tarfile.BLOCKSIZE:
        yield bytes(tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE)


def _header(info: tarfile.TarInfo) -> bytes:
    if info.isdir():
        info.name += "/"
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _xattrs(fd: int) -> dict[str, str]:
    """Those that an image keeps: file capabilities and the user's; pax's text is UTF-8 with surrogates for
    the rest."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}
    found = {}
    for name in names:
        if name == "security.capability" or name.startswith("user."):
            try:
                found[f"SCHILY.xattr.{name}"] = os.getxattr(fd, name).decode("utf-8", "surrogateescape")
            except OSError:
                continue
    return found


def _lstat(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def mount_id(fd: int) -> int:
    """The mount a descriptor lies on (proc_pid_fdinfo(5))."""
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(info, 4096)
    finally:
        os.close(info)
    return int(text.partition(b"mnt_id:")[2].split(None, 1)[0])
