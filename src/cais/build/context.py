"""A build's context, read by an index: the tar that a client sent, kept as it came, or an open folder of the client's.
Nothing of a tar is ever a path on this machine; nothing in a folder leads out of it."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import msgspec
from msgspec.structs import replace

from cais.build.tree import CHUNK, ROOT, Node, show
from cais.errors import Corrupt, Invalid, NotFound
from cais.linux.peers import open_beneath
from cais.spec.ignore import Ignore, clean_path, has_wildcards
from cais.store.layers import tar
from cais.store.layers.codec import read_chunks
from cais.store.layers.limits import Limits
from cais.store.layers.stream import Stream
from cais.store.layers.tar import Entry, read_entries

LIMITS = Limits()
MAX_FILES = 2_000_000
_DOCKERFILE_LIMIT = 4 << 20


class Item(msgspec.Struct, frozen=True, gc=False):
    """One member of the context. ``pieces``: where its bytes are, as (offset in the file, offset in the tar, length);
    ``digest`` of its bytes, or of nothing."""

    node: Node
    digest: bytes = b""
    pieces: tuple[tuple[int, int, int], ...] = ()


class FileChanged(Invalid):
    """A file of the context is not what it was when the build began."""


def file_changed(path: bytes) -> FileChanged:
    """The error for ``path``."""
    return FileChanged(
        f"the file {show(path)} changed during the build: build again when nothing writes to it"
    )


class Index(msgspec.Struct, frozen=True):
    """All members by path, sorted; every folder above a member is one, too.

    ``path``: the plain tar; or an open folder, whose files are read by their own paths and must be what ``digest``
    says. In the engine's process the path of a folder is a ``FolderPath``. ``memo``: fingerprints of parts of
    these very items, by what was asked; shared by all builds that have the same.
    """

    path: str
    items: dict[bytes, Item]
    memo: dict[str, str] | None = None


class FolderPath(str):
    """The path of an open folder, with ``hasher``: it finds a digest that is not known yet. For a worker it becomes a
    plain text: what was found goes there with the items."""

    __slots__ = ("hasher",)
    hasher: Callable[[bytes], bytes]

    def __reduce__(self) -> Any:
        return str, (str(self),)


def make_folder_path(path: str, hasher: Callable[[bytes], bytes]) -> FolderPath:
    """``path`` with its hasher."""
    made = FolderPath(path)
    made.hasher = hasher
    return made


def narrow(index: Index, sources: Sequence[str]) -> Index:
    """The part of ``index`` that ``sources`` can mean, to be sent to a worker; all of it when that is not plain to see:
    wildcards, links on the way, what is not there (its neighbours are suggested)."""
    wanted = set[bytes]()
    for text in sources:
        path = clean_path(text)
        if not path or has_wildcards(path):
            return index
        parts = os.fsencode(path).split(b"/")
        for count in range(1, len(parts) + 1):
            item = index.items.get(b"/".join(parts[:count]))
            if item is None or item.node.kind == tar.SYMLINK:
                return index
        wanted.add(b"/".join(parts))
    if not wanted:
        return index
    exact = {
        b"/".join(path.split(b"/")[:count]) for path in wanted for count in range(1, path.count(b"/") + 2)
    }
    below = tuple(path + b"/" for path in wanted)
    items = {path: item for path, item in index.items.items() if path in exact or path.startswith(below)}
    return Index(index.path, items)


def index_context(source: str, plain: str) -> Index:
    """Read the tar at ``source``, compressed or not, once; for a worker or a thread. Owners do not count: files of a
    context are root's. ``plain``: where the uncompressed tar is written if it has to be.

    Raises Corrupt, Invalid (names that lead out, too many files).
    """
    with open(source, "rb", buffering=0) as raw:  # noqa: PTH123
        head = raw.read(1 << 10)
        raw.seek(0)
        is_plain = head[257:262] == b"ustar" or not any(head)
        if is_plain:
            return _index(raw, source)
        with open(plain, "w+b", buffering=0) as out:  # noqa: PTH123
            for chunk in read_chunks(raw, LIMITS):
                view = memoryview(chunk)
                while view:
                    view = view[out.write(view) :]
            out.seek(0)
            return _index(out, plain)


def _index(file: BinaryIO, path: str) -> Index:
    items: dict[bytes, Item] = {}
    with Stream(iter(lambda: file.read(256 << 10), b"")) as stream:
        for entry in read_entries(stream):
            name = clean_member(entry.name)
            if not name:
                continue
            _put(items, name, _read_item(entry, items, stream))
            if len(items) > MAX_FILES:
                raise Invalid(f"the context has more than {MAX_FILES} files")
    return Index(path, dict(sorted(items.items())))


def clean_member(name: bytes) -> bytes:
    """The path in the context that a member's name means. Raises Invalid for one that leads out."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise Invalid(f"forbidden path outside the build context: {show(name)}")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    if len(parts) > LIMITS.max_depth or len(name) > LIMITS.max_path:
        raise Invalid(f"path in the build context is too long: {show(name[:100])}…")
    return b"/".join(parts)


def _put(items: dict[bytes, Item], name: bytes, item: Item) -> None:
    """The last one of a name holds; what was below it goes, what is above it is a folder."""
    old = items.get(name)
    if old and old.node.is_folder and not item.node.is_folder:
        for below in [path for path in items if path.startswith(name + b"/")]:
            del items[below]
    items[name] = item
    above = name.rpartition(b"/")[0]
    while above and not ((found := items.get(above)) and found.node.is_folder):
        items[above] = Item(Node(tar.FOLDER, 0o755, mtime=item.node.mtime))
        above = above.rpartition(b"/")[0]


