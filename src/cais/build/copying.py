"""What COPY and ADD put where: from a source tree onto a stage's files, as the members of one layer.

The rules are those of Docker's builders (Dockerfile reference, "COPY": a folder's contents are copied, not the folder;
links named as sources are followed, others are copied). Nothing is written here: members are planned, then read out.
"""

import io
import re
from collections.abc import Iterator
from typing import BinaryIO, cast

import msgspec
from msgspec.structs import replace

from cais.build.chmod import Change
from cais.build.dockerfile.fault import suggest
from cais.build.owner import Owner
from cais.build.tree import ROOT, Node, Tree, join, resolve, show
from cais.errors import Corrupt, Invalid, NotFound
from cais.spec.ignore import Ignore, clean_path, compile_pattern, has_wildcards
from cais.store.layers import tar
from cais.store.layers.codec import read_chunks
from cais.store.layers.limits import Limits
from cais.store.layers.pack import Member, format_member, padding
from cais.store.layers.stream import Stream
from cais.store.layers.tar import Entry, read_entries

_WHITEOUT = b".wh."
_SUGGESTED = 1000
"""Names beside a missing file that are compared with it."""
_LIMITS = Limits()


class Manner(msgspec.Struct, frozen=True):
    """How: ``owner`` of everything (None: as in the source), ``chmod``, ``exclude``, ``parents``, ``unpack`` archives,
    ``folder_mode`` and ``now`` (seconds) for folders that are made; ``newest``: no time is later (seconds). ``bare``:
    folders on the way are not listed, they are those that the layer will lie on, or plain ones."""

    owner: Owner | None = None
    chmod: Change | None = None
    exclude: Ignore = msgspec.field(default_factory=Ignore)
    parents: bool = False
    unpack: bool = False
    folder_mode: int = 0o755
    now: int = 0
    newest: int | None = None
    bare: bool = False


class _Planned(msgspec.Struct, frozen=True):
    """One member to be, and where its bytes are. ``on_the_way``: a folder that nobody named."""

    node: Node
    source: Tree | None = None
    path: bytes = b""
    on_the_way: bool = False


