"""What a container changed, as the members of a layer: its writable overlay folder, or a comparison of two trees.

Walked by descriptors, with only the current folder open: a container that is not paused may change everything
meanwhile, and may have nested folders deeper than paths go. Nothing but regular files is ever opened for reading: an
open alone acts on a device. The rules are overlayfs.rst's for the folder and image-spec layer.md's for the layer.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from cais.errors import Conflict, Invalid
from cais.linux.overlay import make_overlay
from cais.spec.runtimespec import RootMount
from cais.store.layers import tar
from cais.store.layers.codec import sniff
from cais.store.layers.compare import (
    attributes_below,
    attributes_of,
    have_same_content,
    list_below,
    lstat_at,
    opened,
    read_kept_xattrs,
    read_link,
)
from cais.store.layers.lower import (
    FOLDER_FLAGS,
    Found,
    LowerView,
    is_opaque,
    is_whiteout,
    open_below,
    walk_names,
)
from cais.store.layers.pack import Member, format_member, padding
from cais.store.layers.tree import show

CHUNK = 256 << 10
_WHITEOUT = b".wh."
_OPAQUE_MARK = b".wh..wh..opq"
_MOVED = ("trusted.overlay.redirect", "trusted.overlay.metacopy")
_PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_SPARSE_FROM = 64 << 10
"""Bytes of holes from which a file is stored as its data only."""
KINDS = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFDIR: tar.FOLDER,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFIFO: tar.FIFO,
}
"""What a layer can hold: sockets are left out, as Docker does."""


@dataclass(frozen=True, slots=True)
class DiffSource:
    """The container's root as its snapshotter describes it, and the layers it stands on, top first.

    ``stub_files``, ``stub_folders``: where the engine makes empty targets for its own mounts (paths below the root).
    They are no changes of the container's as long as they are as the engine makes them.
    """

    root: RootMount
    lowers: tuple[str, ...]
    stub_files: frozenset[str] = frozenset()
    stub_folders: frozenset[str] = frozenset()


class NeedsMerged(Exception):
    """The writable folder says of something that it is partly below (redirect_dir, metacopy): it must be read through
    an overlay."""


def diff_snapshot(source: DiffSource) -> Iterator[bytes]:
    """The layer's members and their contents, nothing at all if nothing changed; without the end blocks. Reproducible.

    Raises NeedsMerged (then ``diff_trees`` is right), Conflict (the container moved folders meanwhile), Invalid (a
    name that means deletion in a layer), OSError.
    """
    if source.root.type != "overlay":
        yield from diff_trees(source)
        return
    with opened(os.open(source.root.upper, FOLDER_FLAGS)) as root:
        yield from _UpperDiff(root, source).run()


def diff_trees(source: DiffSource) -> Iterator[bytes]:
    """As ``diff_snapshot``, by comparing every file with the layers below: for copies, and what is partly below."""
    mount = source.root
    fd = _open_merged(mount) if mount.type == "overlay" else os.open(mount.lower[0], FOLDER_FLAGS)
    with opened(fd) as root:
        yield from _TreeDiff(root, source).run()


def _open_merged(mount: RootMount) -> int:
    """A read-only view, seen by nobody, in which the writable folder is one more layer on top."""
    layers = (mount.upper, *mount.lower)
    overlay = make_overlay(layers, "", "", ("redirect_dir=follow", "metacopy=on"))
    with opened(overlay):
        return os.open(".", FOLDER_FLAGS, dir_fd=overlay)


@dataclass(slots=True)
class _Level:
    """One folder on the way down. ``header``: its member, as long as it is not written."""

    path: bytes
    names: Iterator[tuple[bytes, os.stat_result]]
    identity: tuple[int, int]
    header: Member | None
    marks: list[bytes] = field(default_factory=list)
    below: dict[bytes, Found] = field(default_factory=dict)

    def join(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


class _Diff:
    """One walk. What differs is decided by the two classes below."""

    def __init__(self, root: int, source: DiffSource) -> None:
        self._here = os.open(".", FOLDER_FLAGS, dir_fd=root)
        self._view = LowerView(source.lowers)
        self._files = frozenset(map(os.fsencode, source.stub_files))
        parents = {parent for path in self._files for parent in list(walk_names(path))[1:-1]}
        self._folders = parents | set(map(os.fsencode, source.stub_folders))
        self._links: dict[tuple[int, int], bytes] = {}
        self._levels: list[_Level] = []
        self._written = False

    def run(self) -> Iterator[bytes]:
        try:
            root = self._member(b"", os.fstat(self._here), self._here)
            yield from self._enter(b"", root, self._view.find(b""))
            levels = self._levels
            while levels:
                name, found = next(levels[-1].names, (b"", None))
                if found is not None:
                    yield from self._visit(name, levels[-1].join(name), found)
                    continue
                levels.pop()
                if levels:
                    self._leave(levels[-1])
        finally:
            os.close(self._here)

    def _visit(self, name: bytes, path: bytes, found: os.stat_result) -> Iterator[bytes]:
        kind = stat.S_IFMT(found.st_mode)
        if kind not in KINDS or is_whiteout(found) or self._is_stub(path, found):
            return  # a device 0:0 (on plain copies a container can make one) has no place in a layer
        if name.startswith(_WHITEOUT):
            raise Invalid(f"the name {show(path)} would delete a file in a layer: rename it before")
        if kind == stat.S_IFDIR:
            yield from self._descend(name, path)
        elif (found.st_dev, found.st_ino) in self._links:
            link = self._links[found.st_dev, found.st_ino]
            yield self._write(Member(path, tar.HARD_LINK, stat.S_IMODE(found.st_mode), link=link))
        elif kind == stat.S_IFREG:
            yield from self._file(name, path)
        else:
            yield from self._other(name, path, found)

    # Folders

    def _descend(self, name: bytes, path: bytes) -> Iterator[bytes]:
        try:
            child = os.open(name, FOLDER_FLAGS, dir_fd=self._here)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return  # it was a folder when it was listed
            raise
        os.close(self._here)
        self._here = child
        member = self._member(path, os.fstat(child), child)
        yield from self._enter(path, member, self._find_below(path))

    def _enter(self, path: bytes, member: Member, below: Found | None) -> Iterator[bytes]:
        """Make the open folder the current level, write it if it differs, and what it hides of the layers below."""
        own = os.fstat(self._here)
        level = _Level(path, iter(()), (own.st_dev, own.st_ino), member)
        with os.scandir(self._here) as entries:
            names = sorted(os.fsencode(entry.name) for entry in entries)
        listed = [(name, found) for name in names if (found := lstat_at(name, self._here))]
        kept = self._sort_out(level, listed, below)
        level.names = iter(kept)
        self._levels.append(level)
        if self._is_changed(member, below, own):
            yield from self._flush()
            if not path:
                yield self._write_header(level)
        for mark in level.marks:
            yield self._write(Member(level.join(mark), tar.REGULAR, 0))

    def _leave(self, parent: _Level) -> None:
        above = os.open("..", FOLDER_FLAGS, dir_fd=self._here)
        found = os.fstat(above)
        os.close(self._here)
        self._here = above
        if (found.st_dev, found.st_ino) != parent.identity:
            raise Conflict("the container moved a folder while it was committed: commit it paused")

    # Files

    def _file(self, name: bytes, path: bytes) -> Iterator[bytes]:
        try:
            place = os.open(name, _PATH_FLAGS, dir_fd=self._here)
        except FileNotFoundError:
            return
        with opened(place):
            if not stat.S_ISREG(os.fstat(place).st_mode):
                return  # it was a file when it was listed
            # This link leads to the very file that was looked at, whatever its name leads to now.
            fd = os.open(f"/proc/self/fd/{place}", _FILE_FLAGS)
        with opened(fd):
            found = os.fstat(fd)
            member = self._member(path, found, fd)
            if self._is_same_file(path, member, found, fd):
                return
            self._remember(path, found)
            if found.st_blocks * 512 + _SPARSE_FROM <= found.st_size:
                member = _without_holes(member, fd)
            yield self._write(member)
            yield from _read(fd, member)

    def _other(self, name: bytes, path: bytes, found: os.stat_result) -> Iterator[bytes]:
        link = b""
        if stat.S_ISLNK(found.st_mode):
            try:
                link = os.readlink(name, dir_fd=self._here)
            except OSError:
                return
        member = Member(
            path,
            KINDS[stat.S_IFMT(found.st_mode)],
            stat.S_IMODE(found.st_mode),
            found.st_uid,
            found.st_gid,
            0,
            int(found.st_mtime_ns // 1_000_000_000),
            link,
            (os.major(found.st_rdev), os.minor(found.st_rdev)) if found.st_rdev else (0, 0),
        )
        if not self._is_same_other(path, member, found):
            self._remember(path, found)
            yield self._write(member)

    def _remember(self, path: bytes, found: os.stat_result) -> None:
        if found.st_nlink > 1:
            self._links[found.st_dev, found.st_ino] = path

    def _member(self, path: bytes, found: os.stat_result, fd: int) -> Member:
        return Member(
            path,
            KINDS[stat.S_IFMT(found.st_mode)],
            stat.S_IMODE(found.st_mode),
            found.st_uid,
            found.st_gid,
            found.st_size if stat.S_ISREG(found.st_mode) else 0,
            int(found.st_mtime_ns // 1_000_000_000),
            xattrs=self._xattrs(fd),
        )

    def _xattrs(self, fd: int) -> dict[str, bytes]:
        return read_kept_xattrs(fd)

    # Output

    def _write(self, member: Member) -> bytes:
        """The member's header, after those of the folders above it that are not written yet."""
        return b"".join(self._flush()) + self._first(member) + format_member(member)

    def _flush(self) -> Iterator[bytes]:
        for level in self._levels[1:]:
            if level.header is not None:
                yield self._write_header(level)

    def _write_header(self, level: _Level) -> bytes:
        header, level.header = level.header, None
        assert header is not None
        return self._first(header) + format_member(_as_named(header))

    def _first(self, member: Member) -> bytes:
        """A plain tar whose first name looks like a codec's magic number would be taken for compressed."""
        root = self._levels[0]
        if self._written or root.header is None or not sniff(member.name[:6]):
            self._written = True
            return b""
        self._written = True
        header, root.header = root.header, None
        return format_member(_as_named(header))

    # Decisions

    def _is_stub(self, path: bytes, found: os.stat_result) -> bool:
        """An empty file of root's that the engine made as the target of a mount."""
        if path not in self._files or not stat.S_ISREG(found.st_mode):
            return False
        plain = (found.st_size, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), found.st_nlink)
        return plain == (0, 0, 0, 0o644, 1) and self._view.find(path) is None

    def _is_made_by_us(self, member: Member, below: Found | None) -> bool:
        """A folder that differs at most by what the engine put into it."""
        if member.name not in self._folders:
            return False
        if below is None:
            return (member.mode, member.uid, member.gid, member.xattrs) == (0o755, 0, 0, {})
        return below.is_folder and attributes_of(member) == attributes_below(below)

    def _sort_out(
        self, level: _Level, listed: list[tuple[bytes, os.stat_result]], below: Found | None
    ) -> list[tuple[bytes, os.stat_result]]:
        raise NotImplementedError

    def _find_below(self, path: bytes) -> Found | None:
        raise NotImplementedError

    def _is_changed(self, member: Member, below: Found | None, own: os.stat_result) -> bool:
        raise NotImplementedError

    def _is_same_file(self, path: bytes, member: Member, found: os.stat_result, fd: int) -> bool:
        raise NotImplementedError

    def _is_same_other(self, path: bytes, member: Member, found: os.stat_result) -> bool:
        raise NotImplementedError


