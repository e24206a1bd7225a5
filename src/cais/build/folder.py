"""A context that the client names by an open folder: read where it is, and nothing of it is copied.

The engine holds a descriptor of the folder and opens everything below it with openat2(2): no link is followed, nothing
leads out, whatever somebody renames meanwhile. Workers open the same descriptor under ``/proc/<engine>/fd``: a copy in
a pack of our own would cost as much as the tar that this saves, so files are read twice instead, and what COPY reads
must have the digest that the step's key was made of.

    build/contexts/<id>   digests of files by what stat says of them, for one folder

A digest is remembered only if the file's times were old when it was read: a file that is written twice within one tick
of the clock looks the same both times. (Git calls such entries racy; its documentation, "racy-git", explains them.)
"""

import asyncio
import errno
import hashlib
import os
import stat
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from cais.build.context import LIMITS, MAX_FILES, FileChanged, Index, Item, file_changed, make_folder_path
from cais.build.inputs import MAIN, DockerfileText
from cais.build.tree import CHUNK, Node, show
from cais.errors import Invalid, NotFound, Unavailable
from cais.linux.peers import open_beneath
from cais.linux.syscalls import file_system_type
from cais.spec.ignore import Ignore, clean_path, has_wildcards
from cais.store.layers import tar

T = TypeVar("T")

Stamp = tuple[int, int, int, int, int, int]
"""What decides whether a file is the one that was read: device, inode, size, mtime and ctime in nanoseconds, mode."""

Tops = Mapping[bytes, bool]
"""Parts of paths up to their first wildcard; whether there is one."""

RACY_NS = 2_000_000_000
"""The coarsest clock of a file system here (FAT keeps two seconds)."""
_LOCAL = frozenset(
    (0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x794C7630, 0x2FC12FC1, 0xF2F52010, 0xCA451A4E, 0x858458F6)
)
"""ext2-4, xfs, btrfs, tmpfs, overlay, zfs, f2fs, bcachefs, ramfs (linux/magic.h): their times are by this machine's
clock."""
_DOCKERFILE_LIMIT = 4 << 20
_KEPT_FILES = 64
_KEPT_IN_MEMORY = 8
_SLACK = 10_000
_THREADS = 4
_GONE = (errno.ENOENT, errno.ESTALE)
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    version: int
    entries: list[tuple[int, int, int, int, int, int, bytes]]


_VERSION = 1


class Digests(msgspec.Struct):
    """What is known of one folder's files. ``is_local``: whether its clock can be trusted."""

    path: Path
    is_local: bool
    known: dict[Stamp, bytes] = msgspec.field(default_factory=dict)
    is_changed: bool = False

    def save(self, seen: Mapping[bytes, Stamp]) -> None:
        """Write it, whole or not at all; what no file of this build has goes if there is much of it. Raises OSError."""
        # A list at once: another build's thread may add to it meanwhile.
        entries = list(self.known.items())
        if len(entries) > 2 * len(seen) + _SLACK:
            wanted = set(seen.values())
            entries = [entry for entry in entries if entry[0] in wanted]
            self.known = dict(entries)
        data = msgspec.msgpack.encode(_Stored(_VERSION, [(*stamp, digest) for stamp, digest in entries]))
        temporary = self.path.with_name(f".{self.path.name}-{uuid.uuid4().hex}")
        try:
            temporary.write_bytes(data)
            temporary.rename(self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self.is_changed = False

    def load(self) -> None:
        """Read what was written; what makes no sense is not there."""
        with suppress(OSError, msgspec.MsgspecError):
            stored = msgspec.msgpack.decode(self.path.read_bytes(), type=_Stored)
            if stored.version == _VERSION:
                self.known = {entry[:6]: entry[6] for entry in stored.entries if len(entry[6]) == 32}
                self.path.touch()


class Folders:
    """The folders that clients of one engine build from."""

    def __init__(self, root: Path) -> None:
        """``root``: the engine's root folder."""
        self._place = root / "build" / "contexts"
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._digests: OrderedDict[str, Digests] = OrderedDict()
        self._lock = threading.Lock()
        # Threads of their own: a folder may be on something that never answers.
        self._threads = ThreadPoolExecutor(_THREADS, "build-folder")

    async def call(self, act: Callable[..., T], *args: object) -> T:
        """Run ``act`` in one of the threads for folders."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, act, *args)

    def close(self) -> None:
        """End the threads, as far as they answer."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def digests(self, folder: int) -> Digests:
        """What is known of the open ``folder``. Raises OSError."""
        status = os.fstat(folder)
        magic = file_system_type(folder) & 0xFFFFFFFF
        name = hashlib.sha256(f"{status.st_dev}:{status.st_ino}:{magic}".encode()).hexdigest()[:32]
        with self._lock:
            found = self._digests.get(name)
        if found is None:
            found = Digests(self._place / name, magic in _LOCAL)
            found.load()
        with self._lock:
            found = self._digests.setdefault(name, found)
            self._digests.move_to_end(name)
            while len(self._digests) > _KEPT_IN_MEMORY:
                self._digests.popitem(last=False)
        return found

    def forget(self, digests: Digests) -> None:
        """A file was not what it seemed: believe nothing of this folder any more. Idempotent."""
        with self._lock:
            self._digests.pop(digests.path.name, None)
        digests.known.clear()
        digests.path.unlink(missing_ok=True)

    def save(self, digests: Digests, seen: Mapping[bytes, Stamp]) -> None:
        """Keep what was found out; of the oldest folders nothing. Raises OSError."""
        if digests.is_changed:
            digests.save(seen)
            files = sorted(self._place.iterdir(), key=lambda path: path.stat().st_mtime_ns)
            for path in files[:-_KEPT_FILES]:
                path.unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Remove everything that is known."""
        with self._lock:
            self._digests.clear()
        for path in self._place.iterdir():
            path.unlink(missing_ok=True)


def open_folder(taken: int, device: int, inode: int) -> int:
    """The folder behind a descriptor that was taken from a client, opened anew: what the two share besides is where a
    listing stands. ``device`` and ``inode`` are what the client says that it is: behind a proxy the number is another
    program's. Raises OSError."""
    status = os.fstat(taken)
    if not stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) != (device, inode):
        raise OSError(errno.ESTALE, "the descriptor is not the folder that the client means")
    return os.open(".", _FOLDER_FLAGS, dir_fd=taken)


