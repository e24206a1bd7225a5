"""One layer's tar becomes a folder that overlayfs can use as a lower layer."""

import os
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import msgspec

from cais.errors import Corrupt
from cais.spec.digest import Digest
from cais.store.layers.codec import read_chunks
from cais.store.layers.limits import DEFAULT_LIMITS, Limits
from cais.store.layers.lower import FOLDER_FLAGS, LowerView
from cais.store.layers.stream import Stream
from cais.store.layers.tree import Tree
from cais.store.layers.writer import LayerWriter


class AppliedLayer(msgspec.Struct, frozen=True):
    """What was written. ``size`` is the bytes of all files, ``stream_size`` of the uncompressed tar. ``implied``:
    folders that no entry lists; ``assumed``: those that were implied only until a later entry; ``whiteouts``: folders
    with whiteouts in them (all as decoded paths, empty is the root); ``hides_all``: nothing of the layers below shows.
    """

    diff_id: Digest
    size: int
    stream_size: int
    entries: int
    implied: tuple[str, ...]
    assumed: tuple[str, ...]
    whiteouts: tuple[str, ...]
    hides_all: bool


@runtime_checkable
class Abandonable(Protocol):
    """A source that may be waiting for bytes which nobody wants any more."""

    def abandon(self) -> None:
        """End a ``read`` that waits in another thread, with an error. Idempotent."""
        ...


def _nothing() -> None:
    """For sources that never wait."""


def apply_layer(
    blob: BinaryIO | Path,
    target: Path,
    *,
    diff_id: Digest | None = None,
    limits: Limits = DEFAULT_LIMITS,
    below: LowerView | None = None,
) -> AppliedLayer:
    """Unpack ``blob`` (a tar; plain, gzip, zstd, xz or bzip2) into the empty folder ``target``.

    Whiteouts become overlayfs's (image-spec layer.md, kernel overlayfs.rst). ``below``: the layers underneath; with
    it, symlinks, hard links and implied folders are resolved in them. Nothing outside ``target`` is touched,
    whatever the blob says; the caller throws ``target`` away on an error.

    Raises Corrupt (broken stream, wrong diff_id), Invalid (an entry that may not be), NeedsLower (without ``below``
    only), OSError (the machine: disk full).
    """
    if isinstance(blob, Path):
        with blob.open("rb", buffering=0) as opened:
            return apply_layer(opened, target, diff_id=diff_id, limits=limits, below=below)
    root = os.open(target, FOLDER_FLAGS)
    tree = Tree(root, limits, below)
    try:
        abandon = blob.abandon if isinstance(blob, Abandonable) else _nothing
        with Stream(read_chunks(blob, limits), abandon=abandon) as stream:
            writer = LayerWriter(tree, stream, limits, below)
            writer.write_all()
            found, length = stream.drain()
        if diff_id is not None and found != diff_id:
            raise Corrupt(f"layer is not what its config says: its diff_id is {found}, want {diff_id}")
        writer.finish()
        implied = dict.fromkeys(writer.list_implied())
        return AppliedLayer(
            diff_id=found,
            size=writer.size,
            stream_size=length,
            entries=writer.entries,
            implied=tuple(map(os.fsdecode, implied)),
            assumed=tuple(os.fsdecode(path) for path in tree.assumed if path not in implied),
            whiteouts=tuple({os.fsdecode(path.rpartition(b"/")[0]): None for path in tree.whiteouts}),
            hides_all=tree.is_opaque(b""),
        )
    finally:
        tree.close()
        os.close(root)