def _read_item(entry: Entry, items: dict[bytes, Item], stream: Stream) -> Item:
    if entry.kind == tar.HARD_LINK:
        target = items.get(clean_member(entry.link))
        if target is None or target.node.is_folder:
            raise Invalid(f"hard link in the build context leads nowhere: {show(entry.name)}")
        if not target.node.identity:
            target = replace(target, node=replace(target.node, identity=(len(items),)))
            items[clean_member(entry.link)] = target
        return target
    offset = stream.offset
    content = hashlib.sha256()
    if entry.kind == tar.REGULAR:

        def take(part: memoryview) -> int:
            content.update(part)
            return len(part)

        stream.send(entry.size, take)
    node = Node(
        entry.kind,
        entry.mode,
        size=entry.real_size if entry.kind == tar.REGULAR else 0,
        mtime=entry.mtime_ns // 1_000_000_000,
        link=entry.link if entry.kind == tar.SYMLINK else b"",
        device=entry.device,
        xattrs={name: value for name, value in entry.xattrs.items() if _is_kept(name)},
    )
    pieces = []
    for start, length in entry.sparse if entry.sparse is not None else ((0, entry.size),):
        pieces.append((start, offset, length))
        offset += length
    if entry.sparse is not None:
        content.update(repr((entry.sparse, entry.real_size)).encode())
    return Item(node, content.digest(), tuple(pieces))


def _is_kept(xattr: str) -> bool:
    return xattr == "security.capability" or (
        xattr.startswith("user.") and not xattr.startswith("user.overlay.")
    )


class Context:
    """The tree of an index; ``ignore``: members that are not there for COPY."""

    def __init__(self, index: Index, ignore: Ignore | None = None) -> None:
        self._items = index.items
        if ignore and ignore.rules:
            self._items = {
                path: item for path, item in index.items.items() if not ignore.excludes(os.fsdecode(path))
            }
        self.memo = index.memo if self._items is index.items else None
        self._path = index.path
        self._hasher = index.path.hasher if isinstance(index.path, FolderPath) else None
        self._listing: dict[bytes, list[bytes]] | None = None
        self._fd = -1

    def look(self, path: bytes) -> Node | None:
        """Tree.look."""
        item = self._items.get(path)
        return item.node if item else None if path else ROOT

    def names(self, path: bytes) -> Sequence[bytes]:
        """Tree.names."""
        if self._listing is None:
            self._listing = {}
            for each in self._items:
                folder, _, name = each.rpartition(b"/")
                self._listing.setdefault(folder, []).append(name)
        return self._listing.get(path, ())

    def digest(self, path: bytes) -> bytes:
        """Of the bytes of the file at ``path``; empty for other things. Raises FileChanged, Invalid."""
        item = self._items.get(path)
        if item is None or item.node.kind != tar.REGULAR:
            return b""
        if self._hasher and not item.digest:
            item = self._items[path] = Item(item.node, self._hasher(path))
        return item.digest

    def read(self, path: bytes) -> Iterator[bytes]:
        """Tree.read."""
        item = self._items[path]
        if self._is_folder():
            if not item.digest:
                raise Invalid(f"the content of {show(path)} is in no key: it cannot be copied")
            yield from read_checked(self._file(), path, item)
            return
        at = 0
        for start, offset, length in item.pieces:
            yield from _zeros(start - at)
            yield from _read_whole(self._file(), offset, length, path)
            at = start + length
        yield from _zeros(item.node.size - at)

    def _file(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def _is_folder(self) -> bool:
        return stat.S_ISDIR(os.fstat(self._file()).st_mode)

    def read_text(self, path: str) -> bytes:
        """A whole small file: a Dockerfile. Raises NotFound, Invalid."""
        raw = clean_member(os.fsencode(path))
        node = self.look(raw)
        if node is None or node.kind != tar.REGULAR:
            raise NotFound(f"cannot locate specified Dockerfile: {path}")
        if node.size > _DOCKERFILE_LIMIT:
            raise Invalid(f"{path} is larger than {_DOCKERFILE_LIMIT} bytes")
        if self._is_folder():
            return b"".join(read_checked(self._file(), raw, self._items[raw]))
        return b"".join(self.read(raw))

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_checked(folder: int, path: bytes, item: Item) -> Iterator[bytes]:
    """The bytes of the file at ``path`` below the open ``folder``: as many as ``item`` says, and of its digest if it
    has one. Raises FileChanged, at the end at the latest: what was read until then is to be thrown away."""
    try:
        fd = open_beneath(folder, path)
    except OSError:
        raise file_changed(path) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise file_changed(path)
        content, left = hashlib.sha256(), item.node.size
        while left:
            part = os.read(fd, min(left, CHUNK))
            if not part:
                raise file_changed(path)
            left -= len(part)
            content.update(part)
            yield part
        if os.read(fd, 1) or (item.digest and content.digest() != item.digest):
            raise file_changed(path)
    finally:
        os.close(fd)


def _read_whole(fd: int, offset: int, size: int, path: bytes) -> Iterator[bytes]:
    """``size`` bytes; what is gone is never taken for zeros. Raises Corrupt."""
    end = offset + size
    while offset < end:
        part = os.pread(fd, min(CHUNK, end - offset), offset)
        if not part:
            raise Corrupt(f"the bytes of {show(path)} in the build context are gone: build again")
        yield part
        offset += len(part)


def _zeros(size: int) -> Iterator[bytes]:
    while size > 0:
        part = bytes(min(size, 256 << 10))
        yield part
        size -= len(part)
