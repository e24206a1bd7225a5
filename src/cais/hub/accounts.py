"""Accounts: people's, and what is on record of robots'. Every change notes an event."""

import secrets
import sqlite3
import time
from collections.abc import Sequence

import msgspec

from cais.errors import AlreadyExists, Conflict, Denied, Invalid, NotFound
from cais.hub.audit import make_event
from cais.hub.names import Names, check_name
from cais.hub.passwords import Passwords, Throttle, check_password
from cais.hub.rights import is_person, need_hub_admin
from cais.hub.tokens import hash_secret
from cais.registry.base import Caller, Event
from cais.registry.catalog import ROOT_NAMESPACE, note
from cais.registry.database import Database


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Who may log in; ``kind`` is ``person`` or ``robot``. ``password`` is a bcrypt hash, empty: it has none."""

    id: int
    name: str
    password: str
    kind: str
    admin: bool
    disabled: bool
    created_ns: int
    stamp: int = 0
    """Moves on when registry tokens that were given out shall end."""


class Accounts:
    """``signup``: anybody may make an account."""

    def __init__(
        self, database: Database, passwords: Passwords, names: Names, *, signup: bool = False
    ) -> None:
        self._db = database
        self._passwords = passwords
        self._names = names
        self._signups = Throttle()
        self.signup = signup

    def find(self, name: str) -> Account | None:
        """By name."""
        row = self._db.read_one(
            "SELECT id, name, password, kind, admin, disabled, created_ns, stamp FROM accounts WHERE name = ?",
            name,
        )
        return read_account(row) if row else None

    def get(self, name: str) -> Account:
        """By name. Raises NotFound."""
        found = self.find(name)
        if found is None:
            raise NotFound(f"no such account: {name}")
        return found

    def list_accounts(self, after: str = "", count: int = 100) -> list[Account]:
        """In order of names."""
        rows = self._db.read(
            "SELECT id, name, password, kind, admin, disabled, created_ns, stamp FROM accounts WHERE name > ? "
            "ORDER BY name LIMIT ?",
            after,
            count,
        )
        return list(map(read_account, rows))

    async def sign_up(self, name: str, password: str, code: str, address: str) -> Account:
        """Make an account and its namespace. The first one, with the code of the hub's first start, is an
        administrator's. Raises Denied, Invalid, AlreadyExists."""
        invitation = self.invitation()
        invited = invitation is not None and secrets.compare_digest(
            hash_secret(code), hash_secret(invitation)
        )
        if not (invited or self.signup):
            raise Denied("accounts are made by an administrator here")
        check_name(name)
        check_password(password)
        self._signups.check(name, address)
        self._signups.fail(name, address)  # none is wrong, but nobody needs many
        if not invited and self._names.is_promised(name):
            raise AlreadyExists(f"the name {name} is taken")
        hashed = await self._passwords.hash(password)
        event = Event(action="account", account=name, address=address, target=name)
        return await self._create(name, hashed, event, admin=invited, invited=invited, adopt=invited)

    async def add(self, name: str, password: str, by: Caller, *, admin: bool = False) -> Account:
        """Made by an administrator. Raises Denied, Invalid, AlreadyExists."""
        need_hub_admin(by)
        check_name(name)
        hashed = await self._passwords.hash(password)
        event = Event(action="account", account=by.account, address=by.address, target=name)
        return await self._create(name, hashed, event, admin=admin or name in self._names.admins, adopt=True)

    async def welcome(self, name: str, address: str) -> Account:
        """The account of somebody of the htpasswd file, made at the first login; two may come at the same time."""
        event = Event(action="account", account=name, address=address, target=name)
        try:
            return await self._create(name, "", event, admin=name in self._names.admins, adopt=True)
        except AlreadyExists:
            found = self.find(name)
            if found is None:
                raise
            return found

    async def _create(
        self,
        name: str,
        hashed: str,
        event: Event,
        *,
        admin: bool = False,
        invited: bool = False,
        adopt: bool = False,
    ) -> Account:
        def act(db: sqlite3.Connection) -> None:
            if invited and db.execute("DELETE FROM settings WHERE name = 'invitation'").rowcount != 1:
                raise Denied("the invitation has been used")
            self._names.check_free(db, name, adopt=adopt)
            now = time.time_ns()
            made = db.execute(
                "INSERT INTO accounts (name, password, admin, created_ns) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (name, hashed, admin, now),
            )
            if not made.rowcount:
                raise AlreadyExists(f"the name {name} is taken")
            db.execute("INSERT INTO namespaces (name, created_ns) VALUES (?, ?)", (name, now))
            db.execute("INSERT INTO members VALUES (?, ?, 'admin')", (name, made.lastrowid))
            note(db, event)

        await self._db.write(act, durable=True)
        return self.get(name)

    async def change_password(self, name: str, password: str, by: Caller) -> None:
        """Its sessions and registry tokens end. Raises Invalid, NotFound, Denied."""
        if by.account != name or not is_person(by):
            need_hub_admin(by)
        account = self.get(name)
        if account.kind != "person":
            raise Invalid(f"{name} is a robot: it has tokens and no password")
        hashed = await self._passwords.hash(password)

        def act(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE accounts SET password = ?, stamp = stamp + 1 WHERE id = ?", (hashed, account.id)
            )
            db.execute("DELETE FROM sessions WHERE account = ?", (account.id,))
            note(db, make_event("password", by, name))

        await self._db.write(act, durable=True)

    async def disable(self, name: str, by: Caller, *, disabled: bool) -> None:
        """It cannot log in any more, or can again. Raises Denied, NotFound, Conflict: the last administrator."""
        need_hub_admin(by)
        account = self.get(name)

        def act(db: sqlite3.Connection) -> None:
            db.execute("UPDATE accounts SET disabled = ? WHERE id = ?", (disabled, account.id))
            if not db.execute("SELECT 1 FROM accounts WHERE admin AND NOT disabled").fetchone():
                raise Conflict("a hub has one administrator at least")
            db.execute("DELETE FROM sessions WHERE account = ?", (account.id,))
            note(db, make_event("disable" if disabled else "enable", by, name))

        await self._db.write(act, durable=True)

    def invitation(self) -> str | None:
        """The code for the first account, as long as there is none."""
        row = self._db.read_one("SELECT value FROM settings WHERE name = 'invitation'")
        return row[0] if row else None

    async def prepare(self) -> None:
        """At the start: a hub without accounts gets an invitation; the root namespace exists; old sessions go."""

        def act(db: sqlite3.Connection) -> None:
            for name in self._names.admins:
                db.execute("UPDATE accounts SET admin = 1 WHERE name = ? AND kind = 'person'", (name,))
            if not self._names.admins and not db.execute("SELECT 1 FROM accounts WHERE admin").fetchone():
                code = secrets.token_urlsafe(12)
                db.execute("INSERT OR IGNORE INTO settings VALUES ('invitation', ?)", (code,))
            now = time.time_ns()
            db.execute(
                "INSERT OR IGNORE INTO namespaces (name, created_ns) VALUES (?, ?)", (ROOT_NAMESPACE, now)
            )
            db.execute("DELETE FROM sessions WHERE expires_ns < ?", (now,))

        await self._db.write(act)


def read_account(row: Sequence[object]) -> Account:
    """Of the columns that ``Accounts.find`` reads."""
    id, name, password, kind, admin, disabled, created, stamp = row
    return Account(
        id=int(str(id)),
        name=str(name),
        password=str(password),
        kind=str(kind),
        admin=bool(admin),
        disabled=bool(disabled),
        created_ns=int(str(created)),
        stamp=int(str(stamp)),
    )
