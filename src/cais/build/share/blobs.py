"""Places that blobs are taken from and put to, whatever they are: a registry, a folder, a client."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

import msgspec

from cais.errors import CaisError, Corrupt, Invalid, NotFound
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.client import Remotes, Repository
from cais.remotes.upload import Blob, Uploads, open_uploads
from cais.spec.descriptor import REF_NAME, Descriptor, Index, format_manifest, parse_manifest
from cais.spec.digest import Digest, digest_bytes
from cais.spec.reference import Reference

DOCUMENT_LIMIT = 4 << 20
_CHUNK = 1 << 20
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class FoundManifest(msgspec.Struct, frozen=True):
    """The bytes of a manifest or index, and its type if the place says so."""

    media_type: str
    data: bytes


class BlobSource(Protocol):
    """A place to take from. Nothing that it gives is trusted: who reads compares digests."""

    async def get_manifest(self, digest: Digest | None = None) -> FoundManifest:
        """The manifest or index ``digest``, or the one that the place stands for. Raises NotFound, Corrupt, Invalid,
        Unavailable."""
        ...

    def get(self, descriptor: Descriptor) -> AsyncGenerator[bytes]:
        """The bytes of a blob, not verified. Raises NotFound, Corrupt, Unavailable."""
        ...


class BlobSink(Protocol):
    """A place to put to."""

    async def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there. Raises Denied, Unauthenticated, Unavailable."""
        ...

    async def put(self, descriptor: Descriptor, path: Path) -> None:
        """Put the blob in the file ``path`` there, whole or not at all. Idempotent. Raises as ``has``, OSError."""
        ...

    async def put_manifest(self, descriptor: Descriptor, data: bytes) -> None:
        """Put a manifest or index there: from now on the place stands for it. All that it names is there. Raises as
        ``put``."""
        ...


async def read_blob(source: BlobSource, descriptor: Descriptor, limit: int = DOCUMENT_LIMIT) -> bytes:
    """A small blob, verified. Raises Invalid (it is larger than ``limit``), Corrupt, and what the source raises."""
    if not 0 <= descriptor.size <= limit:
        raise Invalid(f"blob {descriptor.digest} of {descriptor.size} bytes is larger than {limit} bytes")
    data = bytearray()
    async with aclosing(source.get(descriptor)) as parts:
        async for part in parts:
            data += part
            if len(data) > descriptor.size:
                raise Corrupt(f"blob {descriptor.digest} has more than the {descriptor.size} bytes announced")
    if digest_of(bytes(data), descriptor.digest) != descriptor.digest:
        raise Corrupt(f"blob {descriptor.digest} is not what it claims")
    return bytes(data)


def digest_of(data: bytes, like: Digest) -> str:
    """The digest of ``data`` by the algorithm of ``like``."""
    return f"{like.algorithm}:{hashlib.new(like.algorithm, data).hexdigest()}"


def checked(found: FoundManifest, digest: Digest | None) -> FoundManifest:
    """``found`` if it is ``digest`` and not too large. Raises Corrupt, Invalid."""
    if len(found.data) > DOCUMENT_LIMIT:
        raise Invalid(f"manifest is larger than {DOCUMENT_LIMIT} bytes")
    if digest and digest_of(found.data, digest) != digest:
        raise Corrupt(f"manifest {digest} is not what it claims")
    return found


class RegistrySource:
    """A name in a registry; made by ``open_registry_source``."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def get_manifest(self, digest: Digest | None = None) -> FoundManifest:
        """BlobSource.get_manifest."""
        found = await self._repository.fetch_manifest(digest)
        return FoundManifest(found.media_type, found.data)

    def get(self, descriptor: Descriptor) -> AsyncGenerator[bytes]:
        """BlobSource.get."""
        return self._repository.fetch_blob(descriptor)


@asynccontextmanager
async def open_registry_source(
    remotes: Remotes, reference: Reference, credentials: Credentials = ANONYMOUS
) -> AsyncIterator[RegistrySource]:
    """For the time of the block; nothing is sent before something is asked for."""
    async with remotes.open(reference.tagged(), credentials) as repository:
        yield RegistrySource(repository)


class RegistrySink:
    """A tag in a registry, or only the repository if there is none; made by ``open_registry_sink``."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    async def has(self, descriptor: Descriptor) -> bool:
        """BlobSink.has."""
        return await self._uploads.has_blob(descriptor.digest)

    async def put(self, descriptor: Descriptor, path: Path) -> None:
        """BlobSink.put."""
        if not await self.has(descriptor):
            await self._uploads.push_blob(Blob(descriptor.digest, descriptor.size, path), lambda _: None)

    async def put_manifest(self, descriptor: Descriptor, data: bytes) -> None:
        """BlobSink.put_manifest."""
        name = self._uploads.reference.tag or descriptor.digest
        await self._uploads.push_manifest(name, descriptor.digest, descriptor.media_type, data)


