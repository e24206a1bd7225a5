"""Copies from and to containers and what they changed, from the event loop: which root, and who waits for whom."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from cais.containers.archivepath import PathStat
from cais.containers.archiveread import read_path, stat_path
from cais.containers.archiveroot import mount_root, plan_places
from cais.containers.archivewrite import CopyWish, Target, extract
from cais.containers.changes import Change, list_changes, make_source
from cais.containers.exportstream import gather, open_live_root
from cais.containers.fleet import Fleet, Live
from cais.containers.lifecycle import Lifecycle
from cais.containers.mountspec import clean
from cais.containers.options import shared_with
from cais.containers.pulled import Pulled
from cais.containers.record import DEAD, REMOVING, Record
from cais.containers.services import Rooms
from cais.containers.sources import ensure_source
from cais.errors import Conflict
from cais.store.layers.diff import DiffSource

P = ParamSpec("P")
T = TypeVar("T")


class Archives:
    """Copies and differences of all containers."""

    def __init__(self, rooms: Rooms, fleet: Fleet, life: Lifecycle) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._life = life

    async def stat(self, live: Live, name: str, path: str) -> PathStat:
        """What stands at ``path``. Raises NotFound, Invalid, Conflict."""
        root = await self._open_root(live, name)
        try:
            return await _in_thread(stat_path, root, path, name)
        finally:
            os.close(root)

    async def read(self, live: Live, name: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        """The same, and the tar of it; whoever gets the iterator ends it or closes it. Raises NotFound, Invalid,
        Conflict before the first piece; Conflict later, when the container moves folders meanwhile."""
        root = await self._open_root(live, name)
        try:
            found, parts = await _in_thread(read_path, root, path, name)
        except BaseException:
            os.close(root)
            raise
        self._fleet.publish(live, "archive-path")
        return found, _pieces(root, parts)

    async def write(self, live: Live, name: str, wish: CopyWish, body: AsyncIterator[bytes]) -> None:
        """Unpack the tar ``body``. Raises NotFound, Invalid, Conflict, Unavailable; what was written before stays."""
        async with live.lock:
            self._check(live, name)
            if not live.state.live:
                # The lock is kept: a start in between would mount a second overlay over the same folders.
                await self._write_stopped(live, name, wish, body)
                self._fleet.publish(live, "extract-to-dir")
                return
            root = await open_live_root(live.record, self._rooms.driver)
            ended = self._life.wait_stopped(live)
            work = asyncio.create_task(self._extract(root, live.record, name, wish, body))
            live.copies.add(work)
            work.add_done_callback(live.copies.discard)
        try:
            await asyncio.wait((work, ended), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Conflict(f"container {name} ended while it was copied to")
            await work
        finally:
            ended.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
        self._fleet.publish(live, "extract-to-dir")

    async def _write_stopped(self, live: Live, name: str, wish: CopyWish, body: AsyncIterator[bytes]) -> None:
        record = live.record
        for point in record.mounts:
            ensure_source(point)
        root = await self._mount_root(live, writable=True)
        await self._extract(root, record, name, wish, body)

    async def _extract(
        self, root: int, record: Record, name: str, wish: CopyWish, body: AsyncIterator[bytes]
    ) -> None:
        """In a thread, which is over when this is; closes ``root``."""
        loop = asyncio.get_running_loop()
        pulled = Pulled(body, loop)
        work = loop.run_in_executor(None, extract, Target(root, name, record.config.user), wish, pulled)
        try:
            await asyncio.shield(work)
        finally:
            if not work.done():
                pulled.stop()
                await asyncio.wait([work])
                work.exception()  # that it was stopped is no news
            os.close(root)
            await pulled.settle()

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
        return await self._mount_root(live, writable=False)

    async def _mount_root(self, live: Live, *, writable: bool) -> int:
        """In a thread that ends with it: one that comes home from another mount namespace has that namespace's root,
        which need not be the engine's (setns(2))."""
        host = live.record.host
        etc = self._rooms.config.root / "containers" / (shared_with(host.network_mode) or live.id)
        work = partial(
            mount_root,
            self._rooms.snapshots.mounts(live.id),
            plan_places(live.record, str(etc)),
            writable=writable,
            readonly=writable and host.readonly_rootfs,
        )
        thread = ThreadPoolExecutor(1)
        mounting = asyncio.get_running_loop().run_in_executor(thread, work)
        thread.shutdown(wait=False)
        try:
            return await asyncio.shield(mounting)
        except asyncio.CancelledError:
            mounting.add_done_callback(_close_result)
            raise


def _close_result(mounting: "asyncio.Future[int]") -> None:
    if not mounting.exception():
        os.close(mounting.result())


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As asyncio.to_thread, but over when this is, also if cancelled: the thread uses what the caller closes then."""
    work = asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    finally:
        if not work.done():
            await asyncio.wait([work])


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
