"""Layers on their way from a registry: each is fetched and unpacked once, however many pulls want it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from cais.errors import Corrupt
from cais.images.feed import feed
from cais.images.spool import Arrival
from cais.images.unpack import Unpacker
from cais.remotes.client import Repository
from cais.spec.descriptor import Descriptor
from cais.spec.digest import Digest
from cais.store.content import Content, Writer

_UNLIMITED = 1 << 16


@dataclass(slots=True)
class LayerPull:
    """One layer, and how far it is: ``status`` in Docker's words, ``current`` of ``total`` bytes."""

    blob: Descriptor
    diff_id: Digest
    status: str = "Pulling fs layer"
    current: int = 0
    total: int = 0
    users: int = 0
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)

    def say(self, status: str, current: int = 0, total: int = 0) -> None:
        """How far it is now."""
        self.status, self.current, self.total = status, current, total


class LayerPulls:
    """The layers that all pulls of one engine are working on. ``downloads``: how many at once; 0: no limit."""

    def __init__(self, content: Content, unpacker: Unpacker, *, downloads: int) -> None:
        self._content = content
        self._unpacker = unpacker
        self._running: dict[tuple[Digest, Digest, int], LayerPull] = {}
        self._downloads = asyncio.Semaphore(downloads or _UNLIMITED)
        # A worker that unpacks what is still arriving waits for the network most of the time: one has to stay free.
        self._early = asyncio.Semaphore(max(1, (os.cpu_count() or 1) - 1))

    def is_here(self, blob: Descriptor, diff_id: Digest) -> bool:
        """Whether nothing is to be done for this layer."""
        return self._content.has(blob.digest) and self._unpacker.layers.has(diff_id)

    @asynccontextmanager
    async def join(
        self, repository: Repository, blob: Descriptor, diff_id: Digest
    ) -> AsyncIterator[LayerPull]:
        """Have this layer fetched and unpacked, or take part in a pull of it that runs; wait for its ``task``.

        The caller has leased both digests, and keeps them so. When the last one leaves, what is not whole is dropped.
        """
        # With the size: who was told a wrong one must not spoil it for others.
        key = (blob.digest, diff_id, blob.size)
        pull = self._running.get(key)
        if pull is None:
            pull = self._running[key] = LayerPull(blob, diff_id)
            pull.task = asyncio.create_task(self._pull(repository, pull))
        pull.users += 1
        try:
            yield pull
        finally:
            pull.users -= 1
            if not pull.users:
                # Out of the table first: who comes now must not join something that is being cancelled.
                del self._running[key]
                assert pull.task is not None
                pull.task.cancel()
                await asyncio.gather(pull.task, return_exceptions=True)

    async def _pull(self, repository: Repository, pull: LayerPull) -> None:
        # The connections of whoever came first are used until the end, even if he leaves before.
        async with repository:
            if not self._content.has(pull.blob.digest):
                pull.say("Waiting")
                async with self._downloads:
                    await self._download(repository, pull)
        if not self._unpacker.layers.has(pull.diff_id):
            pull.say("Extracting", pull.blob.size, pull.blob.size)
            await self._unpacker.unpack_blob(pull.diff_id, pull.blob.digest)
        pull.say("Pull complete")

    async def _download(self, repository: Repository, pull: LayerPull) -> None:
        """The blob into the content store. One that came wrong is fetched once more: lines and caches do lie."""
        try:
            await self._download_once(repository, pull)
        except Corrupt:
            await self._download_once(repository, pull)

    async def _download_once(self, repository: Repository, pull: LayerPull) -> None:
        size = pull.blob.size
        pull.say("Downloading", 0, size)
        with self._content.writer(pull.blob.digest.algorithm) as writer:
            unpacking = self._unpack_early(writer, pull)
            try:
                async with aclosing(repository.fetch_blob(pull.blob)) as parts:
                    async for current in feed(parts, writer.write):
                        pull.say("Downloading", current, size)
                writer.commit(pull.blob.digest)
                pull.say("Download complete")
                if unpacking:
                    pull.say("Extracting", size, size)
                    # Its failure is not the last word: what is here as a whole is unpacked again, and that reports.
                    await asyncio.gather(unpacking, return_exceptions=True)
            finally:
                if unpacking:
                    unpacking.cancel()
                    await asyncio.gather(unpacking, return_exceptions=True)

    def _unpack_early(self, writer: Writer, pull: LayerPull) -> "asyncio.Task[None] | None":
        """Start unpacking while the bytes arrive, if a worker can be spared. The layer appears only if its diff_id
        is right, whatever the blob turns out to be."""
        if self._early.locked() or self._unpacker.layers.has(pull.diff_id):
            return None
        arrival = Arrival(pull.diff_id, writer.path, pull.blob.size)

        async def unpack() -> None:
            async with self._early:
                await self._unpacker.unpack_tar(arrival)

        return asyncio.create_task(unpack())
