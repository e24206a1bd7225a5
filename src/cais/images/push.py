"""Pushing images: blobs side by side, what names them after them, the tag last."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import Any

import msgspec
from msgspec.structs import replace

from cais.errors import Corrupt, Invalid, NotFound
from cais.images.catalog import Catalog
from cais.images.image import Image, Pushed, PushedInstead, PushEvent
from cais.images.pushplan import PushPlan, make_plan, rewrite
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.client import Remotes
from cais.remotes.upload import Blob, Uploads, open_uploads
from cais.spec.descriptor import Descriptor
from cais.spec.digest import Digest
from cais.spec.platform import Platform
from cais.spec.reference import Reference
from cais.store.content import Content
from cais.store.gc import Lease
from cais.store.layers.recompress import compress_blob
from cais.store.metadata import Metadata
from cais.store.workers import Workers

_TICK = 0.1
"""Seconds between two looks at how far the blobs are."""
_UNLIMITED = 1 << 16
_MAX_SCOPES = 8
"""Repositories to mount from that a token is asked for; each makes the request longer."""


class PushRequest(msgspec.Struct, frozen=True):
    """What to push: one tag, or without one every tag of the repository. ``platform``: only this part of an index.
    ``compression`` of layers that are plain here: gzip, zstd, none, or empty for the engine's."""

    reference: Reference
    platform: Platform | None = None
    credentials: Credentials = ANONYMOUS
    compression: str = ""


class BlobPush(msgspec.Struct):
    """One blob on its way; ``status`` in Docker's words, ``current`` of ``total`` bytes. ``id``: as people see it."""

    blob: Descriptor
    id: str
    is_layer: bool
    status: str = "Preparing"
    current: int = 0
    total: int = 0
    is_done: bool = False

    def say(self, status: str, current: int = 0, total: int = 0) -> None:
        """How far it is now."""
        self.status, self.current, self.total = status, current, total


