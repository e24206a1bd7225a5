"""The files of results as one tree, and a tree as a tar: the same files give the same bytes. Nothing is mounted."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from cais.build.copying import member_of
from cais.build.tree import ROOT, LayersTree, MemoryTree, Node, Tree, join, show
from cais.errors import Invalid
from cais.store.layers import tar
from cais.store.layers.pack import END, Member, format_member, padding

GATHER = 1 << 20
"""Bytes of one piece of a tar: headers of small files are not sent one by one."""


class Part(msgspec.Struct, frozen=True):
    """One platform's files, below the folder ``prefix`` (one name, or empty: the root). ``title`` for messages."""

    prefix: bytes
    tree: Tree
    title: str = ""


class PartsTree:
    """Several trees as one. Folders of the same name are merged; files may not meet. ``mtime`` in seconds: what every
    file says that it is; None: its own."""

    def __init__(self, parts: Sequence[Part], mtime: int | None = None) -> None:
        self._parts = parts
        self._mtime = mtime

    def look(self, path: bytes) -> Node | None:
        """Tree.look. Raises Invalid where two parts have different things."""
        found: list[tuple[int, Node]] = []
        for index, part in enumerate(self._parts):
            node = _look(part, path)
            if node is not None:
                found.append((index, node))
        if not found:
            return None
        index, node = found[0]
        if len(found) > 1 and not all(each.is_folder for _, each in found):
            first, second = (self._parts[number].title for number, _ in found[:2])
            raise Invalid(
                f"cannot overwrite {show(path)} from {first} with {second} when platform-split is false"
            )
        if node.identity:
            # A file that two platforms share is not one file in what comes out.
            node = replace(node, identity=(index, *node.identity))
        return node if self._mtime is None else replace(node, mtime=self._mtime)

    def names(self, path: bytes) -> Sequence[bytes]:
        """Tree.names."""
        found: set[bytes] = set()
        for part in self._parts:
            if part.prefix and not path:
                found.add(part.prefix)
            elif (inner := _inside(part, path)) is not None:
                node = part.tree.look(inner)
                if node is not None and node.is_folder:
                    found.update(part.tree.names(inner))
        return sorted(found)

    def read(self, path: bytes) -> Iterator[bytes]:
        """Tree.read."""
        for part in self._parts:
            inner = _inside(part, path)
            if inner is not None and (len(self._parts) == 1 or part.tree.look(inner) is not None):
                return part.tree.read(inner)
        raise Invalid(f"no such file: {show(path)}")


def _look(part: Part, path: bytes) -> Node | None:
    if part.prefix and not path:
        return ROOT
    inner = _inside(part, path)
    if inner is None:
        return None
    if part.prefix and not inner:
        return ROOT
    return part.tree.look(inner)


def _inside(part: Part, path: bytes) -> bytes | None:
    """The path in the part's own tree; None if it is not below the part's folder."""
    if not part.prefix or path == part.prefix:
        return b"" if part.prefix else path
    return path[len(part.prefix) + 1 :] if path.startswith(part.prefix + b"/") else None


def walk(tree: Tree) -> Iterator[tuple[bytes, Node]]:
    """Everything but the root: folders before what is in them, names sorted. In memory: one folder a level."""
    waiting = [(name, node) for name in reversed(tree.names(b"")) if (node := tree.look(name))]
    while waiting:
        path, node = waiting.pop()
        yield path, node
        if node.is_folder:
            below = [join(path, name) for name in reversed(tree.names(path))]
            # At once: the tree has just looked at the folder as a whole.
            waiting += [(each, child) for each in below if (child := tree.look(each))]


def tar_members(tree: Tree, *, with_root: bool = False) -> Iterator[bytes]:
    """The tar of a tree: headers and contents, without the end blocks; hard links once."""
    links: dict[tuple[int, ...], bytes] = {}
    if with_root:
        yield format_member(member_of(b".", tree.look(b"") or ROOT))
    for path, node in walk(tree):
        if node.identity and not node.is_folder:
            first = links.setdefault(node.identity, path)
            if first != path:
                yield format_member(Member(path, tar.HARD_LINK, node.mode, node.uid, node.gid, link=first))
                continue
        yield format_member(member_of(path, node))
        if node.kind == tar.REGULAR:
            yield from tree.read(path)
            yield padding(node.size)


def gather(parts: Iterator[bytes], size: int = GATHER) -> Iterator[bytes]:
    """The same bytes in pieces of about ``size``."""
    waiting: list[bytes] = []
    length = 0
    for part in parts:
        waiting.append(part)
        length += len(part)
        if length >= size:
            yield b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)


async def stream_tar(tree: Tree) -> AsyncIterator[bytes]:
    """The whole tar, read in a thread as it is wanted; a few pieces in memory. Raises Invalid, OSError."""
    pieces = gather(tar_members(tree))
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece
    yield END


def make_layers_part(lowers: tuple[str, ...], prefix: str = "", title: str = "") -> Part:
    """The merged files of layers (top first); without any, nothing."""
    tree: Tree = LayersTree(lowers) if lowers else MemoryTree({})
    return Part(prefix.encode(), tree, title)


def digest_files(tree: Tree) -> list[tuple[str, str]]:
    """Every regular file: its path, and the sha256 of its bytes in hexadecimal digits. Blocks."""
    found = []
    for path, node in walk(tree):
        if node.kind == tar.REGULAR:
            total = hashlib.sha256()
            for part in tree.read(path):
                total.update(part)
            found.append((path.decode("utf-8", "backslashreplace"), total.hexdigest()))
    return found