class _UpperDiff(_Diff):
    """Everything in an overlay's writable folder is a change; deletions and hidden folders stand in it as marks."""

    def _sort_out(
        self, level: _Level, listed: list[tuple[bytes, os.stat_result]], below: Found | None
    ) -> list[tuple[bytes, os.stat_result]]:
        if is_opaque(self._here) and below is not None and below.is_folder:
            # The kernel marks new folders too, with nothing below to hide.
            level.marks.append(_OPAQUE_MARK)
        level.marks += [_WHITEOUT + name for name, found in listed if is_whiteout(found)]
        return [(name, found) for name, found in listed if not is_whiteout(found)]

    def _find_below(self, path: bytes) -> Found | None:
        # Most folders need no look at the layers below.
        return self._view.find(path) if path in self._folders or is_opaque(self._here) else None

    def _is_changed(self, member: Member, below: Found | None, own: os.stat_result) -> bool:
        if not member.name:
            return below is None or attributes_of(member) != attributes_below(below)
        return not self._is_made_by_us(member, below)

    def _xattrs(self, fd: int) -> dict[str, bytes]:
        names = os.listxattr(fd)
        if any(name in _MOVED for name in names):
            raise NeedsMerged
        return read_kept_xattrs(fd, names)

    def _is_same_file(self, path: bytes, member: Member, found: os.stat_result, fd: int) -> bool:
        return False

    def _is_same_other(self, path: bytes, member: Member, found: os.stat_result) -> bool:
        return False


