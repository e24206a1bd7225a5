"""Making one layer of files that are copied; for a worker."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from cais.build.chmod import parse_chmod
from cais.build.context import Context, Index
from cais.build.copying import ChunkReader, Copying, Manner, literal
from cais.build.dockerfile.evaluate import CopyAct, FolderAct
from cais.build.owner import find_owner
from cais.build.tree import ROOT, LayersTree, MemoryTree, Tree, resolve
from cais.errors import NotFound
from cais.spec.ignore import make_ignore
from cais.store.layers.apply import apply_layer
from cais.store.layers.codec import sniff
from cais.store.layers.pack import END, Member, format_member
from cais.store.layers.packed import PackedLayer, pack_members
from cais.store.layers.tar import FOLDER


@dataclass(frozen=True, slots=True)
class CopyJob:
    """What to make. ``lowers``: the stage's layers, top first; ``index``: the context to copy from, or else
    ``source_lowers`` another stage's or image's layers; ``now`` seconds."""

    act: CopyAct | FolderAct
    lowers: tuple[str, ...]
    index: Index | None = None
    source_lowers: tuple[str, ...] = ()
    now: int = 0


def make_layer(root: Path, job: CopyJob, codec: str) -> PackedLayer | None:
    """The layer, below the engine's ``root``; None if nothing changes. Raises NotFound, Invalid, Corrupt, OSError."""
    return pack_members(root, guard_start(list_members(job), job.lowers), codec)


def list_members(job: CopyJob) -> Iterator[bytes]:
    """The layer's members, without the end blocks."""
    target = LayersTree(job.lowers)
    act = job.act
    if isinstance(act, FolderAct):
        copying = Copying(target, Manner(find_owner(act.user, target) if act.user else None, now=job.now))
        copying.make_folders(resolve(copying.look, _encode(act.path)))
        yield from copying.members()
        return
    source: Tree = LayersTree(job.source_lowers) if job.index is None else Context(job.index)
    copying = Copying(target, make_manner(act, target, job.now))
    destination = _encode(act.destination)
    for text in act.sources:
        copying.copy(source, _encode(text), destination)
    for file in act.inline:
        name = _encode(file.name)
        copying.copy(MemoryTree({name: file.data}, mtime=job.now), name, destination)
    yield from copying.members()


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
    )


@dataclass(frozen=True, slots=True)
class Part:
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
