"""The registry's verbs: bytes (``Blobs``) and records (``Catalog``) put together in the order that loses nothing.

Bytes come first and their record second; a record goes first and its bytes second. So whatever moment a ``kill -9``
chooses, a record's bytes are there, and bytes without a record are garbage that ``collect`` finds. A lock per digest
keeps the collector's removal and somebody's new upload of the same bytes apart.
"""

import errno
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import BinaryIO, Protocol

import msgspec

from cais.errors import NotFound
from cais.registry.arrivals import Arrival
from cais.registry.base import Blobs, Caller, Document, Event, ManifestRecord, Upload
from cais.registry.documents import MAX_MANIFEST, read_document
from cais.registry.records import Catalog
from cais.registry.refusal import Refusal
from cais.registry.turns import Turns
from cais.spec.digest import Digest, digest_bytes

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
CACHE_BYTES = 32 << 20
"""Manifests kept in memory, by their size."""


class Found(msgspec.Struct, frozen=True):
    """A manifest, ready to be sent."""

    digest: Digest
    media_type: str
    data: bytes


class Source(Protocol):
    """Repositories that are another registry's and are fetched on demand: ``upstreams.Upstreams``. Asked only for what
    is not in memory (manifests) or not here (blobs)."""

    def covers(self, repository: str) -> bool:
        """Whether it is one of these: it is read through this, and nobody pushes to it."""
        ...

    async def find_manifest(self, repository: str, ref: Digest | str) -> Found:
        """In the place of ``Registry.find_manifest``. Raises Refusal."""
        ...

    async def find_blob(self, repository: str, digest: Digest, *, fetch: bool) -> int:
        """The size of a blob that is not here. ``fetch``: it is being brought, or is here, when this returns. Raises
        Refusal."""
        ...

    def find_arrival(self, repository: str, digest: Digest) -> Arrival | None:
        """The blob, if it is on its way."""
        ...


