"""Namespaces, where repositories live: their settings, who is a member, and what a role allows."""

import sqlite3
import time
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cais.errors import AlreadyExists, Conflict, Denied, Invalid, NotFound
from cais.hub.accounts import Account, Accounts
from cais.hub.audit import make_event
from cais.hub.names import Names, check_name
from cais.hub.rights import ROLES, need_hub_admin
from cais.registry.base import Caller
from cais.registry.catalog import ROOT_NAMESPACE, note
from cais.registry.database import Database
from cais.registry.retention import parse_retention

MAX_NAMESPACES = 100
"""Of one account; administrators may have more, others are refused."""
_SETTINGS: Mapping[str, Any] = {
    "description": Annotated[str, Meta(max_length=1000)],
    "private": bool,
    "quota": Annotated[int, Meta(ge=0, le=1 << 53)],
    "immutable": Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=50)],
    "retention": Annotated[dict[str, Any], Meta(max_length=10)],
}
"""What a namespace's settings are: others that read them rely on it."""


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """Where repositories live; ``quota`` bytes, 0: no limit; ``role``: of who asks, may be empty."""

    name: str
    description: str = ""
    quota: int = 0
    used: int = 0
    private: bool = False
    role: str = ""
    repositories: int = 0


class Namespaces:
    """Every change notes an event."""

    def __init__(self, database: Database, names: Names, accounts: Accounts) -> None:
        self._db = database
        self._names = names
        self._accounts = accounts

    def role(self, account: str, namespace: str) -> str:
        """The member's role; empty: none."""
        row = self._db.read_one(
            "SELECT m.role FROM members m JOIN accounts a ON a.id = m.account AND NOT a.disabled "
            "WHERE m.namespace = ? AND a.name = ?",
            namespace,
            account,
        )
        return row[0] if row else ""

    def get(self, name: str, caller: Caller) -> Namespace:
        """Raises NotFound."""
        row = self._db.read_one(
            "SELECT n.name, n.description, n.quota, n.private, (SELECT COALESCE(SUM(size), 0) FROM repositories r "
            "WHERE r.namespace = n.name), (SELECT COUNT(*) FROM repositories r WHERE r.namespace = n.name) "
            "FROM namespaces n WHERE n.name = ?",
            name,
        )
        if row is None:
            raise NotFound(f"no such namespace: {name}")
        role = "admin" if caller.admin else self.role(caller.account, name)
        return Namespace(
            name=row[0],
            description=row[1],
            quota=row[2],
            private=bool(row[3]),
            used=row[4],
            repositories=row[5],
            role=role,
        )

    def list_namespaces(self, account: str) -> list[Namespace]:
        """Those the account is a member of, by name."""
        rows = self._db.read(
            "SELECT n.name, n.description, n.quota, n.private, m.role FROM members m JOIN namespaces n "
            "ON n.name = m.namespace JOIN accounts a ON a.id = m.account WHERE a.name = ? ORDER BY n.name",
            account,
        )
        return [
            Namespace(name=name, description=text, quota=quota, private=bool(private), role=role)
            for name, text, quota, private, role in rows
        ]

    async def add(self, name: str, by: Caller) -> None:
        """A namespace for several; who makes it is its administrator. Raises Invalid, AlreadyExists, Denied."""
        if not by.account or by.grants is not None:
            raise Denied("log in to make a namespace")
        check_name(name)
        account = self._accounts.get(by.account)
        if not by.admin and self._names.is_promised(name):
            raise AlreadyExists(f"the name {name} is taken")

        def act(db: sqlite3.Connection) -> None:
            self._names.check_free(db, name, adopt=by.admin)
            if db.execute("SELECT 1 FROM accounts WHERE name = ?", (name,)).fetchone():
                raise AlreadyExists(f"the name {name} is taken")  # a robot's
            _check_namespaces(db, account)
            db.execute("INSERT INTO namespaces (name, created_ns) VALUES (?, ?)", (name, time.time_ns()))
            db.execute("INSERT INTO members VALUES (?, ?, 'admin')", (name, account.id))
            note(db, make_event("namespace", by, name))

        await self._db.write(act, durable=True)

    async def change(self, name: str, by: Caller, values: Mapping[str, object]) -> None:
        """Set ``description``, ``private``, ``quota`` (administrators of the hub), ``immutable``, ``retention``.
        Raises Denied, NotFound, Invalid."""
        self.need_role(by, name, "admin")
        if "quota" in values:
            need_hub_admin(by)
        columns = _columns(values)

        def act(db: sqlite3.Connection) -> None:
            sets = ", ".join(f"{column} = ?" for column in columns)
            if not db.execute(
                f"UPDATE namespaces SET {sets} WHERE name = ?", (*columns.values(), name)
            ).rowcount:
                raise NotFound(f"no such namespace: {name}")
            note(db, make_event("settings", by, name, ", ".join(columns)))

        if columns:
            await self._db.write(act, durable=True)

    def list_members(self, namespace: str) -> list[tuple[str, str, str]]:
        """Name, kind and role, by name."""
        rows = self._db.read(
            "SELECT a.name, a.kind, m.role FROM members m JOIN accounts a ON a.id = m.account "
            "WHERE m.namespace = ? ORDER BY a.name",
            namespace,
        )
        return [(name, kind, role) for name, kind, role in rows]

    async def set_member(self, namespace: str, account: str, role: str, by: Caller) -> None:
        """Give a role; empty: none any more, and a robot that has no other ends with its tokens. Raises Denied,
        Invalid, NotFound, Conflict: its last administrator, or who it is named after."""
        self.need_role(by, namespace, "admin")
        if role and role not in ROLES:
            raise Invalid(f"invalid role: {role!r}: want read, write or admin")
        member = self._accounts.get(account)
        if account == namespace and role != "admin":
            raise Conflict(f"namespace {namespace} is {account}'s own")
        if member.kind != "person" and role == "admin":
            raise Invalid(f"{account} is a robot: it may read or write")

        def act(db: sqlite3.Connection) -> None:
            if not db.execute("SELECT 1 FROM namespaces WHERE name = ?", (namespace,)).fetchone():
                raise NotFound(f"no such namespace: {namespace}")
            key = (namespace, member.id)
            old = db.execute("SELECT role FROM members WHERE namespace = ? AND account = ?", key).fetchone()
            db.execute("DELETE FROM members WHERE namespace = ? AND account = ?", key)
            if role:
                db.execute("INSERT INTO members VALUES (?, ?, ?)", (*key, role))
            if not role and member.kind == "robot":
                db.execute(
                    "DELETE FROM accounts WHERE id = ? AND id NOT IN (SELECT account FROM members)",
                    (member.id,),
                )
            if old == ("admin",) and namespace != ROOT_NAMESPACE:
                _need_some_admin(db, namespace)
            note(db, make_event("member", by, namespace, f"{account} {role or 'removed'}"))

        await self._db.write(act, durable=True)

    def need_role(self, caller: Caller, namespace: str, right: str) -> None:
        """Raises Denied unless the caller's role in the namespace has the right and no token limits it."""
        if caller.grants is not None:
            raise Denied("a token with limits may not do this")
        if not caller.admin and right not in ROLES.get(self.role(caller.account, namespace), ()):
            raise Denied(f"you may not do this in namespace {namespace}")