class _TreeDiff(_Diff):
    """A whole tree against the merged view of the layers: what is not the same is a change, what is gone a deletion."""

    def __init__(self, root: int, source: DiffSource) -> None:
        super().__init__(root, source)
        self._lowers = source.lowers

    def _sort_out(
        self, level: _Level, listed: list[tuple[bytes, os.stat_result]], below: Found | None
    ) -> list[tuple[bytes, os.stat_result]]:
        if below is not None and below.is_folder:
            level.below = list_below(self._lowers, level.path)
            gone = level.below.keys() - {name for name, _ in listed}
            level.marks = [_WHITEOUT + name for name in sorted(gone)]
        return listed

    def _find_below(self, path: bytes) -> Found | None:
        return self._levels[-1].below.get(path.rpartition(b"/")[2])

    def _is_changed(self, member: Member, below: Found | None, own: os.stat_result) -> bool:
        if self._is_made_by_us(member, below):
            return False
        if below is None or not below.is_folder or attributes_of(member) != attributes_below(below):
            return True
        # The root's time changes with the engine's stubs; Docker does not store the root at all.
        return bool(member.name) and own.st_mtime_ns != below.stat.st_mtime_ns

    def _is_same_file(self, path: bytes, member: Member, found: os.stat_result, fd: int) -> bool:
        below = self._find_below(path)
        if below is None or not stat.S_ISREG(below.stat.st_mode):
            return False
        old = below.stat
        if (found.st_size, found.st_mtime_ns) != (old.st_size, old.st_mtime_ns):
            return False
        if attributes_of(member) != attributes_below(below):
            return False
        # A file can be written and be given its old time again.
        with opened(open_below(below.layer, below.path, _FILE_FLAGS)) as other:
            return have_same_content(fd, other)

    def _is_same_other(self, path: bytes, member: Member, found: os.stat_result) -> bool:
        below = self._find_below(path)
        if below is None or stat.S_IFMT(below.stat.st_mode) != stat.S_IFMT(found.st_mode):
            return False
        old = below.stat
        plain = (found.st_mode, found.st_uid, found.st_gid, found.st_rdev, found.st_mtime_ns)
        if plain != (old.st_mode, old.st_uid, old.st_gid, old.st_rdev, old.st_mtime_ns):
            return False
        return not stat.S_ISLNK(found.st_mode) or member.link == read_link(below)


def _as_named(member: Member) -> Member:
    """The root is called ``.`` in a tar."""
    if member.name:
        return member
    return Member(
        b".", member.kind, member.mode, member.uid, member.gid, 0, member.mtime, xattrs=member.xattrs
    )


def _without_holes(member: Member, fd: int) -> Member:
    """``member`` with the places of its data. GNU tar ends the list with an empty piece if a hole is last."""
    data: list[tuple[int, int]] = []
    end, size = 0, member.size
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                break
            raise
        data.append((start, end - start))
    if not data or sum(data[-1]) < size:
        data.append((size, 0))
    fields = {name: getattr(member, name) for name in member.__struct_fields__}
    return Member(**{**fields, "data": tuple(data)})


def _read(fd: int, member: Member) -> Iterator[bytes]:
    """Exactly what the header announced, also of a file that shrinks or grows meanwhile."""
    stored = 0
    for start, length in member.data if member.data is not None else ((0, member.size),):
        offset, end = start, start + length
        while offset < end:
            part = os.pread(fd, min(CHUNK, end - offset), offset) or bytes(min(CHUNK, end - offset))
            yield part
            offset += len(part)
        stored += length
    if stored % tar.BLOCK:
        yield padding(stored)
