"""The files in images: what a layer has, what all layers together look like, and what two images differ in.

A layer is read once, in a thread, with bounds against bombs; what was found is kept in memory, packed. Files are
compared by the hash of their content, so a change that keeps size and time is seen too.
"""

import asyncio
import hashlib
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Literal

import msgspec

from cais.errors import CaisError, Invalid
from cais.registry.registry import Registry
from cais.spec.digest import Digest
from cais.store.layers import tar
from cais.store.layers.codec import read_chunks
from cais.store.layers.limits import Limits
from cais.store.layers.stream import Stream

BOUNDS = Limits(max_entries=200_000, max_bytes=16 << 30, max_ratio=200, ratio_floor=512 << 20)
PATIENCE = 30.0
"""Seconds that one layer may take."""
CACHE_BYTES = 48 << 20
"""Packed listings that are kept in memory."""
CACHE_NODES = 300_000
"""Files in trees that are kept in memory."""
MAX_NODES = 300_000
"""Files of one tree, about 90 MB: each layer may have as many as its bounds say, and there may be a hundred layers."""
_OPAQUE = ".wh..wh..opq"
_WHITEOUT = ".wh."
_AUFS = ".wh..wh."
_KINDS = {
    tar.REGULAR: "file",
    tar.FOLDER: "folder",
    tar.SYMLINK: "link",
    tar.HARD_LINK: "hard link",
    tar.CHARACTER: "device",
    tar.BLOCK_DEVICE: "device",
    tar.FIFO: "pipe",
}


class FileEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member of a layer. ``path`` has no slash at either end; ``content`` is a hash, empty for what has none."""

    path: str
    kind: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime: int
    link: str
    content: str


class Listing(msgspec.Struct, frozen=True, array_like=True):
    """A layer's members in their order; ``broken``: why these are not all."""

    entries: tuple[FileEntry, ...]
    broken: str = ""


class Node:
    """A file or folder in a tree. ``layer`` is the number of the one it comes from; ``total`` and ``count`` are of all
    that is in it."""

    __slots__ = ("children", "count", "entry", "layer", "total")

    def __init__(self, entry: FileEntry, layer: int) -> None:
        self.entry = entry
        self.layer = layer
        self.children: dict[str, Node] = {}
        self.total = entry.size
        self.count = 1

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.entry.path.rpartition("/")[2]

    @property
    def is_folder(self) -> bool:
        """Whether it may have something in it."""
        return self.entry.kind == "folder"

    def find(self, path: str) -> "Node | None":
        """What lies at ``path`` below; itself for the empty path."""
        node: Node | None = self
        for part in filter(None, path.split("/")):
            node = node.children.get(part) if node else None
        return node

    def sorted(self) -> "list[Node]":
        """Folders first, then by name."""
        return sorted(self.children.values(), key=lambda node: (not node.is_folder, node.name))


class Tree(msgspec.Struct, frozen=True):
    """Several layers on top of each other; ``broken``: why something may be absent."""

    root: Node
    broken: str = ""


