"""The registry's values and contracts: where bytes are kept, where records are kept, who may do what.

Three things can be replaced: ``Blobs`` (files here; object storage elsewhere), ``records.Catalog`` (SQLite here;
another database elsewhere) and ``Gate`` (open, or the hub's accounts). Each has a contract suite in
``tests/registry`` that every implementation runs.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import BinaryIO, Literal, Protocol

import msgspec

from cais.spec.digest import Digest

Action = Literal["pull", "push", "delete"]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest or index, read: what it names, and the bytes as they came."""

    digest: Digest
    media_type: str
    data: bytes
    config: Digest | None = None
    blobs: tuple[tuple[Digest, int], ...] = ()
    """Configuration and layers that the registry must have, with the sizes they are said to have."""
    manifests: tuple[Digest, ...] = ()
    subject: Digest | None = None
    artifact_type: str = ""
    annotations: dict[str, str] = {}


class ManifestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is on record of a manifest in one repository; ``size`` is its own bytes, ``total`` those of all it names."""

    digest: Digest
    media_type: str
    size: int
    total: int = 0
    artifact_type: str = ""
    config: str = ""
    subject: str = ""
    annotations: dict[str, str] = {}
    pushed_ns: int = 0


class TagRecord(msgspec.Struct, frozen=True):
    """A tag and what it stands for; times in nanoseconds since the epoch."""

    name: str
    digest: Digest
    pushed_ns: int


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A write, as the audit log keeps it. ``action``: ``push``, ``tag``, ``untag``, ``delete``, ``mount`` and the
    hub's own; ``account`` is empty for anonymous callers."""

    action: str
    repository: str = ""
    account: str = ""
    address: str = ""
    target: str = ""
    """Digest, or whatever else was changed."""
    tag: str = ""
    detail: str = ""
    at_ns: int = 0
    id: int = 0


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. ``grants`` limits what a token is good for: repository → actions; None: whatever the account may."""

    account: str = ""
    address: str = ""
    admin: bool = False
    grants: Mapping[str, frozenset[str]] | None = None
    kind: str = ""
    """How it proved who it is: ``password``, ``token``, ``session``; empty: it did not."""


class Gate(Protocol):
    """Decides who a request comes from and what it may do."""

    async def identify(self, authorization: str, address: str) -> Caller:
        """The caller by the value of its Authorization header, which may be empty. Raises Unauthenticated."""
        ...

    async def check(self, caller: Caller, repository: str, action: Action) -> None:
        """Return if it may. Raises Unauthenticated (it could say who it is), Denied, or NotFound for what it may not
        even know of."""
        ...

    async def visible(self, caller: Caller, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that it may know of, in order."""
        ...

    def challenge(self, origin: str, repository: str, actions: Iterable[str]) -> str:
        """The WWW-Authenticate header that says how to prove who one is. ``origin``: scheme and host as the client
        named them."""
        ...


class Upload(Protocol):
    """A blob that is arriving. One request at a time writes to it; when it has ended, NotFound is raised."""

    id: str
    size: int
    """Bytes that are here."""

    async def append(self, *chunks: bytes) -> None:
        """Add ``chunks``. Raises OSError (a full disk), after which the upload is as it was before them."""
        ...

    def open(self) -> BinaryIO:
        """The bytes so far, for reading while more arrive; the caller closes it, and may go on reading after
        ``commit``."""
        ...

    def release(self) -> None:
        """Let go of what writing holds: nobody may come back for long. Writing takes it again; idempotent."""
        ...

    async def commit(self, expected: Digest) -> int:
        """Make it the blob ``expected``; its size. Raises Corrupt: it is something else; the upload is gone then."""
        ...

    async def abort(self) -> None:
        """Forget it and its bytes. Idempotent."""
        ...


class Blobs(Protocol):
    """Bytes by digest, one copy each; knows no repositories. Nothing is visible before it is whole."""

    async def start(self, scope: str) -> Upload:
        """A new upload; only somebody who names the same ``scope`` finds it again."""
        ...

    async def find(self, scope: str, id: str) -> Upload:
        """The upload, also after a restart, with what arrived of it. Raises NotFound."""
        ...

    async def put(self, digest: Digest, data: bytes) -> None:
        """Keep a small blob whose digest the caller has computed. Idempotent."""
        ...

    async def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob, verified. Raises NotFound, Corrupt, Invalid (larger than ``limit``)."""
        ...

    async def size(self, digest: Digest) -> int:
        """Its bytes. Raises NotFound."""
        ...

    def open(self, digest: Digest) -> BinaryIO:
        """The blob for reading; the caller closes it. Raises NotFound."""
        ...

    async def delete(self, digest: Digest) -> int:
        """Remove it; the bytes freed. Readers that have it open go on. Idempotent."""
        ...

    async def sync(self, digests: Iterable[Digest]) -> None:
        """Put these on the disk for good: what was answered survives a crash of the machine."""
        ...

    def list(self) -> AsyncIterator[tuple[Digest, int]]:
        """Every blob and its size, in no order. Others have their turn in between."""
        ...

    async def verify(self, digest: Digest) -> bool:
        """Read it through: whether it is still what it is called. Raises NotFound."""
        ...

    async def recover(self) -> Sequence[Digest]:
        """Before anything else after a start: the blobs whose bytes a crash of the machine has spoiled, which are gone
        then."""
        ...

    async def settle(self) -> None:
        """Now and then: everything is on the disk for good, so that ``recover`` need not read it."""
        ...

    async def quarantine(self, digest: Digest) -> None:
        """Put a damaged blob aside, where the next push of it does not find it and somebody may still look at it."""
        ...

    async def clean(self, seconds: float) -> int:
        """Drop uploads that nobody touched for so long; how many."""
        ...
