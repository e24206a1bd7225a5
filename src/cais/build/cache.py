"""What builds have made before: by the key of a step, its layer and when it was made. Survives restarts.

    build/cache/<key>   JSON, written whole; the time of the file is when it was used last
    build/mounts/<id>   the folder of a cache mount
    build/explain/      what is noted of builds, see ``explain.store``
    build/tmp/<id>      what one running build works with; swept at the engine's start

A record promises nothing: who finds one looks whether the layer's blob is here. As long as there is one, no collection
takes the layer.
"""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cais.build.explain.store import NoteStore
from cais.errors import CaisError, Invalid
from cais.spec.descriptor import Descriptor
from cais.spec.digest import Digest, parse_digest
from cais.store.snapshots.tree import measure

_HEX = frozenset("0123456789abcdef")


class CacheRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step. Without ``diff_id`` it changed no file. ``digest`` and ``size`` of the layer's blob; ``title`` is what
    people see; ``uses`` how often it was found."""

    created_ns: int
    title: str = ""
    diff_id: str = ""
    digest: str = ""
    media_type: str = ""
    size: int = 0
    parent: str = ""
    uses: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a stage: unpacked name and blob."""

    diff_id: Digest
    blob: Descriptor


@dataclass(frozen=True, slots=True)
class Usage:
    """One record or cache mount, for people. Times are nanoseconds since the epoch, ``size`` bytes."""

    id: str
    kind: str
    title: str
    size: int
    created_ns: int
    used_ns: int
    uses: int
    parent: str = ""
    in_use: bool = False


