"""Folders of blobs on the client: local caches, and OCI layouts to build from or to write.

A session offers them as containerd's content service (containerd api/services/content/v1/content.proto), each under a
name that a header says (moby/buildkit session/content/attachable.go).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from msgspec.structs import replace

from cais.api.buildkit.historywire import BlobInfoResponse, BlobPart, BlobRequest
from cais.api.buildkit.sessions import Session
from cais.build.share.blobs import BlobSink, BlobSource, FoundManifest, checked
from cais.build.share.options import CacheFrom, CacheTo, EnginePlaces
from cais.errors import Corrupt, Invalid, NotFound, Unavailable
from cais.grpc.calls import Call
from cais.grpc.protobuf import Message, decode
from cais.grpc.status import Code, RpcError
from cais.spec.descriptor import Descriptor
from cais.spec.digest import Digest

_SERVICE = "/containerd.services.content.v1.Content/"
_HEADER = "buildkit-attachable-store-id"
_STAT, _WRITE, _COMMIT = range(3)
_PIECE = 1 << 20
_MANIFEST_LIMIT = 4 << 20


class WriteRequest(Message, frozen=True, kw_only=True):
    """``WriteContentRequest``."""

    action: Annotated[int, 1] = 0
    ref: Annotated[str, 2] = ""
    total: Annotated[int, 3] = 0
    expected: Annotated[str, 4] = ""
    offset: Annotated[int, 5] = 0
    data: Annotated[bytes, 6] = b""


class WriteResponse(Message, frozen=True, kw_only=True):
    """``WriteContentResponse``."""

    action: Annotated[int, 1] = 0
    offset: Annotated[int, 4] = 0
    total: Annotated[int, 5] = 0
    digest: Annotated[str, 6] = ""


class ClientStore:
    """One folder: BlobSource and BlobSink."""

    def __init__(self, session: Session, name: str) -> None:
        """``name``: as the client calls it."""
        self._session = session
        self._name = name
        self._metadata = {_HEADER: (name,)}

    async def get_manifest(self, digest: Digest | None = None) -> FoundManifest:
        """BlobSource.get_manifest: clients say which one."""
        if digest is None:
            raise NotFound(f"the client did not say which manifest of {self._name} is meant")
        data = bytearray()
        async for part in self._read(str(digest)):
            data += part
            if len(data) > _MANIFEST_LIMIT:
                raise Invalid(f"manifest {digest} is larger than {_MANIFEST_LIMIT} bytes")
        return checked(FoundManifest("", bytes(data)), digest)

    def get(self, descriptor: Descriptor) -> AsyncGenerator[bytes]:
        """BlobSource.get."""
        return self._read(str(descriptor.digest))

    async def _read(self, digest: str) -> AsyncGenerator[bytes]:
        call = self._session.channel.call(f"{_SERVICE}Read", self._metadata)
        try:
            await call.send(BlobRequest(digest=digest), end=True)
            async for part in call.messages(BlobPart):
                yield part.data
        except RpcError as error:
            raise self._explain(error, digest) from error
        except ConnectionResetError:
            raise Unavailable("the client has gone") from None
        finally:
            call.cancel()

    def _explain(self, error: RpcError, digest: str) -> Exception:
        if error.code == Code.NOT_FOUND:
            return NotFound(f"{self._name} has no blob {digest}")
        if error.code in (Code.UNAVAILABLE, Code.CANCELLED):
            return Unavailable(f"the client went away: {error.message}")
        return Corrupt(f"{self._name}: blob {digest}: {error.message}")

    async def has(self, descriptor: Descriptor) -> bool:
        """BlobSink.has."""
        digest = str(descriptor.digest)
        try:
            await self._session.channel.unary(
                f"{_SERVICE}Info", BlobRequest(digest=digest), BlobInfoResponse, self._metadata
            )
        except RpcError as error:
            if error.code == Code.NOT_FOUND:
                return False
            raise self._explain(error, digest) from error
        return True

    async def put(self, descriptor: Descriptor, path: Path) -> None:
        """BlobSink.put."""
        with path.open("rb") as file:

            async def pieces() -> AsyncIterator[bytes]:
                while data := await asyncio.to_thread(file.read, _PIECE):
                    yield data

            await self._write(descriptor, pieces())

    async def put_manifest(self, descriptor: Descriptor, data: bytes) -> None:
        """BlobSink.put_manifest. The index is the client's to write."""

        async def pieces() -> AsyncIterator[bytes]:
            yield data

        await self._write(descriptor, pieces())

    async def _write(self, descriptor: Descriptor, pieces: AsyncIterator[bytes]) -> None:
        digest = str(descriptor.digest)
        if await self.has(descriptor):
            return
        call = self._session.channel.call(f"{_SERVICE}Write", self._metadata)
        named = WriteRequest(ref=f"cais-{digest}", total=descriptor.size, expected=digest)
        try:
            await call.send(replace(named, action=_STAT))
            # A write that was cut off before goes on from the beginning: offsets say where.
            await self._answer(call)
            offset = 0
            async for data in pieces:
                await call.send(replace(named, action=_WRITE, offset=offset, data=data))
                await self._answer(call)
                offset += len(data)
            await call.send(replace(named, action=_COMMIT, offset=offset), end=True)
            await self._answer(call)
        except RpcError as error:
            if error.code != Code.ALREADY_EXISTS:
                raise self._explain(error, digest) from error
        except ConnectionResetError:
            raise Unavailable("the client has gone") from None
        finally:
            call.cancel()

    async def _answer(self, call: Call) -> WriteResponse:
        message = await call.receive()
        if message is None:
            raise RpcError(Code.UNAVAILABLE, "the client ended the write")
        return decode(message, WriteResponse)


class ClientPlaces:
    """Where caches go and come from: registries as always, local folders are the client's."""

    def __init__(self, session: Session, engine: EnginePlaces) -> None:
        self._session = session
        self._engine = engine

    @asynccontextmanager
    async def sink(self, to: CacheTo) -> AsyncIterator[BlobSink]:
        """Places.sink."""
        if to.type == "local":
            yield ClientStore(self._session, f"local:{to.where}")
            return
        async with self._engine.sink(to) as sink:
            yield sink

    @asynccontextmanager
    async def source(self, cache: CacheFrom) -> AsyncIterator[BlobSource]:
        """Places.source."""
        if cache.type == "local":
            yield ClientStore(self._session, f"local:{cache.where}")
            return
        async with self._engine.source(cache) as source:
            yield source