class Folder(msgspec.Struct):
    """One folder in one build; ``fd`` is its own, closed with it."""

    fd: int
    folders: Folders
    digests: Digests
    stamps: dict[bytes, Stamp] = msgspec.field(default_factory=dict)
    _device: int = -1

    def read_text(self, name: str) -> bytes:
        """A whole small file. Raises NotFound, Invalid."""
        path = os.fsencode(clean_path(name))
        try:
            # Links are followed inside the folder, as every client does that reads the file itself.
            fd = open_beneath(self.fd, self._resolve(path) or b".")
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise Invalid(f"cannot read {name}: permission denied") from None
            raise NotFound(f"cannot locate specified Dockerfile: {name}") from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotFound(f"cannot locate specified Dockerfile: {name} is not a file")
            data = (
                b"".join(iter(lambda: os.read(fd, CHUNK), b""))
                if status.st_size <= _DOCKERFILE_LIMIT
                else None
            )
        finally:
            os.close(fd)
        if data is None or len(data) > _DOCKERFILE_LIMIT:
            raise Invalid(f"{name} is larger than {_DOCKERFILE_LIMIT} bytes")
        return data

    def _resolve(self, path: bytes) -> bytes:
        """``path`` with links replaced by what they say, by text, inside the folder. Raises OSError."""
        waiting, links = path.split(b"/"), 0
        done: list[bytes] = []
        while waiting:
            part = waiting.pop(0)
            if part in (b"", b"."):
                continue
            if part == b"..":
                del done[-1:]
                continue
            parent = open_beneath(self.fd, b"/".join(done) or b".")
            try:
                link = os.readlink(part, dir_fd=parent)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                done.append(part)
            else:
                links += 1
                if links > 40:
                    raise OSError(errno.ELOOP, "too many links")
                if link.startswith(b"/"):
                    done = []
                waiting[:0] = link.split(b"/")
            finally:
                os.close(parent)
        return b"/".join(done)

    def index(self, ignore: Ignore, paths: frozenset[str] | None) -> Index:
        """All files but ignored ones; with ``paths`` at least those that they name. Raises Invalid, Unavailable."""
        tops = None if paths is None else plain_tops(paths)
        self._device = os.fstat(self.fd).st_dev
        items = self._walk(ignore, tops)
        if items is None:
            items = self._walk(ignore, None) or {}
        place = make_folder_path(f"/proc/{os.getpid()}/fd/{self.fd}", self.hash)
        return Index(place, dict(sorted(items.items())))

    def _walk(self, ignore: Ignore, tops: Tops | None) -> dict[bytes, Item] | None:
        """None: there is a link where only a part was to be walked, and nobody can say where it leads."""
        items: dict[bytes, Item] = {}
        waiting = [b""]
        while waiting:
            folder = waiting.pop()
            for name, status in self._list(folder):
                path = folder + b"/" + name if folder else name
                if tops is not None and not is_wanted(path, tops):
                    continue
                mode = status.st_mode
                excluded = bool(ignore.rules) and is_excluded(os.fsdecode(path), ignore)
                if excluded and not (stat.S_ISDIR(mode) and ignore.has_exceptions):
                    continue
                item = self._item(path, status)
                if item is None:
                    continue
                if tops is not None and item.node.kind == tar.SYMLINK and is_followed(path, tops):
                    return None
                items[path] = item
                if item.node.is_folder:
                    waiting.append(path)
            if len(items) > MAX_FILES:
                raise Invalid(
                    f"the context has more than {MAX_FILES} files: list what is not needed in .dockerignore"
                )
        return _without_excluded(items, ignore) if ignore.has_exceptions else items

    def _list(self, folder: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        if folder.count(b"/") >= LIMITS.max_depth or len(folder) > LIMITS.max_path:
            raise Invalid(f"path in the build context is too long: {show(folder[:100])}…")
        try:
            fd = open_beneath(self.fd, folder or b".")
        except OSError as error:
            if error.errno in _GONE:
                return
            raise _unreadable(folder, error) from None
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    try:
                        yield os.fsencode(entry.name), entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # gone since it was listed: it is not there
                    except OSError as error:
                        raise _unreadable(folder + b"/" + os.fsencode(entry.name), error) from None
        except NotADirectoryError as error:
            raise _unreadable(folder, error) from None
        finally:
            os.close(fd)

    def _item(self, path: bytes, status: os.stat_result) -> Item | None:
        """As a client's tar has it: owners are root, sockets, pipes and devices are no use to a build."""
        mode = status.st_mode
        permissions, mtime = mode & 0o7777, int(status.st_mtime)
        if stat.S_ISREG(mode):
            inode, size = status.st_ino, status.st_size
            self.stamps[path] = (status.st_dev, inode, size, status.st_mtime_ns, status.st_ctime_ns, mode)
            identity = (status.st_dev, inode) if status.st_nlink > 1 else ()
            return Item(Node(tar.REGULAR, permissions, size=size, mtime=mtime, identity=identity))
        if stat.S_ISDIR(mode):
            return Item(Node(tar.FOLDER, permissions, mtime=mtime))
        if stat.S_ISLNK(mode):
            return Item(Node(tar.SYMLINK, permissions, mtime=mtime, link=self._link(path)))
        return None

    def _link(self, path: bytes) -> bytes:
        folder, _, name = path.rpartition(b"/")
        try:
            fd = open_beneath(self.fd, folder or b".")
            try:
                return os.readlink(name, dir_fd=fd)
            finally:
                os.close(fd)
        except OSError:
            raise file_changed(path) from None

    def hash(self, path: bytes) -> bytes:
        """The SHA-256 digest of the file at ``path``, as it was when the folder was walked; remembered. Raises
        FileChanged, Invalid, Unavailable."""
        stamp = self.stamps[path]
        found = self.digests.known.get(stamp)
        if found is not None:
            return found
        begun = time.time_ns()
        try:
            fd = open_beneath(self.fd, path)
        except OSError as error:
            raise _unreadable(path, error) from None
        try:
            if stamp_of(os.fstat(fd)) != stamp:
                raise file_changed(path)
            content = hashlib.sha256()
            while part := os.read(fd, CHUNK):
                content.update(part)
            if stamp_of(os.fstat(fd)) != stamp:
                raise file_changed(path)
        finally:
            os.close(fd)
        if self.digests.is_local and stamp[0] == self._device and stamp[4] + RACY_NS < begun:
            self.digests.known[stamp] = content.digest()
            self.digests.is_changed = True
        return content.digest()

    def close(self, error: BaseException | None) -> None:
        """The build has ended, with this error: keep what was found out, unless that was wrong."""
        try:
            if _tells_of_change(error):
                self.folders.forget(self.digests)
            else:
                with suppress(OSError):
                    self.folders.save(self.digests, self.stamps)
        finally:
            os.close(self.fd)


def stamp_of(status: os.stat_result) -> Stamp:
    """What stat says of a file."""
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times, status.st_mode


def is_excluded(path: str, ignore: Ignore) -> bool:
    """Whether ``path`` is left out, in a folder that is not: without exceptions it is enough to look at itself."""
    if ignore.has_exceptions:
        return ignore.excludes(path)
    return any(rule.matches(path) for rule in ignore.rules)


def plain_tops(paths: frozenset[str]) -> Tops | None:
    """What of a folder these paths can mean; None if one is all of it."""
    found: dict[bytes, bool] = {}
    for path in paths:
        parts = clean_path(path).split("/")
        plain = next((index for index, part in enumerate(parts) if has_wildcards(part)), len(parts))
        top = os.fsencode("/".join(parts[:plain]))
        found[top] = found.get(top, False) or plain < len(parts)
    return None if b"" in found else found


def is_wanted(path: bytes, tops: Tops) -> bool:
    """Whether ``path`` is one of these, below one, or on the way to one."""
    return any(path == top or path.startswith(top + b"/") or top.startswith(path + b"/") for top in tops)


def is_followed(path: bytes, tops: Tops) -> bool:
    """Whether a link at ``path`` may be followed: on the way to one of these, or matched by a wildcard."""
    return any(is_pattern or not path.startswith(top + b"/") for top, is_pattern in tops.items())


def _without_excluded(items: dict[bytes, Item], ignore: Ignore) -> dict[bytes, Item]:
    """Without the excluded folders that nothing in them was brought back from."""
    needed: set[bytes] = set()
    found = {}
    for path, item in items.items():
        if not (item.node.is_folder and ignore.excludes(os.fsdecode(path))):
            found[path] = item
            above = path.rpartition(b"/")[0]
            while above and above not in needed:
                needed.add(above)
                above = above.rpartition(b"/")[0]
    found.update({path: items[path] for path in needed if path in items})
    return found


def _unreadable(path: bytes, error: OSError) -> Exception:
    if error.errno in (errno.EACCES, errno.EPERM):
        return Invalid(f"cannot read {show(path)} in the build context: permission denied")
    if error.errno in (*_GONE, errno.ELOOP, errno.ENOTDIR, errno.EXDEV, errno.EAGAIN):
        return file_changed(path)
    reason = (error.strerror or "").lower()
    return Unavailable(f"cannot read {show(path)} in the build context: {reason}")


def _tells_of_change(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, FileChanged):
            return True
        error = error.__cause__ or error.__context__
    return False


class FolderInputs:
    """A build's inputs when all of its contexts are open folders of the client's. Closed by who made it."""

    def __init__(
        self, folders: Folders, given: Mapping[str, int], text: DockerfileText | None = None
    ) -> None:
        """``given``: folders by the context's name, closed with this; ``text``: a Dockerfile from elsewhere."""
        self._folders = folders
        self._given = dict(given)
        self._open: dict[str, Folder] = {}
        self._text = text

    async def dockerfile(self, name: str) -> DockerfileText:
        """Inputs.dockerfile."""
        if self._text is not None and name != self._text.name:
            raise NotFound(f"{name} is not there: the Dockerfile is not one of the context's files")
        if self._text is not None and self._text.ignore is not None:
            return self._text
        folder = await self._folder(MAIN)
        return await self._folders.call(_read_dockerfile, folder, name, self._text)

    async def context(
        self, name: str, ignore: Ignore, folder: Path, paths: frozenset[str] | None = None
    ) -> Index:
        """Inputs.context. The build's ``folder`` is not used: nothing is copied."""
        found = await self._folder(name)
        return await self._folders.call(found.index, ignore, paths)

    async def _folder(self, name: str) -> Folder:
        if name not in self._open:
            if name not in self._given:
                raise NotFound(f"no context {name!r} came with the build")
            digests = await self._folders.call(self._folders.digests, self._given[name])
            self._open[name] = Folder(self._given.pop(name), self._folders, digests)
        return self._open[name]

    async def close(self, error: BaseException | None = None) -> None:
        """The build has ended with ``error``, or well. Idempotent."""
        for fd in self._given.values():
            os.close(fd)
        self._given.clear()
        opened, self._open = list(self._open.values()), {}
        for folder in opened:
            await self._folders.call(folder.close, error)


def _read_dockerfile(folder: Folder, name: str, text: DockerfileText | None) -> DockerfileText:
    """The Dockerfile and what it ignores; with ``text`` the context's own ignore file alone is looked for."""
    if text is not None:
        with suppress(NotFound):
            return DockerfileText(text.name, text.data, folder.read_text(".dockerignore"))
        return text
    try:
        data = folder.read_text(name)
    except NotFound as error:
        # As Docker: the lower-case name is taken if it is the only one.
        if name != "Dockerfile":
            raise
        try:
            name, data = "dockerfile", folder.read_text("dockerfile")
        except NotFound:
            raise error from None
    for ignore_name in (f"{name}.dockerignore", ".dockerignore"):
        with suppress(NotFound):
            return DockerfileText(name, data, folder.read_text(ignore_name))
    return DockerfileText(name, data)
