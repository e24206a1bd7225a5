"""``export`` from the event loop: which root to open, and the tar as it comes."""

import asyncio
import os
from collections.abc import AsyncIterator, Generator, Iterator

from cais.containers.export import open_running_root, open_stopped_root, walk_tar
from cais.containers.record import Record
from cais.errors import Unavailable
from cais.runtime.base import Driver
from cais.store.snapshots.base import Snapshots

GATHER = 1 << 20
"""Bytes of one piece: headers of small files are not sent one by one."""


async def export_root(record: Record, snapshots: Snapshots, driver: Driver) -> AsyncIterator[bytes]:
    """The tar of the container's root. Raises ``Unavailable`` when it ends while its root is opened."""
    root = await _open_root(record, snapshots, driver)
    try:
        pieces = gather(walk_tar(root))
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
    finally:
        os.close(root)


async def _open_root(record: Record, snapshots: Snapshots, driver: Driver) -> int:
    if record.state.live:
        return await open_live_root(record, driver)
    return await asyncio.to_thread(open_stopped_root, snapshots.mounts(record.id))


async def open_live_root(record: Record, driver: Driver) -> int:
    """A descriptor of the root as the running container sees it; the caller closes it. Raises Unavailable."""
    try:
        process = os.open(f"/proc/{record.state.pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unavailable("the container ended while its root was opened; try again") from None
    try:
        # Asked after the folder was opened: if the id is still the container's now, the folder is too.
        if record.state.pid not in await driver.pids(record.id):
            raise Unavailable("the container ended while its root was opened; try again")
        return open_running_root(process)
    finally:
        os.close(process)


def gather(parts: Iterator[bytes]) -> Generator[bytes, None, None]:
    """``parts`` in pieces of some size; closing it closes nothing else."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= GATHER:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
