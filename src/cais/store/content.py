"""The blobs, as an OCI image layout folder: content-addressed, verified when read, visible only when whole."""

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cais.errors import Corrupt, Invalid, NotFound
from cais.spec.descriptor import Index, format_manifest
from cais.spec.digest import Digest, digest_bytes, parse_digest

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_TEMPORARY = ".tmp-"
_SETTLED = ".settled"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CHUNK = 1 << 20
_READ_LIMIT = 16 << 20


class Writer:
    """One blob on its way in; made by ``Content.writer``. Hashes what it writes."""

    def __init__(self, content: "Content", path: Path, algorithm: str) -> None:
        self._content = content
        self._path = path
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._file = path.open("xb", buffering=0)
        self.size = 0
        """Bytes written so far."""

    @property
    def path(self) -> Path:
        """Where the bytes are until ``commit``; they can be read from there while they arrive."""
        return self._path

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
        return digest

    def close(self) -> None:
        """Drop what was not committed. Idempotent."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class Content:
    """``root`` is the layout folder: ``blobs/<algorithm>/<hex>``, ``oci-layout``, ``index.json``.

    Nothing is synced while writing: a crash of the engine cannot hurt a rename, and after a crash of the machine
    ``sweep`` checks every blob that was never ``settle``d. Safe to use from several processes.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs"
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
        writer = Writer(self, self._root / f"{_TEMPORARY}{uuid.uuid4().hex}", algorithm)
        try:
            yield writer
        finally:
            writer.close()

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

    def write_index(self, index: Index) -> None:
        """Replace ``index.json``, by which other tools find the images in this folder."""
        self._replace(self._root / "index.json", format_manifest(index))

    def sweep(self) -> None:
        """Remove left-overs of interrupted work, and blobs that a crash of the machine has damaged.

        At the engine's start only: running writers would lose their files.
        """
        for path in self._root.glob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)
        boot, _, settled = self._read_settled().partition(" ")
        if boot == _boot_id():
            return
        for digest in self._list_changed(int(settled or 0)):
            try:
                self.verify(digest)
            except Corrupt:
                self.remove(digest)
        self.settle()

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
