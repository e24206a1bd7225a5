"""Finding repositories: as one types, by popularity, by labels; never one that the caller may not know of."""

import sqlite3
from collections.abc import Sequence

import msgspec

from cais.errors import CaisError
from cais.registry.base import Caller, Document
from cais.registry.database import Database
from cais.registry.registry import Registry
from cais.spec.image import parse_image_config

CANDIDATES = 1000
"""Matches that are ranked: of a word that is everywhere, not all."""
MAX_QUERY = 100
_FIELDS = ", ".join(
    f"r.{column}"
    for column in (
        *("name", "namespace", "private", "description", "labels", "size", "pulls"),
        *("updated_ns", "pulled_ns", "created_ns"),
    )
)
_SHORT = "substr(r.name, instr(r.name, '/') + 1)"
_LABELS = 4096
_CONFIG = 1 << 20
_DESCRIPTION = "org.opencontainers.image.description"


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """What a list shows of a repository; times in nanoseconds since the epoch, 0: never."""

    name: str
    namespace: str
    private: bool
    description: str
    labels: str
    size: int
    pulls: int
    updated_ns: int
    pulled_ns: int
    created_ns: int


class Search:
    """Reads only; each call is a few milliseconds with a hundred thousand repositories."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def search(self, text: str, caller: Caller, count: int = 25, offset: int = 0) -> list[Repository]:
        """Repositories whose name, description or labels have every word of ``text``; those whose name begins with it
        first, then the most pulled."""
        words = text.lower()[:MAX_QUERY].split()
        if not words:
            return self.popular(caller, count, offset)
        allowed, values = _visible(caller)
        start = words[0] if len(words) == 1 else ""
        candidates = self._candidates(words)
        # Ranked in an index that has all it takes: reading a thousand whole rows would take twenty times as long.
        ranked = (
            f"SELECT r.id FROM repositories r INDEXED BY repositories_rank WHERE r.id IN ({_marks(candidates)}) "
            f"AND {allowed} ORDER BY (r.name = ?) DESC, ({_SHORT} = ?) DESC, "
            f"(substr({_SHORT}, 1, ?) = ?) DESC, r.pulls DESC, r.name LIMIT ? OFFSET ?"
        )
        found = self._db.read(
            ranked, *candidates, *values, start, start, len(start) or -1, start, count, offset
        )
        ids = [id for (id,) in found]
        rows = self._db.read(
            f"SELECT r.id, {_FIELDS} FROM repositories r WHERE r.id IN ({_marks(ids)})", *ids
        )
        by_id = {row[0]: _repository(row[1:]) for row in rows}
        return [by_id[id] for id in ids]

    def count(self, text: str, caller: Caller) -> int:
        """How many ``search`` finds altogether; of more than it ranks, those that it ranks."""
        words = text.lower()[:MAX_QUERY].split()
        if not words:
            return self._count("SELECT COUNT(*) FROM repositories r WHERE r.private = 0")
        allowed, values = _visible(caller)
        candidates = self._candidates(words)
        return self._count(
            "SELECT COUNT(*) FROM repositories r INDEXED BY repositories_rank "
            f"WHERE r.id IN ({_marks(candidates)}) AND {allowed}",
            *candidates,
            *values,
        )

    def count_in_namespace(self, namespace: str, caller: Caller) -> int:
        """How many ``in_namespace`` finds altogether."""
        allowed, values = _visible(caller)
        return self._count(
            f"SELECT COUNT(*) FROM repositories r WHERE r.namespace = ? AND {allowed}", namespace, *values
        )

    def _count(self, sql: str, *values: object) -> int:
        row = self._db.read_one(sql, *values)
        return int(row[0]) if row else 0

    def _candidates(self, words: Sequence[str]) -> list[int]:
        """Ids by the beginning of the name, and by what stands anywhere in name, description or labels."""
        found: dict[int, None] = {}
        if len(words) == 1:
            word = words[0]
            for column in ("name", "short"):
                rows = self._db.read(
                    f"SELECT id FROM repositories WHERE {column} >= ? AND {column} < ? ORDER BY {column} LIMIT ?",
                    word,
                    word + "\U0010ffff",
                    CANDIDATES // 2,
                )
                found.update((id, None) for (id,) in rows)
        long = [word.replace('"', '""') for word in words if len(word) >= 3]
        if long:
            query = " ".join(f'"{word}"' for word in long)
            rows = self._db.read("SELECT rowid FROM found WHERE found MATCH ? LIMIT ?", query, CANDIDATES)
            found.update((id, None) for (id,) in rows)
        return list(found)[: 2 * CANDIDATES]

    def popular(self, caller: Caller, count: int = 12, offset: int = 0) -> list[Repository]:
        """The most pulled public repositories."""
        rows = self._db.read(
            f"SELECT {_FIELDS} FROM repositories r WHERE r.private = 0 ORDER BY r.pulls DESC LIMIT ? OFFSET ?",
            count,
            offset,
        )
        return list(map(_repository, rows))

    def find(self, name: str) -> Repository | None:
        """One repository; whether the caller may see it, the gate says."""
        row = self._db.read_one(f"SELECT {_FIELDS} FROM repositories r WHERE r.name = ?", name)
        return _repository(row) if row else None

    def in_namespace(
        self, namespace: str, caller: Caller, after: str = "", count: int = 100
    ) -> list[Repository]:
        """Those of a namespace that the caller may know of, by name."""
        allowed, values = _visible(caller)
        rows = self._db.read(
            f"SELECT {_FIELDS} FROM repositories r WHERE r.namespace = ? AND r.name > ? AND {allowed} "
            "ORDER BY r.name LIMIT ?",
            namespace,
            after,
            *values,
            count,
        )
        return list(map(_repository, rows))

    def pulls_by_day(self, name: str, days: int, today: int) -> list[tuple[int, int]]:
        """Day (since the epoch) and count, for each of the last ``days``, the oldest first."""
        rows = self._db.read(
            "SELECT p.day, p.count FROM repositories r JOIN pulls p ON p.repository = r.id AND p.day > ? "
            "WHERE r.name = ?",
            today - days,
            name,
        )
        counts: dict[int, int] = dict(rows)
        return [(day, counts.get(day, 0)) for day in range(today - days + 1, today + 1)]


class Labels:
    """After a push: what the image says of itself becomes searchable."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._db = database
        self._registry = registry

    async def learn(self, repository: str, document: Document) -> None:
        """Take labels and description from the image's configuration and the manifest's annotations. An image that
        cannot be read has none: it may be any artifact."""
        labels = dict(document.annotations)
        if document.config is not None:
            try:
                config = parse_image_config(await self._registry.blobs.read(document.config, _CONFIG))
                labels |= config.config.labels
            except CaisError:
                pass
        if not labels:
            return
        text = " ".join(f"{key}={value}" for key, value in sorted(labels.items()))[:_LABELS]
        description = labels.get(_DESCRIPTION, "")[:200]

        def act(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE repositories SET labels = ?, "
                "description = CASE description WHEN '' THEN ? ELSE description END "
                "WHERE name = ? AND (labels <> ? OR description = '')",
                (text, description, repository, text),
            )

        await self._db.write(act)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _visible(caller: Caller) -> tuple[str, tuple[str, ...]]:
    """The condition on ``r`` that holds for what the caller may know of."""
    if caller.admin:
        return "1", ()
    if not caller.account:
        return "r.private = 0", ()
    return (
        "(r.private = 0 OR r.namespace IN (SELECT m.namespace FROM members m JOIN accounts a ON a.id = m.account "
        "WHERE a.name = ?))",
        (caller.account,),
    )


def _repository(row: Sequence[object]) -> Repository:
    name, namespace, private, description, labels, size, pulls, updated, pulled, created = row
    return Repository(
        name=str(name),
        namespace=str(namespace),
        private=bool(private),
        description=str(description),
        labels=str(labels),
        size=int(str(size)),
        pulls=int(str(pulls)),
        updated_ns=int(str(updated)),
        pulled_ns=int(str(pulled)),
        created_ns=int(str(created)),
    )
