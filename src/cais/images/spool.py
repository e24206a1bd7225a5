"""Where an archive's entries go while they stream in: blobs into the content store, small files into
memory."""

import posixpath
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from cais.errors import Corrupt, Invalid
from cais.images.image import LoadEvent
from cais.images.inflate import Inflater
from cais.images.tarstream import BLOCK, Entry, TarSplitter
from cais.spec.digest import Digest, digest_bytes, parse_digest
from cais.store.content import Content, Writer
from cais.store.gc import Lease

SMALL = 1 << 20
"""Files up to this size are kept in memory, unless their name says that they are blobs."""
MAX_MEMORY = 64 << 20
"""Bytes of small files (and names) of one archive."""
_ENTRY_COST = 256
_LINK_DEPTH = 16
_BLOB = re.compile(r"(?:.+/)?blobs/(sha256|sha512)/([0-9a-f]+)")


class Blob(msgspec.Struct, frozen=True):
    """A file of the archive that is in the content store."""

    digest: Digest
    size: int
    head: bytes
    """Its first bytes, up to a tar block."""

    @property
    def is_tar(self) -> bool:
        """Its bytes are an uncompressed tar, so its digest is its diff_id too."""
        return _is_tar(self.head)


class Arrival(msgspec.Struct, frozen=True):
    """A layer of ``size`` bytes that is here or on its way; what is here of it lies at ``path``. ``digest`` is its
    diff_id: that of a plain tar is its own."""

    digest: Digest
    path: Path
    size: int


class Files(msgspec.Struct):
    """All that an archive held: name → bytes, name → blob, name → name."""

    small: dict[str, bytes] = msgspec.field(default_factory=dict)
    blobs: dict[str, Blob] = msgspec.field(default_factory=dict)
    links: dict[str, str] = msgspec.field(default_factory=dict)

    def real_name(self, name: str) -> str:
        """``name`` after following links between entries. Raises Invalid for loops and absent targets."""
        for _ in range(_LINK_DEPTH):
            if name in self.small or name in self.blobs:
                return name
            if name not in self.links:
                break
            name = self.links[name]
        raise Invalid(f"archive has no file {name}")

    def has(self, name: str) -> bool:
        """Whether ``name`` leads to a file."""
        try:
            self.real_name(name)
        except Invalid:
            return False
        return True

    def read(self, name: str) -> bytes:
        """The bytes of a small file. Raises Invalid if there is none or it is big."""
        real = self.real_name(name)
        if real not in self.small:
            raise Invalid(f"archive has a {name} of {self.blobs[real].size} bytes")
        return self.small[real]