How = Literal["added", "removed", "changed"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A difference at ``path``. For a whole folder ``count`` says how many files
    and folders it stands for; ``details`` what has changed besides the content."""

    path: str
    how: How
    kind: str
    before: int = 0
    after: int = 0
    count: int = 1
    details: tuple[str, ...] = ()


class Files:
    """One hub's. Layers are read one at a time: a page must not take the processors from pushes and pulls."""

    def __init__(self, registry: Registry, bounds: Limits = BOUNDS, patience: float = PATIENCE) -> None:
        self._registry = registry
        self._bounds = bounds
        self._patience = patience
        self._turn = asyncio.Semaphore(1)
        self._listings: OrderedDict[Digest, bytes] = OrderedDict()
        self._listed = 0
        self._trees: OrderedDict[tuple[bool, tuple[Digest, ...]], Tree] = OrderedDict()

    async def tree(self, layers: Sequence[Digest], *, applied: bool = True) -> Tree:
        """The file tree of these layers, the lowest first. ``applied``: whiteouts have removed what they stand for;
        else they are shown, which for a single layer says what it does."""
        key = (applied, tuple(layers))
        found = self._trees.get(key)
        if found is None:
            packed = [await self._packed(digest) for digest in layers]
            found = await asyncio.to_thread(_build, packed, applied)
            if not found.broken:  # what is absent may come
                self._trees[key] = found
            while len(self._trees) > 1 and sum(t.root.count for t in self._trees.values()) > CACHE_NODES:
                self._trees.popitem(last=False)
        else:
            self._trees.move_to_end(key)
        return found

    async def _packed(self, digest: Digest) -> bytes:
        async with self._turn:
            found = self._listings.get(digest)
            if found is None:
                found = await asyncio.to_thread(self._list, digest)
                if found == _ABSENT:
                    return found
                self._listings[digest] = found
                self._listed += len(found)
                while self._listed > CACHE_BYTES and len(self._listings) > 1:
                    self._listed -= len(self._listings.popitem(last=False)[1])
            else:
                self._listings.move_to_end(digest)
            return found

    def _list(self, digest: Digest) -> bytes:
        try:
            file = self._registry.open_blob(digest)
        except CaisError:  # not pulled through yet, or one that must not be distributed
            return _ABSENT
        with file:
            return _pack(list_layer(file, self._bounds, self._patience))


def list_layer(file: BinaryIO, bounds: Limits = BOUNDS, patience: float = PATIENCE) -> Listing:
    """What a layer's blob has in it. Blocking. What is too much, damaged or no tar ends the list and says why."""
    entries: list[FileEntry] = []
    end = time.monotonic() + patience
    try:
        with Stream(read_chunks(file, bounds)) as stream:
            for entry in tar.read_entries(stream):
                if len(entries) >= bounds.max_entries:
                    raise Invalid(f"more than {bounds.max_entries} files")
                if len(entry.name) > bounds.max_path:
                    raise Invalid("a name is too long")
                entries.append(_describe(entry, stream, end))
    except CaisError as error:
        return Listing(tuple(entries), str(error))
    return Listing(tuple(entries))


def _pack(listing: Listing) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(listing), 1)


_ABSENT = _pack(Listing((), "it is not in this registry"))


def _describe(entry: tar.Entry, stream: Stream, end: float) -> FileEntry:
    content = ""
    if entry.kind == tar.REGULAR:
        hashed = hashlib.sha256()

        def take(part: memoryview) -> int:
            if time.monotonic() > end:
                raise Invalid("it takes too long to read")
            hashed.update(part)
            return len(part)

        stream.send(entry.size, take)
        content = hashed.hexdigest()[:32]
    elif time.monotonic() > end:
        raise Invalid("it takes too long to read")
    return FileEntry(
        path=_clean(entry.name),
        kind=_KINDS.get(entry.kind, "other"),
        size=entry.real_size,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=entry.mtime_ns // 1_000_000_000,
        link=entry.link.decode("utf-8", "backslashreplace"),
        content=content,
    )


