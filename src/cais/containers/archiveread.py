"""What a container has at a path: its stat, and a tar of it with everything below.

Paths are found by openat2 inside the root, and every file is opened by the descriptor that was looked at: a running
container may exchange anything for a link meanwhile, and gets nothing read but its own files (CVE-2018-15664). Other
mounts are entered, for volumes are part of what is asked for; the kernel's own file systems are not.
"""

import os
import posixpath
import stat
from collections.abc import Generator, Iterator

import msgspec

from cais.containers.archivepath import PathStat, clean_path, go_mode, last_name
from cais.errors import Conflict, Invalid, NotFound
from cais.linux.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, file_system_type, openat2
from cais.store.layers import tar
from cais.store.layers.compare import opened, read_kept_xattrs
from cais.store.layers.diff import KINDS
from cais.store.layers.pack import END, Member, format_member, padding

INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
CHUNK = 256 << 10
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: for what some file systems do to an open; a FIFO is never opened.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_LINKS = 255

# linux/magic.h. Docker's view of a container for copies has none of these mounts.
_PSEUDO = frozenset(
    {
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x0027E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x1CD1,  # devpts
        0x19800202,  # mqueue
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xCAFE4A11,  # bpf
        0x62656570,  # configfs
        0x6165676C,  # pstore
    }
)


def is_pseudo(fd: int) -> bool:
    """Whether it is on a file system whose files are the kernel's words: nothing to be copied, or to be written to
    with the engine's rights."""
    return file_system_type(fd) in _PSEUDO


def stat_path(root: int, asked: str, container: str) -> PathStat:
    """What stands at the path below descriptor ``root``. Raises NotFound in Docker's words, Invalid."""
    path = clean_path(asked)
    with opened(_open_place(root, path, asked, container)) as place:
        return _describe(root, path, place)


def read_path(root: int, asked: str, container: str) -> tuple[PathStat, Generator[bytes, None, None]]:
    """The same and the tar, whose first name is the path's last part. Everything that is needed of ``root`` is open
    when this returns; the iterator blocks, and ends with its last step or by ``close``."""
    path = clean_path(asked)
    with opened(_open_place(root, path, asked, container)) as place:
        found = _describe(root, path, place)
        name = b"" if found.name == "/" else os.fsencode(found.name)
        return found, _Walk(place, name).run()


def _open_place(root: int, path: str, asked: str, container: str) -> int:
    """As lstat(2): the last part may be a link, unless a slash follows."""
    try:
        place = openat2(root, path, _PLACE, INSIDE)
    except FileNotFoundError:
        raise missing(asked, container) from None
    except OSError as error:
        raise Invalid(f"lstat {path}: {(error.strerror or '').lower()}") from error
    if is_pseudo(place):
        os.close(place)
        raise missing(asked, container)
    return place


def missing(asked: str, container: str) -> NotFound:
    """The error for a path that is not there, in Docker's words."""
    return NotFound(f"Could not find the file {asked} in container {container}")


def _describe(root: int, path: str, place: int) -> PathStat:
    found = os.fstat(place)
    target = _follow(root, path) if stat.S_ISLNK(found.st_mode) else ""
    return PathStat(last_name(path), found.st_size, go_mode(found.st_mode), found.st_mtime_ns, target)


def _follow(root: int, path: str) -> str:
    """Where the link at ``path`` leads in the end, inside the root, parts that are not there included. It is for
    people and for clients that ask again: what is opened, is opened by the kernel's own walk."""
    waiting = path.strip("/").split("/")[::-1]
    here, links = "/", 0
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            here = posixpath.dirname(here)
            continue
        step = posixpath.join(here, part)
        text = _read_link(root, step)
        if text is None:
            here = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise Invalid(f"too many links in {path}")
        here = "/" if text.startswith("/") else here
        waiting += text.split("/")[::-1]
    return here


def _read_link(root: int, path: str) -> str | None:
    try:
        with opened(openat2(root, path, _PLACE, INSIDE)) as place:
            return os.readlink("", dir_fd=place) if stat.S_ISLNK(os.fstat(place).st_mode) else None
    except OSError:
        return None


class _Level(msgspec.Struct):
    """One folder on the way down: what is left in it, and what it is, to find the way back up."""

    path: bytes
    names: Iterator[bytes]
    identity: tuple[int, int]