def _columns(values: Mapping[str, object]) -> dict[str, object]:
    """Values for the columns of settings; lists and objects as JSON. Raises Invalid."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if key not in _SETTINGS:
            raise Invalid(f"no such setting: {key!r}")
        try:
            good = msgspec.convert(value, _SETTINGS[key])
        except msgspec.ValidationError as error:
            raise Invalid(f"invalid {key}: {error}") from None
        found[key] = msgspec.json.encode(good).decode() if isinstance(good, list | dict) else good
        if key == "retention":
            parse_retention(str(found[key]))
    return found


def _check_namespaces(db: sqlite3.Connection, account: Account) -> None:
    (count,) = db.execute(
        "SELECT COUNT(*) FROM members WHERE account = ? AND role = 'admin'", (account.id,)
    ).fetchone()
    if count >= MAX_NAMESPACES and not account.admin:
        raise Conflict(f"{account.name} administers {count} namespaces: leave one first")


def _need_some_admin(db: sqlite3.Connection, namespace: str) -> None:
    left = db.execute(
        "SELECT 1 FROM members m JOIN accounts a ON a.id = m.account "
        "WHERE m.namespace = ? AND m.role = 'admin' AND NOT a.disabled",
        (namespace,),
    )
    if not left.fetchone():
        raise Conflict(f"namespace {namespace} has one administrator at least")
