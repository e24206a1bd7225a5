"""The audit log: an event for what somebody did, and reading what was done, the newest first."""

import msgspec

from cais.registry.base import Caller, Event
from cais.registry.catalog import ROOT_NAMESPACE
from cais.registry.database import Database

WINDOW = 50_000
"""Events that one page looks through at most: reading is on the event loop."""
_FIELDS = "id, at_ns, action, repository, account, address, target, tag, detail"
_OF_ACCOUNTS = "'account', 'password', 'token', 'token removed', 'disable', 'enable'"
"""Actions whose target is an account: of a namespace with its name, other administrators need not see them."""


class Stock(msgspec.Struct, frozen=True, kw_only=True):
    """What a hub holds; sizes in bytes. ``stored``: on the disk, each blob once; ``named``: as repositories count."""

    repositories: int
    tags: int
    manifests: int
    blobs: int
    accounts: int
    stored: int
    named: int


class Audit:
    """Who may read it, the caller has asked."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def read(
        self, *, namespace: str = "", account: str = "", action: str = "", before: int = 0, count: int = 50
    ) -> tuple[list[Event], int]:
        """Events older than ``before`` (an id; 0: the newest), and where the next page begins (0: there is none).
        ``namespace``: only what happened in it or to it. A page that is not full may still not be the last."""
        top = before or self._newest() + 1
        bottom = max(top - WINDOW, 0)
        tests = ["id < ?", "id >= ?"]
        values: list[object] = [top, bottom]
        for column, value in (("account", account), ("action", action)):
            if value:
                tests.append(f"{column} = ?")
                values.append(value)
        if namespace:
            inside = "instr(repository, '/') = 0 AND repository <> ''" if namespace == ROOT_NAMESPACE else "0"
            tests.append(
                f"((repository >= ? AND repository < ?) OR ({inside}) OR (repository = '' AND target = ? "
                f"AND action NOT IN ({_OF_ACCOUNTS})))"
            )
            values += [f"{namespace}/", f"{namespace}0", namespace]
        rows = self._db.read(
            f"SELECT {_FIELDS} FROM events WHERE {' AND '.join(tests)} ORDER BY id DESC LIMIT ?",
            *values,
            count,
        )
        events = [
            Event(
                id=id,
                at_ns=at,
                action=act,
                repository=repository,
                account=by,
                address=address,
                target=target,
                tag=tag,
                detail=detail,
            )
            for id, at, act, repository, by, address, target, tag, detail in rows
        ]
        rest = events[-1].id if len(events) == count else bottom
        return events, rest if rest > 1 else 0

    def stock(self) -> Stock:
        """Counts of everything: for a page that is seldom asked for."""
        tables = ("repositories", "tags", "manifests", "blobs", "accounts")
        counts = {table: self._sum(f"SELECT COUNT(*) FROM {table}") for table in tables}
        return Stock(
            **counts,
            stored=self._sum("SELECT SUM(size) FROM blobs"),
            named=self._sum("SELECT SUM(size) FROM repositories"),
        )

    def _sum(self, sql: str) -> int:
        row = self._db.read_one(sql)
        return int(row[0] or 0) if row else 0

    def _newest(self) -> int:
        row = self._db.read_one("SELECT MAX(id) FROM events")
        return int(row[0] or 0) if row else 0


def make_event(action: str, by: Caller, target: str, detail: str = "") -> Event:
    """What ``by`` does to an account or namespace, to be noted in the transaction that does it."""
    return Event(action=action, account=by.account, address=by.address, target=target, detail=detail)
