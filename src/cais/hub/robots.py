"""Robots: accounts of a namespace, for machines, that have a token and no password."""

import sqlite3
import time
from collections.abc import Sequence

from cais.errors import AlreadyExists, NotFound
from cais.hub.audit import make_event
from cais.hub.kepttokens import insert_token, make_token
from cais.hub.names import Names, check_name
from cais.hub.namespaces import Namespaces
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
            made = db.execute(
                "INSERT INTO accounts (name, password, kind, created_ns) VALUES (?, '', 'robot', ?) "
                "ON CONFLICT DO NOTHING",
                (full, time.time_ns()),
            )
            if not made.rowcount:
                raise AlreadyExists(f"the name {full} is taken")
            db.execute("INSERT INTO members VALUES (?, ?, 'write')", (namespace, made.lastrowid))
            insert_token(db, int(made.lastrowid or 0), token, secret)
            note(db, make_event("robot", by, namespace, full))

        # One transaction: a robot without a token would keep its name and be good for nothing.
        await self._db.write(act, durable=True)
        return full, secret