class _Walk:
    """One tar. Only the current folder is open, whatever the depth: a container may nest folders deeper than there are
    descriptors."""

    def __init__(self, place: int, name: bytes) -> None:
        self._here = os.dup(place)
        self._name = name
        self._links: dict[tuple[int, int], bytes] = {}
        self._levels: list[_Level] = []

    def run(self) -> Generator[bytes, None, None]:
        try:
            yield from self._write(self._here, self._name, os.fstat(self._here))
            if stat.S_ISDIR(os.fstat(self._here).st_mode):
                self._enter(self._name, self._here)
                yield from self._below()
            yield END
        finally:
            os.close(self._here)

    def _below(self) -> Iterator[bytes]:
        levels = self._levels
        while levels:
            name = next(levels[-1].names, None)
            if name is not None:
                yield from self._visit(name, levels[-1].path + b"/" + name)
                continue
            levels.pop()
            if levels:
                self._leave(levels[-1])

    def _visit(self, name: bytes, path: bytes) -> Iterator[bytes]:
        try:
            place = os.open(name, _PLACE, dir_fd=self._here)
        except FileNotFoundError:
            return
        with opened(place):
            found = os.fstat(place)
            if stat.S_IFMT(found.st_mode) not in KINDS:
                return
            yield from self._write(place, path, found)
            if stat.S_ISDIR(found.st_mode) and not is_pseudo(place):
                self._enter(path, place)

    def _enter(self, path: bytes, place: int) -> None:
        child = os.open(".", _FOLDER, dir_fd=place)
        os.close(self._here)
        self._here = child
        with os.scandir(child) as entries:
            names = sorted(os.fsencode(entry.name) for entry in entries)
        self._levels.append(_Level(path, iter(names), _identity(child)))

    def _leave(self, parent: _Level) -> None:
        above = os.open("..", _FOLDER, dir_fd=self._here)
        os.close(self._here)
        self._here = above
        if _identity(above) != parent.identity:
            raise Conflict("the container moved a folder while it was copied: pause it, and copy again")

    def _write(self, place: int, path: bytes, found: os.stat_result) -> Iterator[bytes]:
        key = found.st_dev, found.st_ino
        first = self._links.get(key) if not stat.S_ISDIR(found.st_mode) else None
        if first is not None:
            yield format_member(_member(path, tar.HARD_LINK, found, link=first))
        elif stat.S_ISREG(found.st_mode):
            yield from self._file(place, path)
        elif stat.S_ISLNK(found.st_mode):
            yield format_member(
                _member(path, tar.SYMLINK, found, link=os.fsencode(os.readlink("", dir_fd=place)))
            )
        elif stat.S_ISDIR(found.st_mode):
            with opened(os.open(".", _FOLDER, dir_fd=place)) as folder:
                xattrs = read_kept_xattrs(folder)
            yield format_member(_member(path, tar.FOLDER, found, xattrs=xattrs))
        elif stat.S_IFMT(found.st_mode) in KINDS:
            yield format_member(_member(path, KINDS[stat.S_IFMT(found.st_mode)], found))
        if first is None and found.st_nlink > 1:
            self._links[key] = path

    def _file(self, place: int, path: bytes) -> Iterator[bytes]:
        # This link leads to the very file that was looked at, whatever its name leads to now.
        with opened(os.open(f"/proc/self/fd/{place}", _FILE)) as fd:
            found = os.fstat(fd)
            member = _member(path, tar.REGULAR, found, size=found.st_size, xattrs=read_kept_xattrs(fd))
            yield format_member(member)
            yield from _content(fd, member.size)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _member(
    path: bytes,
    kind: bytes,
    found: os.stat_result,
    *,
    size: int = 0,
    link: bytes = b"",
    xattrs: dict[str, bytes] | None = None,
) -> Member:
    number = found.st_rdev if kind in (tar.CHARACTER, tar.BLOCK_DEVICE) else 0
    return Member(
        path,
        kind,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        size,
        int(found.st_mtime_ns // 1_000_000_000),
        link,
        (os.major(number), os.minor(number)),
        xattrs or {},
    )


def _content(fd: int, size: int) -> Iterator[bytes]:
    """What the header announced, also of a file that shrinks or grows meanwhile."""
    left = size
    while left:
        part = os.read(fd, min(CHUNK, left)) or bytes(min(CHUNK, left))
        left -= len(part)
        yield part
    if size % tar.BLOCK:
        yield padding(size)
