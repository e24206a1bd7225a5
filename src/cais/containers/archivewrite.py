"""Unpacking a tar into a folder of a container.

The container may run, be hostile, and exchange folders for links meanwhile; the tar may be hostile too. Every folder is
found by openat2 below a descriptor of the destination, everything is made under its last name with O_EXCL and without
following links, and owner, mode and times are set by descriptor, so that nothing outside is ever written to
(CVE-2018-15664, CVE-2019-14271). Names that begin with ``.wh.`` are names like others.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, cast

import msgspec

from cais.containers.archivepath import clean_path, inner_path, inner_target
from cais.containers.archiveread import INSIDE, is_pseudo, missing
from cais.containers.export import mount_id
from cais.containers.pulled import Pulled
from cais.errors import Corrupt, Invalid
from cais.linux.syscalls import openat2
from cais.runtime.users import find_identity, read_table
from cais.store.layers import tar
from cais.store.layers.codec import read_chunks
from cais.store.layers.compare import lstat_at, opened
from cais.store.layers.limits import DEFAULT_LIMITS
from cais.store.layers.stream import Stream
from cais.store.layers.tar import Entry
from cais.store.layers.tree import show
from cais.store.layers.writer import LAYERS_FAULT, clamp_time, set_xattrs
from cais.store.snapshots.remove import remove_tree

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
_MAX_ID = 2**32 - 2  # 2**32 - 1 is "leave it" to chown(2)


class CopyWish(msgspec.Struct, frozen=True):
    """Where to, and how. ``same_kinds``: a folder may not take a file's place, nor a file a folder's; ``own_user``:
    everything becomes the container's user's."""

    path: str
    same_kinds: bool = False
    own_user: bool = False


class Target(msgspec.Struct, frozen=True):
    """The root to write below, and what is known of the container: its name, for errors, and its user."""

    root: int
    container: str
    user: str = ""


def extract(target: Target, wish: CopyWish, body: Pulled) -> None:
    """Unpack ``body`` (plain, gzip, bzip2, xz, zstd) into the folder. What was written before an error stays. Blocks.

    Raises NotFound (no such folder), Invalid (no folder, read-only, a tar that is cut or leads out), OSError.
    """
    with opened(_open_folder(target, wish.path)) as folder:
        _check_writable(target.root, folder)
        owner = find_owner(target) if wish.own_user and target.user else None
        with Stream(read_chunks(cast(BinaryIO, body), DEFAULT_LIMITS), abandon=body.stop) as stream:
            writer = _Writer(folder, stream, wish, owner)
            try:
                writer.run()
            except Corrupt as error:
                raise Invalid("unexpected EOF" if "truncated" in str(error) else str(error)) from error
            finally:
                writer.close()


def _open_folder(target: Target, asked: str) -> int:
    path = clean_path(asked)
    try:
        folder = openat2(target.root, path, _PLACE, INSIDE)
    except FileNotFoundError:
        raise missing(asked, target.container) from None
    except OSError as error:
        raise Invalid((error.strerror or "").lower()) from error
    if not is_pseudo(folder) and stat.S_ISDIR(os.fstat(folder).st_mode):
        return folder
    kernels = is_pseudo(folder)
    os.close(folder)
    if kernels:
        raise missing(asked, target.container)
    raise Invalid("extraction point is not a directory")


def _check_writable(root: int, folder: int) -> None:
    if os.fstatvfs(folder).f_flag & os.ST_RDONLY:
        rootfs = mount_id(root) == mount_id(folder)
        raise Invalid(
            "container rootfs is marked read-only" if rootfs else "mounted volume is marked read-only"
        )


def find_owner(target: Target) -> tuple[int, int]:
    """Uid and gid of the container's user, by its own account files. Raises Invalid."""
    try:
        found = find_identity(
            target.user, [], _read_table(target.root, "passwd"), _read_table(target.root, "group")
        )
    except ValueError as error:
        raise Invalid(str(error)) from error
    return found.uid, found.gid


