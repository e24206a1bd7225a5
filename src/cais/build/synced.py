"""Folders that clients send over and over: what came before is kept, so that only what changed has to come again.

    build/synced/<key>/pack    the bytes of files, one after the other; it only grows
    build/synced/<key>/index   what is where, as msgpack, written whole

A build holds the pack by a hard link of its own, so a pack that is given up lives as long as somebody reads it. As in
BuildKit, a file whose name, mode, size and time are what they were is taken for the same.
"""

import asyncio
import hashlib
import os
import shutil
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from cais.build.context import MAX_FILES, Index, Item, clean_member
from cais.build.tree import Node
from cais.errors import Invalid
from cais.store.layers import tar

EMPTY = hashlib.sha256().digest()
_BATCH = 1 << 20
_MEMORIES = 16
_MEMORY_LIMIT = 8 << 20
"""Bytes of one walk that is remembered."""
_SLACK = 64 << 20
"""Bytes of a pack that nothing refers to and that may be kept, beside as many as there are in use."""


class Known(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file that came before: by what it is recognised, its digest, and where its bytes are."""

    mode: int
    size: int
    mtime_ns: int
    digest: bytes
    pieces: tuple[tuple[int, int, int], ...]


class _State(msgspec.Struct, frozen=True):
    files: dict[bytes, Known]


class Incoming(msgspec.Struct):
    """A file whose bytes are coming."""

    path: bytes
    node: Node
    mtime_ns: int
    hash: "hashlib._Hash" = msgspec.field(default_factory=hashlib.sha256)
    pieces: list[tuple[int, int, int]] = msgspec.field(default_factory=list)
    size: int = 0


class Memory(msgspec.Struct, frozen=True):
    """A walk that came before, word for word, and what it was: when the next is the same, nothing has to be looked at.
    ``size``: bytes of the pack that the items point into."""

    messages: Sequence[bytes]
    items: dict[bytes, Item]
    memo: dict[str, str]
    size: int


class Receiving:
    """One transfer into one folder: told of every file, it says which must come. ``memory``: the walk before
    this one."""

    def __init__(
        self,
        path: Path,
        fd: int,
        known: Callable[[], dict[bytes, Known]],
        memory: Memory | None = None,
        on_new: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_new = on_new
        self.path = path
        self._load = known
        self._loaded: dict[bytes, Known] | None = None
        self._fd = fd
        self.memory = memory
        self._memo: dict[str, str] = {}
        self._end = os.fstat(fd).st_size
        self._batch: list[bytes] = []
        self._size = 0
        self._writing: asyncio.Future[None] | None = None
        self.items: dict[bytes, Item] = {}
        self.fresh: dict[bytes, Known] = {}
        self.received = 0
        self.messages: list[bytes] = []

    @property
    def known(self) -> dict[bytes, Known]:
        """What came before; read when it is asked for."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def recall(self) -> None:
        """The walk is the one of ``memory``: so is everything else."""
        assert self.memory is not None
        self.items, self._memo = self.memory.items, self.memory.memo

    def remember(self, messages: Sequence[bytes]) -> Memory:
        """This walk, for the next."""
        return Memory(messages, self.items, self._memo, os.fstat(self._fd).st_size)

    def add(self, path: str, node: Node, mtime_ns: int) -> Incoming | None:
        """One file of the walk; what is returned must come. Hard links have ``node.kind`` HARD_LINK. Raises Invalid."""
        name = clean_member(os.fsencode(path))
        if not name:
            return None
        if len(self.items) >= MAX_FILES:
            raise Invalid(f"the context has more than {MAX_FILES} files")
        above = name.rpartition(b"/")[0]
        if above and ((found := self.items.get(above)) is None or not found.node.is_folder):
            raise Invalid(f"the context's files came in a wrong order: {os.fsdecode(name)}")
        if node.kind == tar.HARD_LINK:
            self._link(name, node)
            return None
        if node.kind != tar.REGULAR:
            self.items[name] = Item(node, EMPTY)
            return None
        known = self.known.get(name)
        if known and (known.mode, known.size, known.mtime_ns) == (node.mode, node.size, mtime_ns):
            self.items[name] = Item(node, known.digest, known.pieces)
            self.fresh[name] = known
            return None
        self._on_new()
        self._on_new = _nothing
        # Its place in the order, until it is there.
        self.items[name] = Item(node)
        return Incoming(name, node, mtime_ns)

    def _link(self, name: bytes, node: Node) -> None:
        target = clean_member(node.link)
        item = self.items.get(target)
        if item is None or item.node.is_folder:
            raise Invalid(f"hard link in the build context leads nowhere: {os.fsdecode(name)}")
        if not item.node.identity:
            identity = (len(self.items),)
            item = msgspec.structs.replace(item, node=msgspec.structs.replace(item.node, identity=identity))
            self.items[target] = item
        self.items[name] = item

    async def write(self, file: Incoming, data: bytes) -> None:
        """More of a file. Raises OSError."""
        # Hashed here: a thread would have to wait for the interpreter's lock after every piece.
        file.hash.update(data)
        file.pieces.append((file.size, self._end, len(data)))
        file.size += len(data)
        self._end += len(data)
        self._batch.append(data)
        self._size += len(data)
        self.received += len(data)
        if self._size >= _BATCH:
            await self._flush()

    def finish(self, file: Incoming) -> None:
        """All of a file has come."""
        self._done(file)

    async def flush(self) -> None:
        """Everything is written and every file known. Raises OSError, Invalid (one has not come)."""
        if self.memory is not None and self.items is self.memory.items:
            return
        await self._flush()
        await self._settle()
        for name, item in self.items.items():
            if item.node.kind == tar.REGULAR and not item.digest:
                raise Invalid(f"the client did not send {os.fsdecode(name)}")

    def index(self, folder: Path) -> Index:
        """What came, for a build whose folder it is; in the block of ``receive``, after ``flush``."""
        path = folder / f"synced-{uuid.uuid4().hex}"
        os.link(self.path, path)
        if self.memory is None or self.items is not self.memory.items:
            self.items = dict(sorted(self.items.items()))
        return Index(str(path), self.items, self._memo)

    async def _flush(self) -> None:
        """Have what has gathered written, while the next gathers."""
        batch, self._batch, self._size = self._batch, [], 0
        await self._settle()
        if batch:
            at = self._end - sum(map(len, batch))
            loop = asyncio.get_running_loop()
            self._writing = loop.run_in_executor(None, _write, self._fd, b"".join(batch), at)

    async def _settle(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await writing

    def _done(self, file: Incoming) -> None:
        digest = file.hash.digest()
        pieces = merge_pieces(file.pieces)
        # It may have grown or shrunk since the walk; what came counts.
        old = self.items[file.path].node
        node = msgspec.structs.replace(old, size=file.size)
        item = Item(node, digest, pieces)
        self.items[file.path] = item
        if old.identity:
            for name, other in self.items.items():
                if other.node.identity == old.identity:
                    self.items[name] = item
        if file.size == file.node.size:
            self.fresh[file.path] = Known(file.node.mode, file.size, file.mtime_ns, digest, pieces)


def _write(fd: int, data: bytes, at: int) -> None:
    """In a thread: the disk may be slow."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count


def _nothing() -> None:
    """Once is enough."""


def merge_pieces(pieces: list[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Neighbours as one."""
    merged: list[tuple[int, int, int]] = []
    for start, offset, length in pieces:
        if merged and merged[-1][1] + merged[-1][2] == offset:
            first, at, size = merged[-1]
            merged[-1] = (first, at, size + length)
        else:
            merged.append((start, offset, length))
    return tuple(merged)


class SyncedStore:
    """All such folders of an engine."""

    def __init__(self, root: Path, on_new: Callable[[], object] = lambda: None) -> None:
        """``root``: the engine's root folder; ``on_new`` is called when the first file of a transfer is to come: there
        will be work to do with it."""
        self._on_new = on_new
        self._base = root / "build" / "synced"
        self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._locks: dict[str, asyncio.Lock] = {}
        self._memories: OrderedDict[tuple[str, str], Memory] = OrderedDict()

    @asynccontextmanager
    async def receive(
        self, key: str, folder: Path, *, part: bool = False, asked: str = ""
    ) -> AsyncIterator[Receiving]:
        """A transfer into the folder ``key`` (empty: nothing came before, nothing is kept); one at a time of each.
        ``folder`` is the build's; ``part``: the walk is not of everything; ``asked``: what was asked for, as a text.
        Raises OSError."""
        if not key:
            path = folder / f"pack-{uuid.uuid4().hex}"
            with path.open("x+b", buffering=0) as file:
                yield Receiving(path, file.fileno(), dict, on_new=self._on_new)
            return
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        async with self._locks.setdefault(name, asyncio.Lock()):
            place = self._base / name
            place.mkdir(mode=0o700, exist_ok=True)
            if await asyncio.to_thread(_tidy, place):
                self._forget(name)
            fd = os.open(place / "pack", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                memory = self._memories.get((name, asked))
                if memory is not None and memory.size > os.fstat(fd).st_size:
                    memory = None
                receiving = Receiving(place / "pack", fd, lambda: _load(place), memory, self._on_new)
                yield receiving
                if memory is not None and receiving.items is memory.items:
                    self._memories.move_to_end((name, asked))
                    return
                kept = {**receiving.known, **receiving.fresh} if part else receiving.fresh
                if kept != receiving.known or receiving.received:
                    await asyncio.to_thread(_save, place, kept)
                if receiving.messages:
                    self._keep((name, asked), receiving.remember(receiving.messages))
            finally:
                os.close(fd)

    def _forget(self, name: str) -> None:
        """The pack has gone: whatever comes in its place, maybe under the same inode, is another."""
        for key in [key for key in self._memories if key[0] == name]:
            del self._memories[key]

    def _keep(self, key: tuple[str, str], memory: Memory) -> None:
        if sum(map(len, memory.messages)) > _MEMORY_LIMIT:
            return
        self._memories[key] = memory
        self._memories.move_to_end(key)
        while len(self._memories) > _MEMORIES:
            self._memories.popitem(last=False)

    def prune(self, unused_since_ns: int = 0) -> int:
        """Forget folders not used since then (0: all); how many bytes that frees once nobody reads them."""
        freed = 0
        for place in self._base.iterdir():
            lock = self._locks.get(place.name)
            with suppress(OSError):
                status = (place / "pack").stat()
                used = (place / "index").stat().st_mtime_ns
                if (lock and lock.locked()) or (unused_since_ns and used >= unused_since_ns):
                    continue
                freed += status.st_blocks * 512
            shutil.rmtree(place, ignore_errors=True)
            self._forget(place.name)
        return freed

    def size(self) -> int:
        """Bytes on disk."""
        found = 0
        for place in self._base.iterdir():
            for path in place.iterdir():
                with suppress(OSError):
                    found += path.stat().st_blocks * 512
        return found


def _tidy(place: Path) -> bool:
    """Begin again if most of the pack is dead, or if a crash took a part of it; whether it did. Notes the use."""
    with suppress(OSError):
        os.utime(place / "index")
    try:
        status = (place / "pack").stat()
        state = (place / "index").stat()
    except OSError:
        (place / "pack").unlink(missing_ok=True)
        (place / "index").unlink(missing_ok=True)
        return True
    if status.st_size < _SLACK or state.st_size == 0:
        return False
    files = _read(place)
    used = sum(piece[2] for known in files.values() for piece in known.pieces)
    if status.st_size > 2 * used + _SLACK:
        (place / "pack").unlink()
        (place / "index").unlink()
        return True
    return False


def _load(place: Path) -> dict[bytes, Known]:
    """What is known; nothing if it makes no sense."""
    files = _read(place)
    ends = max((piece[1] + piece[2] for known in files.values() for piece in known.pieces), default=0)
    return files if ends <= (place / "pack").stat().st_size else {}


def _read(place: Path) -> dict[bytes, Known]:
    try:
        return msgspec.msgpack.decode((place / "index").read_bytes(), type=_State).files
    except (OSError, msgspec.MsgspecError):
        return {}


def _save(place: Path, files: dict[bytes, Known]) -> None:
    temporary = place / f".index-{uuid.uuid4().hex}"
    try:
        temporary.write_bytes(msgspec.msgpack.encode(_State(files)))
        temporary.rename(place / "index")
    finally:
        temporary.unlink(missing_ok=True)
