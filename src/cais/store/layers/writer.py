"""Writes one layer's entries into a folder; what they may not do is refused here or in ``tree``."""

import errno
import os
import stat
from collections.abc import Callable

from cais.errors import Invalid
from cais.store.layers import tar
from cais.store.layers.copyup import copy_up
from cais.store.layers.limits import Limits
from cais.store.layers.lower import FOLDER_FLAGS, LowerView, is_whiteout
from cais.store.layers.stream import Stream
from cais.store.layers.tar import Entry
from cais.store.layers.tree import Folder, Tree, show

_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE_MARK = b".wh..wh..opq"
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
_MAX_ID = 2**32 - 2  # 2**32 - 1 is "leave it" to chown(2): the file would stay root's
_MAX_SECONDS = 2**34  # ext4 ends in the year 2446; beyond, file systems clamp each in its own way
# What the kernel says about a name or an object that it cannot make: the layer's fault, not the machine's.
LAYERS_FAULT = frozenset(
    {
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOENT,
        errno.EEXIST,
        errno.EFBIG,
        errno.EMLINK,
        errno.ERANGE,
        errno.E2BIG,
        errno.EPERM,
    }
)


class NeedsLower(Exception):
    """A hard link leads to a file that this layer does not have: it makes sense on top of its parents only."""