@asynccontextmanager
async def open_registry_sink(
    remotes: Remotes, reference: Reference, credentials: Credentials = ANONYMOUS
) -> AsyncIterator[RegistrySink]:
    """For the time of the block; nothing is sent before something is put."""
    async with open_uploads(remotes, reference.tagged(), credentials) as uploads:
        yield RegistrySink(uploads)


class FolderPlace:
    """An OCI image layout in a folder of this machine, source and sink. ``tag``: the name in its index."""

    def __init__(self, root: Path, tag: str = "latest") -> None:
        self._root = root
        self._tag = tag

    async def get_manifest(self, digest: Digest | None = None) -> FoundManifest:
        """BlobSource.get_manifest."""
        return await asyncio.to_thread(self._get_manifest, digest)

    async def get(self, descriptor: Descriptor) -> AsyncGenerator[bytes]:
        """BlobSource.get."""
        file = await asyncio.to_thread(self._open, descriptor.digest)
        with file:
            left = descriptor.size
            # One byte more than announced: who reads sees that there are more.
            while left >= 0 and (part := await asyncio.to_thread(file.read, min(_CHUNK, left + 1))):
                left -= len(part)
                yield part

    async def has(self, descriptor: Descriptor) -> bool:
        """BlobSink.has."""
        try:
            return self._path(descriptor.digest).stat().st_size == descriptor.size
        except FileNotFoundError:
            return False

    async def put(self, descriptor: Descriptor, path: Path) -> None:
        """BlobSink.put."""
        if not await self.has(descriptor):
            await asyncio.to_thread(self._copy, path, descriptor.digest)

    async def put_manifest(self, descriptor: Descriptor, data: bytes) -> None:
        """BlobSink.put_manifest."""
        await asyncio.to_thread(self._put_manifest, descriptor, data)

    def _path(self, digest: Digest) -> Path:
        return self._root / "blobs" / digest.algorithm / digest.hex

    def _open(self, digest: Digest) -> FileIO:
        # No link is followed and nothing but a file is read: whoever made the folder may not lead us elsewhere.
        try:
            fd = os.open(self._path(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no such blob: {digest}") from None
        return FileIO(fd)

    def _read(self, path: Path) -> bytes:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no such file: {path.name} in {self._root}") from None
        with os.fdopen(fd, "rb") as file:
            data = file.read(DOCUMENT_LIMIT + 1)
        if len(data) > DOCUMENT_LIMIT:
            raise Invalid(f"{path.name} in {self._root} is larger than {DOCUMENT_LIMIT} bytes")
        return data

    def _get_manifest(self, digest: Digest | None) -> FoundManifest:
        if digest:
            return checked(FoundManifest("", self._read(self._path(digest))), digest)
        index = self._index()
        for entry in index.manifests:
            if entry.annotations.get(REF_NAME) == self._tag:
                found = FoundManifest(entry.media_type, self._read(self._path(entry.digest)))
                return checked(found, entry.digest)
        raise NotFound(f"no {self._tag!r} in {self._root}")

    def _index(self) -> Index:
        document = parse_manifest(self._read(self._root / "index.json"))
        if not isinstance(document, Index):
            raise Invalid(f"invalid index.json in {self._root}: it is no index")
        return document

    def _copy(self, source: Path, digest: Digest) -> None:
        with source.open("rb", buffering=0) as file:
            self._write(self._path(digest), lambda: file.read(_CHUNK))

    def _write(self, path: Path, read: Callable[[], bytes]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid.uuid4().hex}")
        try:
            with temporary.open("xb") as out:
                while part := read():
                    out.write(part)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _put_bytes(self, path: Path, data: bytes) -> None:
        parts = iter((data, b""))
        self._write(path, lambda: next(parts))

    def _put_manifest(self, descriptor: Descriptor, data: bytes) -> None:
        self._put_bytes(self._path(descriptor.digest), data)
        self._put_bytes(self._root / "oci-layout", _LAYOUT)
        try:
            others = [one for one in self._index().manifests if one.annotations.get(REF_NAME) != self._tag]
        except CaisError:
            others = []
        annotations = {**descriptor.annotations, REF_NAME: self._tag}
        mine = msgspec.structs.replace(descriptor, annotations=annotations)
        self._put_bytes(self._root / "index.json", format_manifest(Index(manifests=(*others, mine))))


def describe(media_type: str, data: bytes) -> Descriptor:
    """The descriptor of a document."""
    return Descriptor(media_type=media_type, digest=digest_bytes(data), size=len(data))