def _clean(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return "/".join(part for part in text.split("/") if part not in ("", "."))


def _build(packed: Iterable[bytes], applied: bool) -> Tree:
    listings = (msgspec.msgpack.decode(zlib.decompress(data), type=Listing) for data in packed)
    return build_tree(listings, applied=applied)


def build_tree(listings: Iterable[Listing], *, applied: bool = True, most: int = MAX_NODES) -> Tree:
    """Put layers on top of each other (image-spec, layer.md, "Applying Changesets"), until there are so many files."""
    root = _folder("", 0)
    broken, room = "", most
    for number, listing in enumerate(listings, 1):
        broken = broken or (f"layer {number}: {listing.broken}" if listing.broken else "")
        if applied:
            _remove(root, listing)
        for entry in listing.entries:
            if not applied or f"/{_WHITEOUT}" not in f"/{entry.path}":
                room -= _insert(root, entry, number)
            if room < 0:  # asked each time: one entry may bring two thousand folders
                break
        if room < 0:
            broken = broken or f"layer {number}: the image has more than {most} files"
            break
    _add_up(root)
    return Tree(root, broken)


def _remove(root: Node, listing: Listing) -> None:
    """What a layer's whiteouts take from those below, before anything of its own is there."""
    for entry in listing.entries:
        parent, _, name = entry.path.rpartition("/")
        if name == _OPAQUE:
            if folder := root.find(parent):
                folder.children.clear()
        elif name.startswith(_WHITEOUT) and not name.startswith(_AUFS) and (folder := root.find(parent)):
            folder.children.pop(name.removeprefix(_WHITEOUT), None)


def _insert(root: Node, entry: FileEntry, layer: int) -> int:
    """How many there are more; what others made way for is not counted."""
    parts = entry.path.split("/") if entry.path else []
    if not parts:
        root.entry = entry if entry.kind == "folder" else root.entry
        return 0
    node, made = root, 1
    for depth, part in enumerate(parts[:-1], 1):
        inner = node.children.get(part)
        if inner is None or not inner.is_folder:
            inner = node.children[part] = _folder("/".join(parts[:depth]), layer)
            made += 1
        node = inner
    old = node.children.get(parts[-1])
    new = node.children[parts[-1]] = Node(entry, layer)
    if old is not None and old.is_folder and new.is_folder:
        new.children = old.children
    return made if old is None else made - 1


def _folder(path: str, layer: int) -> Node:
    return Node(FileEntry(path, "folder", 0, 0o755, 0, 0, 0, "", ""), layer)


def _walk(root: Node) -> Iterator[Node]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack += node.children.values()


def _add_up(root: Node) -> None:
    for node in reversed(list(_walk(root))):  # a folder stands before what is in it
        node.total = node.entry.size + sum(child.total for child in node.children.values())
        node.count = 1 + sum(child.count for child in node.children.values())


def compare_trees(old: Node, new: Node) -> list[Change]:
    """What must happen to ``old`` to become ``new``, by path. A folder that is new or gone is one change."""
    changes: list[Change] = []
    stack = [(old, new)]
    while stack:
        before, after = stack.pop()
        for name in before.children.keys() | after.children.keys():
            a, b = before.children.get(name), after.children.get(name)
            if a is None and b is not None:
                changes.append(_whole(b, "added"))
            elif b is None and a is not None:
                changes.append(_whole(a, "removed"))
            elif a is not None and b is not None:
                if found := _compare(a.entry, b.entry):
                    changes.append(found)
                if a.children or b.children:
                    stack.append((a, b))
    return sorted(changes, key=lambda change: change.path)


def _whole(node: Node, how: How) -> Change:
    before, after = (node.total, 0) if how == "removed" else (0, node.total)
    return Change(
        path=node.entry.path, how=how, kind=node.entry.kind, before=before, after=after, count=node.count
    )


def _compare(a: FileEntry, b: FileEntry) -> Change | None:
    details = []
    if a.kind != b.kind:
        details.append(f"{a.kind} became {b.kind}")
    if a.link != b.link:
        details.append(f"target {a.link or 'none'} became {b.link or 'none'}")
    if a.mode != b.mode:
        details.append(f"mode {a.mode:04o} became {b.mode:04o}")
    if (a.uid, a.gid) != (b.uid, b.gid):
        details.append(f"owner {a.uid}:{a.gid} became {b.uid}:{b.gid}")
    if a.content == b.content and a.size == b.size and not details:
        return None
    return Change(
        path=b.path, how="changed", kind=b.kind, before=a.size, after=b.size, details=tuple(details)
    )
