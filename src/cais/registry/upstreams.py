"""Repositories of other registries, fetched when somebody asks for them: a pull-through cache of any number of them.

A manifest is fetched, verified and put on record as soon as somebody asks for it; the blobs that it names come when
they are asked for. To fetch them with the manifest would make its first reader wait for gigabytes, of which it often
wants nothing: the index names twenty platforms, and the client has the base layers. So the catalog's rule that all
that a manifest names is here holds for pushes only; here an edge may lead to a blob that is not here yet. The rest of
the registry needs to know nothing of it: a blob without a link is not here, and asking for it brings it. For the
collector a blob that came is named by a manifest like any other; one that no manifest keeps goes, and comes again when
it is wanted.

A blob is streamed to all who ask for it while one task writes it to the disk (``Arrival``); it goes on when they go
away. It becomes a blob only if its digest is right, and until then nobody is sent its last byte.

What is named by its digest is never asked for again. A tag is, once it was asked for longer than ``expiry`` ago: by a
HEAD, which Docker Hub does not count. When the origin cannot be reached, or has failed, what is here is served. When
it says that there is no such thing, or not for us, that is the answer, and for some seconds it is not asked again.

Tags and referrers are listed as far as they are here.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec

from cais.errors import (
    AlreadyExists,
    CaisError,
    Conflict,
    Corrupt,
    Denied,
    Invalid,
    NotFound,
    Unauthenticated,
)
from cais.registry.arrivals import Arrival
from cais.registry.base import Caller
from cais.registry.documents import read_document
from cais.registry.origins import Line, Lines, Origin
from cais.registry.refusal import Refusal, as_refusal
from cais.registry.registry import Found, Registry
from cais.remotes.client import Document
from cais.remotes.refusals import Forbidden
from cais.spec.descriptor import Descriptor
from cais.spec.digest import Digest

T = TypeVar("T")
log = logging.getLogger(__name__)

CALLER = Caller(account="upstream")
"""Who the audit log says has put it here."""
MISS_SECONDS = 10.0
"""How long "no such thing" is remembered."""
DOWN_SECONDS = 30.0
"""How long an origin that failed is not asked about what is here."""
HURRY = 10.0
"""Seconds in which an origin must answer when there is something here to answer with."""
REMEMBERED = 50_000
"""Tags and misses that memory keeps."""


class _Miss(msgspec.Struct, frozen=True):
    refusal: Refusal
    until: float


class Upstreams:
    """See ``registry.Source``. One per registry; ``close`` it. ``expiry``: seconds until a tag is asked for again."""

    def __init__(
        self,
        registry: Registry,
        origins: Sequence[Origin],
        *,
        expiry: float,
        allow_private: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises Invalid: two origins have the same prefix."""
        if len({origin.prefix for origin in origins}) < len(origins):
            raise Invalid("two upstreams have the same prefix")
        self._registry = registry
        self._origins = sorted(origins, key=lambda origin: -len(origin.prefix))
        self._expiry = expiry
        self._clock = clock
        self._lines = Lines(allow_private=allow_private)
        self._checked: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._missing: OrderedDict[tuple[str, str], _Miss] = OrderedDict()
        self._down: dict[str, float] = {}
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._arrivals: dict[tuple[str, Digest], Arrival] = {}

    async def close(self) -> None:
        """Give up what is on its way. Idempotent."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._lines.close()

    def find_origin(self, repository: str) -> Origin | None:
        """Where the repository comes from; None: it is our own."""
        return next((origin for origin in self._origins if origin.covers(repository)), None)

    def covers(self, repository: str) -> bool:
        """Whether it comes from elsewhere."""
        return self.find_origin(repository) is not None

    # Manifests

    async def find_manifest(self, repository: str, ref: Digest | str) -> Found:
        """The manifest, fetched if it is not here or its tag was asked for long ago. Raises Refusal."""
        here = await self._look(repository, ref)
        if here is not None and (isinstance(ref, Digest) or self._is_fresh(repository, ref)):
            return here
        self._check_missing(repository, ref)
        return await self._once(("manifest", repository, ref), lambda: self._refresh(repository, ref, here))

    async def _look(self, repository: str, ref: Digest | str) -> Found | None:
        """What is here. Memory is asked by digest only: it would not know when a tag has expired."""
        record = await self._registry.catalog.find_manifest(repository, ref)
        if record is None:
            return None
        cached = self._registry.cached_manifest(repository, record.digest)
        if cached is not None:
            return cached
        try:
            return await self._registry.read_manifest(repository, record.digest)
        except (Refusal, Corrupt):
            log.error("manifest %s is damaged: it is fetched again", record.digest)
            return None

    def _is_fresh(self, repository: str, tag: str) -> bool:
        origin = self._origin(repository)
        now = self._clock()
        checked = self._checked.get((repository, tag))
        return (checked is not None and now - checked < self._expiry) or now < self._down.get(
            origin.prefix, now
        )

    async def _refresh(self, repository: str, ref: Digest | str, here: Found | None) -> Found:
        """Ask the origin, which may have nothing new; or else what is here."""
        origin = self._origin(repository)
        try:
            async with asyncio.timeout(HURRY if here else None):
                fetched = await self._fetch_manifest(origin, repository, ref, here)
            found = here if fetched is None else await self._keep(origin, repository, ref, fetched)
        except AlreadyExists:
            log.warning("%s:%s has moved at %s, but may not move here", repository, ref, origin.domain)
            found = here
        except (CaisError, OSError) as error:
            refusal = _refuse(error, origin, repository, "MANIFEST_UNKNOWN")
            if refusal.status in (403, 404):
                await self._note_missing(repository, ref, refusal)
                raise refusal from error
            if here is None:
                log.warning("cannot fetch %s %s: %s", repository, ref, error)
                raise refusal from error
            log.warning("serving %s %s as it is here: %s", repository, ref, error or "no answer")
            self._down[origin.prefix] = self._clock() + min(DOWN_SECONDS, self._expiry)
            return here
        assert found is not None
        _remember(self._checked, (repository, str(ref)), self._clock())
        self._down.pop(origin.prefix, None)
        return found

    async def _fetch_manifest(
        self, origin: Origin, repository: str, ref: Digest | str, here: Found | None
    ) -> Document | None:
        """None: it is the one that is here. Raises what ``remotes`` raises."""
        reference = origin.refer(repository, ref)
        async with self._lines.open(origin, reference) as line:
            there = line.repository(reference)
            digest = await there.find_digest() if here else None
            if here and digest == here.digest:
                return None
            return await there.fetch_manifest(digest)

    async def _keep(self, origin: Origin, repository: str, ref: Digest | str, fetched: Document) -> Found:
        """Put it on record, without what it names. Raises Refusal, AlreadyExists."""
        try:
            document = await self._registry.put_manifest(
                repository,
                fetched.digest,
                fetched.media_type,
                fetched.data,
                CALLER,
                tags=() if isinstance(ref, Digest) else (ref,),
                is_partial=True,
            )
        except Refusal as refusal:
            if refusal.code == "MANIFEST_INVALID":
                raise Corrupt(f"what it sent for {repository} {ref} is no manifest: {refusal}") from refusal
            raise
        log.info("fetched manifest %s %s from %s", repository, fetched.digest, origin.domain)
        return Found(document.digest, document.media_type, fetched.data)

    # Blobs

    async def find_blob(self, repository: str, digest: Digest, *, fetch: bool) -> int:
        """The size of a blob that is not here. ``fetch``: have it brought, and return when its first bytes are here,
        to be read by ``find_arrival`` or, if it is whole by then, by ``Registry.open_blob``. Raises Refusal."""
        arrival = self._arrivals.get((repository, digest))
        if arrival is not None:
            return await arrival.wait_begun()
        self._check_missing(repository, digest)
        if not fetch:
            return await self._once(("size", repository, digest), lambda: self._ask_size(repository, digest))
        arrival = self._arrivals[repository, digest] = Arrival()
        self._run(arrival, self._bring(repository, digest, arrival))
        return await arrival.wait_begun()

    def find_arrival(self, repository: str, digest: Digest) -> Arrival | None:
        """The blob, if it is under way."""
        return self._arrivals.get((repository, digest))

    async def _ask_size(self, repository: str, digest: Digest) -> int:
        origin = self._origin(repository)
        reference = origin.refer(repository)
        try:
            async with self._lines.open(origin, reference) as line:
                return await line.blob_size(reference, digest)
        except (CaisError, OSError) as error:
            refusal = _refuse(error, origin, repository, "BLOB_UNKNOWN")
            if refusal.status in (403, 404):
                await self._note_missing(repository, digest, refusal)
            raise refusal from error

    async def _bring(self, repository: str, digest: Digest, arrival: Arrival) -> None:
        """Write the blob; ``arrival`` is told how it goes, and all errors."""
        origin = self._origin(repository)
        reference = origin.refer(repository)
        refusal = Refusal("UNAVAILABLE", "the hub is ending")
        try:
            async with self._lines.open(origin, reference) as line:
                size = await self._named_size(repository, digest)
                if size is None:
                    size = await line.blob_size(reference, digest)
                if not await self._share(origin, line, repository, digest, size):
                    await self._receive(origin, line, repository, digest, arrival, size)
            arrival.finish(size)
        except (CaisError, OSError) as error:
            log.warning("cannot fetch blob %s of %s: %s", digest, repository, error)
            refusal = _refuse(error, origin, repository, "BLOB_UNKNOWN")
            if refusal.status in (403, 404):
                await self._note_missing(repository, digest, refusal)
        finally:
            self._arrivals.pop((repository, digest), None)
            arrival.fail(refusal)

    async def _named_size(self, repository: str, digest: Digest) -> int | None:
        """What a manifest that is here says: then the origin need not be asked."""
        for parent in await self._registry.catalog.list_parents(repository, digest):
            with suppress(CaisError):
                found = await self._registry.read_manifest(repository, parent)
                return dict(read_document(found.data, found.media_type, parent).blobs)[digest]
        return None

    async def _share(self, origin: Origin, line: Line, repository: str, digest: Digest, size: int) -> bool:
        """Take the blob from another repository that has it from this origin, if the origin says that this one has it
        too. From no others: their readers may be fewer, and a manifest from elsewhere can name any digest."""
        holder = await self._registry.catalog.find_holder(f"{origin.prefix}/", digest)
        if holder is None or await line.blob_size(origin.refer(repository), digest) != size:
            return False
        return await self._registry.mount_blob(repository, holder, digest)

    async def _receive(
        self, origin: Origin, line: Line, repository: str, digest: Digest, arrival: Arrival, size: int
    ) -> None:
        blobs = self._registry.blobs
        descriptor = Descriptor(media_type="application/octet-stream", digest=digest, size=size)
        upload = await blobs.start(repository)
        try:
            arrival.begin(upload.open(), size)
            there = line.repository(origin.refer(repository))
            async with aclosing(there.fetch_blob(descriptor)) as parts:
                async for part in parts:
                    await upload.append(part)
                    arrival.note(upload.size)
            await self._registry.finish_upload(repository, upload, digest)
            await blobs.sync((digest,))
        finally:
            await upload.abort()
        log.info("fetched blob %s of %s from %s", digest, repository, origin.domain)

    # What memory knows

    def _origin(self, repository: str) -> Origin:
        origin = self.find_origin(repository)
        assert origin is not None, repository
        return origin

    def _check_missing(self, repository: str, ref: str) -> None:
        miss = self._missing.get((repository, ref))
        if miss is not None and self._clock() < miss.until:
            raise Refusal(miss.refusal.code, str(miss.refusal), status=miss.refusal.status)

    async def _note_missing(self, repository: str, ref: str, refusal: Refusal) -> None:
        """A tag that is gone there goes here too: it would come back when the origin cannot be asked."""
        until = self._clock() + min(MISS_SECONDS, self._expiry)
        _remember(self._missing, (repository, ref), _Miss(refusal, until))
        if refusal.status == 404 and not isinstance(ref, Digest):
            with suppress(NotFound, Refusal, Conflict, AlreadyExists):
                await self._registry.delete_manifest(repository, ref, CALLER)

    async def _once(self, key: Hashable, act: Callable[[], Awaitable[T]]) -> T:
        """What ``act`` returns or raises, to all who ask for it while it runs."""
        task = self._running.get(key)
        if task is None:
            task = self._run(key, act())
        value: T = await asyncio.shield(task)
        return value

    def _run(self, key: Hashable, act: Awaitable[T]) -> asyncio.Task[T]:
        """In a task of its own: who asked may go away."""

        async def run() -> T:
            return await act

        task = self._running[key] = asyncio.create_task(run())

        def forget(task: asyncio.Task[T]) -> None:
            del self._running[key]
            if not task.cancelled():
                task.exception()  # nobody may be left to hear of it

        task.add_done_callback(forget)
        return task


def _remember(memory: OrderedDict[tuple[str, str], T], key: tuple[str, str], value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)


def _refuse(error: Exception, origin: Origin, repository: str, missing: str) -> Refusal:
    """The answer to the client. ``missing``: the code of what is not there."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, Forbidden | Denied | Unauthenticated):
        return Refusal("DENIED", f"{origin.domain} does not give {repository} to this hub: {error}")
    if isinstance(error, NotFound):
        return Refusal(missing, f"{origin.domain}: {error}")
    if isinstance(error, Corrupt | Invalid):
        return Refusal("UNAVAILABLE", f"{origin.domain}: {error}", status=502)
    if isinstance(error, CaisError | TimeoutError):
        return Refusal("UNAVAILABLE", f"cannot reach {origin.domain}: {error or 'no answer'}")
    return as_refusal(error)
