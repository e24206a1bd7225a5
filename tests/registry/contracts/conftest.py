"""The implementations that the contracts are run by. A new one is a class here and a name in a fixture's ``params``."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from cais.registry import catalog as sqlite
from cais.registry import schema
from cais.registry.base import Blobs
from cais.registry.database import Database
from cais.registry.files import FileBlobs
from cais.registry.records import Catalog
from cais.spec.digest import Digest


class BlobsKind(Protocol):
    """One implementation of ``Blobs``, with one place where it keeps things."""

    def open(self) -> Blobs:
        """As at the hub's start: what was there is there."""
        ...

    def spoil(self, digest: Digest) -> None:
        """What a bad disk does: one bit is another."""
        ...

    def age(self) -> None:
        """What a clock that jumped does: all that is there has times far in the past."""
        ...

    def crash(self) -> None:
        """What the machine's crash does: this is another boot than the one in which things were written."""
        ...

    def upload_count(self) -> int:
        """Uploads that take space."""
        ...


class Files:
    """``FileBlobs``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> FileBlobs:
        """See ``BlobsKind``."""
        return FileBlobs(self.root)

    def spoil(self, digest: Digest) -> None:
        """See ``BlobsKind``."""
        path = self.root / "content" / "blobs" / digest.algorithm / digest.hex
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)

    def age(self) -> None:
        """See ``BlobsKind``."""
        for path in self.root.rglob("*"):
            os.utime(path, (1, 1))

    def crash(self) -> None:
        """See ``BlobsKind``."""
        path = self.root / "content" / ".settled"
        if path.exists():
            path.write_text(f"another-boot {path.read_text().partition(' ')[2]}")

    def upload_count(self) -> int:
        """See ``BlobsKind``."""
        return len(list((self.root / "uploads").iterdir()))


@pytest.fixture(params=[Files])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> BlobsKind:
    """One implementation of ``Blobs``."""
    found: BlobsKind = request.param(tmp_path / "blobs")
    return found


@pytest.fixture
def blobs(kind: BlobsKind) -> Blobs:
    """It, opened."""
    return kind.open()


class SqliteCatalog:
    """``Catalog`` on a file, and what the hub's pages do to it past the contract."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(path, {"registry": schema.STEPS})
        self.catalog: Catalog = sqlite.SqliteCatalog(self._database)

    def reopen(self) -> Catalog:
        """As after the end of the hub and its next start."""
        self._database.close()
        self._database = Database(self._path, {"registry": schema.STEPS})
        self.catalog = sqlite.SqliteCatalog(self._database)
        return self.catalog

    def twice(self) -> Iterator[Catalog]:
        """As it is, and as it is after a restart."""
        yield self.catalog
        yield self.reopen()

    async def set_quota(self, namespace: str, size: int) -> None:
        """Bytes that the namespace may have."""
        sql = (
            "INSERT INTO namespaces (name, quota, created_ns) VALUES (?, ?, 0) "
            "ON CONFLICT (name) DO UPDATE SET quota = excluded.quota"
        )
        await self._database.write(lambda db: db.execute(sql, (namespace, size)))

    async def set_immutable(self, repository: str, patterns: str) -> None:
        """Tags of the repository that may not be moved: JSON of a list of patterns."""
        sql = "UPDATE repositories SET immutable = ? WHERE name = ?"
        await self._database.write(lambda db: db.execute(sql, (patterns, repository)))

    async def set_namespace_immutable(self, namespace: str, patterns: str) -> None:
        """The same for all repositories of a namespace."""
        sql = "INSERT INTO namespaces (name, immutable, created_ns) VALUES (?, ?, 0)"
        await self._database.write(lambda db: db.execute(sql, (namespace, patterns)))

    async def shift_times(self, nanoseconds: int) -> None:
        """What a clock that jumped leaves: every time on record is another."""
        for table, names in (
            ("repositories", ("created_ns", "updated_ns", "pulled_ns")),
            ("blobs", ("created_ns", "checked_ns")),
            ("manifests", ("pushed_ns", "pulled_ns")),
            ("tags", ("pushed_ns",)),
            ("events", ("at_ns",)),
        ):
            changes = ", ".join(f"{name} = {name} + {nanoseconds}" for name in names)
            await self._database.write(
                lambda db, table=table, changes=changes: db.execute(f"UPDATE {table} SET {changes}")
            )

    def events(self) -> list[tuple[Any, ...]]:
        """The audit log: action, repository, account, target and tag of each."""
        return self._database.read("SELECT action, repository, account, target, tag FROM events ORDER BY id")

    def size(self, repository: str) -> int:
        """Bytes that are counted as the repository's; -1: there is none."""
        row = self._database.read_one("SELECT size FROM repositories WHERE name = ?", repository)
        return int(row[0]) if row else -1

    def pulls(self, repository: str) -> int:
        """How often it was pulled."""
        row = self._database.read_one("SELECT pulls FROM repositories WHERE name = ?", repository)
        return int(row[0]) if row else -1

    def close(self) -> None:
        """Idempotent."""
        self._database.close()


@pytest.fixture(params=[SqliteCatalog])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteCatalog]:
    """One implementation of the catalog, empty."""
    opened = request.param(tmp_path / "records.db")
    yield opened
    opened.close()


@pytest.fixture
def catalog(records: SqliteCatalog) -> Catalog:
    """The catalog itself."""
    return records.catalog
