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
from cais.store.full import is_full

_UNLIMITED = 1 << 16
_WHOLE_TRIES = 2


@dataclass(slots=True)
class LayerPull:
    """One layer, and how far it is: ``status`` in Docker's words, ``current`` of ``total`` bytes. Without ``diff_id``
    the blob is fetched and not unpacked."""

    blob: Descriptor
    diff_id: Digest | None
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
        self._running: dict[tuple[Digest, Digest | None, int], LayerPull] = {}
        self._downloads = asyncio.Semaphore(downloads or _UNLIMITED)
        # A worker that unpacks what is still arriving waits for the network most of the time: one has to stay free.
        self._early = asyncio.Semaphore(max(1, (os.cpu_count() or 1) - 1))

    def is_here(self, blob: Descriptor, diff_id: Digest | None) -> bool:
        """Whether nothing is to be done for this layer."""
        return self._content.has(blob.digest) and (diff_id is None or self._unpacker.layers.has(diff_id))

    @asynccontextmanager
    async def join(
        self, repository: Repository, blob: Descriptor, diff_id: Digest | None
    ) -> AsyncIterator[LayerPull]:
        """Have this layer fetched and unpacked, or take part in a pull of it that runs; wait for its ``task``.

        The caller has leased both digests, and keeps them so. When the last one leaves, it ends; what
        came waits for the next try.
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
        if pull.diff_id and not self._unpacker.layers.has(pull.diff_id):
            pull.say("Extracting", pull.blob.size, pull.blob.size)
            await self._unpacker.unpack_blob(pull.diff_id, pull.blob.digest)
        pull.say("Pull complete")

    async def _download(self, repository: Repository, pull: LayerPull) -> None:
        """The blob into the content store, from where an earlier try stopped. What came wrong is fetched once more as a
        whole: lines and caches do lie, and what an earlier try left is not trusted either."""
        whole_tries = 0
        while True:
            with self._content.resume(pull.blob.digest) as writer:
                await asyncio.to_thread(writer.catch_up)
                whole_tries += not writer.size
                try:
                    await self._download_rest(repository, pull, writer)
                    return
                except Corrupt:
                    writer.drop()
                    if whole_tries == _WHOLE_TRIES:
                        raise
                except OSError as error:
                    if is_full(error):
                        writer.drop()  # whoever has to make room must not have to look for it
                    raise

    async def _download_rest(self, repository: Repository, pull: LayerPull, writer: Writer) -> None:
        """From the writer's last byte to the end. Raises Corrupt for bytes that are not what they should be."""
        size, had = pull.blob.size, writer.size
        if had > size:
            raise Corrupt(f"blob {pull.blob.digest} has more than the {size} bytes announced")
        pull.say("Downloading", had, size)
        unpacking = self._unpack_early(writer, pull)
        try:
            async with aclosing(repository.fetch_blob(pull.blob, had)) as parts:
                async for current in feed(parts, writer.write):
                    pull.say("Downloading", had + current, size)
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
        if not pull.diff_id or self._early.locked() or self._unpacker.layers.has(pull.diff_id):
            return None
        arrival = Arrival(pull.diff_id, writer.path, pull.blob.size)

        async def unpack() -> None:
            async with self._early:
                await self._unpacker.unpack_tar(arrival)

        return asyncio.create_task(unpack())
