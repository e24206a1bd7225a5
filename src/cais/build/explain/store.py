"""Where notes of builds are kept: the last ones of each thing that is built, within a budget.

    build/explain/<id>         JSON: the notes of one thing, the newest first; the file's time is that of its last build
    build/explain/files/<id>   msgpack: the files under one fingerprint; written once, whatever builds take them
    build/explain/salt         makes digests of hidden values this engine's own

Nothing here decides anything: what is lost, or cannot be written, costs a reason.
"""

import hashlib
import os
import secrets
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from cais.build.explain.notes import BuildNote, FileNote

KEPT = 3
"""Builds of one thing."""
LIMIT = 64 << 20
"""Bytes of all."""
_SALT = "salt"
_NOTES = msgspec.json.Decoder(list[BuildNote])
_FILES = msgspec.msgpack.Decoder(list[FileNote])


class NoteStore:
    """One engine's; calls are short, and may come from any thread."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder = folder
        self._files = folder / "files"
        self._limit = limit
        self._written = limit  # look at the first chance
        self._salt = b""

    @property
    def salt(self) -> bytes:
        """The engine's own. Raises OSError."""
        if not self._salt:
            path = self._folder / _SALT
            with suppress(FileNotFoundError):
                self._salt = path.read_bytes()
            if len(self._salt) != 32:
                self._write(path, secrets.token_bytes(32))
                self._salt = path.read_bytes()
        return self._salt

    def find(self, names: Sequence[str]) -> list[BuildNote]:
        """The notes of the thing that goes by one of these names, of the one that was built last; none if there are
        none, or if they make no sense."""
        newest, found = 0, b""
        for name in names:
            path = self._path(name)
            with suppress(OSError):
                time = path.stat().st_mtime_ns
                if time > newest:
                    newest, found = time, path.read_bytes()
        try:
            notes = _NOTES.decode(found) if found else []
        except (msgspec.MsgspecError, UnicodeError):
            return []
        return [msgspec.structs.replace(notes[0], at_ns=newest), *notes[1:]] if notes else []

    def touch(self, names: Sequence[str]) -> None:
        """The same was built again, now."""
        for name in names:
            with suppress(OSError):
                os.utime(self._path(name))

    def put(self, names: Sequence[str], note: BuildNote, before: Sequence[BuildNote]) -> None:
        """Note a build, whole or not at all; ``before``: what ``find`` gave. Raises OSError."""
        data = msgspec.json.encode([note, *before][:KEPT])
        for name in names:
            self._write(self._path(name), data)
        for step in note.steps():
            for print_ in step.takes.values():
                with suppress(OSError):
                    os.utime(self._files / print_)
        if self._written >= self._limit // 8:
            self.sweep()

    def has_files(self, fingerprint: str) -> bool:
        """Whether the files under this are noted."""
        return (self._files / fingerprint).exists()

    def put_files(self, fingerprint: str, files: Sequence[FileNote]) -> None:
        """Note them. Raises OSError."""
        self._write(self._files / fingerprint, msgspec.msgpack.encode(files))

    def find_files(self, fingerprint: str) -> list[FileNote] | None:
        """See ``compare.Files``."""
        try:
            return _FILES.decode((self._files / fingerprint).read_bytes())
        except (OSError, msgspec.MsgspecError):
            return None

    def sweep(self) -> None:
        """Keep to the limit: what was used longest ago goes, down to three quarters of it. Raises OSError."""
        self._written = 0
        found = []
        for folder in (self._folder, self._files):
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False) and entry.name != _SALT:
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        if total <= self._limit:
            return
        for _, size, path in sorted(found):
            if total <= self._limit * 3 // 4:
                break
            Path(path).unlink(missing_ok=True)
            total -= size

    def forget(self, unused_since_ns: int = 0) -> None:
        """Remove what was not used since then; 0: everything but the notes themselves, which are small: the next build
        is to say that records were pruned."""
        if not unused_since_ns:
            shutil.rmtree(self._files, ignore_errors=True)
            return
        for folder in (self._folder, self._files):
            for path in folder.glob("*"):
                with suppress(OSError):
                    if path.is_file() and path.name != _SALT and path.stat().st_mtime_ns < unused_since_ns:
                        path.unlink()

    def _path(self, name: str) -> Path:
        data = name.encode("utf-8", "surrogatepass")
        return self._folder / hashlib.sha256(data).hexdigest()[:40]

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        half = path.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            with open(half, "xb", opener=_private) as file:
                file.write(data)
            half.rename(path)
        finally:
            half.unlink(missing_ok=True)
        self._written += len(data)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
