"""Outputs of builds on this side: a file that is whole or not there, and a folder that is filled from a tar.

What an image holds is not to be trusted: nothing is written outside of the folder, whatever names and links say; owners
are whoever runs this, so setuid bits, which were meant for other owners, are dropped; devices are left out.
"""

from __future__ import annotations

import os
import stat
import tarfile
import threading
from contextlib import suppress
from typing import IO, cast

from cais.cli.failure import Failure

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20


class FileWriter:
    """A file, under its name only when it is whole; ``path`` None: standard output."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._half = ""
        self._fd = 1
        if path is not None:
            self._half = f"{path}.{os.urandom(4).hex()}"
            try:
                self._fd = os.open(self._half, _FILE, 0o666)
            except OSError as error:
                raise Failure(f"cannot write {path}: {(error.strerror or '').lower()}") from None

    def write(self, data: bytes) -> None:
        """More. Raises Failure."""
        try:
            _write_all(self._fd, data)
        except OSError as error:
            raise Failure(f"cannot write {self._path or 'standard output'}: {error.strerror}") from None

    def finish(self) -> None:
        """It is whole."""
        if self._path is not None:
            os.close(self._fd)
            os.replace(self._half, self._path)

    def abandon(self) -> None:
        """It never will be."""
        if self._path is not None:
            os.close(self._fd)
            os.unlink(self._half)


def open_file(path: str | None) -> FileWriter:
    """The file at ``path``, or standard output. Raises Failure."""
    return FileWriter(path)


class FolderWriter:
    """A folder that gets what a tar holds; the tar is read in a thread while it comes. What is in the folder already
    stays, unless the tar has something else of that name."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            os.makedirs(path, exist_ok=True)
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Failure(f"cannot write to {path}: {(error.strerror or '').lower()}") from None
        read, self._write = os.pipe()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(read,), daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """More of the tar. Raises Failure."""
        try:
            _write_all(self._write, data)
        except BrokenPipeError:
            self.finish()

    def finish(self) -> None:
        """The tar is whole. Raises Failure with what went wrong."""
        self.abandon()
        if self._error is not None:
            raise Failure(f"cannot write to {self._path}: {self._error}")

    def abandon(self) -> None:
        """No more will come. Idempotent."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1
            self._thread.join()
            os.close(self._root)

    def _run(self, read: int) -> None:
        with os.fdopen(read, "rb") as pipe:
            try:
                with tarfile.open(fileobj=pipe, mode="r|") as tar:
                    Unpacking(self._root).take_all(tar)
                while pipe.read(_CHUNK):
                    pass
            except (OSError, tarfile.TarError, ValueError) as error:
                self._error = error


class Unpacking:
    """Members of a tar, written below the open folder ``root``: no link is ever followed, also not one that was there
    before."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._folders: list[tuple[list[str], int, int]] = []

    def take_all(self, tar: tarfile.TarFile) -> None:
        """Everything. Raises OSError, TarError, ValueError for names that lead out."""
        for member in tar:
            self._take(tar, member)
        for parts, mode, mtime in reversed(self._folders):
            fd = self._open(parts, make=False)
            try:
                os.fchmod(fd, mode)
                os.utime(fd, (mtime, mtime))
            finally:
                os.close(fd)

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = split_name(member.name)
        if not parts:
            return
        mode, mtime = member.mode & 0o777, int(member.mtime)
        if member.isdir():
            os.close(self._open(parts, make=True))
            self._folders.append((parts, mode | stat.S_IRWXU if not mode & stat.S_IRWXU else mode, mtime))
            return
        parent = self._open(parts[:-1], make=True)
        try:
            name = parts[-1]
            if member.isdev() and not member.isfifo():
                return
            _clear(name, parent)
            if member.issym():
                os.symlink(member.linkname, name, dir_fd=parent)
                os.utime(name, (mtime, mtime), dir_fd=parent, follow_symlinks=False)
            elif member.islnk():
                self._link(split_name(member.linkname), name, parent)
            elif member.isfifo():
                os.mkfifo(name, mode, dir_fd=parent)
            elif member.isreg():
                _write_file(cast(IO[bytes], tar.extractfile(member)), name, parent, mode, mtime)
        finally:
            os.close(parent)

    def _link(self, source: list[str], name: str, parent: int) -> None:
        if not source:
            raise ValueError("a hard link to nothing")
        folder = self._open(source[:-1], make=False)
        try:
            os.link(source[-1], name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(folder)

    def _open(self, parts: list[str], *, make: bool) -> int:
        """The folder at ``parts``, made if it is not there. Raises OSError: something else is."""
        fd = os.dup(self._root)
        for part in parts:
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o777, dir_fd=fd)
                below = os.open(part, _FOLDER, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd


def split_name(name: str) -> list[str]:
    """The parts of a member's name. Raises ValueError for one that leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"the name {name!r} leads out of the folder")
    return parts


def _clear(name: str, parent: int) -> None:
    """Make room; a folder stays and is the caller's error."""
    with suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(name, dir_fd=parent)


def _write_file(source: IO[bytes], name: str, parent: int, mode: int, mtime: int) -> None:
    fd = os.open(name, _FILE, 0o600, dir_fd=parent)
    try:
        while data := source.read(_CHUNK):
            _write_all(fd, data)
        os.fchmod(fd, mode)
        os.utime(fd, (mtime, mtime))
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