class Pusher:
    """Pushes of one engine; several may run side by side. ``uploads``: blobs at once; 0: no limit."""

    def __init__(
        self,
        content: Content,
        catalog: Catalog,
        metadata: Metadata,
        workers: Workers,
        remotes: Remotes,
        *,
        uploads: int,
        compression: str,
    ) -> None:
        self._content = content
        self._catalog = catalog
        self._metadata = metadata
        self._workers = workers
        self._remotes = remotes
        self._slots = asyncio.Semaphore(uploads or _UNLIMITED)
        self._compression = compression

    def select(self, request: PushRequest) -> list[tuple[PushRequest, Image]]:
        """One request for each tag to push, with its image. Raises NotFound in dockerd's words, Invalid."""
        reference = request.reference
        if reference.digest:
            raise Invalid("cannot push a digest reference")
        names = self._catalog.list_tags(reference.name)
        if not names:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
        if not reference.tag:
            return [(replace(request, reference=name), self._catalog.get(digest)) for name, digest in names]
        for name, digest in names:
            if name.tag == reference.tag:
                return [(request, self._catalog.get(digest))]
        raise NotFound(f"tag does not exist: {reference.familiar()}")

    async def push(self, request: PushRequest, image: Image, lease: Lease) -> AsyncGenerator[PushEvent]:
        """All of one tag; the tag is written when everything else is there. ``image`` is leased.

        Raises Denied, Unauthenticated, Unsupported, NotFound, Corrupt, Invalid, Conflict, Unavailable.
        """
        codec = request.compression or self._compression
        plan = await asyncio.to_thread(
            make_plan, self._content, image.descriptor, self._catalog.host, request.platform
        )
        jobs = [BlobPush(config, config.digest.hex[:12], False) for config in plan.configs]
        jobs += [BlobPush(layer, layer.digest.hex[:12], True) for layer in plan.layers]
        plain = {digest for digest in plan.plain if codec != "none"}
        mounts = self._list_mounts(request.reference, [job.blob.digest for job in jobs])
        async with open_uploads(
            self._remotes, request.reference, request.credentials, mounts=mounts
        ) as uploads:
            work = _Work(uploads, image.id, plain, codec, lease)
            if plain:
                # Whether we may push at all is found out before anything is compressed.
                for job in jobs[: len(plan.configs)]:
                    await self._push_blob(work, job)
            for event in _events([], jobs):
                yield event
            async for event in self._push_blobs(work, jobs):
                yield event
            packed = dict(zip((one.digest for one in (*plan.configs, *plan.layers)), jobs, strict=True))
            changed = {digest: packed[digest].blob for digest in plain}
            plan = await asyncio.to_thread(self._keep, rewrite(plan, changed, codec), lease)
            await self._push_documents(uploads, plan)
        for event in self._note(request, image, plan):
            yield event

    def note_pulled(self, reference: Reference, image: Image) -> None:
        """Remember that the repository has the image's blobs: others of its registry can take them from there."""
        blobs = [
            blob.digest
            for part in image.platforms
            if part.is_complete
            for blob in (part.manifest.config, *part.manifest.layers)
        ]
        self._metadata.put_places(blobs, reference.name, time.time_ns())

    # Blobs

    async def _push_blobs(self, work: "_Work", jobs: Sequence[BlobPush]) -> AsyncGenerator[PushEvent]:
        """All blobs side by side, and how far they are; the first error ends it."""
        async with _side_by_side([self._push_blob(work, job) for job in jobs]) as waiting:
            told = [replace(job) for job in jobs]
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED
                )
                for event in _events(told, jobs):
                    yield event
                told = [replace(job) for job in jobs]
                for task in done:
                    task.result()

    async def _push_blob(self, work: "_Work", job: BlobPush) -> None:
        if job.is_done:
            return
        if job.blob.digest in work.plain:
            job.blob = await self._pack(job.blob, work)
        if self._slots.locked():
            job.say("Waiting")
        async with self._slots:
            job.say(await self._send(work.uploads, job))
            job.is_done = True

    async def _send(self, uploads: Uploads, job: BlobPush) -> str:
        """Have the blob there; how, in Docker's words."""
        digest, size = job.blob.digest, job.blob.size
        if await uploads.has_blob(digest):
            return "Layer already exists"
        reference = uploads.reference
        sources = self._list_mounts(reference, [digest])
        if source := await uploads.mount(digest, sources):
            return f"Mounted from {source}"
        for wrong in sources:
            self._metadata.delete_place(digest, f"{reference.domain}/{wrong}")
        job.say("Pushing", 0, size)
        blob = Blob(digest, size, self._content.path(digest))
        try:
            await uploads.push_blob(blob, lambda current: job.say("Pushing", current, size))
        except Corrupt:
            # Ours is damaged, which is the error then, or the line was bad: once more.
            await asyncio.to_thread(self._content.verify, digest)
            await uploads.push_blob(blob, lambda current: job.say("Pushing", current, size))
        return "Pushed"

    async def _pack(self, blob: Descriptor, work: "_Work") -> Descriptor:
        """The compressed form of a plain layer, made once; it stays as long as the image does."""
        known = self._metadata.find_packed(blob.digest, work.codec)
        if known:
            await asyncio.to_thread(work.lease.add, known[0])
        if known is None or not self._content.has(known[0]):
            known = await self._compress(blob, work)
            self._metadata.put_packed(blob.digest, work.codec, *known)
        self._metadata.put_form(work.image, known[0], "", time.time_ns())
        return Descriptor(media_type=blob.media_type, digest=known[0], size=known[1])

    async def _compress(self, blob: Descriptor, work: "_Work") -> tuple[Digest, int]:
        source = self._content.path(blob.digest)
        made = await self._workers.run(compress_blob, source, blob.digest, work.codec)
        try:
            await asyncio.to_thread(work.lease.add, made.digest)
            made.path.rename(self._content.path(made.digest))
        except BaseException:
            made.path.unlink(missing_ok=True)
            raise
        return made.digest, made.size

    def _list_mounts(self, reference: Reference, digests: Sequence[Digest]) -> list[str]:
        """Paths of other repositories of the same registry that have these blobs."""
        start = f"{reference.domain}/"
        found = {
            name.removeprefix(start): None
            for digest in digests
            for name in self._metadata.list_places(digest)
            if name.startswith(start) and name != reference.name
        }
        return list(found)[:_MAX_SCOPES]

    # Manifests

    def _keep(self, plan: PushPlan, lease: Lease) -> PushPlan:
        """Store what was rewritten: it is an image's other form from now on."""
        for document in plan.documents:
            lease.add(document.descriptor.digest)
            if not self._content.has(document.descriptor.digest):
                self._content.put(document.data)
        return plan

    async def _push_documents(self, uploads: Uploads, plan: PushPlan) -> None:
        """What is named before what names it; nothing if the tag is right already. Without a tag: by digest alone."""
        top = plan.target.descriptor
        tag = str(uploads.reference.tag or top.digest)
        if await uploads.has_manifest(tag, top.digest):
            return
        for document in plan.documents:
            one = document.descriptor
            name = tag if document is plan.target else one.digest
            await uploads.push_manifest(name, one.digest, one.media_type, document.data)

    def _note(self, request: PushRequest, image: Image, plan: PushPlan) -> Iterator[PushEvent]:
        """Remember where everything is now, and tell."""
        reference, top = request.reference, plan.target.descriptor
        blobs = [blob.digest for blob in (*plan.configs, *plan.layers)]
        self._metadata.put_places(blobs, reference.name, time.time_ns())
        if top.digest != image.id:
            self._metadata.put_form(image.id, top.digest, reference.name, time.time_ns())
        self._catalog.publish(
            "push", reference.familiar(), reference.familiar_name, image.config.config.labels
        )
        tag = str(reference.tag or top.digest)
        yield PushEvent(f"{tag}: digest: {top.digest} size: {top.size}")
        yield PushEvent(result=Pushed(tag, top.digest, top.size))
        if plan.instead_of:
            yield PushEvent(result=PushedInstead(plan.instead_of, top))


class _Work(msgspec.Struct, frozen=True):
    """What the blobs of one push share."""

    uploads: Uploads
    image: Digest
    plain: set[Digest]
    codec: str
    lease: Lease


def _events(told: Sequence[BlobPush], jobs: Sequence[BlobPush]) -> Iterator[PushEvent]:
    """What is new since ``told``; configurations are not shown, as Docker does not."""
    for old, new in zip_longest(told, jobs):
        if new.is_layer and (old is None or (old.status, old.current) != (new.status, new.current)):
            yield PushEvent(new.status, new.id, new.current, new.total, is_layer=True)


@asynccontextmanager
async def _side_by_side(
    jobs: Sequence[Coroutine[Any, Any, None]],
) -> AsyncIterator[set["asyncio.Task[None]"]]:
    """The jobs as tasks; what still runs at the end of the block is cancelled."""
    tasks = {asyncio.create_task(job) for job in jobs}
    try:
        yield set(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
