"""The files of a commit, read out of a repository into one file and an index; for a worker.

The tree is listed and its blobs are read; nothing is checked out, so no path of a repository ever exists on this
machine.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, cast

from cais.build.context import MAX_FILES, Item
from cais.build.fetch.command import Git
from cais.build.fetch.download import write_all
from cais.build.fetch.worktree import ATTRIBUTES, needs_change, write_out
from cais.build.tree import Node, show
from cais.errors import Corrupt, Invalid, NotFound
from cais.store.layers.limits import DEFAULT_LIMITS
from cais.store.layers.tar import FOLDER, REGULAR, SYMLINK

_FILE, _PROGRAM, _LINK, _MODULE = b"100644", b"100755", b"120000", b"160000"
_OLD_FILE = b"100664"
_LINK_LIMIT = 4095
_CHANGED_LIMIT = 256 << 20
_LISTING_LIMIT = 256 << 20
_TOTAL_LIMIT = 64 << 30
_PART = 256 << 10
_TEXT_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One blob or submodule: its mode, its object, its path."""

    mode: bytes
    object: str
    path: bytes


@dataclass(frozen=True, slots=True)
class TreeJob:
    """``commit`` of the repository that ``git`` sees; ``subdir``: what of it is wanted; ``pack``: the file to which
    contents are added; ``prefix``: where the files are to be."""

    git: Git
    commit: str
    subdir: bytes
    pack: str
    prefix: bytes = b""


@dataclass(frozen=True, slots=True)
class Module:
    """A submodule: where its files are to be, its commit, its URL as it is written (empty: none is), and what of it is
    wanted."""

    path: bytes
    commit: str
    url: str
    subdir: bytes


@dataclass(frozen=True, slots=True)
class GitTree:
    """What was read. ``mtime``: when the commit was made, in seconds."""

    items: dict[bytes, Item]
    modules: tuple[Module, ...] = ()
    mtime: int = 0


@dataclass(slots=True)
class Selection:
    """What of a tree is wanted: files, and submodules each with what is wanted of it."""

    files: list[TreeEntry] = field(default_factory=list)
    modules: list[tuple[TreeEntry, bytes]] = field(default_factory=list)


def read_git_tree(job: TreeJob) -> GitTree:
    """The files of a commit. Raises NotFound, Invalid (names, links in the way), Corrupt, OSError."""
    when = _output(job.git, "log", "-1", "--format=%ct", "--end-of-options", job.commit)
    mtime = int(when) if when.strip().isdigit() else 0
    entries = list(
        parse_listing(
            _output(job.git, "ls-tree", "-r", "-z", "--full-tree", job.commit, limit=_LISTING_LIMIT)
        )
    )
    chosen = select(entries, job.subdir)
    attributes = _attributes(job.git, job.commit, entries, chosen.files)
    items = dict(_read_blobs(job, chosen.files, attributes, mtime))
    urls = _module_urls(job.git, entries) if chosen.modules else {}
    modules = tuple(
        Module(job.prefix + entry.path, entry.object, urls.get(entry.path, ""), subdir)
        for entry, subdir in chosen.modules
    )
    return GitTree(items, modules, mtime)


# Listing


def parse_listing(data: bytes) -> Iterator[TreeEntry]:
    """What ``git ls-tree -r -z`` writes. Raises Invalid for names that no file may have."""
    for number, line in enumerate(filter(None, data.split(b"\0"))):
        if number >= MAX_FILES:
            raise Invalid(f"the repository has more than {MAX_FILES} files")
        head, _, path = line.partition(b"\t")
        mode, _, name = head.split(b" ")
        check_path(path)
        yield TreeEntry(_FILE if mode == _OLD_FILE else mode, name.decode("ascii"), path)


def check_path(path: bytes) -> None:
    """Raises Invalid for names that git itself would not write: a tree may hold any bytes."""
    parts = path.split(b"/")
    for part in parts:
        if part in (b"", b".", b"..") or part.lower() == b".git" or b"\0" in part:
            raise Invalid(f"the repository has a file that cannot be: {show(path)}")
    if len(parts) > DEFAULT_LIMITS.max_depth or len(path) > DEFAULT_LIMITS.max_path:
        raise Invalid(f"a path in the repository is too long: {show(path[:100])}…")


