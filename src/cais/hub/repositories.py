"""What people set on a repository: its words, who may see it, which tags may not move."""

import re
import sqlite3
from collections.abc import Mapping

import msgspec

from cais.errors import Invalid, NotFound
from cais.hub.namespaces import Namespaces
from cais.registry.base import Caller, Event
from cais.registry.catalog import namespace_of, note
from cais.registry.database import Database
from cais.registry.retention import Retention, parse_retention

MAX_README = 64 << 10
MAX_DESCRIPTION = 200
MAX_PATTERNS = 50
WORDS = frozenset({"description", "readme"})
"""What members who may push may set; the rest is for the namespace's administrators."""
_SETTINGS = WORDS | {"private", "immutable", "retention"}
_PATTERN = re.compile(r"[A-Za-z0-9_.*?\[\]!-]{1,128}")


class Repositories:
    """Changes are noted in the audit log."""

    def __init__(self, database: Database, namespaces: Namespaces) -> None:
        self._db = database
        self._namespaces = namespaces

    def readme(self, name: str) -> str:
        """The README, as it was written. Raises NotFound."""
        return str(self._find(name, "readme"))

    def immutable(self, name: str) -> list[str]:
        """Patterns of tags that may not move. Raises NotFound."""
        return msgspec.json.decode(str(self._find(name, "immutable")), type=list[str])

    def namespace_immutable(self, name: str) -> list[str]:
        """Patterns of tags that may not move in a whole namespace."""
        row = self._db.read_one("SELECT immutable FROM namespaces WHERE name = ?", name)
        return msgspec.json.decode(row[0], type=list[str]) if row else []

    def retention(self, name: str) -> Retention:
        """Its own rules; without any, its namespace's count. Raises NotFound."""
        return parse_retention(str(self._find(name, "retention")))

    def namespace_retention(self, name: str) -> Retention:
        """The rules of a whole namespace."""
        row = self._db.read_one("SELECT retention FROM namespaces WHERE name = ?", name)
        return parse_retention(row[0]) if row else Retention()

    def _find(self, name: str, column: str) -> object:
        row = self._db.read_one(f"SELECT {column} FROM repositories WHERE name = ?", name)
        if row is None:
            raise NotFound(f"no such repository: {name}")
        return row[0]

    async def change(self, name: str, by: Caller, values: Mapping[str, object]) -> None:
        """Set ``description``, ``readme``, ``private``, ``immutable`` (patterns), ``retention``. Raises Denied,
        NotFound, Invalid."""
        if not values:
            return
        self._namespaces.need_role(by, namespace_of(name), "push" if values.keys() <= WORDS else "admin")
        columns = {key: _check(key, value) for key, value in values.items()}

        def act(db: sqlite3.Connection) -> None:
            sets = ", ".join(f"{column} = ?" for column in columns)
            changed = db.execute(f"UPDATE repositories SET {sets} WHERE name = ?", (*columns.values(), name))
            if not changed.rowcount:
                raise NotFound(f"no such repository: {name}")
            detail = ", ".join(sorted(columns))
            note(
                db,
                Event(
                    action="settings", repository=name, account=by.account, address=by.address, detail=detail
                ),
            )

        await self._db.write(act, durable=True)


def _check(key: str, value: object) -> object:
    """The value for the column. Raises Invalid."""
    if key not in _SETTINGS:
        raise Invalid(f"no such setting: {key!r}")
    if key == "readme" and len(str(value).encode()) > MAX_README:
        raise Invalid(f"a README has {MAX_README} bytes at most")
    if key == "description" and len(str(value)) > MAX_DESCRIPTION:
        raise Invalid(f"a description has {MAX_DESCRIPTION} characters at most")
    if key == "immutable":
        return msgspec.json.encode(check_patterns(value)).decode()
    if key == "private":
        return bool(value)
    if key == "retention":
        text = msgspec.json.encode(value).decode()
        parse_retention(text)
        return text
    return str(value)


def check_patterns(value: object) -> list[str]:
    """Patterns of tags. Raises Invalid."""
    if not isinstance(value, list | tuple) or len(value) > MAX_PATTERNS:
        raise Invalid(f"want a list of {MAX_PATTERNS} patterns at most")
    for pattern in value:
        if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
            raise Invalid(f"invalid pattern of tags: {str(pattern)[:100]!r}")
    return list(value)
