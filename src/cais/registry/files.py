"""Blobs in files: the content store's layout for what is whole, a folder beside it for what is arriving.

    content/blobs/<algorithm>/<hex>     one file a blob, however many repositories have it
    uploads/<id>-<scope>                the bytes of an upload so far; ``scope`` is a hash of the repository's name

A blob that a neighbour has (the engine's own store, on the same file system) is taken by a hard link: nothing is
copied, and either side may remove its name without the other losing anything.
"""

import asyncio
import hashlib
import itertools
import os
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from cais.errors import Corrupt, Invalid, NotFound
from cais.spec.digest import Digest
from cais.store.content import Content

T = TypeVar("T")
_READ = 1 << 20
_IOV_MAX = 1024
_HASHERS = ThreadPoolExecutor(4, thread_name_prefix="hash")
TOGETHER = 512 << 10
"""Bytes above which one thread hashes while another writes: an upload of a gigabyte takes a third less time for it."""
INLINE = 32 << 10
"""Chunks up to this size are written by the event loop itself: handing them to a thread costs more."""


class FileUpload:
    """See ``base.Upload``."""

    def __init__(self, blobs: "FileBlobs", id: str, path: Path) -> None:
        self.id = id
        self.size = 0
        self.touched = time.monotonic()
        self._blobs = blobs
        self.path = path
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None

    async def append(self, *chunks: bytes) -> None:
        """See ``base.Upload``."""
        self.touched = time.monotonic()
        size = sum(map(len, chunks))
        if size <= INLINE:
            self._append(chunks, size)
        else:
            await _in_thread(self._append, chunks, size)

    def _append(self, chunks: Sequence[bytes], size: int) -> None:
        if self._file is None:
            # Not made: an upload that has ended meanwhile must not begin again in its middle.
            self._check_active()
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._file = os.fdopen(fd, "ab", buffering=0)
        found = self._hash.copy()  # of what is not written to its end, nothing counts
        hashing = _HASHERS.submit(_hash_all, found, chunks) if size > TOGETHER else None
        try:
            _write_all(self._file.fileno(), chunks)
        except OSError:
            self._file.truncate(self.size)
            raise
        finally:
            if hashing is not None:
                hashing.result()
        if hashing is None:
            _hash_all(found, chunks)
        self._hash = found
        self.size += size

    def open(self) -> BinaryIO:
        """See ``base.Upload``."""
        return self.path.open("rb", buffering=0)

    async def commit(self, expected: Digest) -> int:
        """See ``base.Upload``."""
        self.release()
        self._check_active()
        if expected.algorithm == "sha256":
            found = self._hash.hexdigest()
        else:
            found = await _in_thread(_hash_file, self.path, expected.algorithm)
        if found != expected.hex:
            await self.abort()
            raise Corrupt(f"what was sent is not {expected}: its digest is {expected.algorithm}:{found}")
        self._blobs.accept(self.path, expected)
        self._blobs.forget(self.id)
        return self.size

    async def abort(self) -> None:
        """See ``base.Upload``."""
        self.release()
        self.path.unlink(missing_ok=True)
        self._blobs.forget(self.id)

    def release(self) -> None:
        """See ``base.Upload``."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _check_active(self) -> None:
        if not self.path.exists():
            raise NotFound(f"no such upload: {self.id}")

    def catch_up(self) -> None:
        """Read what an earlier process left. Blocking."""
        with self.path.open("rb", buffering=0) as file:
            while data := file.read(_READ):
                self._hash.update(data)
                self.size += len(data)


class FileBlobs:
    """See ``base.Blobs``. ``neighbours``: folders of other content stores on this machine."""

    def __init__(self, root: Path, neighbours: Iterable[Path] = ()) -> None:
        self._content = Content(root / "content")
        self._uploads = root / "uploads"
        self._uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open: dict[str, FileUpload] = {}
        self._unsynced: set[Digest] = set()
        self._is_fresh = True  # for all one knows: an earlier process may not have come to settle
        self._neighbours = tuple(neighbours)
        self._seen: dict[str, float] = {}

    async def start(self, scope: str) -> FileUpload:
        """See ``base.Blobs``."""
        id = uuid.uuid4().hex
        upload = FileUpload(self, id, self._path(scope, id))
        os.close(os.open(upload.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        self._open[id] = upload
        return upload

    async def find(self, scope: str, id: str) -> FileUpload:
        """See ``base.Blobs``."""
        path = self._path(scope, id)
        upload = self._open.get(id)
        if upload is not None and upload.path == path:
            return upload
        if not path.exists():
            raise NotFound(f"no such upload: {id}")
        upload = FileUpload(self, id, path)
        try:
            await _in_thread(upload.catch_up)
        except FileNotFoundError:
            raise NotFound(f"no such upload: {id}") from None
        # Another request may have found it meanwhile: there must be one object of it. Or even have ended it: what was
        # read of it then would be taken for the upload by whoever asks next.
        if id not in self._open and not path.exists():
            raise NotFound(f"no such upload: {id}")
        return self._open.setdefault(id, upload)

    def _path(self, scope: str, id: str) -> Path:
        return self._uploads / f"{id}-{hashlib.sha256(scope.encode()).hexdigest()[:16]}"

    def forget(self, id: str) -> None:
        """An upload has ended."""
        self._open.pop(id, None)

    def accept(self, path: Path, digest: Digest) -> None:
        """A whole file becomes the blob; its content was compared with the digest."""
        target = self._content.path(digest)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        self._note_new(digest)

    def _note_new(self, digest: Digest) -> None:
        self._unsynced.add(digest)
        self._is_fresh = True

    async def adopt(self, digest: Digest) -> int | None:
        """Take a blob that a neighbour has, without copying; its size, or None if none has it."""
        for folder in self._neighbours:
            source = folder / "blobs" / digest.algorithm / digest.hex
            target = self._content.path(digest)
            with suppress(OSError):  # absent, or on another file system: it will be sent
                target.parent.mkdir(exist_ok=True)
                with suppress(FileExistsError):
                    os.link(source, target, follow_symlinks=False)
                self._note_new(digest)
                return target.stat().st_size
        return None

    async def put(self, digest: Digest, data: bytes) -> None:
        """See ``base.Blobs``."""
        with suppress(NotFound, Corrupt, Invalid):
            self._content.read(digest, limit=len(data))
            return
        path = self._path("", uuid.uuid4().hex)
        try:
            path.write_bytes(data)
            self.accept(path, digest)
        finally:
            path.unlink(missing_ok=True)

    async def read(self, digest: Digest, limit: int) -> bytes:
        """See ``base.Blobs``."""
        return self._content.read(digest, limit=limit)

    async def size(self, digest: Digest) -> int:
        """See ``base.Blobs``."""
        return self._content.size(digest)

    def open(self, digest: Digest) -> BinaryIO:
        """See ``base.Blobs``."""
        return self._content.open(digest)

    async def delete(self, digest: Digest) -> int:
        """See ``base.Blobs``."""
        self._unsynced.discard(digest)
        try:
            size = self._content.size(digest)
        except NotFound:
            return 0
        self._content.remove(digest)
        return size

    async def sync(self, digests: Iterable[Digest]) -> None:
        """See ``base.Blobs``."""
        wanted = [digest for digest in digests if digest in self._unsynced]
        if wanted:
            await _in_thread(_sync_files, [self._content.path(digest) for digest in wanted])
            self._unsynced.difference_update(wanted)

    async def list(self) -> AsyncIterator[tuple[Digest, int]]:
        """See ``base.Blobs``."""
        for number, digest in enumerate(await _in_thread(self._content.list)):
            # Nothing else here waits: of a million blobs, everybody would for long.
            if not number % 100:
                await asyncio.sleep(0)
            with suppress(NotFound):
                yield digest, self._content.size(digest)

    async def verify(self, digest: Digest) -> bool:
        """See ``base.Blobs``."""
        try:
            await _in_thread(self._content.verify, digest)
        except Corrupt:
            return False
        return True

    async def recover(self) -> Sequence[Digest]:
        """See ``base.Blobs``."""
        return await _in_thread(self._content.sweep)

    async def settle(self) -> None:
        """See ``base.Blobs``."""
        if self._is_fresh:
            self._is_fresh = False
            now = set(self._unsynced)
            await _in_thread(self._content.settle)
            self._unsynced -= now

    async def quarantine(self, digest: Digest) -> None:
        """See ``base.Blobs``."""
        folder = self._uploads.parent / "damaged"
        folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            self._content.path(digest).rename(folder / str(digest).replace(":", "-"))

    async def clean(self, seconds: float) -> int:
        """See ``base.Blobs``. Ages are of this process's monotonic clock, whatever the files' times say."""
        now, cleaned = time.monotonic(), 0
        names = set(os.listdir(self._uploads))
        self._seen = {name: self._seen.get(name, now) for name in names}
        for name in names:
            upload = self._open.get(name.partition("-")[0])
            if now - (upload.touched if upload else self._seen[name]) >= seconds:
                cleaned += 1
                if upload:
                    await upload.abort()
                (self._uploads / name).unlink(missing_ok=True)
        return cleaned


def try_link(source: Path, target: Path) -> bool:
    """Give a file a second name. False: it cannot be (another file system, one without links, too many of them), and
    must be copied. Raises FileNotFoundError."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        # The kernel says so too of a file that is being replaced by its like: a blob that is pushed once more.
        if not source.exists():
            raise
        return False
    except OSError:
        return False
    return True


def _hash_all(found: "hashlib._Hash", chunks: Sequence[bytes]) -> None:
    for chunk in chunks:
        found.update(chunk)


def _write_all(fd: int, chunks: Sequence[bytes]) -> None:
    """As they are, without putting them together first. Raises OSError."""
    left = deque(memoryview(chunk) for chunk in chunks if chunk)
    while left:
        written = os.writev(fd, list(itertools.islice(left, _IOV_MAX)))
        while left and written >= len(left[0]):
            written -= len(left.popleft())
        if written:
            left[0] = left[0][written:]


def _hash_file(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _sync_files(paths: list[Path]) -> None:
    folders = set()
    for path in paths:
        folders.add(path.parent)
        _sync(path)
    for folder in folders:
        _sync(folder)


def _sync(path: Path) -> None:
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


async def _in_thread(act: Callable[..., T], *values: object) -> T:
    """Run it in a thread to its end even if the caller is cancelled: the file belongs to it until then."""
    work: Awaitable[T] = asyncio.ensure_future(asyncio.to_thread(act, *values))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with suppress(Exception):
            await work
        raise