class LayerWriter:
    """Writes entries; knows what has to wait for the end."""

    def __init__(self, tree: Tree, stream: Stream, limits: Limits, below: LowerView | None) -> None:
        self.tree = tree
        self.below = below
        self.size = 0
        self.entries = 0
        self.folder_times: dict[bytes, int] = {}
        self._stream = stream
        self._limits = limits
        status = os.fstat(tree.enter(b"").fd)
        # A setgid folder gives its group to what is made in it; until there is one, root's files need no chown.
        self._chown_all = bool(status.st_mode & stat.S_ISGID) or status.st_gid != 0 or os.geteuid() != 0
        self._make: dict[bytes, Callable[[Entry, Folder, bytes], None]] = {
            tar.HARD_LINK: self._make_link,
            tar.SYMLINK: self._make_symlink,
            tar.CHARACTER: self._make_node,
            tar.BLOCK_DEVICE: self._make_node,
            tar.FIFO: self._make_node,
        }

    def write_all(self) -> None:
        """Every entry of the stream, in its order."""
        for entry in tar.read_entries(self._stream):
            try:
                self._write(entry)
            except Invalid as error:
                raise Invalid(f"{show(entry.name)}: {error}") from error
            except OSError as error:
                if error.errno in LAYERS_FAULT:
                    raise Invalid(f"{show(entry.name)}: {error.strerror}") from error
                raise

    def _write(self, entry: Entry) -> None:
        tree = self.tree
        self.entries += 1
        if self.entries + tree.made > self._limits.max_entries:
            raise Invalid(f"layer has more than {self._limits.max_entries} entries")
        path = clean_name(entry.name, self._limits)
        if entry.uid > _MAX_ID or entry.gid > _MAX_ID or entry.uid < 0 or entry.gid < 0:
            raise Invalid(f"owner {entry.uid}:{entry.gid} is out of range")
        tree.trim()
        parent_path, _, name = path.rpartition(b"/")
        if name.startswith(_WHITEOUT):
            self._write_whiteout(parent_path, name)
        elif entry.kind == tar.FOLDER:
            self._make_folder(entry, path)
        elif not name:
            raise Invalid("the root must be a folder")
        elif entry.kind == tar.REGULAR:
            self._make_file(entry, tree.enter(parent_path), name)
        else:
            self._make[entry.kind](entry, tree.enter(parent_path), name)

    def _write_whiteout(self, parent_path: bytes, name: bytes) -> None:
        if name == _OPAQUE_MARK:
            self.tree.make_opaque(self.tree.enter(parent_path))
        elif name.startswith(_WHITEOUT_META):
            return  # AUFS's own bookkeeping
        else:
            hidden = name[len(_WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise Invalid("whiteout without a proper name")
            self.tree.whiteout(self.tree.enter(parent_path), hidden)

    def _make_folder(self, entry: Entry, path: bytes) -> None:
        tree = self.tree
        if path:
            parent_path, _, name = path.rpartition(b"/")
            parent = tree.enter(parent_path)
            try:
                fd = os.open(name, FOLDER_FLAGS, dir_fd=parent.fd)
            except OSError:
                folder = tree.make_folder(parent, name)
            else:
                folder = Folder(fd, parent.join(name))
            tree.remember(path, folder)
        else:
            folder = tree.enter(b"")
        self._set_attributes(folder.fd, entry)
        if entry.mode & stat.S_ISGID:
            self._chown_all = True
        tree.implied.pop(folder.path, None)
        # Its own time comes last: every child that is still to come changes it.
        self.folder_times[folder.path] = entry.mtime_ns

    def _make_file(self, entry: Entry, parent: Folder, name: bytes) -> None:
        try:
            fd = os.open(name, _FILE_FLAGS, 0o600, dir_fd=parent.fd)
        except FileExistsError:
            self.tree.remove(parent, name)
            fd = os.open(name, _FILE_FLAGS, 0o600, dir_fd=parent.fd)
        try:
            if entry.sparse is not None:
                self._fill_sparse(fd, entry)
            elif entry.size:
                self._stream.send(entry.size, lambda part: os.write(fd, part))
            self._set_attributes(fd, entry)
            time = clamp_time(entry.mtime_ns)
            os.utime(fd, ns=(time, time))
        finally:
            os.close(fd)
        self.size += entry.size

    def _fill_sparse(self, fd: int, entry: Entry) -> None:
        for offset, length in entry.sparse or ():
            os.lseek(fd, offset, os.SEEK_SET)
            self._stream.send(length, lambda part: os.write(fd, part))
        os.ftruncate(fd, entry.real_size)

    def _set_attributes(self, fd: int, entry: Entry) -> None:
        if entry.uid or entry.gid or self._chown_all or entry.kind == tar.FOLDER:
            os.fchown(fd, entry.uid, entry.gid)
        if entry.xattrs:  # after chown, which clears file capabilities
            set_xattrs(fd, entry.xattrs)
        os.fchmod(fd, entry.mode)  # after chown, which clears setuid and setgid

    def _make_symlink(self, entry: Entry, parent: Folder, name: bytes) -> None:
        try:
            os.symlink(entry.link, name, dir_fd=parent.fd)
        except FileExistsError:
            self.tree.remove(parent, name)
            os.symlink(entry.link, name, dir_fd=parent.fd)
        self._set_path_attributes(entry, parent, name)

    def _make_node(self, entry: Entry, parent: Folder, name: bytes) -> None:
        kind = _NODES[entry.kind]
        if kind == stat.S_IFCHR and entry.device == (0, 0):
            self.tree.whiteout(parent, name)  # to overlayfs it is one, so it follows the rules of one
            return
        major, minor = entry.device
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise Invalid(f"device number {major}:{minor} is out of range")
        device = os.makedev(major, minor)
        try:
            os.mknod(name, kind | 0o600, device, dir_fd=parent.fd)
        except FileExistsError:
            self.tree.remove(parent, name)
            os.mknod(name, kind | 0o600, device, dir_fd=parent.fd)
        self._set_path_attributes(entry, parent, name)

    def _set_path_attributes(self, entry: Entry, parent: Folder, name: bytes) -> None:
        """For what must not be opened: opening a device or a FIFO acts on it, a symlink cannot be opened."""
        os.chown(name, entry.uid, entry.gid, dir_fd=parent.fd, follow_symlinks=False)
        if entry.xattrs:
            # The magic link leads to the open folder itself, and the last component is not followed.
            path = os.path.join(f"/proc/self/fd/{parent.fd}".encode(), name)
            set_xattrs(path, entry.xattrs)
        if entry.kind != tar.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent.fd)  # it was made just now, so it is no symlink
        time = clamp_time(entry.mtime_ns)
        os.utime(name, ns=(time, time), dir_fd=parent.fd, follow_symlinks=False)

    def _make_link(self, entry: Entry, parent: Folder, name: bytes) -> None:
        target_path, _, target_name = clean_name(entry.link, self._limits).rpartition(b"/")
        if not target_name:
            raise Invalid("hard link to the root")
        source = self._find_target(target_path, target_name)
        if (source.path, target_name) == (parent.path, name):
            return
        try:
            os.link(target_name, name, src_dir_fd=source.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        except FileExistsError:
            self.tree.remove(parent, name)
            source = self._find_target(target_path, target_name)
            os.link(target_name, name, src_dir_fd=source.fd, dst_dir_fd=parent.fd, follow_symlinks=False)

    def _find_target(self, path: bytes, name: bytes) -> Folder:
        """The folder that holds a hard link's target, which is copied up from the layers below if need be."""
        try:
            folder = self.tree.enter(path, create=False)
            status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            if self.below is None:
                raise NeedsLower from None
        else:
            if is_whiteout(status):
                raise Invalid(f"hard link to {show(folder.join(name))}, which is deleted")
            if stat.S_ISDIR(status.st_mode):
                raise Invalid(f"hard link to the folder {show(folder.join(name))}")
            return folder
        folder = self.tree.enter(path)
        found = self.tree.find_below(folder.join(name))
        if found is None or found.is_folder:
            raise Invalid(f"hard link to {show(folder.join(name))}, which is no file")
        copy_up(found, folder.fd, name)
        return folder

    def finish(self) -> None:
        """What has to come after the last entry: useless whiteouts go, folders get their times."""
        tree = self.tree
        for path in list(tree.whiteouts):
            parent = tree.find_parent(path)
            there = parent is not None and tree.has_kind(parent, path, is_whiteout)
            if parent and there and self._is_useless(path):
                os.unlink(path.rpartition(b"/")[2], dir_fd=parent.fd)
                there = False
            if not there:
                del tree.whiteouts[path]
        for path, mtime_ns in self.folder_times.items():
            if parent := self._find_folder(path):
                time = clamp_time(mtime_ns)
                name = path.rpartition(b"/")[2] or b"."
                os.utime(name, ns=(time, time), dir_fd=parent.fd, follow_symlinks=False)

    def list_implied(self) -> list[bytes]:
        """Folders that no entry listed and whose attributes are to come from the layers below."""
        tree = self.tree
        return [path for path in tree.implied if not tree.is_hidden(path) and self._find_folder(path)]

    def _find_folder(self, path: bytes) -> Folder | None:
        """The parent of the real folder ``path``; None if a later entry took its place."""
        parent = self.tree.find_parent(path)
        is_folder = parent and self.tree.has_kind(parent, path, lambda status: stat.S_ISDIR(status.st_mode))
        return parent if is_folder else None

    def _is_useless(self, path: bytes) -> bool:
        """A whiteout with nothing below to hide. It must go: overlayfs lists it in a folder that no lower layer has."""
        return self.tree.is_hidden(path) or (self.below is not None and self.below.find(path) is None)


def clean_name(name: bytes, limits: Limits) -> bytes:
    """The path below the root that ``name`` means; empty for the root. Absolute names count from the root.

    Raises Invalid for a name that climbs out, or is longer than the limit.
    """
    if len(name) > limits.max_path:
        raise Invalid(f"name is longer than {limits.max_path} bytes")
    path = name.strip(b"/")
    if path.startswith(b"./"):
        path = path[2:]
    if path.startswith(b".") or b"//" in path or b"/." in path:
        path = _clean_parts(path)
    return path


def _clean_parts(path: bytes) -> bytes:
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if not parts:
                raise Invalid("name leads out of the layer")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def clamp_time(time_ns: int) -> int:
    """The nearest time that every file system can keep."""
    return (
        max(-(2**31), min(time_ns // 1_000_000_000, _MAX_SECONDS)) * 1_000_000_000 + time_ns % 1_000_000_000
    )


def set_xattrs(target: int | bytes, xattrs: dict[str, bytes]) -> None:
    """Set them, but drop overlayfs's own: with those a layer could redirect a folder, or hide and uncover others."""
    for name, value in xattrs.items():
        if name.startswith(("trusted.", "user.overlay.")):
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            # Like Docker: an attribute that this file system or this kind of file cannot have is left out.
            if error.errno == errno.ENOTSUP or (error.errno == errno.EPERM and name.startswith("user.")):
                continue
            raise