class Spool:
    """The sink of one archive's tar. Use it as a context manager: an unfinished blob vanishes.

    Each blob is put under ``lease`` before it is looked for or becomes visible in ``content``. ``on_tar`` is
    told of each one that is a plain tar, in whatever thread calls ``feed``: as soon as its first block is here
    if the archive says its digest, else when it is complete.
    """

    def __init__(self, content: Content, lease: Lease, on_tar: Callable[[Arrival], object]) -> None:
        self.files = Files()
        self._content = content
        self._lease = lease
        self._on_tar = on_tar
        self._memory = 0
        self._written = 0
        self._told = False
        self._entry = Entry("", "other", 0)
        self._expected: Digest | None = None
        self._writer: Writer | None = None
        self._buffer: bytearray | None = None
        self._head = bytearray()
        self._stack = ExitStack()
        self._inflater = Inflater()
        self._splitter = TarSplitter(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream, as they came."""
        for piece in self._inflater.feed(data):
            self._splitter.feed(piece)

    def finish(self) -> Files:
        """There are no more bytes. Raises Corrupt for a stream that ends too early."""
        for piece in self._inflater.finish():
            self._splitter.feed(piece)
        self._splitter.finish()
        return self.files

    def store(self, name: str) -> Blob:
        """The file ``name`` as a blob; a small one is put into the content store now. Raises Invalid."""
        real = self.files.real_name(name)
        if real in self.files.blobs:
            return self.files.blobs[real]
        data = self.files.small[real]
        self._lease.add(digest_bytes(data))
        return Blob(self._content.put(data), len(data), data[:BLOCK])

    def progress(self) -> LoadEvent | None:
        """How far the blob that is coming in is."""
        entry, writer = self._entry, self._writer
        if writer is None:
            return None
        name = entry.name if self._expected else posixpath.dirname(entry.name) or entry.name
        shown = posixpath.basename(name)[:12]
        return LoadEvent(status="Loading layer", id=shown, current=self._written, total=entry.size)

    def begin(self, entry: Entry) -> None:
        """Sink.begin: decide where the entry goes."""
        name = safe_name(entry.name)
        self._entry = Entry(name, entry.kind, entry.size, entry.target)
        self._forget(name)
        if entry.kind == "hardlink":
            self._remember_link(name, safe_name(entry.target))
        elif entry.kind == "symlink":
            self._remember_link(name, safe_name(posixpath.join(posixpath.dirname(name), entry.target)))
        elif entry.kind == "file":
            self._begin_file(name, entry.size)

    def write(self, data: memoryview) -> None:
        """Sink.write."""
        if len(self._head) < BLOCK:
            self._head += data[: BLOCK - len(self._head)]
        self._written += len(data)
        if self._writer:
            self._writer.write(data)
            self._tell(self._writer)
        elif self._buffer is not None:
            self._buffer += data

    def end(self) -> None:
        """Sink.end: the file is whole; a blob with a wrong digest raises Corrupt and vanishes."""
        name = self._entry.name
        if self._buffer is not None:
            self.files.small[name] = bytes(self._buffer)
            self._buffer = None
        elif self._writer:
            digest = self._commit(self._writer)
            self._finish_blob(name, digest)
        elif self._expected:
            self._finish_blob(name, self._expected)

    def _begin_file(self, name: str, size: int) -> None:
        self._head.clear()
        self._written = 0
        self._told = False
        self._expected = None
        found = _BLOB.fullmatch(name)
        if found:
            self._expected = parse_digest(":".join(found.groups()))
            # Leased first: between the question and the lease a collection could take it.
            self._lease.add(self._expected)
            if self._content.has(self._expected) and self._content.size(self._expected) == size:
                return  # verified when it came; these bytes need not be looked at
        elif size <= SMALL:
            self._charge(size + len(name))
            self._buffer = bytearray()
            return
        algorithm = self._expected.algorithm if self._expected else "sha256"
        self._writer = self._stack.enter_context(self._content.writer(algorithm))

    def _tell(self, writer: Writer) -> None:
        """Unpacking can start before the last byte is here: then both take as long as the slower one."""
        if not self._told and self._expected and _is_tar(self._head):
            self._told = True
            self._on_tar(Arrival(self._expected, writer.path, self._entry.size))

    def _commit(self, writer: Writer) -> Digest:
        self._writer = None
        try:
            digest = self._lease.commit(writer, self._expected)
        except Corrupt as error:
            raise Corrupt(f"archive entry {self._entry.name}: {error}") from error
        self._stack.close()
        return digest

    def _finish_blob(self, name: str, digest: Digest) -> None:
        blob = Blob(digest, self._entry.size, bytes(self._head))
        self.files.blobs[name] = blob
        self._expected = None
        if blob.is_tar and not self._told:
            self._on_tar(Arrival(digest, self._content.path(digest), blob.size))

    def _remember_link(self, name: str, target: str) -> None:
        self._charge(len(name) + len(target))
        self.files.links[name] = target

    def _charge(self, size: int) -> None:
        self._memory += size + _ENTRY_COST
        if self._memory > MAX_MEMORY:
            raise Invalid(f"archive has more than {MAX_MEMORY} bytes of small files")

    def _forget(self, name: str) -> None:
        """A later entry of the same name wins, as in tar(1)."""
        self.files.small.pop(name, None)
        self.files.blobs.pop(name, None)
        self.files.links.pop(name, None)


def _is_tar(head: bytes | bytearray) -> bool:
    return head[257:262] == b"ustar"


def safe_name(name: str) -> str:
    """``name`` without ``.`` and empty parts. Raises Invalid if it is absolute or climbs out with ``..``.

    Names never become paths on disk; refusing them here keeps it so that they never can.
    """
    normal = posixpath.normpath(name)
    if normal.startswith(("/", "../")) or normal == "..":
        raise Invalid(f"archive entry escapes: {name!r}")
    return normal