def select(entries: Iterable[TreeEntry], subdir: bytes) -> Selection:
    """What is in ``subdir`` (empty: everything). A link is not followed (CVE-2024-23652 and its kind come from that).

    Raises NotFound, Invalid.
    """
    chosen = Selection()
    inside = subdir + b"/"
    for entry in entries:
        is_above = bool(subdir) and (inside.startswith(entry.path + b"/"))
        if is_above and entry.mode == _MODULE:
            chosen.modules.append((entry, subdir[len(entry.path) + 1 :]))
        elif is_above:
            what = "a symbolic link" if entry.mode == _LINK else "not a folder"
            raise Invalid(f"subdir {show(subdir)}: {show(entry.path)} is {what}")
        elif not subdir or entry.path.startswith(inside):
            if entry.mode == _MODULE:
                chosen.modules.append((entry, b""))
            else:
                chosen.files.append(entry)
    if subdir and not chosen.files and not chosen.modules:
        raise NotFound(f"subdir {show(subdir)} is not in the repository")
    return chosen


# Contents


def _read_blobs(
    job: TreeJob, entries: Sequence[TreeEntry], attributes: dict[bytes, dict[str, str]], mtime: int
) -> Iterator[tuple[bytes, Item]]:
    total = 0
    names = b"".join(entry.object.encode() + b"\n" for entry in entries)
    with (
        _running(job.git, "cat-file", "--batch", data=names) as out,
        Path(job.pack).open("ab", buffering=0) as pack,
    ):
        for entry in entries:
            name, kind, text = [*out.readline().split(), b"", b"", b""][:3]
            if name.decode("ascii", "replace") != entry.object or kind != b"blob":
                raise Corrupt(f"the repository lacks {show(entry.path)}")
            size = int(text)
            total += size
            if total > _TOTAL_LIMIT:
                raise Invalid(f"the repository's files have more than {_TOTAL_LIMIT} bytes")
            path = job.prefix + entry.path
            if entry.mode == _LINK:
                if size > _LINK_LIMIT:
                    raise Invalid(f"the link {show(path)} is too long")
                yield path, Item(Node(SYMLINK, 0o777, mtime=mtime, link=_exactly(out, size)))
            else:
                mode = 0o755 if entry.mode == _PROGRAM else 0o644
                asked = attributes.get(entry.path, {})
                yield path, _read_file(out, size, pack, Node(REGULAR, mode, mtime=mtime), entry, asked)
            if out.read(1) != b"\n":
                raise Corrupt("git's answer cannot be understood")


def _read_file(
    out: BinaryIO, size: int, pack: BinaryIO, node: Node, entry: TreeEntry, attributes: dict[str, str]
) -> Item:
    offset = pack.seek(0, os.SEEK_END)
    content = hashlib.sha256()
    parts: Iterable[bytes] = _parts(out, size)
    if needs_change(attributes) and size <= _CHANGED_LIMIT:
        data = write_out(_exactly(out, size), attributes, entry.object)
        size, parts = len(data), (data,)
    for part in parts:
        content.update(part)
        write_all(pack, part)
    node = Node(node.kind, node.mode, size=size, mtime=node.mtime)
    return Item(node, content.digest(), ((0, offset, size),))


