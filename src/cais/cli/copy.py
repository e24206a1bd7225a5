"""`cais cp`: files from and to containers, by docker's rules for what goes under which name."""

from __future__ import annotations

import os
import posixpath
import stat
import sys
from binascii import a2b_base64

from cais.cli.failure import Failure, Refused
from cais.cli.flags import Command
from cais.cli.http import escape, format_target
from cais.cli.late import load
from cais.cli.pump import write_all
from cais.cli.session import is_terminal
from cais.cli.units import format_size
from cais.cli.wirejson import parse_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session

PIECE = 1 << 20
_STAT = "x-docker-container-path-stat"
_FOLDER, _SYMLINK = 1 << 31, 1 << 27
"""Bits of Go's os.FileMode."""


class End:
    """One end of a copy: a path in ``container``, or here when that is empty; ``-`` is a tar on stdin or stdout."""

    __slots__ = ("container", "path")

    def __init__(self, container: str, path: str) -> None:
        self.container = container
        self.path = path


class Found:
    """What stands at one end: nothing (``exists`` is false), a folder, or something else."""

    __slots__ = ("exists", "is_folder", "path")

    def __init__(self, path: str, *, exists: bool, is_folder: bool = False) -> None:
        self.path = path
        self.exists = exists
        self.is_folder = is_folder


def copy(session: Session, flags: Flags) -> int:
    """Copy files or folders between a container and this machine."""
    for name, text in zip(("source", "destination"), flags.args, strict=True):
        if not text:
            raise Failure(f"{name} can not be empty")
    source, target = parse_end(flags.args[0]), parse_end(flags.args[1])
    if source.container and target.container:
        raise Failure("copying between containers is not supported")
    if not (source.container or target.container):
        raise Failure("must specify at least one container source")
    counted = _Counted()
    if source.container:
        _copy_out(session, source, target, flags.on("follow-link"), counted)
    else:
        _copy_in(session, source, target, flags, counted)
    if is_terminal(2) and not flags.on("quiet") and target.path != "-":
        sys.stderr.write(f"Successfully copied {format_size(counted.size)} to {flags.args[1]}\n")
    return 0


def parse_end(text: str) -> End:
    """``container:path``, or a path of this machine: one that is absolute or begins with a dot is one in any case."""
    container, colon, path = text.partition(":")
    if text.startswith("/") or not colon or container.startswith("."):
        return End("", text)
    return End(container, path)


def place(source: Found, source_name: str, target: Found) -> tuple[str, str]:
    """The folder to unpack in, and the name that the source gets there; empty: its own. Raises Failure."""
    if target.exists and target.is_folder:
        return target.path, ""
    if target.exists and source.is_folder:
        raise Failure("cannot copy directory")
    if not target.exists and not source.is_folder and target.path.endswith("/"):
        raise Failure("no such directory")
    folder, name = posixpath.split(target.path.rstrip("/"))
    return folder or ("/" if target.path.startswith("/") else "."), name or source_name


class _Counted:
    """Passes bytes on, and counts them."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    def count(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.size += len(piece)
            yield piece


# From a container


def _copy_out(session: Session, source: End, target: End, follow: bool, counted: _Counted) -> None:
    path, name = source.path, ""
    found = _stat(session, source.container, path) if follow else None
    if found and found["mode"] & _SYMLINK and found["linkTarget"]:
        # What the link leads to, under the link's own name.
        path, name = found["linkTarget"], base_name(path)
    if target.path != "-":
        _check_folder(target.path)
    response = session.send("GET", _archive(source.container), (("path", path),))
    pieces = counted.count(response.pieces())
    if target.path == "-":
        for piece in pieces:
            write_all(1, piece)
        return
    there = _read_stat(response.fields)
    origin = Found(path, exists=True, is_folder=bool(there["mode"] & _FOLDER))
    folder, new = place(origin, base_name(path), _look(target.path))
    load("cais.cli.copytar:unpack")(pieces, folder, new or name)


def base_name(path: str) -> str:
    """The last part of a path; what is in a folder (``/.``) has none of its own."""
    return "" if path.endswith("/.") else posixpath.basename(path.rstrip("/"))


def _check_folder(path: str) -> None:
    above = os.path.dirname(path.rstrip("/")) or ("/" if path.startswith("/") else ".")
    if not os.path.isdir(above):
        raise Failure(f'invalid output path: directory "{os.path.abspath(above)}" does not exist')


def _look(path: str) -> Found:
    try:
        found = os.stat(path)
    except OSError:
        return Found(path, exists=False)
    return Found(path, exists=True, is_folder=stat.S_ISDIR(found.st_mode))


# To a container


def _copy_in(session: Session, source: End, target: End, flags: Flags, counted: _Counted) -> None:
    there = _find_target(session, target)
    if source.path == "-":
        if not there.is_folder:
            raise Failure(f'destination "{target.container}:{target.path}" must be a directory')
        pieces, folder = _read_stdin(), there.path
    else:
        pieces, folder = _pack(source.path, there, follow=flags.on("follow-link"))
    query = (("path", folder), ("noOverwriteDirNonDir", "true"), ("copyUIDGID", flags.on("archive")))
    session.send("PUT", format_target(_archive(target.container), query), body=counted.count(pieces)).read()


def _find_target(session: Session, target: End) -> Found:
    """A link at the end is followed, and what it leads to need not be there."""
    if not target.path:
        raise Failure("no such directory")
    path = target.path if target.path.startswith("/") else f"/{target.path}"
    found = _stat(session, target.container, path)
    if found and found["mode"] & _SYMLINK:
        path = found["linkTarget"]
        found = _stat(session, target.container, path)
    return Found(path, exists=bool(found), is_folder=bool(found and found["mode"] & _FOLDER))


def _pack(path: str, there: Found, *, follow: bool) -> tuple[Iterator[bytes], str]:
    real = os.path.realpath(path) if follow else path
    try:
        found = os.lstat(real)
    except OSError as error:
        raise Failure(f"lstat {os.path.abspath(path)}: {(error.strerror or '').lower()}") from None
    source = Found(real, exists=True, is_folder=stat.S_ISDIR(found.st_mode))
    inner = path.endswith("/.") or path == "."
    name = "." if inner else os.path.basename(os.path.abspath(path))
    folder, new = place(source, name, there)
    return load("cais.cli.copytar:pack")(real, new or name), folder


def _read_stdin() -> Iterator[bytes]:
    while piece := os.read(0, PIECE):
        yield piece


# The engine


def _archive(container: str) -> str:
    return f"/containers/{escape(container)}/archive"


def _stat(session: Session, container: str, path: str) -> Any:
    """What stands there; None if the engine finds nothing. What is wrong, the copy itself is told."""
    try:
        response = session.send("HEAD", _archive(container), (("path", path),))
    except Refused:
        return None
    response.read()
    return _read_stat(response.fields)


def _read_stat(fields: Any) -> Any:
    return parse_json(a2b_base64(fields[_STAT]))


CP = Command(
    "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n        cais cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files between a container and this machine",
    copy,
    flags=(
        ("archive", "a", "bool", "To a container: make everything its user's"),
        ("follow-link", "L", "bool", "Copy what a link leads to"),
        ("quiet", "q", "bool", "Do not say how much was copied"),
    ),
    least=2,
    most=2,
    example="cais cp web:/etc/nginx/. conf\ncais cp index.html web:/usr/share/nginx/html/",
)
