"""Robots: accounts of a namespace, for machines, that have a token and no password."""

import sqlite3
import time
from collections.abc import Sequence

import msgspec

from cais.errors import AlreadyExists, NotFound
from cais.hub.audit import make_event
from cais.hub.kepttokens import insert_token, make_token
from cais.hub.names import Names, check_name
from cais.hub.namespaces import Namespaces
from cais.hub.tokens import parse_grant
from cais.registry.base import Caller
from cais.registry.catalog import note
from cais.registry.database import Database


class Robots:
    """For administrators of namespaces."""

    def __init__(self, database: Database, names: Names, namespaces: Namespaces) -> None:
        self._db = database
        self._names = names
        self._namespaces = namespaces

    async def add(
        self, namespace: str, name: str, actions: Sequence[str], seconds: int, by: Caller
    ) -> tuple[str, str]:
        """A robot of the namespace, and its secret: an account ``namespace.name`` that has no password and whose token
        is good for these actions in the namespace only. Raises Denied, Invalid, AlreadyExists."""
        self._namespaces.need_role(by, namespace, "admin")
        full = f"{namespace}.{name}"
        check_name(full)
        token, secret = make_token(full, name, [f"{namespace}/*:{','.join(actions)}"], seconds)
        if self._names.is_promised(full):
            raise AlreadyExists(f"the name {full} is taken")

        def act(db: sqlite3.Connection) -> None:
            self._names.check_free(db, full, adopt=True)
            if not db.execute("SELECT 1 FROM namespaces WHERE name = ?", (namespace,)).fetchone():
                raise NotFound(f"no such namespace: {namespace}")
            # Its stamp is no other's: a registry token of one that had this name before is none of its own.
            now = time.time_ns()
            made = db.execute(
                "INSERT INTO accounts (name, password, kind, created_ns, stamp) VALUES (?, '', 'robot', ?, ?) "
                "ON CONFLICT DO NOTHING",
                (full, now, now),
            )
            if not made.rowcount:
                raise AlreadyExists(f"the name {full} is taken")
            db.execute("INSERT INTO members VALUES (?, ?, 'write')", (namespace, made.lastrowid))
            insert_token(db, int(made.lastrowid or 0), token, secret)
            note(db, make_event("robot", by, namespace, full))

        # One transaction: a robot without a token would keep its name and be good for nothing.
        await self._db.write(act, durable=True)
        return full, secret

    async def renew(self, namespace: str, robot: str, seconds: int, by: Caller) -> str:
        """A new secret for the robot with this whole name: it may what it might, and what it had ends at once. Raises
        Denied, Invalid, NotFound: no robot of the namespace."""
        self._namespaces.need_role(by, namespace, "admin")

        def act(db: sqlite3.Connection) -> str:
            owner, name, scopes = _find_robot(db, namespace, robot)
            token, secret = make_token(robot, name, scopes, seconds)
            db.execute("DELETE FROM tokens WHERE account = ?", (owner,))
            db.execute("UPDATE accounts SET stamp = stamp + 1 WHERE id = ?", (owner,))
            insert_token(db, owner, token, secret)
            note(db, make_event("robot secret", by, namespace, robot))
            return secret

        return await self._db.write(act, durable=True)


def _find_robot(db: sqlite3.Connection, namespace: str, robot: str) -> tuple[int, str, list[str]]:
    """Its account, and the name and limits of its token. Raises NotFound.

    A robot may be a member of other namespaces too, whose names may even be a beginning of its own: it is of the one
    that its token is for, and only the members of that one give out what it may there."""
    rows = db.execute(
        "SELECT a.id, t.name, t.scopes FROM accounts a JOIN members m ON m.account = a.id AND m.namespace = ? "
        "JOIN tokens t ON t.account = a.id WHERE a.name = ? AND a.kind = 'robot' ORDER BY t.id",
        (namespace, robot),
    )
    for owner, name, text in rows:
        scopes = msgspec.json.decode(text, type=list[str])
        if {parse_grant(scope)[0] for scope in scopes} == {f"{namespace}/*"}:
            return owner, name, scopes
    raise NotFound(f"namespace {namespace} has no such robot: {robot}")
