"""Making one layer of files that are copied; for a worker."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
from msgspec.structs import replace

from cais.build.chmod import parse_chmod
from cais.build.clamp import clamp_times
from cais.build.context import Context, Index
from cais.build.copying import ChunkReader, Copying, Manner, literal
from cais.build.dockerfile.evaluate import CopyAct, FolderAct
from cais.build.owner import find_owner
from cais.build.tree import ROOT, LayersTree, MemoryTree, Tree, resolve
from cais.errors import NotFound
from cais.spec.ignore import Ignore, make_ignore
from cais.store.layers.apply import apply_layer
from cais.store.layers.codec import sniff
from cais.store.layers.diff import DiffSource
from cais.store.layers.pack import END, Member, format_member
from cais.store.layers.packed import PackedLayer, pack_blob, pack_layer, pack_members
from cais.store.layers.tar import FOLDER


class Other(msgspec.Struct, frozen=True):
    """One source from elsewhere: a file of a tree, or with an empty ``path`` all of it."""

    index: Index
    path: bytes = b""
    unpack: bool = False


class CopyJob(msgspec.Struct, frozen=True):
    """What to make. ``lowers``: the stage's layers, top first; ``index``: the context to copy from, or else
    ``source_lowers`` another stage's or image's layers; ``now`` seconds; ``newest``: no time is later (seconds);
    ``others``: what comes from elsewhere, by the source's text."""

    act: CopyAct | FolderAct
    lowers: tuple[str, ...]
    index: Index | None = None
    source_lowers: tuple[str, ...] = ()
    now: int = 0
    newest: int | None = None
    others: Mapping[str, Other] = msgspec.field(default_factory=dict)


def make_layer(root: Path, job: CopyJob, codec: str) -> PackedLayer | None:
    """The layer, below the engine's ``root``; None if nothing changes. Raises NotFound, Invalid, Corrupt, OSError."""
    return pack_members(root, guard_start(list_members(job), job.lowers), codec)


def make_blob(root: Path, job: CopyJob, codec: str) -> PackedLayer | None:
    """The same without unpacking it."""
    return pack_blob(root, guard_start(list_members(job), job.lowers), codec)


def list_members(job: CopyJob) -> Iterator[bytes]:
    """The layer's members, without the end blocks."""
    act = job.act
    target: Tree = LayersTree(job.lowers)
    if isinstance(act, CopyAct) and act.is_linked:
        target = MemoryTree({})  # the same layer on every parent
    if isinstance(act, FolderAct):
        owner = find_owner(act.user, target) if act.user else None
        copying = Copying(target, Manner(owner, now=job.now, newest=job.newest))
        copying.make_folders(resolve(copying.look, _encode(act.path)))
        yield from copying.members()
        return
    source: Tree = LayersTree(job.source_lowers) if job.index is None else Context(job.index)
    copying = Copying(target, replace(make_manner(act, target, job.now), newest=job.newest))
    destination = _encode(act.destination)
    for text in act.sources:
        if text in job.others:
            _copy_other(copying, job.others[text], destination)
        else:
            copying.copy(source, _encode(text), destination)
    for file in act.inline:
        name = _encode(file.name)
        copying.copy(MemoryTree({name: file.data}, mtime=job.now), name, destination)
    yield from copying.members()


def _copy_other(copying: Copying, other: Other, destination: bytes) -> None:
    """What comes from elsewhere has rules of its own for archives; a file that was named is never excluded, as under
    BuildKit."""
    manner = copying.manner
    exclude = Ignore() if other.path else manner.exclude
    copying.manner = replace(manner, unpack=other.unpack, exclude=exclude)
    copying.copy(Context(other.index), literal(other.path) or b"/", destination)
    copying.manner = manner


def make_manner(act: CopyAct, target: Tree, now: int) -> Manner:
    """How this instruction copies. Raises Invalid."""
    return Manner(
        owner=find_owner(act.chown, target) if act.chown else None,
        chmod=parse_chmod(act.chmod) if act.chmod else None,
        exclude=make_ignore(act.exclude),
        parents=act.parents,
        unpack=act.unpack,
        # As BuildKit: an octal mode is that of new folders on the way, too.
        folder_mode=int(act.chmod, 8) & 0o777 if act.chmod.isdecimal() else 0o755,
        now=now,
        bare=act.is_linked,
    )


def pack_run(root: Path, source: DiffSource, codec: str, newest: int | None) -> PackedLayer | None:
    """The layer of what a RUN changed, whose container has ended; ``newest`` as in ``CopyJob``. Raises as
    ``pack_layer``."""
    if newest is not None:
        clamp_times(source, newest)
    return pack_layer(root, source, codec)


class Part(msgspec.Struct, frozen=True):
    """A part of a tree that a bind mount shows: ``path`` in the context, or in layers."""

    path: str
    index: Index | None = None
    lowers: tuple[str, ...] = ()


def extract_part(part: Part, folder: Path) -> str:
    """Write the part below the empty ``folder``, which nothing leads out of; the path of it there. Raises NotFound."""
    source: Tree = LayersTree(part.lowers) if part.index is None else Context(part.index)
    path = resolve(source.look, _encode(part.path))
    node = source.look(path)
    if node is None:
        raise NotFound(f"mount source {part.path!r} is not there")
    copying = Copying(MemoryTree({}), Manner())
    copying.copy(source, literal(path), b"d" if node.is_folder else b"d/file")
    members = chain(guard_start(copying.members(), ()), (END,))
    apply_layer(cast(BinaryIO, ChunkReader(members)), folder)
    return str(folder / "d" if node.is_folder else folder / "d" / "file")


def guard_start(members: Iterator[bytes], lowers: tuple[str, ...]) -> Iterator[bytes]:
    """A plain tar whose first name looks like a codec's magic number would be taken for compressed."""
    first = next(members, b"")
    if sniff(first[:6]):
        node = LayersTree(lowers).look(b"") or ROOT
        root = Member(b".", FOLDER, node.mode, node.uid, node.gid, mtime=node.mtime, xattrs=node.xattrs)
        first = format_member(root) + first
    return chain((first,), members) if first else members


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
