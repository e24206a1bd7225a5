"""Collecting garbage while everybody works: in small transactions, and never what somebody was just told is here."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import msgspec

from cais.errors import NotFound
from cais.registry.registry import Registry

log = logging.getLogger(__name__)

STEP = 200
"""Records that one transaction removes: pushes wait for it no longer than some milliseconds."""


class Collected(msgspec.Struct):
    """What a collection did; ``freed`` is bytes."""

    manifests: int = 0
    links: int = 0
    blobs: int = 0
    uploads: int = 0
    strays: int = 0
    freed: int = 0


class Collector:
    """``grace``: seconds for which a blob stays that was pushed, mounted or asked for, whoever names it, and a manifest
    without a tag, if the registry drops these at all. ``lease``: what keeps backups out while blobs go; false: one is
    under way."""

    def __init__(
        self,
        registry: Registry,
        grace: float,
        upload_age: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        lease: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(True),
    ) -> None:
        self._registry = registry
        self._lease = lease
        self._grace = grace
        self._upload_age = upload_age
        self._clock = clock
        self._advanced = clock()
        self._lock = asyncio.Lock()

    async def collect(self) -> Collected:
        """One collection; a second one waits for the first. During a backup: none."""
        async with self._lock:
            done = Collected()
            with self._lease() as may_remove:
                if may_remove:
                    await self._collect(done)
                else:
                    log.info("no collection: a backup is under way")
            return done

    async def _collect(self, done: Collected) -> None:
        # The generation is not older than the grace period: what was touched in the one before has had as long.
        if self._clock() - self._advanced >= self._grace:
            await self._registry.advance()
            self._advanced = self._clock()
        done.uploads = await self._registry.blobs.clean(self._upload_age)
        await self._drop(done)
        await self._drop_strays(done)

    async def _drop(self, done: Collected) -> None:
        catalog = self._registry.catalog
        while self._registry.drops_untagged and (count := await catalog.drop_untagged(STEP)):
            self._registry.forget_all()  # memory must not say of one that it is still here
            done.manifests += count
        while count := await catalog.drop_links(STEP):
            done.links += count
        while digests := await catalog.drop_blobs(STEP):
            for digest in digests:
                done.freed += await self._registry.remove_bytes(digest)
                done.blobs += 1

    async def _drop_strays(self, done: Collected) -> None:
        """Bytes without a record: of a push or a removal that a ``kill -9`` cut in two."""
        async for digest, _ in self._registry.blobs.list():
            if not await self._registry.catalog.is_known(digest):
                freed = await self._registry.remove_bytes(digest)
                done.freed += freed
                done.strays += freed > 0


class Scrubber:
    """Reads blobs through, the longest unread first, to find what the disk has spoiled."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def scrub(self, count: int, age: float) -> list[str]:
        """Check up to ``count`` blobs that were not read for ``age`` seconds; the digests of those that are damaged.
        A damaged blob stays on record and is replaced by the next push of it."""
        damaged = []
        before = time.time_ns() - int(age * 1e9)
        for digest in await self._registry.catalog.oldest_checked(before, count):
            try:
                whole = await self._registry.blobs.verify(digest)
            except NotFound:
                # Collected meanwhile; or the disk has lost it, which is as bad as a wrong bit.
                if not await self._registry.catalog.is_known(digest):
                    continue
                whole = False
            except OSError as error:
                log.error("blob %s cannot be read: %s", digest, error)
                whole = False
            if not whole:
                log.error("blob %s is damaged", digest)
                await self._registry.blobs.quarantine(digest)
                damaged.append(str(digest))
            await self._registry.catalog.note_checked(digest, damaged=not whole)
        return damaged
