"""A folder that is filled under untrusted names: every step stays below its root, whatever stands in the way.

No path is ever given to the kernel as a whole. Each component is opened from its parent's descriptor with
O_NOFOLLOW, and a symlink on the way is read and walked by us, with the root as its highest ``..`` and as ``/``.
So a planted symlink, a swapped folder or an absolute target can only lead to another place of the same layer.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress

import msgspec

from cais.errors import Invalid
from cais.store.layers.limits import Limits
from cais.store.layers.lower import (
    FOLDER_FLAGS,
    OPAQUE,
    WHITEOUT_DEVICE,
    Found,
    LowerView,
    is_whiteout,
    open_below,
    read_xattrs,
    walk_names,
)

_MAX_OPEN = 128
_MAX_LINKS = 40  # what the kernel allows on one path: path_resolution(7)


class Folder(msgspec.Struct, frozen=True, gc=False):
    """An open folder: its descriptor, owned by the tree, and its real path below the root."""

    fd: int
    path: bytes

    def join(self, name: bytes) -> bytes:
        """The real path of something in it."""
        return self.path + b"/" + name if self.path else name


class Tree:
    """Open folders, whiteouts and implied parents of one layer while it is written. The caller owns ``root``.

    ``below`` is the view of the layers underneath; without it a folder that no entry lists is made as 0755 and noted
    in ``implied``.
    """

    def __init__(self, root: int, limits: Limits, below: LowerView | None = None) -> None:
        self._limits = limits
        self._below = below
        self._root = Folder(root, b"")
        self._folders: dict[bytes, Folder] = {b"": self._root}
        self.implied: dict[bytes, None] = {b"": None}
        self.assumed: dict[bytes, None] = {}
        """Every folder that was ever implied, also if an entry listed, replaced or hid it later."""
        self.whiteouts: dict[bytes, None] = {}
        self.opaque: set[bytes] = set()
        self.made = 0
        """Folders made on the way."""

    def close(self) -> None:
        """Close every descriptor but the root's."""
        self._close_except(self._root)

    def trim(self) -> None:
        """Close descriptors if many are open; between entries only, when nobody holds one."""
        # With the layers below in view any new object may take the place of a symlink that a kept path went through.
        if len(self._folders) > _MAX_OPEN or self._below is not None:
            self.close()

    def enter(self, path: bytes, *, create: bool = True) -> Folder:
        """The folder at ``path`` (relative, clean), through symlinks of this layer and of those below.

        Missing folders are made if ``create``, else FileNotFoundError. Raises Invalid if something else is in the way.
        """
        folder = self._folders.get(path)
        if folder is None:
            folder = self._folders[path] = self._walk(path, create)
        return folder

    def remember(self, path: bytes, folder: Folder) -> None:
        """Keep a folder that was just opened at ``path``: its children come next."""
        known = self._folders.pop(path, None)
        if known is not None:
            os.close(known.fd)
        self._folders[path] = folder

    def find_parent(self, path: bytes) -> Folder | None:
        """The folder above the real ``path``; None if a later entry took its place. Opens what ``trim`` may close."""
        self.trim()
        parent_path = path.rpartition(b"/")[0]
        try:
            parent = self.enter(parent_path, create=False)
        except (FileNotFoundError, Invalid):
            return None
        return parent if parent.path == parent_path else None

    def has_kind(self, parent: Folder, path: bytes, check: Callable[[os.stat_result], bool]) -> bool:
        """Whether an object of the checked kind stands at ``path`` in ``parent``."""
        try:
            return check(os.stat(path.rpartition(b"/")[2] or b".", dir_fd=parent.fd, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _walk(self, path: bytes, create: bool) -> Folder:
        pending: list[bytes] = []
        head = path
        while head not in self._folders:
            head, _, last = head.rpartition(b"/")
            pending.append(last)
        here = start = self._folders[head]
        links = 0
        try:
            while pending:
                step = self._step(here, pending.pop(), create)
                if isinstance(step, bytes):
                    links += 1
                    parts = [part for part in step.split(b"/") if part not in (b"", b".")]
                    if links > _MAX_LINKS or len(pending) + len(parts) > self._limits.max_depth:
                        raise Invalid("too many symbolic links")
                    pending += reversed(parts)
                    if not step.startswith(b"/"):
                        continue
                    step = self._copy(self._root)
                if here is not start:
                    os.close(here.fd)
                here = step
        except BaseException:
            if here is not start:
                os.close(here.fd)
            raise
        return self._copy(here) if here is start else here

    def _copy(self, folder: Folder) -> Folder:
        return Folder(os.dup(folder.fd), folder.path)

    def _step(self, here: Folder, name: bytes, create: bool) -> Folder | bytes:
        """One component further: the open folder, or the text of the symlink that stands there."""
        if name == b"..":
            # Nobody else can rename below a layer that is being made, so the real parent is where we came from.
            parent = os.open(b"..", FOLDER_FLAGS, dir_fd=here.fd) if here.path else os.dup(here.fd)
            return Folder(parent, here.path.rpartition(b"/")[0])
        path = here.join(name)
        try:
            return Folder(os.open(name, FOLDER_FLAGS, dir_fd=here.fd), path)
        except FileNotFoundError:
            return self._imply(here, name, create)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
        status = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(name, dir_fd=here.fd)
        if not is_whiteout(status):
            raise Invalid(f"{show(path)}: not a directory")
        if not create:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.make_folder(here, name)

    def _imply(self, here: Folder, name: bytes, create: bool) -> Folder | bytes:
        """A folder that no entry listed: it is what the layers below have, or a plain one until they are known."""
        path = here.join(name)
        found = self.find_below(path)
        if found and stat.S_ISLNK(found.stat.st_mode):
            return _read_link(found.layer, path)
        if not create:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if found and not found.is_folder:
            raise Invalid(f"{show(path)}: not a directory")
        folder = self.make_folder(here, name)
        if found:
            copy_attributes(found.layer, path, folder.fd)
        self.implied[path] = self.assumed[path] = None
        return folder

    def find_below(self, path: bytes) -> Found | None:
        """What the layers below show at the real ``path``, if they are known and this layer hides nothing of it."""
        if self._below is None or self.is_hidden(path):
            return None
        return self._below.find(path)

    def is_opaque(self, path: bytes) -> bool:
        """Whether the folder at the real ``path`` hides what the layers below have in it."""
        return path in self.opaque

    def is_hidden(self, path: bytes) -> bool:
        """Whether ``path`` is in an opaque folder of this layer."""
        return bool(self.opaque) and any(above in self.opaque for above in list(walk_names(path))[:-1])

    def make_folder(self, here: Folder, name: bytes) -> Folder:
        """Make and open the folder ``name``, mode 0755; replaces anything that is no folder.

        What it replaced (a whiteout, or a file that hid what is below) makes it opaque.
        """
        path = here.join(name)
        if path.count(b"/") >= self._limits.max_depth:
            raise Invalid("too many folders below each other")
        replaced = False
        try:
            os.mkdir(name, 0o755, dir_fd=here.fd)
        except FileExistsError:
            self.remove(here, name)
            os.mkdir(name, 0o755, dir_fd=here.fd)
            replaced = True
        self.made += 1
        fd = os.open(name, FOLDER_FLAGS, dir_fd=here.fd)
        os.fchmod(fd, 0o755)  # the process's umask took its part of mkdir's mode
        if replaced:
            self._hide_below(fd, path)
        return Folder(fd, path)

    def _hide_below(self, fd: int, path: bytes) -> None:
        os.setxattr(fd, OPAQUE, b"y")
        self.opaque.add(path)

    def remove(self, here: Folder, name: bytes) -> None:
        """Remove what stands at ``name``, a whole tree too; no symlink is followed.

        Every open folder but ``here`` may be gone, or be reached another way, afterwards: all are closed.
        """
        status = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            shutil.rmtree(name, dir_fd=here.fd)
            self.opaque.discard(here.join(name))
        else:
            os.unlink(name, dir_fd=here.fd)
            self.whiteouts.pop(here.join(name), None)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            self._close_except(here)

    def _close_except(self, kept: Folder) -> None:
        for path, folder in list(self._folders.items()):
            if folder is not self._root and folder is not kept:
                os.close(folder.fd)
                del self._folders[path]

    def whiteout(self, here: Folder, name: bytes) -> None:
        """Hide what the layers below have at ``name``; what this layer itself has there stays (image-spec layer.md)."""
        path = here.join(name)
        try:
            os.mknod(name, stat.S_IFCHR | 0o600, WHITEOUT_DEVICE, dir_fd=here.fd)
        except FileExistsError:
            with suppress(OSError):
                fd = os.open(name, FOLDER_FLAGS, dir_fd=here.fd)
                try:
                    self._hide_below(fd, path)
                finally:
                    os.close(fd)
                self.implied.pop(path, None)
        else:
            self.whiteouts[path] = None

    def make_opaque(self, here: Folder) -> None:
        """Hide everything the layers below have in this folder."""
        self._hide_below(here.fd, here.path)


def copy_attributes(layer: str, path: bytes, fd: int) -> None:
    """Give the folder ``fd`` the owner, mode, xattrs and times of the folder ``path`` in ``layer``."""
    source = open_below(layer, path, FOLDER_FLAGS)
    try:
        status = os.fstat(source)
        os.fchown(fd, status.st_uid, status.st_gid)
        for name, value in read_xattrs(source).items():
            os.setxattr(fd, name, value)
        os.fchmod(fd, stat.S_IMODE(status.st_mode))  # after chown, which clears setuid and setgid
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(source)


def _read_link(layer: str, path: bytes) -> bytes:
    parent, _, name = path.rpartition(b"/")
    fd = open_below(layer, parent, FOLDER_FLAGS)
    try:
        return os.readlink(name, dir_fd=fd)
    finally:
        os.close(fd)


def show(name: bytes) -> str:
    """A name for messages; bytes that are no text are escaped."""
    return name.decode("utf-8", "backslashreplace")
