"""What nothing needs any more: marks from roots through manifests to blobs and layers, and sweeps the
rest."""

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from cais.errors import CaisError
from cais.spec.descriptor import Index, Manifest, parse_manifest
from cais.spec.digest import Digest, parse_digest
from cais.spec.image import ImageConfig, parse_image_config
from cais.store.content import Content, Writer
from cais.store.layers.layers import Layers

_DOCUMENT_LIMIT = 4 << 20
_MENTION = re.compile(rb"sha256[:-]([0-9a-f]{64})")


class Lease:
    """Digests that somebody is working with: blobs, layers, or a manifest with all that it names."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self.digests: set[Digest] = set()

    def add(self, *digests: Digest) -> None:
        """Keep ``digests`` from now on. Waits for a running sweep: what is there afterwards stays there.

        Add first, then ask whether a blob exists or make it visible; never the other way round. Any thread.
        """
        with self._lock:
            self.digests.update(digests)

    def commit(self, writer: Writer, expected: Digest | None = None) -> Digest:
        """``writer.commit``, with no moment in which the blob is visible and not kept."""
        with self._lock:
            digest = writer.commit(expected)
            self.digests.add(digest)
            return digest


class Leases:
    """All leases of this engine. They end with it: what a killed engine was loading is swept by the next one. What it
    was pulling has a note (``Ingest``)."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._open: list[Lease] = []

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """A lease for the time of the block."""
        lease = Lease(self.lock)
        self._open.append(lease)
        try:
            yield lease
        finally:
            self._open.remove(lease)

    def is_idle(self) -> bool:
        """Whether nobody holds a lease."""
        return not self._open

    def digests(self) -> set[Digest]:
        """Everything that is leased; call it with ``lock`` held."""
        return {digest for lease in list(self._open) for digest in lease.digests}


def mentioned(data: bytes) -> set[Digest]:
    """Every sha256 digest in a record, in whatever field: a record keeps all it names, whoever wrote it."""
    return {parse_digest(f"sha256:{found.decode()}") for found in _MENTION.findall(data)}


class Marks(msgspec.Struct, frozen=True):
    """What is needed: ``digests`` of blobs (and whatever else the roots were), ``stacks`` of diff_ids."""

    digests: frozenset[Digest]
    stacks: frozenset[tuple[Digest, ...]]


def mark(content: Content, roots: Iterable[Digest]) -> Marks:
    """``roots`` and everything that they lead to. What is absent or unreadable leads nowhere."""
    digests: set[Digest] = set()
    stacks: set[tuple[Digest, ...]] = set()
    waiting = list(roots)
    while waiting:
        digest = waiting.pop()
        if digest in digests:
            continue
        digests.add(digest)
        # A root may be a layer by itself: one that is being unpacked, or that a container stands on.
        stacks.add((digest,))
        document = _read(content, digest)
        if isinstance(document, Manifest):
            waiting += [document.config.digest, *(layer.digest for layer in document.layers)]
        elif isinstance(document, Index):
            waiting += [child.digest for child in document.manifests]
        elif document:
            stacks.add(document.rootfs.diff_ids)
    return Marks(frozenset(digests), frozenset(stacks))


def _read(content: Content, digest: Digest) -> Manifest | Index | ImageConfig | None:
    """The document that ``digest`` is, found by trying: roots come without their media types."""
    try:
        if content.size(digest) > _DOCUMENT_LIMIT:
            return None
        data = content.read(digest, limit=_DOCUMENT_LIMIT)
    except (CaisError, OSError):
        return None
    if data.lstrip()[:1] != b"{":
        return None
    for parse in (parse_manifest, parse_image_config):
        with suppress(CaisError):
            return parse(data)
    return None


def collect(
    content: Content, layers: Layers, leases: Leases, roots: Iterable[Digest]
) -> tuple[set[Digest], int]:
    """Remove every blob and layer that no root and no lease leads to; the removed layers, and the bytes
    freed.

    From the moment when ``roots`` were read until the end, no lease may end (its holder may just have
    written a name that ``roots`` do not have). May be killed and repeated: whatever it removes is
    unreferenced already. What waits for another try of its pull has its time, and then goes.
    """
    with leases.lock:
        freed = content.ingest.clean()
        marks = mark(content, {*roots, *leases.digests(), *content.ingest.noted()})
        before = set(layers.list())
        freed += layers.prune(marks.stacks)
        for digest in content.list():
            if digest not in marks.digests:
                freed += content.size(digest)
                content.remove(digest)
        return before - set(layers.list()), freed
