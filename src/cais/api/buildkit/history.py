"""Builds of the past: what was asked, how it ended, and everything that was told. Survives restarts.

build/history/<ref>/record   the record as clients get it
build/history/<ref>/log      what was told, each message with its length before it
build/history/<ref>/blobs/   by the hexadecimal digest: errors and attestations
"""

import asyncio
import hashlib
import logging
import re
import shutil
import struct
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from msgspec.structs import replace

from cais.api.buildkit.historywire import (
    COMPLETE,
    DELETED,
    STARTED,
    BlobDescriptor,
    BlobInfo,
    BlobInfoResponse,
    BlobPart,
    BlobRequest,
    BuildRecord,
    HistoryEvent,
    HistoryRequest,
    HistoryUpdate,
)
from cais.api.buildkit.jobs import Job
from cais.api.buildkit.messages import Empty, SolveRequest, StatusResponse, to_timestamp
from cais.errors import CaisError, NotFound
from cais.grpc.calls import Call, Handler
from cais.grpc.protobuf import decode, encode
from cais.grpc.status import Code, RpcError, Status
from cais.spec.digest import parse_digest
from cais.store.content import Content

log = logging.getLogger(__name__)

CONTROL = "/moby.buildkit.v1.Control/"
CONTENT = "/containerd.services.content.v1.Content/"
LIMIT = 50
"""Records that are kept beside the pinned ones, as in BuildKit."""
_PIECE = 1 << 20
_SIZE = struct.Struct(">I")
_REF = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class History:
    """One engine's; ``content`` holds the blobs of images, which records may name, too."""

    def __init__(self, root: Path, content: Content) -> None:
        self._base = root / "build" / "history"
        self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._content = content
        self._records: dict[str, BuildRecord] = {}
        self._active: dict[str, BuildRecord] = {}
        self._unwritten: dict[str, list[StatusResponse]] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._listeners: set[asyncio.Queue[HistoryEvent]] = set()
        for path in self._base.iterdir():
            try:
                self._records[path.name] = decode((path / "record").read_bytes(), BuildRecord)
            except (OSError, CaisError):
                shutil.rmtree(path, ignore_errors=True)  # a killed engine was writing it
        self.handlers: dict[str, Handler] = {
            f"{CONTROL}ListenBuildHistory": self.listen,
            f"{CONTROL}UpdateBuildHistory": self.update,
            f"{CONTENT}Info": self.blob_info,
            f"{CONTENT}Read": self.read_blob,
        }

    # Records

    def begin(self, request: SolveRequest, job: Job) -> None:
        """A build that clients may see goes on."""
        if request.internal or not _REF.fullmatch(request.ref):
            return
        record = BuildRecord(
            ref=request.ref,
            frontend=request.frontend,
            frontend_attrs=_without_secrets(request.frontend_attrs),
            exporters=request.exporters,
            created=to_timestamp(job.started_ns),
        )
        self._active[request.ref] = record
        self._publish(HistoryEvent(type=STARTED, record=record))

    def end(self, job: Job, response: dict[str, str], error: Status | None) -> None:
        """It is over: it can be read from now on, and is on disk soon."""
        record = self._active.pop(job.ref, None)
        if record is None:
            return
        vertices = job.vertices.values()
        record = replace(
            record,
            completed=to_timestamp(time.time_ns()),
            exporter_response=response,
            cached_steps=sum(vertex.cached for vertex in vertices),
            completed_steps=sum(vertex.completed is not None for vertex in vertices),
            total_steps=len(vertices),
            warnings=job.warnings,
            error=replace(error, details=()) if error else None,
            result=job.result,
        )
        blobs = dict(job.blobs)
        if error is not None:
            data = encode(error)
            external = describe(data, "application/vnd.googeapis.google.rpc.status+proto")
            blobs[external.digest] = data
            record = replace(record, external_error=external)
        self._records[job.ref] = record
        messages = job.messages()
        self._unwritten[record.ref] = messages
        writing = asyncio.create_task(self._keep(record, blobs, messages))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        self._publish(HistoryEvent(type=COMPLETE, record=record))
        for ref in self._old():
            self.forget(ref)

    async def _keep(
        self, record: BuildRecord, blobs: dict[str, bytes], messages: list[StatusResponse]
    ) -> None:
        try:
            await asyncio.to_thread(self._write, record, blobs, messages)
        except OSError as error:
            log.warning("the record of build %s could not be written: %s", record.ref, error)
        finally:
            self._unwritten.pop(record.ref, None)
        if record.ref not in self._records:
            # It was removed meanwhile.
            shutil.rmtree(self._base / record.ref, ignore_errors=True)

    async def settle(self) -> None:
        """Until everything is written."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    def _write(self, record: BuildRecord, blobs: dict[str, bytes], messages: list[StatusResponse]) -> None:
        half = self._base / f".{uuid.uuid4().hex}"
        (half / "blobs").mkdir(mode=0o700, parents=True)
        for digest, data in blobs.items():
            (half / "blobs" / digest.partition(":")[2]).write_bytes(data)
        encoded = [encode(message) for message in messages]
        (half / "log").write_bytes(b"".join(_SIZE.pack(len(data)) + data for data in encoded))
        (half / "record").write_bytes(encode(record))
        place = self._base / record.ref
        shutil.rmtree(place, ignore_errors=True)
        half.rename(place)

    def _old(self) -> list[str]:
        loose = [record for record in self._records.values() if not record.pinned]
        loose.sort(key=_created, reverse=True)
        return [record.ref for record in loose[LIMIT:]]

    def forget(self, ref: str) -> None:
        """Remove a record. Raises NotFound."""
        record = self._records.pop(ref, None)
        if record is None:
            raise NotFound(f"no build {ref} in the history")
        shutil.rmtree(self._base / ref, ignore_errors=True)
        self._publish(HistoryEvent(type=DELETED, record=record))

    def _publish(self, event: HistoryEvent) -> None:
        for queue in self._listeners:
            queue.put_nowait(event)

    # What was told

    def has(self, ref: str) -> bool:
        """Whether there is a record."""
        return ref in self._records

    async def told(self, ref: str) -> AsyncIterator[StatusResponse]:
        """Everything that was told of a build."""
        if ref in self._unwritten:
            for message in self._unwritten[ref]:
                yield message
            return
        data = await asyncio.to_thread((self._base / ref / "log").read_bytes)
        for piece in _split(data):
            yield decode(piece, StatusResponse)

    # Calls

    async def listen(self, call: Call) -> None:
        """Records, and what becomes of them."""
        request = await call.receive_as(HistoryRequest)
        queue: asyncio.Queue[HistoryEvent] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            for event in self._now(request):
                await call.send(event)
            while not request.early_exit:
                event = await queue.get()
                if event.record is not None and request.ref in ("", event.record.ref):
                    await call.send(event)
        finally:
            self._listeners.discard(queue)

    def _now(self, request: HistoryRequest) -> list[HistoryEvent]:
        events = [HistoryEvent(type=STARTED, record=record) for record in self._active.values()]
        if not request.active_only:
            records = sorted(self._records.values(), key=_created)
            events += [HistoryEvent(type=COMPLETE, record=record) for record in records]
        found = [event for event in events if event.record and request.ref in ("", event.record.ref)]
        return found[-request.limit :] if request.limit > 0 else found

    async def update(self, call: Call) -> None:
        """Pin a record, or remove it."""
        request = await call.receive_as(HistoryUpdate)
        if request.delete:
            self.forget(request.ref)
        elif not request.finalize:
            await self.settle()
            record = self._records.get(request.ref)
            if record is None:
                raise NotFound(f"no build {request.ref} in the history")
            record = replace(record, pinned=request.pinned)
            self._records[request.ref] = record
            path = self._base / record.ref / "record"
            half = path.with_name(f".record-{uuid.uuid4().hex}")
            await asyncio.to_thread(half.write_bytes, encode(record))
            half.rename(path)
        await call.send(Empty())

    async def blob_info(self, call: Call) -> None:
        """Size of a blob."""
        request = await call.receive_as(BlobRequest)
        path = self._find(request.digest)
        status = path.stat()
        when = to_timestamp(status.st_mtime_ns)
        info = BlobInfo(digest=request.digest, size=status.st_size, created=when, updated=when)
        await call.send(BlobInfoResponse(info=info))

    async def read_blob(self, call: Call) -> None:
        """Bytes of a blob."""
        request = await call.receive_as(BlobRequest)
        path = self._find(request.digest)
        at, end = max(request.offset, 0), path.stat().st_size
        if request.size > 0:
            end = min(end, at + request.size)
        with path.open("rb") as file:
            file.seek(at)
            while at < end:
                data = await asyncio.to_thread(file.read, min(_PIECE, end - at))
                if not data:
                    raise RpcError(Code.DATA_LOSS, f"{request.digest} is cut off")
                await call.send(BlobPart(offset=at, data=data))
                at += len(data)

    def _find(self, text: str) -> Path:
        digest = parse_digest(text)
        for ref in self._records:
            path = self._base / ref / "blobs" / digest.hex
            if path.is_file():
                return path
        if self._content.has(digest):
            return self._content.path(digest)
        raise RpcError(Code.NOT_FOUND, f"content {text}: not found")


def describe(data: bytes, media_type: str, annotations: dict[str, str] | None = None) -> BlobDescriptor:
    """A descriptor of these bytes."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return BlobDescriptor(media_type=media_type, digest=digest, size=len(data), annotations=annotations or {})


def _created(record: BuildRecord) -> tuple[int, int]:
    when = record.created
    return (when.seconds, when.nanos) if when else (0, 0)


def _split(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _SIZE.size <= len(data):
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size
        yield data[at : at + size]
        at += size


def _without_secrets(attrs: dict[str, str]) -> dict[str, str]:
    """Tokens that clients put into URLs of remote contexts are no part of the history."""
    found = dict(attrs)
    for name, value in attrs.items():
        if "@" in value and "://" in value:
            scheme, _, rest = value.partition("://")
            found[name] = f"{scheme}://{rest.rpartition('@')[2]}"
    return found