def _parts(out: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        part = out.read(min(size, _PART))
        if not part:
            raise Corrupt("git ended too early")
        size -= len(part)
        yield part


def _exactly(out: BinaryIO, size: int) -> bytes:
    return b"".join(_parts(out, size))


def _attributes(
    git: Git, commit: str, entries: Sequence[TreeEntry], wanted: Sequence[TreeEntry]
) -> dict[bytes, dict[str, str]]:
    """The attributes of files, by path; empty if the tree has none at all."""
    if not any(entry.path.rpartition(b"/")[2] == b".gitattributes" for entry in entries):
        return {}
    own = replace(git, index=f".index-{os.urandom(8).hex()}")
    try:
        _output(own, "read-tree", commit)
        paths = b"".join(entry.path + b"\0" for entry in wanted if entry.mode != _LINK)
        with _running(own, "check-attr", "--cached", "-z", "--stdin", *ATTRIBUTES, data=paths) as out:
            words = out.read(_LISTING_LIMIT).split(b"\0")
    finally:
        (git.folder / own.index).unlink(missing_ok=True)
    found: dict[bytes, dict[str, str]] = {}
    for path, name, value in zip(words[::3], words[1::3], words[2::3], strict=False):
        if value != b"unspecified":
            found.setdefault(path, {})[name.decode()] = value.decode("utf-8", "replace")
    return found


def _module_urls(git: Git, entries: Sequence[TreeEntry]) -> dict[bytes, str]:
    """The URLs of submodules by their paths, as ``.gitmodules`` has them. Raises Invalid."""
    found = [entry for entry in entries if entry.path == b".gitmodules"]
    if not found:
        return {}
    if found[0].mode == _LINK:
        raise Invalid("the repository's .gitmodules is a symbolic link")  # CVE-2018-11233 and its kind
    listed = _output(git, "config", "--blob", found[0].object, "-z", "--list")
    paths: dict[bytes, bytes] = {}
    urls: dict[bytes, str] = {}
    for setting in listed.split(b"\0"):
        key, _, value = setting.partition(b"\n")
        name, _, what = key.rpartition(b".")
        if name.startswith(b"submodule."):
            if what == b"path":
                paths[name] = value.strip(b"/")
            elif what == b"url":
                urls[name] = value.decode("utf-8", "replace")
    return {path: urls[name] for name, path in paths.items() if name in urls}


# A repository's own folder


def read_git_folder(folder: Path, pack: str, prefix: bytes, mtime: int) -> dict[bytes, Item]:
    """The files of a ``.git`` folder, added to ``pack``. No link in it is followed. Raises OSError."""
    items: dict[bytes, Item] = {}
    base = os.fsencode(folder)
    with Path(pack).open("ab", buffering=0) as out:
        for here, folders, files in os.walk(base):
            folders.sort()
            relative = os.path.relpath(here, base)
            inner = prefix if relative == b"." else prefix + b"/" + relative
            items[inner] = Item(Node(FOLDER, 0o755, mtime=mtime))
            for name in sorted(files):
                fd = os.open(os.path.join(here, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                with open(fd, "rb", buffering=0) as file:  # noqa: PTH123
                    status = os.fstat(fd)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    node = Node(REGULAR, 0o644, mtime=mtime)
                    entry = TreeEntry(_FILE, "", name)
                    size = status.st_size
                    items[inner + b"/" + name] = _read_file(cast(BinaryIO, file), size, out, node, entry, {})
    return items


# Running


@contextmanager
def _running(git: Git, *args: str, data: bytes) -> Iterator[BinaryIO]:
    """The command's output while it runs; it reads ``data``. Raises Corrupt if it fails."""
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.seek(0)
        process = git.start(*args, stdin=source.fileno())
        try:
            assert process.stdout
            with process.stdout:
                yield cast(BinaryIO, process.stdout)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    if code:
        raise Corrupt(f"git {args[0]} ended with {code}")


def _output(git: Git, *args: str, limit: int = _TEXT_LIMIT) -> bytes:
    """All that a command writes. Raises Corrupt if it fails, Invalid if it is too much."""
    process = git.start(*args)
    try:
        assert process.stdout
        with process.stdout:
            data = process.stdout.read(limit + 1)
        if len(data) > limit:
            process.kill()
            raise Invalid(f"git {args[0]} wrote more than {limit} bytes")
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    if code:
        raise Corrupt(f"git {args[0]} ended with {code}")
    return data


def implied_folders(items: dict[bytes, Item], mtime: int) -> dict[bytes, Item]:
    """With every folder above an item, sorted. Raises Invalid where a file or a link stands in the way."""
    found = dict(items)
    for path in items:
        above = path.rpartition(b"/")[0]
        while above and above not in found:
            found[above] = Item(Node(FOLDER, 0o755, mtime=mtime))
            above = above.rpartition(b"/")[0]
        if above and not found[above].node.is_folder:
            raise Invalid(f"the repository has {show(above)} both as a file and as a folder")
    return dict(sorted(found.items()))
