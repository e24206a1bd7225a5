"""The blobs, as an OCI image layout folder: content-addressed, verified when read, visible only when whole."""

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cais.errors import Corrupt, Invalid, NotFound
from cais.spec.descriptor import Index, format_manifest
from cais.spec.digest import Digest, digest_bytes, parse_digest
from cais.store.ingest import Ingest

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_TEMPORARY = ".tmp-"
_SETTLED = ".settled"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CHUNK = 1 << 20
_READ_LIMIT = 16 << 20


class Writer:
    """One blob on its way in; made by ``Content.writer`` and ``Content.resume``. Hashes what it writes.

    ``file`` is open at ``path``. ``keeps``: what is not committed stays there for another try.
    """

    def __init__(
        self, content: "Content", path: Path, file: BinaryIO, algorithm: str, *, keeps: bool = False
    ) -> None:
        self._content = content
        self._path = path
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._file = file
        self._keeps = keeps
        self._committed = False
        self.size = 0
        """Bytes written so far, those of earlier tries included."""

    @property
    def path(self) -> Path:
        """Where the bytes are until ``commit``; they can be read from there while they arrive."""
        return self._path

    def catch_up(self) -> None:
        """Hash what an earlier try left; before the first ``write``. Raises OSError."""
        # A file of its own: if the caller is cancelled, ours is closed while this thread still reads.
        with self._path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                self._hash.update(chunk)
                self.size += len(chunk)

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append ``chunk``. Raises OSError."""
        view = memoryview(chunk).cast("B")
        self._hash.update(view)
        self.size += len(view)
        while view:
            view = view[self._file.write(view) :]

    def commit(self, expected: Digest | None = None) -> Digest:
        """Make the blob visible. Raises Corrupt, and nothing is visible, if it is not what was ``expected``."""
        digest = parse_digest(f"{self._algorithm}:{self._hash.hexdigest()}")
        if expected is not None and digest != expected:
            raise Corrupt(f"blob is not what it claims: its digest is {digest}, want {expected}")
        self._file.close()
        target = self._content.path(digest)
        target.parent.mkdir(exist_ok=True)
        self._path.rename(target)
        self._committed = True
        return digest

    def drop(self) -> None:
        """These bytes are of no use to another try."""
        self._keeps = False

    def close(self) -> None:
        """Drop what was not committed, unless it is kept. Idempotent."""
        self._file.close()
        with suppress(FileNotFoundError):
            if not self._committed and not (self._keeps and self._path.stat().st_size):
                self._path.unlink()


class Content:
    """``root`` is the layout folder: ``blobs/<algorithm>/<hex>``, ``oci-layout``, ``index.json``.

    Nothing is synced while writing: a crash of the engine cannot hurt a rename, and after a crash of the machine
    ``sweep`` checks every blob that was never ``settle``d. Safe to use from several processes, but for ``ingest``,
    which is the engine's own.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs"
        self.ingest = Ingest(root / "ingest")
        (self._blobs / "sha256").mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        if not (root / "oci-layout").exists():
            self._replace(root / "oci-layout", _LAYOUT)
        if not (root / "index.json").exists():
            self.write_index(Index())

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / digest.algorithm / digest.hex

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here."""
        return self.path(digest).exists()

    def size(self, digest: Digest) -> int:
        """Bytes of the blob. Raises NotFound."""
        with _named(digest):
            return self.path(digest).stat().st_size

    def open(self, digest: Digest) -> BinaryIO:
        """The blob for reading, unbuffered; the caller closes it, and verifies if it must. Raises NotFound."""
        with _named(digest):
            return self.path(digest).open("rb", buffering=0)

    def read(self, digest: Digest, *, limit: int = _READ_LIMIT) -> bytes:
        """The whole blob, verified. Raises NotFound, Corrupt, or Invalid for one of more than ``limit`` bytes."""
        with self.open(digest) as file:
            # The limit is asked before reading: a manifest may name a blob of gigabytes as its config.
            if os.fstat(file.fileno()).st_size > limit:
                raise Invalid(f"blob {digest} is larger than {limit} bytes")
            data = b"".join(iter(lambda: file.read(_CHUNK), b""))
        if hashlib.new(digest.algorithm, data).hexdigest() != digest.hex:
            raise Corrupt(f"blob {digest} is damaged")
        return data

    def put(self, data: bytes) -> Digest:
        """Store ``data``. Idempotent."""
        digest = digest_bytes(data)
        if not self.has(digest):
            self._replace(self.path(digest), data)
        return digest

    @contextmanager
    def writer(self, algorithm: str = "sha256") -> Iterator[Writer]:
        """A writer for one blob; leaving the block without ``commit`` leaves nothing behind."""
        path = self._root / f"{_TEMPORARY}{uuid.uuid4().hex}"
        writer = Writer(self, path, path.open("xb", buffering=0), algorithm)
        try:
            yield writer
        finally:
            writer.close()

    @contextmanager
    def resume(self, digest: Digest) -> Iterator[Writer]:
        """A writer that goes on where an earlier one for this blob stopped: call ``catch_up`` first.

        Leaving the block without ``commit`` keeps the bytes, unless they were ``drop``ped. If somebody else is
        writing this blob just now, it is a plain ``writer``.
        """
        file = self.ingest.open(digest)
        if file is None:
            with self.writer(digest.algorithm) as writer:
                yield writer
            return
        writer = Writer(self, self.ingest.path(digest), file, digest.algorithm, keeps=True)
        try:
            yield writer
        finally:
            writer.close()
            self.ingest.release(digest)

    def verify(self, digest: Digest) -> None:
        """Read the blob through. Raises NotFound or Corrupt."""
        found = hashlib.new(digest.algorithm)
        with self.open(digest) as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
        if found.hexdigest() != digest.hex:
            raise Corrupt(f"blob {digest} is damaged")

    def remove(self, digest: Digest) -> None:
        """Remove the blob. Idempotent."""
        self.path(digest).unlink(missing_ok=True)

    def list(self) -> list[Digest]:
        """The digests of all blobs; other files among them are passed over."""
        found = []
        for folder in self._blobs.iterdir():
            for name in os.listdir(folder):
                with suppress(Invalid):
                    found.append(parse_digest(f"{folder.name}:{name}"))
        return found

    def strays(self) -> Sequence[Path]:
        """Files that are no blobs and no part of the layout: left behind, unless somebody is writing right now."""
        known = {"blobs", "ingest", "oci-layout", "index.json", _SETTLED}
        found = [self._root / name for name in os.listdir(self._root) if name not in known]
        digests = set(map(self.path, self.list()))
        found += [
            path for folder in self._blobs.iterdir() for path in folder.iterdir() if path not in digests
        ]
        return [*found, *self.ingest.strays()]

    def write_index(self, index: Index) -> None:
        """Replace ``index.json``, by which other tools find the images in this folder."""
        self._replace(self._root / "index.json", format_manifest(index))

    def sweep(self) -> Sequence[Digest]:
        """Remove left-overs of interrupted work, and blobs that a crash of the machine has damaged: those it returns.

        At the engine's start only: running writers would lose their files.
        """
        removed = list[Digest]()
        for path in self._root.glob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)
        self.ingest.sweep()
        boot, _, settled = self._read_settled().partition(" ")
        if boot == _boot_id():
            return removed
        for digest in self._list_changed(int(settled or 0)):
            try:
                self.verify(digest)
            except Corrupt:
                self.remove(digest)
                removed.append(digest)
        self.settle()
        return removed

    def settle(self) -> None:
        """Put every blob onto the disk for good, so that it survives a crash of the machine. Slow; idempotent."""
        newest = max((self.path(digest).stat().st_mtime_ns for digest in self.list()), default=0)
        os.sync()
        self._replace(self._root / _SETTLED, f"{_boot_id()} {newest}".encode())

    def _read_settled(self) -> str:
        try:
            return (self._root / _SETTLED).read_text()
        except FileNotFoundError:
            return ""

    def _list_changed(self, since_ns: int) -> Iterable[Digest]:
        return [digest for digest in self.list() if self.path(digest).stat().st_mtime_ns > since_ns]

    def _replace(self, path: Path, data: bytes) -> None:
        temporary = self._root / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(data)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _named(digest: Digest) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"no such blob: {digest}") from None


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
