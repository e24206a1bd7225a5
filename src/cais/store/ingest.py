"""What waits in the content store for the next try: the bytes of blobs that are not whole, and what failed pulls had.

    ingest/<algorithm>-<hex>   the first bytes of a blob, as far as they came
    ingest/kept-<hex>          JSON: the digests that the pull of one name works with

Both are there while a pull runs and until it has succeeded, so they survive its failure and a ``kill -9`` of the
engine. Neither is trusted: the bytes are verified as a whole at the end, and a note keeps alive what is here, no more.
"""

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from cais.errors import CaisError, Invalid
from cais.spec.digest import Digest, parse_digest

KEEP_SECONDS = 24 * 3600.0
"""How long the bytes and whole blobs of a pull that did not end well wait for the next try."""
_NOTE = "kept-"


class Note(msgspec.Struct, frozen=True):
    """What the pull of ``name`` needs: blobs and diff_ids."""

    name: str
    digests: tuple[str, ...]


class Ingest:
    """``folder`` need not exist. One engine's; safe to use from its threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._open: set[Digest] = set()

    # Bytes

    def open(self, digest: Digest) -> BinaryIO | None:
        """The bytes of this blob that are here, to read and to append to, unbuffered; None if somebody has them open.

        Give them back with ``release``. Raises OSError.
        """
        with self._lock:
            if digest in self._open:
                return None
            self._folder.mkdir(mode=0o700, exist_ok=True)
            file = self.path(digest).open("a+b", buffering=0)
            self._open.add(digest)
            return file

    def release(self, digest: Digest) -> None:
        """Whoever had the bytes open has done with them. Idempotent."""
        with self._lock:
            self._open.discard(digest)

    def path(self, digest: Digest) -> Path:
        """Where the bytes are, or would be."""
        return self._folder / f"{digest.algorithm}-{digest.hex}"

    def blobs(self) -> list[Digest]:
        """The blobs of which some bytes are here."""
        found = []
        for name in self._names():
            with suppress(Invalid):
                found.append(parse_digest(name.replace("-", ":", 1)))
        return found

    def size(self) -> int:
        """Bytes of all of it."""
        return sum(_size(self.path(digest)) for digest in self.blobs())

    # Notes

    def note(self, name: str, digests: Iterable[Digest]) -> None:
        """Keep ``digests`` for the next try of the pull of ``name``, if this one does not end well. Raises OSError."""
        data = msgspec.json.encode(Note(name, tuple(sorted(map(str, digests)))))
        self._folder.mkdir(mode=0o700, exist_ok=True)
        temporary = self._folder / f".tmp-{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(data)
            temporary.rename(self._note_path(name))
        finally:
            temporary.unlink(missing_ok=True)

    def forget(self, name: str) -> None:
        """The pull of ``name`` has ended well. Idempotent."""
        self._note_path(name).unlink(missing_ok=True)

    def noted(self) -> set[Digest]:
        """Every digest in a note; a note that cannot be read keeps nothing."""
        found: set[Digest] = set()
        for name in self._names():
            if name.startswith(_NOTE):
                with suppress(CaisError, OSError, msgspec.MsgspecError):
                    note = msgspec.json.decode((self._folder / name).read_bytes(), type=Note)
                    found.update(map(parse_digest, note.digests))
        return found

    # Cleaning

    def clean(self, seconds: float = KEEP_SECONDS) -> int:
        """Remove what has not been touched for so long and is not open; the bytes freed."""
        before, freed = time.time() - seconds, 0
        with self._lock:
            taken = {self.path(digest).name for digest in self._open}
            for name in self._names():
                path = self._folder / name
                with suppress(FileNotFoundError):
                    if name not in taken and path.stat().st_mtime <= before:
                        freed += path.stat().st_size
                        path.unlink()
        return freed

    def sweep(self) -> None:
        """At the engine's start only: remove what an interrupted ``note`` left behind."""
        for path in self._folder.glob(".tmp-*"):
            path.unlink(missing_ok=True)

    def strays(self) -> list[Path]:
        """Files that are neither a blob's bytes nor a note."""
        known = {self.path(digest).name for digest in self.blobs()}
        names = (name for name in self._names() if name not in known and not name.startswith(_NOTE))
        return [self._folder / name for name in names]

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:
            return []

    def _note_path(self, name: str) -> Path:
        return self._folder / f"{_NOTE}{hashlib.sha256(name.encode()).hexdigest()}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
