"""Copies out of containers and what they changed, from the event loop: which root to open, and who waits for whom."""

import asyncio
import os
from collections.abc import AsyncIterator, Generator

from cais.containers.archivepath import PathStat
from cais.containers.archiveread import read_path, stat_path
from cais.containers.archiveroot import mount_root, plan_places
from cais.containers.changes import Change, list_changes, make_source
from cais.containers.exportstream import gather, open_live_root
from cais.containers.fleet import Fleet, Live
from cais.containers.mountspec import clean
from cais.containers.options import shared_with
from cais.containers.record import DEAD, REMOVING
from cais.containers.services import Rooms
from cais.errors import Conflict
from cais.store.layers.diff import DiffSource


class Archives:
    """Copies and differences of all containers."""

    def __init__(self, rooms: Rooms, fleet: Fleet) -> None:
        self._rooms = rooms
        self._fleet = fleet

    async def stat(self, live: Live, name: str, path: str) -> PathStat:
        """What stands at ``path``. Raises NotFound, Invalid, Conflict."""
        root = await self._open_root(live, name)
        try:
            return await asyncio.to_thread(stat_path, root, path, name)
        finally:
            os.close(root)

    async def read(self, live: Live, name: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        """The same, and the tar of it; whoever gets the iterator ends it or closes it. Raises NotFound, Invalid,
        Conflict before the first piece; Conflict later, when the container moves folders meanwhile."""
        root = await self._open_root(live, name)
        try:
            found, parts = await asyncio.to_thread(read_path, root, path, name)
        except BaseException:
            os.close(root)
            raise
        self._fleet.publish(live, "archive-path")
        return found, _pieces(root, parts)

    async def changes(self, live: Live, name: str) -> list[Change]:
        """What differs from the image. Raises Conflict when the container moves folders meanwhile."""
        self._check(live, name)
        record = live.record
        destinations = [point.destination for point in record.mounts]
        destinations += [clean(destination) for destination in record.host.tmpfs]
        source = make_source(DiffSource(self._rooms.snapshots.mounts(live.id), record.lowers), destinations)
        return await asyncio.to_thread(list_changes, source)

    def _check(self, live: Live, name: str) -> None:
        if live.removing or live.state.status in (REMOVING, DEAD):
            raise Conflict(f"container {name} is being removed")

    async def _open_root(self, live: Live, name: str) -> int:
        """To read: a running container's own view, another's as a start would make it."""
        self._check(live, name)
        record = live.record
        if record.state.live:
            return await open_live_root(record, self._rooms.driver)
        places = plan_places(record, self._etc(live))
        return await asyncio.to_thread(
            mount_root, self._rooms.snapshots.mounts(live.id), places, writable=False
        )

    def _etc(self, live: Live) -> str:
        """The folder of its hosts, hostname and resolv.conf."""
        return str(
            self._rooms.config.root / "containers" / (shared_with(live.record.host.network_mode) or live.id)
        )


async def _pieces(root: int, parts: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    pieces = gather(parts)
    step: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            step = loop.run_in_executor(None, next, pieces, None)
            piece = await step
            if piece is None:
                return
            yield piece
    finally:
        if step is not None and not step.done():
            # Cancelled: the thread cannot be, and must not go on with what is closed now.
            await asyncio.wait([step])
        pieces.close()
        parts.close()
        os.close(root)
