"""Unpacking the layers of images in the worker processes, side by side."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cais.errors import NotFound
from cais.images.arriving import unpack_arriving
from cais.images.image import LoadEvent, PlatformImage
from cais.images.spool import Arrival
from cais.spec.digest import Digest
from cais.store.content import Content
from cais.store.gc import Lease
from cais.store.layers.layers import Layers, ensure_layers, unpack_layer
from cais.store.workers import Workers


class _Shared(msgspec.Struct):
    """One layer that is being unpacked, and how many wait for it."""

    task: "asyncio.Future[None]"
    waiters: int = 0


class Unpacker(msgspec.Struct, frozen=True):
    """``root`` is the engine's root folder, for the workers to find the stores in. One for each engine: two that want
    one layer wait for the same worker."""

    content: Content
    layers: Layers
    workers: Workers
    root: Path
    _running: "dict[Digest, _Shared]" = msgspec.field(default_factory=dict)

    async def unpack(self, images: Sequence[PlatformImage], lease: Lease) -> AsyncIterator[LoadEvent]:
        """Have every layer of ``images`` ready to mount; yields each layer as it is done.

        Every diff_id is verified. Raises Corrupt, Invalid; then layers that were done stay, under ``lease``.
        """
        blobs: dict[Digest, Digest] = {}
        for image in images:
            blobs.update(
                zip(_diff_ids(image), (layer.digest for layer in image.manifest.layers), strict=True)
            )
        missing = [diff_id for diff_id in blobs if not self.layers.has(diff_id)]
        if missing:
            # In a thread: a lease waits for a running collection, the event loop must not.
            await asyncio.to_thread(lease.add, *missing)
        async for event in _side_by_side([self._unpack(diff_id, blobs[diff_id]) for diff_id in missing]):
            yield event
        for image in images:
            await self._fit(image)

    async def unpack_tar(self, tar: Arrival) -> None:
        """Unpack what is still arriving; ``tar.digest`` is its diff_id."""
        limits = self.layers.limits
        await self.workers.run(unpack_arriving, self.root, tar.path, tar.size, tar.digest, limits)

    def lowers(self, diff_ids: Sequence[Digest]) -> tuple[str, ...]:
        """The folders to mount, top first. Raises NotFound if the layers are not ready."""
        return self.layers.lower_paths(diff_ids)

    def is_ready(self, diff_ids: Sequence[Digest]) -> bool:
        """Whether nothing is to be unpacked for this stack."""
        try:
            self.layers.lower_paths(diff_ids)
        except NotFound:
            return False
        return True

    async def unpack_blob(self, diff_id: Digest, blob: Digest) -> None:
        """Unpack a layer that is here as a whole; both digests are leased by the caller. Raises Corrupt, Invalid."""
        shared = self._running.get(diff_id)
        if shared is None:
            path, limits = self.content.path(blob), self.layers.limits
            work = self.workers.run(unpack_layer, self.root, path, diff_id, limits)
            shared = self._running[diff_id] = _Shared(asyncio.ensure_future(work))
            shared.task.add_done_callback(lambda _: self._running.pop(diff_id, None))
        shared.waiters += 1
        try:
            # Shielded: what others wait for too is not ended by the end of one.
            await asyncio.shield(shared.task)
        finally:
            shared.waiters -= 1
            if not shared.waiters:
                shared.task.cancel()
                await asyncio.gather(shared.task, return_exceptions=True)

    async def _unpack(self, diff_id: Digest, blob: Digest) -> LoadEvent:
        await self.unpack_blob(diff_id, blob)
        size = self.content.size(blob)
        return LoadEvent(status="Unpacked layer", id=diff_id.hex[:12], current=size, total=size)

    async def _fit(self, image: PlatformImage) -> None:
        """What a layer needs to know of the ones below it; for most layers nothing."""
        diff_ids = _diff_ids(image)
        if not self.is_ready(diff_ids):
            blobs = [self.content.path(layer.digest) for layer in image.manifest.layers]
            limits = self.layers.limits
            await self.workers.run(ensure_layers, self.root, blobs, list(diff_ids), limits)


def _diff_ids(image: PlatformImage) -> tuple[Digest, ...]:
    if image.config is None:
        raise NotFound(f"image {image.descriptor.digest} has no configuration on this machine")
    return image.config.rootfs.diff_ids


async def _side_by_side(jobs: Sequence[Coroutine[Any, Any, LoadEvent]]) -> AsyncIterator[LoadEvent]:
    """The results as they come; the first error cancels the rest."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