class Registry:
    """One process's; all methods on the event loop. Callers have been checked by the ``Gate`` already.
    ``drops_untagged``: manifests that no tag keeps are garbage."""

    def __init__(self, blobs: Blobs, catalog: Catalog, *, drops_untagged: bool = False) -> None:
        self.blobs = blobs
        self.catalog = catalog
        self.drops_untagged = drops_untagged
        self.after_push: list[Callable[[str, Document], Awaitable[None]]] = []
        """Told of every manifest that was pushed, after it is on record and before the client is answered."""
        self.upstreams: Source | None = None
        self._turns = Turns()
        self._cache: OrderedDict[str, dict[str, Found]] = OrderedDict()
        self._cached = 0
        self._touched: set[tuple[str, Digest]] = set()
        self._renewed: set[tuple[str, Digest]] = set()
        """As ``_touched``, of manifests. What is in ``_cache`` is of this generation too: a pull that memory answers
        need not ask."""
        self._pulls: dict[str, int] = {}
        self._pulled: dict[tuple[str, Digest], int] = {}

    # Pulling

    def cached_manifest(self, repository: str, ref: str) -> Found | None:
        """What ``find_manifest`` would find, if memory has it."""
        return self._cache.get(repository, {}).get(ref)

    async def find_manifest(self, repository: str, ref: Digest | str) -> Found:
        """The manifest a digest or tag stands for. Raises Refusal MANIFEST_UNKNOWN or NAME_UNKNOWN, Corrupt."""
        found = self.cached_manifest(repository, ref)
        if found is not None:
            return found
        if self.upstreams is not None and self.upstreams.covers(repository):
            return await self.upstreams.find_manifest(repository, ref)
        return await self.read_manifest(repository, ref)

    async def read_manifest(self, repository: str, ref: Digest | str) -> Found:
        """As ``find_manifest``, of what is here. Who is told that it is here may rely on it for the grace period."""
        renewed = self._renewed
        record = await self.catalog.find_manifest(repository, ref)
        if record is not None and await self._renew(repository, record.digest):
            # Again: meanwhile the tag may have moved, and memory would go on saying what it was.
            record = await self.catalog.find_manifest(repository, ref)
        if record is None:
            if not await self.catalog.has_repository(repository):
                raise Refusal("NAME_UNKNOWN", f"no such repository: {repository}")
            raise Refusal("MANIFEST_UNKNOWN", f"no such manifest in {repository}: {ref}")
        try:
            data = await self.blobs.read(record.digest, MAX_MANIFEST)
        except NotFound:
            # The scrubber has put it aside: as with a blob, who pushes is told so and sends it again.
            raise Refusal(
                "MANIFEST_UNKNOWN", f"manifest {ref} of {repository} is damaged: push it again"
            ) from None
        found = Found(record.digest, record.media_type, data)
        if renewed is self._renewed:  # if another generation has begun, the next who asks renews it
            self._remember(repository, ref, found)
        return found

    def count_pull(self, repository: str, digest: Digest) -> None:
        """Somebody was given this manifest; ``flush`` writes it down."""
        self._pulls[repository] = self._pulls.get(repository, 0) + 1
        self._pulled[repository, digest] = time.time_ns()

    async def flush(self) -> None:
        """Write the counts of pulls down; every few seconds, and at the end."""
        counts, self._pulls = self._pulls, {}
        pulled, self._pulled = self._pulled, {}
        if counts:
            await self.catalog.note_pulls(counts, pulled)

    async def find_blob(self, repository: str, digest: Digest, *, fetch: bool = False) -> int:
        """The size of a blob of the repository. Who is told that it is here may rely on it for the grace period.
        ``fetch``: it will be read; of an upstream's repository it may still be on its way then (``find_arrival``).
        Raises Refusal BLOB_UNKNOWN."""
        size = await self.catalog.find_blob(repository, digest)
        if size is not None and await self._touch(repository, digest, reads=fetch):
            return size
        if self.upstreams is not None and self.upstreams.covers(repository):
            return await self.upstreams.find_blob(repository, digest, fetch=fetch)
        raise Refusal("BLOB_UNKNOWN", f"no such blob in {repository}: {digest}")

    def find_arrival(self, repository: str, digest: Digest) -> Arrival | None:
        """The blob, if it is on its way from an upstream: its bytes are not all here."""
        return None if self.upstreams is None else self.upstreams.find_arrival(repository, digest)

    def open_blob(self, digest: Digest) -> BinaryIO:
        """The blob's bytes; after ``find_blob``. Raises Refusal BLOB_UNKNOWN: just removed."""
        try:
            return self.blobs.open(digest)
        except NotFound as error:
            raise Refusal("BLOB_UNKNOWN", str(error)) from None

    async def referrers(
        self, repository: str, subject: Digest, after: str, count: int, artifact_type: str
    ) -> list[ManifestRecord]:
        """See ``Catalog.list_referrers``."""
        return await self.catalog.list_referrers(repository, subject, after, count, artifact_type)

    # Pushing

    def check_push(self, repository: str) -> None:
        """Raises Refusal DENIED for a repository that is an upstream's."""
        if self.upstreams is not None and self.upstreams.covers(repository):
            raise Refusal(
                "DENIED", f"{repository} is a copy of another registry's repository: push it there, not here"
            )

    async def find_upload(self, repository: str, id: str) -> Upload:
        """Raises Refusal BLOB_UPLOAD_UNKNOWN."""
        try:
            return await self.blobs.find(repository, id)
        except NotFound as error:
            raise Refusal("BLOB_UPLOAD_UNKNOWN", str(error)) from None

    async def finish_upload(self, repository: str, upload: Upload, digest: Digest) -> None:
        """Make the upload a blob of the repository. Raises Refusal, Corrupt."""
        async with self._turns.turn(digest):
            size = await upload.commit(digest)
            await self._link(repository, digest, size)

    async def adopt_blob(self, repository: str, digest: Digest) -> bool:
        """Take the blob from a store beside ours, if one has it."""
        adopt = getattr(self.blobs, "adopt", None)
        if adopt is None:
            return False
        async with self._turns.turn(digest):
            size = await adopt(digest)
            if size is None:
                return False
            await self._link(repository, digest, size)
        return True

    async def mount_blob(self, repository: str, source: str, digest: Digest) -> bool:
        """Give a blob of ``source`` to ``repository``; False if it has none."""
        return await self.catalog.mount_blob(repository, source, digest)

    async def put_manifest(
        self,
        repository: str,
        ref: Digest | str,
        media_type: str,
        data: bytes,
        caller: Caller,
        tags: Sequence[str] = (),
        *,
        is_partial: bool = False,
    ) -> Document:
        """Keep a manifest, and point the tag at it if ``ref`` is one. When this returns, it and all it names are on the
        disk. ``is_partial``: what it names may come later, or never. Raises Refusal."""
        digest = digest_bytes(data)
        if isinstance(ref, Digest):
            digest = _check_digest(ref, data)
        document = read_document(data, media_type, digest)
        tags = tags if isinstance(ref, Digest) else (ref,)
        await self.blobs.sync(blob for blob, _ in document.blobs)
        event = _event("push", caller, repository, digest, tag=" ".join(tags))
        async with self._turns.turn(digest):
            known = await self.catalog.is_known(digest)
            await self.blobs.put(digest, data)
            await self.blobs.sync((digest,))
            try:
                await self.catalog.put_manifest(repository, document, tags, event, is_partial=is_partial)
            except Exception:
                if not known:
                    await self._remove_unknown(digest)
                raise
            finally:
                self.forget(repository)
        # Nobody has pushed a partial one; and who reads its config here could read what its repository does not have.
        for tell in () if is_partial else self.after_push:
            await tell(repository, document)
        return document

    # Removing

    async def delete_manifest(self, repository: str, ref: Digest | str, caller: Caller) -> None:
        """By digest: with all its tags; by tag: the tag. Raises Refusal, NotFound, Conflict, AlreadyExists."""
        try:
            if isinstance(ref, Digest):
                event = _event("delete", caller, repository, ref)
                await self.catalog.delete_manifest(repository, ref, event)
            else:
                await self.catalog.delete_tag(repository, ref, _event("untag", caller, repository, tag=ref))
        finally:
            self.forget(repository)

    async def delete_blob(self, repository: str, digest: Digest, caller: Caller) -> None:
        """Raises Refusal, NotFound, Conflict."""
        await self.catalog.delete_blob(repository, digest, _event("delete", caller, repository, digest))
        self._touched.discard((repository, digest))

    async def delete_repository(self, repository: str, caller: Caller) -> None:
        """With all that is in it. Raises NotFound."""
        try:
            await self.catalog.delete_repository(repository, _event("delete", caller, repository))
        finally:
            self.forget(repository)

    def forget_all(self) -> None:
        """As ``forget``, of all repositories."""
        self._cache.clear()
        self._cached = 0

    def forget(self, repository: str) -> None:
        """Memory may not be true of this repository any more; also for who writes to the catalog past this class."""
        self._cached -= sum(len(found.data) for found in self._cache.pop(repository, {}).values())

    async def recover(self) -> None:
        """Before the first request: put on record what a crash of the machine has spoiled. A blob is on record before
        it is synced; only what a manifest names, and was answered, is promised to be there."""
        lost = await self.blobs.recover()
        if lost:
            log.error("the machine has crashed and spoiled %d blobs: %s", len(lost), " ".join(lost))
            await self.catalog.note_lost(lost)

    # For the collector

    async def advance(self) -> int:
        """Begin a generation: who asks for a blob from now on touches it again."""
        number = await self.catalog.advance()
        # Only now: what was asked for while it began would be remembered, but stand in the old generation.
        self._touched = set()
        self._renewed = set()
        self.forget_all()
        return number

    async def remove_bytes(self, digest: Digest) -> int:
        """Remove a blob's bytes if it is not on record (again); the bytes freed."""
        async with self._turns.turn(digest):
            return await self._remove_unknown(digest)

    async def _remove_unknown(self, digest: Digest) -> int:
        return 0 if await self.catalog.is_known(digest) else await self.blobs.delete(digest)

    # Inside

    async def _link(self, repository: str, digest: Digest, size: int) -> None:
        try:
            await self.catalog.link_blob(repository, digest, size)
        except Exception:
            await self._remove_unknown(digest)
            raise

    async def _touch(self, repository: str, digest: Digest, *, reads: bool) -> bool:
        """Once a generation is enough. Who only ``reads`` it builds nothing upon it, and may do so on a full disk."""
        key = (repository, digest)
        if key in self._touched:
            return True
        touched = self._touched
        try:
            if not await self.catalog.touch_blob(repository, digest):
                return False
        except OSError as error:
            if reads and error.errno in FULL:
                return True
            raise
        touched.add(key)  # the set of the generation it was asked in: if another has begun, this is forgotten
        return True

    async def _renew(self, repository: str, digest: Digest) -> bool:
        """Keep a manifest that no tag may name from the collector; whether that took a while. Once a generation."""
        key = (repository, digest)
        if not self.drops_untagged or key in self._renewed:
            return False
        renewed = self._renewed
        try:
            await self.catalog.touch_manifest(repository, digest)
        except OSError as error:
            # Every pull begins with this question: a full disk stops pushes, and must not stop those.
            if error.errno not in FULL:
                raise
        else:
            renewed.add(key)
        return True

    def _remember(self, repository: str, ref: str, found: Found) -> None:
        self._cache.setdefault(repository, {})[ref] = found
        self._cache.move_to_end(repository)
        self._cached += len(found.data)
        while self._cached > CACHE_BYTES and self._cache:
            self.forget(next(iter(self._cache)))


def _check_digest(wanted: Digest, data: bytes) -> Digest:
    if hashlib.new(wanted.algorithm, data).hexdigest() != wanted.hex:
        raise Refusal("DIGEST_INVALID", f"what was sent is not {wanted}")
    return wanted


def _event(action: str, caller: Caller, repository: str, target: str = "", tag: str = "") -> Event:
    return Event(
        action=action,
        repository=repository,
        account=caller.account,
        address=caller.address,
        target=target,
        tag=tag,
        at_ns=time.time_ns(),
    )
