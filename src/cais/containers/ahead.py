"""Folders of the next containers, made ahead in quiet moments.

A new file or folder costs ext4 a search past every inode that was deleted in the last minutes (fs/ext4/ialloc.c,
recently_deleted): after a big image was removed a millisecond each, and a container has eight."""

import asyncio
import logging

from cais.store.snapshots.base import Snapshots

FILES = ("hosts", "hostname", "resolv.conf")
"""What every start writes into the container's folder."""
SETTLE_SECONDS = 0.03
"""The container that took a folder is just starting and needs the CPUs."""

log = logging.getLogger(__name__)


class Ahead:
    """Keeps ``count`` folders in store; 0: none."""

    def __init__(self, snapshots: Snapshots, count: int) -> None:
        self._snapshots = snapshots
        self._count = count
        self._timer: asyncio.TimerHandle | None = None
        self._filling: asyncio.Task[None] | None = None

    def fill_later(self) -> None:
        """One was taken."""
        if self._count and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._fill)

    def _fill(self) -> None:
        self._timer = None
        if self._filling is None or self._filling.done():
            self._filling = asyncio.create_task(self._stock(self._count))

    async def _stock(self, count: int) -> None:
        try:
            await asyncio.to_thread(self._snapshots.stock, count, FILES)
        except OSError:  # a full disk; the next container finds out by itself
            log.debug("no folders made ahead", exc_info=True)

    async def close(self) -> None:
        """Stop, and leave nothing in store."""
        self._count = 0
        if self._timer:
            self._timer.cancel()
        if self._filling:
            await asyncio.wait((self._filling,))
        await self._stock(0)
