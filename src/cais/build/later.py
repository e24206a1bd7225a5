"""Unpacking what nobody waits for: the layer of a build's last COPY is complete as a blob, and is unpacked behind the
build's back. Whoever needs the files first, a container or an export, waits for what is under way, or begins it."""

import asyncio
import logging

from cais.build.cache import Layer
from cais.errors import CaisError
from cais.images.images import Images
from cais.images.unpack import Unpacker

log = logging.getLogger(__name__)


class Later:
    """One engine's."""

    def __init__(self, images: Images, unpacker: Unpacker) -> None:
        self._images = images
        self._unpacker = unpacker
        self._tasks: set[asyncio.Task[None]] = set()

    def unpack(self, layer: Layer) -> None:
        """Begin. A failure is no failure of the build: who needs the layer tries again, and is told."""
        task = asyncio.create_task(self._unpack(layer), name=f"unpack {layer.diff_id[:19]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unpack(self, layer: Layer) -> None:
        try:
            async with self._images.working() as lease:
                await asyncio.to_thread(lease.add, layer.diff_id, layer.blob.digest)
                await self._unpacker.unpack_blob(layer.diff_id, layer.blob.digest)
        except (CaisError, OSError) as error:
            log.warning("layer %s could not be unpacked ahead: %s", layer.diff_id, error)

    async def close(self) -> None:
        """Give up what is under way; it is made again when it is needed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
