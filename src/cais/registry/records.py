"""What the registry keeps on record, as a contract: another database than SQLite can stand behind it."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from cais.registry.base import Document, Event, ManifestRecord, TagRecord
from cais.spec.digest import Digest


class Catalog(Protocol):
    """Every write is one transaction. What changes images notes its ``Event`` in it: what is in the audit log has
    happened, and what has happened is in it."""

    # Reading

    async def has_repository(self, name: str) -> bool:
        """Whether it exists."""
        ...

    async def find_blob(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob that the repository has; None if it has not."""
        ...

    async def find_manifest(self, repository: str, ref: Digest | str) -> ManifestRecord | None:
        """The manifest that a digest or tag stands for in the repository."""
        ...

    async def list_repositories(self, after: str, count: int) -> list[str]:
        """Names in order, from behind ``after``."""
        ...

    async def list_tags(self, repository: str, after: str, count: int) -> list[TagRecord]:
        """Tags in order, from behind ``after``. Raises NotFound."""
        ...

    async def list_referrers(
        self, repository: str, subject: Digest, after: str, count: int, artifact_type: str = ""
    ) -> list[ManifestRecord]:
        """Manifests whose subject this is, by digest, from behind ``after``; none for an unknown repository."""
        ...

    async def list_parents(self, repository: str, digest: Digest) -> list[Digest]:
        """Some manifests of the repository that name the digest."""
        ...

    async def find_holder(self, prefix: str, digest: Digest) -> str | None:
        """A repository whose name starts with ``prefix`` and that has the blob."""
        ...

    async def generation(self) -> int:
        """The current one."""
        ...

    # Writing

    async def link_blob(self, repository: str, digest: Digest, size: int) -> None:
        """The blob, whose bytes are here, belongs to the repository, which is made if it is new. Raises Refusal
        DENIED when that is more than the namespace's quota."""
        ...

    async def mount_blob(self, repository: str, source: str, digest: Digest) -> bool:
        """Give a blob of ``source`` to the repository too. False: ``source`` has no such blob."""
        ...

    async def touch_blob(self, repository: str, digest: Digest) -> bool:
        """Somebody was told that it is here: it stays for the grace period at least. False: it has just gone."""
        ...

    async def touch_manifest(self, repository: str, digest: Digest) -> bool:
        """As ``touch_blob``, for a manifest that ``drop_untagged`` would remove."""
        ...

    async def put_manifest(
        self,
        repository: str,
        document: Document,
        tags: Sequence[str],
        event: Event,
        *,
        is_partial: bool = False,
    ) -> None:
        """Record a manifest whose bytes are kept, and what it names; point ``tags`` at it. All of it or nothing, on
        the disk when this returns. Raises Refusal: a blob is absent (MANIFEST_BLOB_UNKNOWN), a tag may not move or
        the quota does not allow it (DENIED). ``is_partial``: what it names need not be here."""
        ...

    async def delete_tag(self, repository: str, tag: str, event: Event) -> None:
        """Raises NotFound; Refusal DENIED for one that may not move."""
        ...

    async def delete_manifest(self, repository: str, digest: Digest, event: Event) -> None:
        """With its tags. Raises NotFound; Conflict while an index of the repository names it."""
        ...

    async def delete_blob(self, repository: str, digest: Digest, event: Event) -> None:
        """Take it from the repository. Raises NotFound; Conflict while a manifest names it."""
        ...

    async def delete_repository(self, repository: str, event: Event) -> None:
        """With all that is in it. Raises NotFound."""
        ...

    async def note_pulls(self, counts: dict[str, int], pulled: dict[tuple[str, Digest], int]) -> None:
        """Add to the repositories' counts of today; ``pulled``: when manifests were last pulled, nanoseconds."""
        ...

    async def add_event(self, event: Event) -> None:
        """Note something that is no write of the registry's own."""
        ...

    # Collecting

    async def advance(self) -> int:
        """Begin a generation; its number."""
        ...

    async def drop_untagged(self, limit: int) -> int:
        """Remove manifests that no tag, no index and no subject keeps and that are two generations old; how many."""
        ...

    async def drop_links(self, limit: int) -> int:
        """Remove links that nothing names and nobody asked for lately; how many."""
        ...

    async def drop_blobs(self, limit: int) -> list[Digest]:
        """Forget blobs that no repository has any more; the caller removes their bytes, unless they are known again."""
        ...

    async def is_known(self, digest: Digest) -> bool:
        """Whether the blob is on record."""
        ...

    # Scrubbing

    async def oldest_checked(self, before_ns: int, count: int) -> list[Digest]:
        """Blobs whose bytes were last read through before then, the longest ago first; before all, those that a clock
        gone wrong says were read in a time to come."""
        ...

    async def note_checked(self, digest: Digest, *, damaged: bool) -> None:
        """A blob's bytes were read through."""
        ...

    async def note_lost(self, digests: Iterable[Digest]) -> None:
        """The bytes of these are gone, if they are on record: who pushes is told so and sends them again."""
        ...

    async def list_damaged(self) -> list[tuple[Digest, str]]:
        """Damaged blobs with each repository that has them."""
        ...