def _read_table(root: int, name: str) -> list[list[str]]:
    try:
        with opened(openat2(root, f"/etc/{name}", _PLACE, INSIDE)) as place:
            # Looked at before it is opened: opening a device acts on it.
            regular = stat.S_ISREG(os.fstat(place).st_mode)
            return read_table(f"/proc/self/fd/{place}") if regular else []
    except OSError:
        return []


class _Writer:
    """Writes one tar's members below ``folder``."""

    def __init__(self, folder: int, stream: Stream, wish: CopyWish, owner: tuple[int, int] | None) -> None:
        self._folder = folder
        self._stream = stream
        self._wish = wish
        self._owner = owner
        self._times: dict[bytes, int] = {}
        # The folder of the last member: most have the same as the one before. A member that takes a name on the way
        # to it has another folder, and so this one is found anew behind it.
        self._parent_path, self._parent = b"", os.dup(folder)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._parent)

    def run(self) -> None:
        """All members, then the folders' times, which every member changes."""
        for entry in tar.read_entries(self._stream):
            try:
                self._write(entry)
            except OSError as error:
                explained = _explain(error, entry)
                if explained is None:
                    raise
                raise explained from error
        for path, mtime_ns in self._times.items():
            self._set_folder_time(path, mtime_ns)

    def _write(self, entry: Entry) -> None:
        path = inner_path(entry.name)
        if not path:
            return  # the folder itself: it stays as it is
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            raise Invalid(f"{show(entry.name)}: owner {entry.uid}:{entry.gid} is out of range")
        above, _, name = path.rpartition(b"/")
        parent = self._enter(above)
        found = lstat_at(name, parent)
        if found is not None and not self._stays(entry, found, path):
            _remove(parent, name, found)
            found = None
        if entry.kind == tar.FOLDER:
            self._make_folder(entry, parent, name, new=found is None)
            self._times[path] = entry.mtime_ns
        elif entry.kind == tar.REGULAR:
            self._make_file(entry, parent, name)
        elif entry.kind == tar.HARD_LINK:
            self._make_link(entry, parent, name)
        else:
            self._make_other(entry, parent, name)

    def _stays(self, entry: Entry, found: os.stat_result, path: bytes) -> bool:
        """Only a folder stays, when a folder is to be there: they are merged. Raises Invalid, in Docker's words."""
        was, becomes = stat.S_ISDIR(found.st_mode), entry.kind == tar.FOLDER
        if was != becomes and self._wish.same_kinds:
            old, new = ("directory", "non-directory") if was else ("non-directory", "directory")
            raise Invalid(f'cannot overwrite {old} "{show(path)}" with {new} "{self._wish.path}"')
        return was and becomes

    # Folders on the way

    def _enter(self, path: bytes) -> int:
        """The folder at ``path``, through links inside, made with those above it where missing."""
        if path != self._parent_path:
            parent = self._open(path) if self._has(path) else self._make_all(path)
            if is_pseudo(parent):
                os.close(parent)
                raise Invalid(f"{show(path)}: not a place to write to")
            os.close(self._parent)
            self._parent_path, self._parent = path, parent
        return self._parent

    def _open(self, path: bytes) -> int:
        return openat2(self._folder, os.fsdecode(path) or ".", _PLACE | os.O_DIRECTORY, INSIDE)

    def _has(self, path: bytes) -> bool:
        try:
            os.close(self._open(path))
        except FileNotFoundError:
            return False
        return True

    def _make_all(self, path: bytes) -> int:
        for above in _walk(path):
            parent_path, _, name = above.rpartition(b"/")
            if not self._has(above):
                with opened(self._open(parent_path)) as parent, suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=parent)
        return self._open(path)

    # Members

    def _make_folder(self, entry: Entry, parent: int, name: bytes, *, new: bool) -> None:
        if new:
            os.mkdir(name, 0o700, dir_fd=parent)
        with opened(os.open(name, _FOLDER, dir_fd=parent)) as fd:
            self._set_attributes(fd, entry)

    def _make_file(self, entry: Entry, parent: int, name: bytes) -> None:
        with opened(os.open(name, _NEW_FILE, 0o600, dir_fd=parent)) as fd:
            for offset, length in entry.sparse or ((0, entry.size),):
                os.lseek(fd, offset, os.SEEK_SET)
                self._stream.send(length, lambda part: os.write(fd, part))
            os.ftruncate(fd, entry.real_size)
            self._set_attributes(fd, entry)
            time = clamp_time(entry.mtime_ns)
            os.utime(fd, ns=(time, time))

    def _set_attributes(self, fd: int, entry: Entry) -> None:
        """Owner, xattrs, mode: in this order, chown clears set-id bits and file capabilities."""
        uid, gid = self._owner or (entry.uid, entry.gid)
        os.fchown(fd, uid, gid)
        set_xattrs(fd, entry.xattrs)
        os.fchmod(fd, entry.mode)

    def _make_link(self, entry: Entry, parent: int, name: bytes) -> None:
        above, _, target = inner_target(entry.link).rpartition(b"/")
        with opened(self._open(above)) as source:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def _make_other(self, entry: Entry, parent: int, name: bytes) -> None:
        if entry.kind == tar.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
        else:
            os.mknod(name, _NODES[entry.kind] | 0o600, _device(entry), dir_fd=parent)
        uid, gid = self._owner or (entry.uid, entry.gid)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        # The first link leads to the open folder itself, and the last part is not followed.
        set_xattrs(os.path.join(f"/proc/self/fd/{parent}".encode(), name), entry.xattrs)
        if entry.kind != tar.SYMLINK:
            _set_mode(parent, name, entry.mode)
        time = clamp_time(entry.mtime_ns)
        os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)

    def _set_folder_time(self, path: bytes, mtime_ns: int) -> None:
        above, _, name = path.rpartition(b"/")
        time = clamp_time(mtime_ns)
        try:
            with opened(self._open(above)) as parent, opened(os.open(name, _FOLDER, dir_fd=parent)) as fd:
                os.utime(fd, ns=(time, time))
        except OSError:
            return  # no folder any more: a later member took its place, or the container did