class Copying(msgspec.Struct):
    """One instruction, or several sources of one: ``target`` is what the stage has; members are collected in order."""

    target: Tree
    manner: Manner
    _planned: dict[bytes, _Planned] = msgspec.field(default_factory=dict)
    _archives: list[tuple[Tree, bytes, bytes]] = msgspec.field(default_factory=list)
    _goals: set[bytes] = msgspec.field(default_factory=set)

    # What the stage shows

    def look(self, path: bytes) -> Node | None:
        """What stands at ``path`` after what has been planned."""
        planned = self._planned.get(path)
        if planned:
            return planned.node
        return self.target.look(path)

    def is_folder(self, path: bytes) -> bool:
        """Whether ``path`` leads to a folder."""
        node = self.look(resolve(self.look, path))
        return node is not None and node.is_folder

    def make_folders(self, path: bytes, mode: int | None = None) -> None:
        """Have the folder ``path`` (no link in it) and all above it; new ones get ``mode``. Raises Invalid."""
        parts = path.split(b"/") if path else []
        for count in range(1, len(parts) + 1):
            here = b"/".join(parts[:count])
            node = self.look(here)
            if node is None:
                uid, gid = self.manner.owner or (0, 0)
                made_mode = self.manner.folder_mode if mode is None else mode
                made = Node(tar.FOLDER, made_mode, uid, gid, mtime=self.manner.now)
                self._add(here, _Planned(made, on_the_way=True))
            elif not node.is_folder:
                raise Invalid(f"cannot copy to non-directory: {show(here)}")

    # Sources

    def copy(self, source: Tree, text: bytes, destination: bytes) -> None:
        """Plan one source. ``destination`` is absolute; a slash at its end says that it is a folder.

        Raises NotFound (nothing is there; wildcards may match nothing), Invalid.
        """
        if self.manner.parents:
            self._copy_parents(source, text, destination)
            return
        for path in find_sources(source, text):
            real = resolve(source.look, path)
            node = source.look(real)
            if node is None:
                raise not_found(path, source)
            if self.manner.unpack and node.kind == tar.REGULAR and is_archive(source, real):
                goal = resolve(self.look, destination)
                self.make_folders(goal, 0o755)  # --chmod is not for what was packed
                self._archives.append((source, real, goal))
            else:
                self._copy_one(source, real, node, path.rpartition(b"/")[2], destination)

    def _copy_one(self, source: Tree, real: bytes, node: Node, name: bytes, destination: bytes) -> None:
        folder = destination if destination.endswith(b"/") else destination.rpartition(b"/")[0]
        self.make_folders(resolve(self.look, folder))
        goal = resolve(self.look, destination)
        there = self.look(goal)
        if not node.is_folder and there is not None and there.is_folder:
            goal = join(goal, name)
        if node.is_folder:
            # A folder's contents are copied: the new folder itself is nobody's copy, but for its time.
            is_new = self.look(goal) is None
            self.make_folders(goal)
            if is_new:
                made = self._planned[goal]
                dated = replace(made.node, mtime=self._limited(node.mtime))
                self._planned[goal] = _Planned(dated, on_the_way=made.on_the_way)
            self._goals.add(goal)
        elif self._is_excluded(name):
            return
        self._put(source, real, node, goal, b"", overwrite=False)

    def _copy_parents(self, source: Tree, text: bytes, destination: bytes) -> None:
        """With the folders of the source's own path, from ``/./`` on if that is in it."""
        base, pivot, rest = (b"/" + text.lstrip(b"/")).partition(b"/./")
        root = resolve(source.look, base) if pivot else b""
        shown = clean_path((rest if pivot else text).decode("utf-8", "surrogateescape"))
        matches = compile_pattern(shown)
        if not has_wildcards(shown) and source.look(join(root, _encode(shown))) is None:
            raise not_found(join(root, _encode(shown)), source)
        goal = resolve(self.look, destination)
        self.make_folders(goal)
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            node = source.look(join(root, path))
            if node is None:
                continue
            if path and matches(path.decode("utf-8", "surrogateescape")):
                self._copy_above(source, root, path, goal)
                self._put(source, join(root, path), node, join(goal, path), path, overwrite=True)
            elif node.is_folder:
                waiting += [join(path, name) for name in reversed(source.names(join(root, path)))]

    def _copy_above(self, source: Tree, root: bytes, path: bytes, goal: bytes) -> None:
        above = b""
        for part in path.split(b"/")[:-1]:
            above = join(above, part)
            there = self.look(join(goal, above))
            if there is not None and not there.is_folder:
                raise Invalid(f"cannot copy to non-directory: {show(join(goal, above))}")
            if there is None:
                node = source.look(join(root, above)) or ROOT
                self._add(join(goal, above), _Planned(self._changed(node)))

    def _put(
        self, source: Tree, path: bytes, node: Node, goal: bytes, relative: bytes, *, overwrite: bool
    ) -> None:
        """Plan what is at ``path``, with all below it. A folder that is there already keeps what it is, unless it is
        itself one of those below."""
        waiting = [(path, node, goal, relative, overwrite)]
        while waiting:
            path, node, goal, relative, overwrite = waiting.pop()
            there = self.look(goal)
            if not node.is_folder:
                if there is not None and there.is_folder:
                    raise Invalid(f"cannot replace to directory {show(goal)} with file")
                self._add(goal, _Planned(self._changed(node), source, path))
                continue
            if there is not None and not there.is_folder:
                raise Invalid(f"cannot copy to non-directory: {show(goal)}")
            if goal and (there is None or overwrite):
                self._add(goal, _Planned(self._changed(node), source, path))
            below = []
            for name in source.names(path):
                child = source.look(join(path, name))
                inner = join(relative, name)
                if child is None or (self._is_excluded(inner) and not self._may_return(child)):
                    continue
                if self._is_excluded(inner):
                    below += self._returned(source, join(path, name), goal, inner)
                    continue
                below.append((join(path, name), child, join(goal, name), inner, True))
            waiting += reversed(below)

    def _returned(
        self, source: Tree, path: bytes, goal: bytes, relative: bytes
    ) -> list[tuple[bytes, Node, bytes, bytes, bool]]:
        """Of an excluded folder what an exception brings back."""
        found: list[tuple[bytes, Node, bytes, bytes, bool]] = []
        for name in source.names(path):
            child, inner = source.look(join(path, name)), join(relative, name)
            folder = join(goal, relative.rpartition(b"/")[2])
            if child is not None and not self._is_excluded(inner):
                self.make_folders(folder)
                found.append((join(path, name), child, join(folder, name), inner, True))
        return found

    def _may_return(self, node: Node) -> bool:
        return node.is_folder and self.manner.exclude.has_exceptions

    def _is_excluded(self, relative: bytes) -> bool:
        rules = self.manner.exclude
        return bool(rules.rules and relative) and rules.excludes(relative.decode("utf-8", "surrogateescape"))

    def _changed(self, node: Node) -> Node:
        """With the owner and mode that were asked for."""
        if self.manner.owner is not None:
            uid, gid = self.manner.owner
            # Another owner must not inherit rights that were given to the file for the old one.
            kept = {name: value for name, value in node.xattrs.items() if name != "security.capability"}
            node = replace(node, uid=uid, gid=gid, xattrs=kept)
        if self.manner.chmod is not None and node.kind != tar.SYMLINK:
            node = replace(node, mode=self.manner.chmod(node.mode, node.is_folder))
        return self._dated(node)

    def _dated(self, node: Node) -> Node:
        mtime = self._limited(node.mtime)
        return node if mtime == node.mtime else replace(node, mtime=mtime)

    def _limited(self, mtime: int) -> int:
        newest = self.manner.newest
        return mtime if newest is None else min(mtime, newest)

    def _add(self, path: bytes, planned: _Planned) -> None:
        if any(part.startswith(_WHITEOUT) for part in path.split(b"/")):
            raise Invalid(f"the name {show(path)} would delete a file in a layer: rename it before")
        self._planned[path] = planned

    # Out

    def planned(self) -> Iterator[tuple[bytes, Node, bytes]]:
        """What was planned: where it goes, what it is, and where it comes from."""
        for path, planned in self._planned.items():
            yield path, planned.node, planned.path

    def members(self) -> Iterator[bytes]:
        """The layer's members with their contents, without the end blocks; nothing if nothing was planned."""
        written: set[bytes] = set()
        links: dict[tuple[int, ...], bytes] = {}
        needed = self._needed()
        for path, planned in self._planned.items():
            if planned.on_the_way and path not in needed:
                continue
            yield from self._above(path, written)
            written.add(path)
            yield from _format(path, planned, links)
        for source, path, goal in self._archives:
            yield from self._above(join(goal, b"x"), written)
            yield from self._unpacked(source, path, goal)

    def _needed(self) -> set[bytes]:
        """Of the folders on the way those that are to be listed."""
        made = {path for path, planned in self._planned.items() if planned.on_the_way}
        if not self.manner.bare:
            return made
        filled = {path.rpartition(b"/")[0] for path in self._planned} | {goal for *_, goal in self._archives}
        # What nothing lies in would not be there otherwise, and an owner has to be said.
        return {path for path in made if path not in filled or (self.manner.owner and path in self._goals)}

    def _above(self, path: bytes, written: set[bytes]) -> Iterator[bytes]:
        """The folders of the stage that hold ``path``, as they are: a layer that does not list them would have to be
        fitted to what is below it."""
        parts = [] if self.manner.bare else path.split(b"/")[:-1]
        for count in range(1, len(parts) + 1):
            here = b"/".join(parts[:count])
            if here not in written and here not in self._planned:
                written.add(here)
                yield format_member(member_of(here, self._dated(self.target.look(here) or ROOT)))

    def _unpacked(self, source: Tree, path: bytes, goal: bytes) -> Iterator[bytes]:
        """An archive's members, below ``goal``. Raises Corrupt, Invalid."""
        seen: set[bytes] = set()
        with Stream(read_chunks(cast(BinaryIO, ChunkReader(source.read(path))), _LIMITS)) as stream:
            for entry in read_entries(stream):
                name = _clean_name(entry.name, path)
                if not name:
                    continue
                if any(part.startswith(_WHITEOUT) for part in name.split(b"/")):
                    raise Invalid(f"the name {show(name)} in {show(path)} would delete a file in a layer")
                member = self._archived(entry, join(goal, name), goal, path)
                if entry.kind == tar.HARD_LINK and member.link not in seen:
                    yield from self._linked_out(member, path)
                    continue
                seen.add(member.name)
                yield format_member(member)
                left = entry.size
                while left:
                    part = stream.take(min(left, 256 << 10))
                    if not part:
                        raise Corrupt(f"{show(path)} ends in the middle of {show(name)}")
                    left -= len(part)
                    yield bytes(part)
                yield padding(entry.size)

    def _linked_out(self, member: Member, path: bytes) -> Iterator[bytes]:
        """A hard link of an archive to what is not in the archive: a copy of the stage's file, since a layer can link
        only to what it holds. Raises Invalid if there is none."""
        node = self.target.look(member.link)
        if node is None or node.kind != tar.REGULAR:
            raise Invalid(
                f"{show(path)}: the hard link {show(member.name)} leads nowhere: {show(member.link)}"
            )
        yield format_member(member_of(member.name, node))
        yield from self.target.read(member.link)
        yield padding(node.size)

    def _archived(self, entry: Entry, goal: bytes, root: bytes, path: bytes) -> Member:
        uid, gid = self.manner.owner or (entry.uid, entry.gid)
        link = entry.link
        if entry.kind == tar.HARD_LINK:
            link = join(root, _clean_name(entry.link, path))
        # As in BuildKit: --chmod is not for what was packed.
        mode = entry.mode
        mtime = self._limited(entry.mtime_ns // 1_000_000_000)
        size = entry.real_size if entry.kind == tar.REGULAR else 0
        return Member(
            goal, entry.kind, mode, uid, gid, size, mtime, link, entry.device, entry.xattrs, entry.sparse
        )


def find_sources(source: Tree, text: bytes) -> list[bytes]:
    """The paths that a COPY's source means: itself, or what its wildcards match, in order."""
    shown = clean_path(text.decode("utf-8", "surrogateescape"))
    if not has_wildcards(shown):
        return [_encode(shown)]
    parts = shown.split("/")
    plain = next(index for index, part in enumerate(parts) if has_wildcards(part))
    found = [_encode("/".join(parts[:plain]))]
    for index, part in enumerate(parts[plain:]):
        matches = compile_pattern(part, deep=False)
        following: list[bytes] = []
        for folder in found:
            # Links in front of the wildcards are followed, those that match one are not.
            real = folder if index else resolve(source.look, folder)
            node = source.look(real)
            if node is not None and node.is_folder:
                following += [join(folder, name) for name in source.names(real) if matches(_decode(name))]
        found = following
    return found


def literal(path: bytes) -> bytes:
    """``path`` as a source that means just that."""
    return re.sub(rb"([*?\[\\])", rb"\\\1", path)


def is_archive(source: Tree, path: bytes) -> bool:
    """Whether ADD unpacks the file: a tar, plain or compressed, by its bytes."""
    try:
        with Stream(read_chunks(cast(BinaryIO, ChunkReader(source.read(path))), _LIMITS)) as stream:
            return next(read_entries(stream), None) is not None
    except (Corrupt, Invalid):
        return False


def not_found(path: bytes, source: Tree) -> NotFound:
    """Docker's words for what is not there in ``source``, and what is called nearly so beside it."""
    folder, _, name = path.rpartition(b"/")
    beside = source.names(resolve(source.look, folder))[:_SUGGESTED] if source.look(folder) else ()
    hint = suggest(_decode(name), map(_decode, beside))
    return NotFound(
        f"file not found in build context or excluded by .dockerignore: stat {_decode(path)}: file does not exist"
        + (f" ({hint})" if hint else "")
    )


def _clean_name(name: bytes, archive: bytes) -> bytes:
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise Invalid(f"a name in {show(archive)} leads out of the destination: {show(name)}")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _decode(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def member_of(path: bytes, node: Node) -> Member:
    """What a tar says of a node."""
    return Member(
        path,
        node.kind,
        node.mode,
        node.uid,
        node.gid,
        node.size,
        node.mtime,
        node.link,
        node.device,
        node.xattrs,
    )


def _format(path: bytes, planned: _Planned, links: dict[tuple[int, ...], bytes]) -> Iterator[bytes]:
    node = planned.node
    if node.identity and node.kind != tar.FOLDER:
        first = links.setdefault(node.identity, path)
        if first != path:
            yield format_member(Member(path, tar.HARD_LINK, node.mode, link=first))
            return
    yield format_member(member_of(path, node))
    if node.kind == tar.REGULAR and planned.source is not None:
        yield from planned.source.read(planned.path)
        yield padding(node.size)


class ChunkReader(io.RawIOBase):
    """Chunks as an unbuffered file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; empty at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = chunk
        if size < 0:
            size = len(self._rest)
        part, self._rest = self._rest[:size], self._rest[size:]
        return part
