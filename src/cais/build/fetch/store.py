"""What was fetched by URL before: kept with what servers need to say that it is still the same.

    build/fetched/<id>.json     one URL: JSON, written whole; the time of the file is when it was used last
    build/fetched/<id>.<hex>    its bytes, by their SHA-256

``<id>`` is a digest of the URL, so that what is secret in one is not on disk.
"""

import hashlib
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path

import msgspec

from cais.build.cache import Usage

_NAME = re.compile(r"([0-9a-f]{32})\.(?:json|[0-9a-f]{64})")


class Fetched(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file. ``url`` as it may be shown; ``digest``: SHA-256 in hexadecimal; ``etag`` and ``last_modified`` as the
    server gave them; ``name`` as its Content-Disposition has it; ``mtime`` seconds."""

    url: str
    digest: str
    size: int
    etag: str = ""
    last_modified: str = ""
    name: str = ""
    mtime: int = 0
    created_ns: int = 0

    @property
    def can_be_asked_for(self) -> bool:
        """The server can be asked whether it has changed."""
        return bool(self.etag or self.last_modified)


class Body(msgspec.Struct, frozen=True):
    """A file in the store, and what is known of it."""

    facts: Fetched
    path: Path

    @property
    def id(self) -> str:
        """Its URL's name in the store."""
        return self.path.name.partition(".")[0]


class FetchedStore:
    """One engine's; each call is short."""

    def __init__(self, root: Path) -> None:
        """``root``: the engine's root folder."""
        self._folder = root / "build" / "fetched"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known: dict[str, Fetched] = {}
        for path in self._folder.iterdir():
            if path.suffix == ".json" and _NAME.fullmatch(path.name):
                with suppress(msgspec.MsgspecError):
                    self._known[path.stem] = msgspec.json.decode(path.read_bytes(), type=Fetched)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what belongs to no record: half of a download, a body that another one replaced."""
        wanted = {f"{id}.json" for id in self._known}
        wanted |= {self._body(id, facts).name for id, facts in self._known.items()}
        for path in self._folder.iterdir():
            if path.name not in wanted:
                path.unlink()

    def _body(self, id: str, facts: Fetched) -> Path:
        return self._folder / f"{id}.{facts.digest}"

    def temporary(self) -> Path:
        """A name for a download that goes on."""
        return self._folder / f".tmp-{uuid.uuid4().hex}"

    def find(self, url: str) -> Body | None:
        """What was fetched from ``url`` last, if its bytes are still there."""
        return self._find(id_of(url))

    def _find(self, id: str) -> Body | None:
        facts = self._known.get(id)
        if facts is None:
            return None
        path = self._body(id, facts)
        try:
            whole = path.stat().st_size == facts.size
        except FileNotFoundError:
            whole = False
        if not whole:
            self._forget(id)
            return None
        with suppress(OSError):
            os.utime(self._folder / f"{id}.json")
        return Body(facts, path)

    def find_digest(self, digest: str) -> Body | None:
        """Any file with this SHA-256."""
        for id, facts in list(self._known.items()):
            if facts.digest == digest and (body := self._find(id)):
                return body
        return None

    def put(self, url: str, facts: Fetched, temporary: Path) -> Body:
        """Keep the download at ``temporary``; what was there of this URL goes. Raises OSError."""
        id = id_of(url)
        path = self._body(id, facts)
        temporary.rename(path)
        record = self._folder / f"{id}.json"
        half = self.temporary()
        try:
            half.write_bytes(msgspec.json.encode(facts))
            half.rename(record)
        finally:
            half.unlink(missing_ok=True)
        old = self._known.get(id)
        self._known[id] = facts
        if old is not None and old.digest != facts.digest:
            self._body(id, old).unlink(missing_ok=True)
        return Body(facts, path)

    def take(self, body: Body, target: Path) -> None:
        """Give the file another name, where it stays when it is forgotten here. Raises OSError."""
        os.link(body.path, target)

    def _forget(self, id: str) -> int:
        facts = self._known.pop(id, None)
        (self._folder / f"{id}.json").unlink(missing_ok=True)
        if facts is None:
            return 0
        self._body(id, facts).unlink(missing_ok=True)
        return facts.size

    def forget(self, id: str) -> int:
        """The bytes that it had. Idempotent."""
        return self._forget(id) if id in self._known else 0

    def usage(self) -> list[Usage]:
        """Everything there is."""
        found = []
        for id, facts in self._known.items():
            try:
                used = (self._folder / f"{id}.json").stat().st_mtime_ns
            except FileNotFoundError:
                used = facts.created_ns
            found.append(Usage(id, "regular", f"http url {facts.url}", facts.size, facts.created_ns, used, 0))
        return found


def id_of(url: str) -> str:
    """The name of a URL in the store."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:32]