def _explain(error: OSError, entry: Entry) -> Invalid | None:
    """The tar's fault, or the container's; None for what is the machine's."""
    if error.errno == errno.EROFS:
        return Invalid("mounted volume is marked read-only")
    if error.errno in LAYERS_FAULT or error.errno in (errno.EBUSY, errno.EXDEV, errno.ENOTEMPTY):
        return Invalid(f"{show(entry.name)}: {(error.strerror or '').lower()}")
    return None


def _walk(path: bytes) -> Iterator[bytes]:
    parts = path.split(b"/")
    return (b"/".join(parts[:number]) for number in range(1, len(parts) + 1))


def _device(entry: Entry) -> int:
    major, minor = entry.device
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise Invalid(f"{show(entry.name)}: device number {major}:{minor} is out of range")
    return os.makedev(major, minor)


def _remove(parent: int, name: bytes, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        return
    with opened(os.open(name, _FOLDER, dir_fd=parent)) as fd:
        if mount_id(fd) != mount_id(parent):
            raise Invalid(f"{show(name)}: cannot replace what is mounted")
    # The first link leads to the open folder itself; the last part is opened without following.
    remove_tree(os.path.join(f"/proc/self/fd/{parent}", os.fsdecode(name)))


def _set_mode(parent: int, name: bytes, mode: int) -> None:
    """Through a descriptor: chmod(2) would follow a link that has taken the node's place."""
    with opened(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)) as node:
        if not stat.S_ISLNK(os.fstat(node).st_mode):
            os.chmod(f"/proc/self/fd/{node}", mode)  # noqa: PTH101