class BuildCache:
    """One engine's; used on the event loop, each call short."""

    def __init__(self, root: Path) -> None:
        """``root``: the engine's root folder."""
        base = root / "build"
        self._records = base / "cache"
        self.mounts = base / "mounts"
        self._scratch = base / "tmp"
        self.notes = NoteStore(base / "explain")
        shutil.rmtree(self._scratch, ignore_errors=True)  # an earlier engine's
        for folder in (self._records, self.mounts, self._scratch):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known: dict[str, CacheRecord] = {}
        for name in os.listdir(self._records):
            self._load(name)
        self.busy: dict[str, int] = {}
        """Names of cache mounts that a step uses right now, and how many do."""

    def _load(self, name: str) -> None:
        path = self._records / name
        with suppress(FileNotFoundError):
            try:
                self._known[name] = _parse(path.read_bytes())
            except (msgspec.MsgspecError, CaisError):
                path.unlink()  # half a record: a crash of the machine, or a write that was killed

    def find(self, key: str) -> CacheRecord | None:
        """The record of a key, noted as used now."""
        record = self._known.get(key)
        if record is not None:
            with suppress(OSError):
                os.utime(self._records / key)
        return record

    def knows(self, key: str) -> bool:
        """Whether there is a record, without noting a use."""
        return key in self._known

    def put(self, key: str, record: CacheRecord) -> None:
        """Write a record, whole or not at all. Raises OSError."""
        temporary = self._records / f".tmp-{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(msgspec.json.encode(record))
            temporary.rename(self._records / key)
        finally:
            temporary.unlink(missing_ok=True)
        self._known[key] = record

    def count_use(self, key: str) -> None:
        """One more build has found it; kept in memory until the record is written again."""
        record = self._known.get(key)
        if record is not None:
            self._known[key] = msgspec.structs.replace(record, uses=record.uses + 1)

    def forget(self, key: str) -> None:
        """Idempotent."""
        self._known.pop(key, None)
        (self._records / key).unlink(missing_ok=True)

    def digests(self) -> set[Digest]:
        """Every blob and layer that a record names: what a collection must leave."""
        found: set[Digest] = set()
        for record in self._known.values():
            if record.diff_id:
                found.update((Digest(record.diff_id), Digest(record.digest)))
        return found

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for one build."""
        folder = self._scratch / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def mount_path(self, name: str) -> Path:
        """The folder of a cache mount; it may not be there yet."""
        return self.mounts / hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def usage(self) -> list[Usage]:
        """Everything there is, the newest use first."""
        found = [self._usage(key, record) for key, record in self._known.items()]
        for path in self.mounts.iterdir():
            status = path.stat()
            busy = path.name in self.busy
            size = measure(str(path))
            found.append(
                Usage(
                    path.name,
                    "exec.cachemount",
                    "cache mount",
                    size,
                    status.st_ctime_ns,
                    status.st_mtime_ns,
                    0,
                    in_use=busy,
                )
            )
        return sorted(found, key=lambda usage: usage.used_ns, reverse=True)

    def _usage(self, key: str, record: CacheRecord) -> Usage:
        try:
            used = (self._records / key).stat().st_mtime_ns
        except FileNotFoundError:
            used = record.created_ns
        return Usage(
            key[:25],
            "regular",
            record.title,
            record.size,
            record.created_ns,
            used,
            record.uses,
            record.parent[:25],
        )

    def prune(
        self,
        *,
        unused_since_ns: int = 0,
        keep_bytes: int = 0,
        wanted: Callable[[Usage], bool] = lambda usage: True,
    ) -> tuple[list[str], int]:
        """Forget what was not used since then (0: everything), the longest unused first, until no more than
        ``keep_bytes`` are left; the ids, and the bytes that were named. Only what is ``wanted``. What layers it held
        goes with the next collection. Cache mounts in use stay."""
        usages = self.usage()
        total = sum(usage.size for usage in usages)
        gone, freed = [], 0
        for usage in reversed(usages):
            if keep_bytes and total - freed <= keep_bytes:
                break
            if usage.in_use or (unused_since_ns and usage.used_ns >= unused_since_ns) or not wanted(usage):
                continue
            if usage.kind == "regular":
                self._forget_short(usage.id)
            else:
                shutil.rmtree(self.mounts / usage.id, ignore_errors=True)
            gone.append(usage.id)
            freed += usage.size
        if not keep_bytes:
            self.notes.forget(unused_since_ns)
        return gone, freed

    def _forget_short(self, id: str) -> None:
        for key in [key for key in self._known if key.startswith(id)]:
            self.forget(key)


def parse_usage_filter(texts: Sequence[str]) -> Callable[[Usage], bool]:
    """Filters of one usage as BuildKit's clients write them, all of which must hold: ``id==…``, ``type!=…``,
    ``description~=…`` (a part of the text), ``parents==…``, ``inuse``, ``shared``, ``private``, ``mutable``,
    ``immutable``; several in one text with commas between. Raises Invalid for any other: nothing goes that nobody
    meant."""
    tests = [_parse_test(part) for text in texts for part in text.split(",") if part]
    return lambda usage: all(test(usage) for test in tests)


def _parse_test(text: str) -> Callable[[Usage], bool]:
    flags: dict[str, Callable[[Usage], bool]] = {
        "inuse": lambda usage: usage.in_use,
        "shared": lambda usage: False,
        "private": lambda usage: True,
        "mutable": lambda usage: usage.kind == "exec.cachemount",
        "immutable": lambda usage: usage.kind != "exec.cachemount",
    }
    if text in flags:
        return flags[text]
    found = _TEST.fullmatch(text)
    if not found:
        known = ", ".join((*_VALUES, *flags))
        raise Invalid(f"unsupported filter {text!r}: this engine knows {known}")
    value_of, want = _VALUES[found[1]], found[3]
    if found[2] == "~=":
        if len(want) > 200:
            raise Invalid(f"unsupported filter {text[:50]!r}…: the pattern is too long")
        return lambda usage: want.lower() in value_of(usage).lower()
    if found[2] == "!=":
        return lambda usage: value_of(usage) != want
    return lambda usage: value_of(usage) == want


_VALUES: dict[str, Callable[[Usage], str]] = {
    "id": lambda usage: usage.id,
    "type": lambda usage: usage.kind,
    "description": lambda usage: usage.title,
    "parent": lambda usage: usage.parent,
    "parents": lambda usage: usage.parent,
}
_TEST = re.compile(r"(id|type|description|parents?)(==|=|!=|~=)(.*)", re.DOTALL)


def layer_of(record: CacheRecord) -> Layer | None:
    """The layer that a record names."""
    if not record.diff_id:
        return None
    blob = Descriptor(media_type=record.media_type, digest=Digest(record.digest), size=record.size)
    return Layer(Digest(record.diff_id), blob)


def _parse(data: bytes) -> CacheRecord:
    record = msgspec.json.decode(data, type=CacheRecord)
    if record.diff_id:
        parse_digest(record.diff_id)
        parse_digest(record.digest)
    return record
