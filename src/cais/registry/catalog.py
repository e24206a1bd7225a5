"""What the registry has on record, in SQLite: repositories, blobs, manifests, tags; and what makes a link live.

Garbage is found by generations, not by clocks, so that a clock that jumps cannot make an upload look old. A link from a
repository to a blob carries the generation in which it was last asked for; the collector drops a link only when no
manifest of the repository names the blob and two generations have begun since. Between two beginnings at least the
grace period passes by the monotonic clock. So it is with manifests, where those that no tag keeps are garbage.
"""

import fnmatch
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from cais.errors import AlreadyExists, Conflict, NotFound
from cais.registry.base import Document, Event, ManifestRecord, TagRecord
from cais.registry.database import Database
from cais.registry.refusal import Refusal
from cais.spec.digest import Digest

ROOT_NAMESPACE = "library"
"""The namespace of repositories whose name has one part."""
_FIELDS = "m.digest, m.media_type, m.size, m.total, m.artifact_type, m.config, m.subject, m.annotations, m.pushed_ns"


def namespace_of(repository: str) -> str:
    """The namespace a repository belongs to: the first part of its name."""
    first, slash, _ = repository.partition("/")
    return first if slash else ROOT_NAMESPACE


class SqliteCatalog:
    """See ``records.Catalog``. Reads are on the event loop, by indexes."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # Reading

    async def has_repository(self, name: str) -> bool:
        """See ``records.Catalog``."""
        return self._db.read_one("SELECT 1 FROM repositories WHERE name = ?", name) is not None

    async def find_blob(self, repository: str, digest: Digest) -> int | None:
        """See ``records.Catalog``."""
        row = self._db.read_one(
            "SELECT b.size FROM repositories r JOIN links l ON l.repository = r.id AND l.digest = ? "
            "JOIN blobs b ON b.digest = l.digest WHERE r.name = ? AND NOT b.damaged",
            digest,
            repository,
        )
        return row[0] if row else None

    async def find_manifest(self, repository: str, ref: Digest | str) -> ManifestRecord | None:
        """See ``records.Catalog``."""
        if isinstance(ref, Digest):
            row = self._db.read_one(
                f"SELECT {_FIELDS} FROM repositories r JOIN manifests m ON m.repository = r.id AND m.digest = ? "
                "WHERE r.name = ?",
                ref,
                repository,
            )
        else:
            row = self._db.read_one(
                f"SELECT {_FIELDS} FROM repositories r JOIN tags t ON t.repository = r.id AND t.name = ? "
                "JOIN manifests m ON m.repository = r.id AND m.digest = t.digest WHERE r.name = ?",
                ref,
                repository,
            )
        return _manifest(row) if row else None

    async def list_repositories(self, after: str, count: int) -> list[str]:
        """See ``records.Catalog``."""
        rows = self._db.read(
            "SELECT name FROM repositories WHERE name > ? ORDER BY name LIMIT ?", after, count
        )
        return [name for (name,) in rows]

    async def list_tags(self, repository: str, after: str, count: int) -> list[TagRecord]:
        """See ``records.Catalog``."""
        id = self._id(repository)
        rows = self._db.read(
            "SELECT name, digest, pushed_ns FROM tags WHERE repository = ? AND name > ? ORDER BY name LIMIT ?",
            id,
            after,
            count,
        )
        return [TagRecord(name, Digest(digest), pushed) for name, digest, pushed in rows]

    async def list_referrers(
        self, repository: str, subject: Digest, after: str, count: int, artifact_type: str = ""
    ) -> list[ManifestRecord]:
        """See ``records.Catalog``."""
        rows = self._db.read(
            f"SELECT {_FIELDS} FROM repositories r JOIN manifests m ON m.repository = r.id AND m.subject = ? "
            "AND m.digest > ? WHERE r.name = ? AND (? = '' OR m.artifact_type = ?) ORDER BY m.digest LIMIT ?",
            subject,
            after,
            repository,
            artifact_type,
            artifact_type,
            count,
        )
        return [_manifest(row) for row in rows]

    async def list_parents(self, repository: str, digest: Digest) -> list[Digest]:
        """See ``records.Catalog``."""
        rows = self._db.read(
            "SELECT e.manifest FROM repositories r JOIN edges e ON e.repository = r.id AND e.digest = ? "
            "WHERE r.name = ? LIMIT 3",
            digest,
            repository,
        )
        return [Digest(manifest) for (manifest,) in rows]

    async def find_holder(self, prefix: str, digest: Digest) -> str | None:
        """See ``records.Catalog``."""
        row = self._db.read_one(
            "SELECT r.name FROM links l JOIN blobs b ON b.digest = l.digest AND NOT b.damaged "
            "JOIN repositories r ON r.id = l.repository WHERE l.digest = ? AND substr(r.name, 1, ?) = ?",
            digest,
            len(prefix),
            prefix,
        )
        return row[0] if row else None

    async def generation(self) -> int:
        """See ``records.Catalog``."""
        return _generation(self._db.read_one)

    def _id(self, repository: str) -> int:
        row = self._db.read_one("SELECT id FROM repositories WHERE name = ?", repository)
        if row is None:
            raise NotFound(f"no such repository: {repository}")
        return int(row[0])

    # Writing

    async def link_blob(self, repository: str, digest: Digest, size: int) -> None:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> None:
            id = _ensure_repository(db, repository)
            db.execute(
                "INSERT INTO blobs (digest, size, created_ns) VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE SET "
                "damaged = 0",
                (digest, size, time.time_ns()),
            )
            _link(db, id, digest)
            _check_quota(db, repository)

        await self._db.write(act)

    async def mount_blob(self, repository: str, source: str, digest: Digest) -> bool:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> bool:
            found = db.execute(
                "SELECT 1 FROM repositories r JOIN links l ON l.repository = r.id AND l.digest = ? "
                "JOIN blobs b ON b.digest = l.digest AND NOT b.damaged WHERE r.name = ?",
                (digest, source),
            ).fetchone()
            if not found:
                return False
            _link(db, _ensure_repository(db, repository), digest)
            _check_quota(db, repository)
            return True

        return await self._db.write(act)

    async def touch_blob(self, repository: str, digest: Digest) -> bool:
        """See ``records.Catalog``."""

        return await self._db.write(lambda db: _touch(db, "links", repository, digest))

    async def touch_manifest(self, repository: str, digest: Digest) -> bool:
        """See ``records.Catalog``."""
        return await self._db.write(lambda db: _touch(db, "manifests", repository, digest))

    async def put_manifest(
        self,
        repository: str,
        document: Document,
        tags: Sequence[str],
        event: Event,
        *,
        is_partial: bool = False,
    ) -> None:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> None:
            id = _ensure_repository(db, repository)
            now = time.time_ns()
            if not is_partial:
                _check_parts(db, id, document)
            _insert_manifest(db, id, document, now)
            for tag in tags:
                _set_tag(db, id, repository, tag, document.digest, now)
            db.execute("UPDATE repositories SET updated_ns = ? WHERE id = ?", (now, id))
            _check_quota(db, repository)
            note(db, event)

        await self._db.write(act, durable=True)

    async def delete_tag(self, repository: str, tag: str, event: Event) -> None:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> None:
            id = _find_repository(db, repository)
            _check_mutable(db, repository, tag)
            if not db.execute("DELETE FROM tags WHERE repository = ? AND name = ?", (id, tag)).rowcount:
                raise Refusal("MANIFEST_UNKNOWN", f"no such tag: {repository}:{tag}")
            note(db, event)

        await self._db.write(act, durable=True)

    async def delete_manifest(self, repository: str, digest: Digest, event: Event) -> None:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> None:
            id = _find_repository(db, repository)
            for (tag,) in db.execute(
                "SELECT name FROM tags WHERE repository = ? AND digest = ?", (id, digest)
            ):
                _check_mutable(db, repository, tag)
            remove_manifest(db, id, repository, digest)
            note(db, event)

        await self._db.write(act, durable=True)

    async def delete_blob(self, repository: str, digest: Digest, event: Event) -> None:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> None:
            id = _find_repository(db, repository)
            user = db.execute(
                "SELECT manifest FROM edges WHERE repository = ? AND digest = ?", (id, digest)
            ).fetchone()
            if user:
                raise Conflict(f"blob {digest} is part of manifest {user[0]}: delete that first")
            if not db.execute("DELETE FROM links WHERE repository = ? AND digest = ?", (id, digest)).rowcount:
                raise Refusal("BLOB_UNKNOWN", f"no such blob in {repository}: {digest}")
            note(db, event)

        await self._db.write(act)

    async def delete_repository(self, repository: str, event: Event) -> None:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> None:
            id = _find_repository(db, repository)
            db.execute("DELETE FROM links WHERE repository = ?", (id,))
            db.execute("DELETE FROM manifests WHERE repository = ?", (id,))
            db.execute("DELETE FROM repositories WHERE id = ?", (id,))
            note(db, event)

        await self._db.write(act, durable=True)

    async def note_pulls(self, counts: dict[str, int], pulled: dict[tuple[str, Digest], int]) -> None:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> None:
            now = time.time_ns()
            day = now // 86_400_000_000_000
            for name, count in counts.items():
                row = db.execute("SELECT id FROM repositories WHERE name = ?", (name,)).fetchone()
                if row is None:
                    continue
                db.execute(
                    "UPDATE repositories SET pulls = pulls + ?, pulled_ns = ? WHERE id = ?",
                    (count, now, row[0]),
                )
                db.execute(
                    "INSERT INTO pulls VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                    (row[0], day, count),
                )
            for (name, digest), at_ns in pulled.items():
                db.execute(
                    "UPDATE manifests SET pulled_ns = ? WHERE digest = ? AND repository = "
                    "(SELECT id FROM repositories WHERE name = ?)",
                    (at_ns, digest, name),
                )

        await self._db.write(act)

    async def add_event(self, event: Event) -> None:
        """See ``records.Catalog``."""
        await self._db.write(lambda db: note(db, event))

    # Collecting

    async def advance(self) -> int:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> int:
            db.execute("UPDATE counters SET value = value + 1 WHERE name = 'generation'")
            return _generation(_one(db))

        return await self._db.write(act)

    async def drop_untagged(self, limit: int) -> int:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> int:
            rows = db.execute(
                "SELECT m.repository, m.digest FROM manifests m WHERE m.generation < ? "
                "AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repository = m.repository AND t.digest = m.digest) "
                "AND NOT EXISTS (SELECT 1 FROM edges e WHERE e.repository = m.repository AND e.digest = m.digest) "
                "AND (m.subject = '' OR NOT EXISTS (SELECT 1 FROM manifests s WHERE s.repository = m.repository "
                "AND s.digest = m.subject)) LIMIT ?",
                (_generation(_one(db)) - 1, limit),
            ).fetchall()
            db.executemany("DELETE FROM manifests WHERE repository = ? AND digest = ?", rows)
            return len(rows)

        return await self._db.write(act)

    async def drop_links(self, limit: int) -> int:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> int:
            rows = db.execute(
                "SELECT l.repository, l.digest FROM links l WHERE l.generation < ? AND NOT EXISTS "
                "(SELECT 1 FROM edges e WHERE e.repository = l.repository AND e.digest = l.digest) LIMIT ?",
                (_generation(_one(db)) - 1, limit),
            ).fetchall()
            db.executemany("DELETE FROM links WHERE repository = ? AND digest = ?", rows)
            return len(rows)

        return await self._db.write(act)

    async def drop_blobs(self, limit: int) -> list[Digest]:
        """See ``records.Catalog``."""

        def act(db: sqlite3.Connection) -> list[Digest]:
            rows = db.execute(
                "SELECT digest FROM blobs b WHERE NOT EXISTS (SELECT 1 FROM links l WHERE l.digest = b.digest) "
                "AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = b.digest) LIMIT ?",
                (limit,),
            ).fetchall()
            db.executemany("DELETE FROM blobs WHERE digest = ?", rows)
            return [Digest(digest) for (digest,) in rows]

        return await self._db.write(act)

    async def is_known(self, digest: Digest) -> bool:
        """See ``records.Catalog``."""
        return self._db.read_one("SELECT 1 FROM blobs WHERE digest = ?", digest) is not None

    # Scrubbing

    async def oldest_checked(self, before_ns: int, count: int) -> list[Digest]:
        """See ``records.Catalog``."""
        # Those of a time to come first: a clock that went wrong and was set right would spare them until then.
        rows = self._db.read("SELECT digest FROM blobs WHERE checked_ns > ? LIMIT ?", time.time_ns(), count)
        rows += self._db.read(
            "SELECT digest FROM blobs WHERE checked_ns < ? ORDER BY checked_ns LIMIT ?",
            before_ns,
            count - len(rows),
        )
        return [Digest(digest) for (digest,) in rows]

    async def note_checked(self, digest: Digest, *, damaged: bool) -> None:
        """See ``records.Catalog``."""
        await self._db.write(
            lambda db: db.execute(
                "UPDATE blobs SET checked_ns = ?, damaged = ? WHERE digest = ?",
                (time.time_ns(), damaged, digest),
            )
        )

    async def note_lost(self, digests: Iterable[Digest]) -> None:
        """See ``records.Catalog``."""
        rows = [(digest,) for digest in digests]
        await self._db.write(lambda db: db.executemany("UPDATE blobs SET damaged = 1 WHERE digest = ?", rows))

    async def list_damaged(self) -> list[tuple[Digest, str]]:
        """See ``records.Catalog``."""
        rows = self._db.read(
            "SELECT b.digest, r.name FROM blobs b LEFT JOIN links l ON l.digest = b.digest "
            "LEFT JOIN manifests m ON m.digest = b.digest "
            "LEFT JOIN repositories r ON r.id = COALESCE(l.repository, m.repository) WHERE b.damaged"
        )
        return [(Digest(digest), name or "") for digest, name in rows]


# Acts inside of a transaction


def note(db: sqlite3.Connection, event: Event) -> None:
    """Add to the audit log."""
    db.execute(
        "INSERT INTO events (at_ns, action, repository, account, address, target, tag, detail) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            event.at_ns or time.time_ns(),
            event.action,
            event.repository,
            event.account,
            event.address,
            event.target,
            event.tag,
            event.detail,
        ),
    )


def remove_manifest(db: sqlite3.Connection, id: int, repository: str, digest: str) -> None:
    """With its tags and edges. Raises Refusal MANIFEST_UNKNOWN, Conflict."""
    parent = db.execute(
        "SELECT manifest FROM edges WHERE repository = ? AND digest = ?", (id, digest)
    ).fetchone()
    if parent:
        raise Conflict(f"manifest {digest} is part of index {parent[0]}: delete that first")
    found = db.execute("DELETE FROM manifests WHERE repository = ? AND digest = ?", (id, digest))
    if not found.rowcount:
        raise Refusal("MANIFEST_UNKNOWN", f"no such manifest in {repository}: {digest}")


def _insert_manifest(db: sqlite3.Connection, id: int, document: Document, now: int) -> None:
    db.execute(
        "INSERT INTO blobs (digest, size, created_ns) VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE SET damaged = 0",
        (document.digest, len(document.data), now),
    )
    parts = {str(digest) for digest, _ in document.blobs} | set(map(str, document.manifests))
    total = _total(db, id, document)
    db.execute(
        "INSERT INTO manifests (repository, digest, media_type, size, total, artifact_type, config, subject, "
        "annotations, pushed_ns, generation) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "media_type = excluded.media_type, pushed_ns = excluded.pushed_ns, generation = excluded.generation",
        (
            id,
            document.digest,
            document.media_type,
            len(document.data),
            total,
            document.artifact_type,
            document.config or "",
            document.subject or "",
            msgspec.json.encode(document.annotations).decode(),
            now,
            _generation(_one(db)),
        ),
    )
    db.executemany(
        "INSERT OR IGNORE INTO edges VALUES (?, ?, ?)", [(id, part, document.digest) for part in parts]
    )


def _total(db: sqlite3.Connection, id: int, document: Document) -> int:
    """Bytes to pull: each blob once; of an index, those of all its manifests."""
    total = sum(dict(document.blobs).values())
    for digest in set(document.manifests):
        row = db.execute(
            "SELECT total FROM manifests WHERE repository = ? AND digest = ?", (id, digest)
        ).fetchone()
        total += row[0] if row else 0
    return total


def _check_parts(db: sqlite3.Connection, id: int, document: Document) -> None:
    """All that it names is here, and as large as it says."""
    for digest, size in document.blobs:
        row = db.execute(
            "SELECT b.size FROM links l JOIN blobs b USING (digest) WHERE l.repository = ? AND l.digest = ? "
            "AND NOT b.damaged",
            (id, digest),
        ).fetchone()
        if row is None:
            raise Refusal(
                "MANIFEST_BLOB_UNKNOWN",
                f"the manifest names blob {digest}, which the repository does not have: push it first",
                detail={"digest": digest},
            )
        if row[0] != size:
            raise Refusal(
                "SIZE_INVALID", f"the manifest says that {digest} has {size} bytes, but it has {row[0]}"
            )
    for digest in document.manifests:
        if not db.execute(
            "SELECT 1 FROM manifests WHERE repository = ? AND digest = ?", (id, digest)
        ).fetchone():
            raise Refusal(
                "MANIFEST_BLOB_UNKNOWN",
                f"the index names manifest {digest}, which the repository does not have: push it first",
                detail={"digest": digest},
            )


def _set_tag(db: sqlite3.Connection, id: int, repository: str, tag: str, digest: str, now: int) -> None:
    old = db.execute("SELECT digest FROM tags WHERE repository = ? AND name = ?", (id, tag)).fetchone()
    if old and old[0] != digest:
        _check_mutable(db, repository, tag)
    db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?)", (id, tag, digest, now))


def _check_mutable(db: sqlite3.Connection, repository: str, tag: str) -> None:
    rows = db.execute(
        "SELECT r.immutable, COALESCE(n.immutable, '[]') FROM repositories r LEFT JOIN namespaces n "
        "ON n.name = r.namespace WHERE r.name = ?",
        (repository,),
    ).fetchone()
    for pattern in [p for text in rows or () for p in msgspec.json.decode(text)]:
        if fnmatch.fnmatchcase(tag, pattern):
            raise AlreadyExists(
                f"tag {repository}:{tag} may not be changed: it matches {pattern!r}, which is immutable"
            )


def _check_quota(db: sqlite3.Connection, repository: str) -> None:
    namespace = namespace_of(repository)
    row = db.execute("SELECT quota FROM namespaces WHERE name = ?", (namespace,)).fetchone()
    if not row or not row[0]:
        return
    (used,) = db.execute("SELECT SUM(size) FROM repositories WHERE namespace = ?", (namespace,)).fetchone()
    if used > row[0]:
        raise Refusal(
            "DENIED",
            f"namespace {namespace} may have {row[0]} bytes and would have {used}: delete images or ask for more",
        )


def _ensure_repository(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT id FROM repositories WHERE name = ?", (name,)).fetchone()
    if row:
        return int(row[0])
    now = time.time_ns()
    namespace = namespace_of(name)
    made = db.execute(
        "INSERT INTO repositories (name, namespace, private, created_ns, updated_ns) VALUES (?, ?, "
        "COALESCE((SELECT private FROM namespaces WHERE name = ?), 0), ?, ?)",
        (name, namespace, namespace, now, now),
    )
    return int(made.lastrowid or 0)


def _find_repository(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT id FROM repositories WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NotFound(f"no such repository: {name}")
    return int(row[0])


def _link(db: sqlite3.Connection, id: int, digest: str) -> None:
    db.execute(
        "INSERT INTO links VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET generation = excluded.generation",
        (id, digest, _generation(_one(db))),
    )


def _touch(db: sqlite3.Connection, table: str, repository: str, digest: str) -> bool:
    """Move a row of ``links`` or ``manifests`` to this generation. False: there is none."""
    changed = db.execute(
        f"UPDATE {table} SET generation = ? WHERE digest = ? AND repository = "
        "(SELECT id FROM repositories WHERE name = ?)",
        (_generation(_one(db)), digest, repository),
    )
    return changed.rowcount > 0


def _one(db: sqlite3.Connection) -> Callable[[str], Any]:
    return lambda sql: db.execute(sql).fetchone()


def _generation(read_one: Callable[[str], Any]) -> int:
    return int(read_one("SELECT value FROM counters WHERE name = 'generation'")[0])


def _manifest(row: Iterable[Any]) -> ManifestRecord:
    digest, media_type, size, total, artifact_type, config, subject, annotations, pushed_ns = row
    return ManifestRecord(
        digest=Digest(digest),
        media_type=media_type,
        size=size,
        total=total,
        artifact_type=artifact_type,
        config=config,
        subject=subject,
        annotations=msgspec.json.decode(annotations),
        pushed_ns=pushed_ns,
    )
