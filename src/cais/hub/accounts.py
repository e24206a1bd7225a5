"""Accounts, their namespaces and members, and the tokens they keep. Every change notes an event."""

import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from cais.errors import AlreadyExists, Conflict, Denied, Invalid, NotFound, Unauthenticated
from cais.hub.passwords import Passwords, Throttle
from cais.hub.tokens import PREFIX, hash_secret, make_secret, parse_grant
from cais.registry.base import Caller, Event
from cais.registry.catalog import ROOT_NAMESPACE, note
from cais.registry.database import Database

Role = Literal["read", "write", "admin"]
ROLES: Mapping[str, frozenset[str]] = {
    "read": frozenset({"pull"}),
    "write": frozenset({"pull", "push", "delete"}),
    "admin": frozenset({"pull", "push", "delete", "admin"}),
}
"""What a member may do in the namespace."""
SESSION_SECONDS = 7 * 24 * 3600
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9]|[._-](?=[a-z0-9])){1,38}")
RESERVED = frozenset(
    word
    for words in (
        "admin api assets account accounts audit auth healthz hub library login logout metrics namespaces new",
        "openapi.json repositories search settings signup static system token tokens users v1 v2",
    )
    for word in words.split()
)
"""Names that are paths of the hub's own pages, or mean something to clients."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Who may log in; ``kind`` is ``person`` or ``robot``. ``password`` is a bcrypt hash, empty: it has none."""

    id: int
    name: str
    password: str
    kind: str
    admin: bool
    disabled: bool
    created_ns: int


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A kept token, without its secret; ``expires_ns`` 0: never."""

    id: int
    name: str
    account: str
    scopes: tuple[str, ...]
    expires_ns: int
    created_ns: int
    used_ns: int


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """Where repositories live; ``quota`` bytes, 0: no limit; ``role``: of who asks, may be empty."""

    name: str
    description: str = ""
    quota: int = 0
    used: int = 0
    private: bool = False
    role: str = ""
    repositories: int = 0


class Session(msgspec.Struct, frozen=True):
    """A browser that has logged in."""

    account: Account
    csrf: str


class Accounts:
    """``htpasswd``: a file whose users may log in too; ``signup``: anybody may make an account; ``admins``: names that
    are administrators whoever made them."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        *,
        signup: bool = False,
        htpasswd: Path | None = None,
        admins: Iterable[str] = (),
    ) -> None:
        self._db = database
        self._passwords = passwords
        self._throttle = Throttle()
        self._htpasswd = htpasswd
        self._admins = frozenset(admins)
        self.signup = signup

    # Who is it

    async def login(self, name: str, secret: str, address: str) -> Caller:
        """By password or kept token. Raises Unauthenticated, always with the same words; Refusal TOOMANYREQUESTS."""
        self._throttle.check(name, address)
        found = self.find_token(secret, name) if secret.startswith(PREFIX) else None
        if found is None:
            found = await self._by_password(name, secret, address)
        if found is None:
            self._throttle.fail(name, address)
            raise Unauthenticated("the name or the password is wrong")
        self._throttle.succeed(name, address)
        return msgspec.structs.replace(found, address=address)

    async def _by_password(self, name: str, secret: str, address: str) -> Caller | None:
        account = self.find(name)
        hashed = account.password if account and not account.disabled else None
        if not hashed:
            hashed = None if account and account.disabled else self._read_htpasswd().get(name)
        if not await self._passwords.matches(secret, hashed):
            return None
        if account is None:
            account = await self._create(name, "", Event(action="account", account=name, address=address))
        return Caller(account=account.name, admin=account.admin, kind="password")

    def find_token(self, secret: str, name: str = "") -> Caller | None:
        """Who a kept token belongs to; ``name``: who it must belong to."""
        row = self._db.read_one(
            "SELECT a.name, a.admin, t.id, t.scopes, t.expires_ns FROM tokens t JOIN accounts a ON a.id = t.account "
            "WHERE t.hash = ? AND NOT a.disabled",
            hash_secret(secret),
        )
        if row is None or (name and row[0] != name) or 0 < row[4] <= time.time_ns():
            return None
        scopes = msgspec.json.decode(row[3])
        grants = dict(map(parse_grant, scopes)) if scopes else None
        return Caller(account=row[0], admin=bool(row[1]), grants=grants, kind="token")

    def _read_htpasswd(self) -> dict[str, str]:
        if self._htpasswd is None:
            return {}
        try:
            lines = self._htpasswd.read_text().splitlines()
        except OSError:
            return {}
        pairs = (line.strip().partition(":") for line in lines if not line.startswith("#"))
        return {name: hashed for name, _, hashed in pairs if _NAME.fullmatch(name)}

    # Accounts

    def find(self, name: str) -> Account | None:
        """By name."""
        row = self._db.read_one(
            "SELECT id, name, password, kind, admin, disabled, created_ns FROM accounts WHERE name = ?", name
        )
        return _account(row) if row else None

    def get(self, name: str) -> Account:
        """By name. Raises NotFound."""
        found = self.find(name)
        if found is None:
            raise NotFound(f"no such account: {name}")
        return found

    def list_accounts(self, after: str = "", count: int = 100) -> list[Account]:
        """In order of names."""
        rows = self._db.read(
            "SELECT id, name, password, kind, admin, disabled, created_ns FROM accounts WHERE name > ? "
            "ORDER BY name LIMIT ?",
            after,
            count,
        )
        return list(map(_account, rows))

    async def sign_up(self, name: str, password: str, code: str, address: str) -> Account:
        """Make an account and its namespace. The first one, with the code of the hub's first start, is an
        administrator's. Raises Denied, Invalid, AlreadyExists."""
        invited = bool(code) and secrets.compare_digest(code.encode(), (self.invitation() or "-").encode())
        if not (invited or self.signup):
            raise Denied("accounts are made by an administrator here")
        check_name(name)
        hashed = await self._passwords.hash(password)
        event = Event(action="account", account=name, address=address, target=name)
        return await self._create(name, hashed, event, invited=invited)

    async def add(self, name: str, password: str, by: Caller, *, admin: bool = False) -> Account:
        """Made by an administrator. Raises Denied, Invalid, AlreadyExists."""
        _need_admin(by)
        check_name(name)
        hashed = await self._passwords.hash(password)
        event = Event(action="account", account=by.account, address=by.address, target=name)
        return await self._create(name, hashed, event, admin=admin)

    async def _create(
        self, name: str, hashed: str, event: Event, *, admin: bool = False, invited: bool = False
    ) -> Account:
        def act(db: sqlite3.Connection) -> None:
            if invited and db.execute("DELETE FROM settings WHERE name = 'invitation'").rowcount != 1:
                raise Denied("the invitation has been used")
            if db.execute("SELECT 1 FROM namespaces WHERE name = ?", (name,)).fetchone():
                raise AlreadyExists(f"the name {name} is taken")
            now = time.time_ns()
            made = db.execute(
                "INSERT INTO accounts (name, password, admin, created_ns) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (name, hashed, admin or invited or name in self._admins, now),
            )
            if not made.rowcount:
                raise AlreadyExists(f"the name {name} is taken")
            db.execute("INSERT INTO namespaces (name, created_ns) VALUES (?, ?)", (name, now))
            db.execute("INSERT INTO members VALUES (?, ?, 'admin')", (name, made.lastrowid))
            note(db, event)

        await self._db.write(act, durable=True)
        return self.get(name)

    async def change_password(self, name: str, password: str, by: Caller) -> None:
        """Its sessions end. Raises Invalid, NotFound, Denied."""
        if by.account != name or by.kind == "token":
            _need_admin(by)
        hashed = await self._passwords.hash(password)
        account = self.get(name)

        def act(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE accounts SET password = ?, stamp = stamp + 1 WHERE id = ?", (hashed, account.id)
            )
            db.execute("DELETE FROM sessions WHERE account = ?", (account.id,))
            note(db, _event("password", by, name))

        await self._db.write(act, durable=True)

    async def disable(self, name: str, by: Caller, *, disabled: bool) -> None:
        """It cannot log in any more, or can again. Raises Denied, NotFound, Conflict: the last administrator."""
        _need_admin(by)
        account = self.get(name)

        def act(db: sqlite3.Connection) -> None:
            db.execute("UPDATE accounts SET disabled = ? WHERE id = ?", (disabled, account.id))
            if not db.execute("SELECT 1 FROM accounts WHERE admin AND NOT disabled").fetchone():
                raise Conflict("a hub has one administrator at least")
            db.execute("DELETE FROM sessions WHERE account = ?", (account.id,))
            note(db, _event("disable" if disabled else "enable", by, name))

        await self._db.write(act, durable=True)

    def invitation(self) -> str | None:
        """The code for the first account, as long as there is none."""
        row = self._db.read_one("SELECT value FROM settings WHERE name = 'invitation'")
        return row[0] if row else None

    async def prepare(self) -> None:
        """At the start: a hub without accounts gets an invitation; the root namespace exists; old sessions go."""

        def act(db: sqlite3.Connection) -> None:
            for name in self._admins:
                db.execute("UPDATE accounts SET admin = 1 WHERE name = ?", (name,))
            if not self._admins and not db.execute("SELECT 1 FROM accounts WHERE admin").fetchone():
                code = secrets.token_urlsafe(12)
                db.execute("INSERT OR IGNORE INTO settings VALUES ('invitation', ?)", (code,))
            now = time.time_ns()
            db.execute(
                "INSERT OR IGNORE INTO namespaces (name, created_ns) VALUES (?, ?)", (ROOT_NAMESPACE, now)
            )
            db.execute("DELETE FROM sessions WHERE expires_ns < ?", (now,))

        await self._db.write(act)

    # Namespaces

    def role(self, account: str, namespace: str) -> str:
        """The member's role; empty: none."""
        row = self._db.read_one(
            "SELECT m.role FROM members m JOIN accounts a ON a.id = m.account AND NOT a.disabled "
            "WHERE m.namespace = ? AND a.name = ?",
            namespace,
            account,
        )
        return row[0] if row else ""

    def find_namespace(self, name: str, caller: Caller) -> Namespace:
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

    async def add_namespace(self, name: str, by: Caller) -> None:
        """A namespace for several; who makes it is its administrator. Raises Invalid, AlreadyExists, Denied."""
        if not by.account or by.grants is not None:
            raise Denied("log in to make a namespace")
        check_name(name)
        account = self.get(by.account)

        def act(db: sqlite3.Connection) -> None:
            made = db.execute(
                "INSERT INTO namespaces (name, created_ns) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (name, time.time_ns()),
            )
            if not made.rowcount:
                raise AlreadyExists(f"the name {name} is taken")
            db.execute("INSERT INTO members VALUES (?, ?, 'admin')", (name, account.id))
            note(db, _event("namespace", by, name))

        await self._db.write(act, durable=True)

    async def change_namespace(self, name: str, by: Caller, values: Mapping[str, object]) -> None:
        """Set ``description``, ``private``, ``quota`` (administrators of the hub), ``immutable``, ``retention``.
        Raises Denied, NotFound, Invalid."""
        self.need_role(by, name, "admin")
        if "quota" in values:
            _need_admin(by)
        columns = _columns(values, ("description", "private", "quota", "immutable", "retention"))

        def act(db: sqlite3.Connection) -> None:
            sets = ", ".join(f"{column} = ?" for column in columns)
            if not db.execute(
                f"UPDATE namespaces SET {sets} WHERE name = ?", (*columns.values(), name)
            ).rowcount:
                raise NotFound(f"no such namespace: {name}")
            note(db, _event("settings", by, name, ", ".join(columns)))

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
        """Give a role; empty: none any more. Raises Denied, Invalid, NotFound, Conflict: its last administrator."""
        self.need_role(by, namespace, "admin")
        if role and role not in ROLES:
            raise Invalid(f"invalid role: {role!r}: want read, write or admin")
        member = self.get(account)

        def act(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM members WHERE namespace = ? AND account = ?", (namespace, member.id))
            if role:
                db.execute("INSERT INTO members VALUES (?, ?, ?)", (namespace, member.id, role))
            left = db.execute("SELECT 1 FROM members WHERE namespace = ? AND role = 'admin'", (namespace,))
            if not left.fetchone() and namespace != ROOT_NAMESPACE:
                raise Conflict(f"namespace {namespace} has one administrator at least")
            note(db, _event("member", by, namespace, f"{account} {role or 'removed'}"))

        await self._db.write(act, durable=True)

    def need_role(self, caller: Caller, namespace: str, right: str) -> None:
        """Raises Denied unless the caller's role in the namespace has the right and no token limits it."""
        if caller.grants is not None:
            raise Denied("a token with limits may not do this")
        if not caller.admin and right not in ROLES.get(self.role(caller.account, namespace), ()):
            raise Denied(f"you may not do this in namespace {namespace}")

    # Tokens

    async def add_token(
        self, account: str, name: str, scopes: Sequence[str], seconds: int, by: Caller
    ) -> tuple[Token, str]:
        """A token and its secret, which is shown only now. ``seconds`` of life, 0: for ever. Raises Denied, Invalid."""
        owner = self.get(account)
        if by.kind == "token" or (by.account != account and not by.admin):
            raise Denied("a token is made by who logs in with the password")
        if not 0 < len(name) <= 100 or len(scopes) > 50 or seconds < 0:
            raise Invalid("a token has a name of up to 100 characters and up to 50 scopes")
        return await self._add_token(owner, name, scopes, seconds, _event("token", by, account, name))

    async def _add_token(
        self, owner: Account, name: str, scopes: Sequence[str], seconds: int, event: Event
    ) -> tuple[Token, str]:
        for scope in scopes:
            parse_grant(scope)
        secret, now = make_secret(), time.time_ns()
        expires = now + seconds * 1_000_000_000 if seconds else 0

        def act(db: sqlite3.Connection) -> int:
            made = db.execute(
                "INSERT INTO tokens (account, name, hash, scopes, expires_ns, created_ns) VALUES (?, ?, ?, ?, ?, ?)",
                (owner.id, name, hash_secret(secret), msgspec.json.encode(scopes).decode(), expires, now),
            )
            note(db, event)
            return int(made.lastrowid or 0)

        id = await self._db.write(act, durable=True)
        token = Token(
            id=id,
            name=name,
            account=owner.name,
            scopes=tuple(scopes),
            expires_ns=expires,
            created_ns=now,
            used_ns=0,
        )
        return token, secret

    async def add_robot(
        self, namespace: str, name: str, actions: Sequence[str], seconds: int, by: Caller
    ) -> tuple[str, str]:
        """A robot of the namespace, and its secret: an account ``namespace.name`` that has no password and whose token
        is good for these actions in the namespace only. Raises Denied, Invalid, AlreadyExists."""
        self.need_role(by, namespace, "admin")
        full = f"{namespace}.{name}"
        check_name(full)
        scope = f"{namespace}/*:{','.join(actions)}"
        parse_grant(scope)

        def act(db: sqlite3.Connection) -> None:
            made = db.execute(
                "INSERT INTO accounts (name, password, kind, created_ns) VALUES (?, '', 'robot', ?) "
                "ON CONFLICT DO NOTHING",
                (full, time.time_ns()),
            )
            if not made.rowcount:
                raise AlreadyExists(f"the name {full} is taken")
            db.execute("INSERT INTO members VALUES (?, ?, 'write')", (namespace, made.lastrowid))

        await self._db.write(act, durable=True)
        event = _event("robot", by, namespace, full)
        _, secret = await self._add_token(self.get(full), name, [scope], seconds, event)
        return full, secret

    def list_tokens(self, account: str) -> list[Token]:
        """Newest first."""
        rows = self._db.read(
            "SELECT t.id, t.name, a.name, t.scopes, t.expires_ns, t.created_ns, t.used_ns FROM tokens t "
            "JOIN accounts a ON a.id = t.account WHERE a.name = ? ORDER BY t.id DESC",
            account,
        )
        return [
            Token(
                id=id,
                name=name,
                account=owner,
                scopes=tuple(msgspec.json.decode(scopes)),
                expires_ns=expires,
                created_ns=created,
                used_ns=used,
            )
            for id, name, owner, scopes, expires, created, used in rows
        ]

    async def remove_token(self, account: str, id: int, by: Caller) -> None:
        """It ends at once. Raises Denied, NotFound."""
        if by.account != account and not by.admin:
            raise Denied("it is not your token")
        owner = self.get(account)

        def act(db: sqlite3.Connection) -> None:
            if not db.execute("DELETE FROM tokens WHERE id = ? AND account = ?", (id, owner.id)).rowcount:
                raise NotFound(f"no such token: {id}")
            note(db, _event("token removed", by, account, str(id)))

        await self._db.write(act, durable=True)

    # Sessions of browsers

    async def open_session(self, account: str) -> tuple[str, Session]:
        """A new one: the cookie's value, and what it stands for."""
        owner = self.get(account)
        value, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
        expires = time.time_ns() + SESSION_SECONDS * 1_000_000_000
        await self._db.write(
            lambda db: db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?)", (hash_secret(value), owner.id, csrf, expires)
            )
        )
        return value, Session(owner, csrf)

    def find_session(self, value: str) -> Session | None:
        """What a cookie stands for, if it still does."""
        row = self._db.read_one(
            "SELECT a.id, a.name, a.password, a.kind, a.admin, a.disabled, a.created_ns, s.csrf FROM sessions s "
            "JOIN accounts a ON a.id = s.account WHERE s.hash = ? AND s.expires_ns > ? AND NOT a.disabled",
            hash_secret(value),
            time.time_ns(),
        )
        return Session(_account(row[:7]), row[7]) if row else None

    async def close_session(self, value: str) -> None:
        """Log out. Idempotent."""
        await self._db.write(
            lambda db: db.execute("DELETE FROM sessions WHERE hash = ?", (hash_secret(value),))
        )


def check_name(name: str) -> None:
    """Raises Invalid for what cannot be an account's or namespace's name."""
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise Invalid(
            f"invalid name: {name[:50]!r}: want 2 to 39 lower-case letters and digits, parted by single . _ or -, "
            "and none that the hub needs itself"
        )


def _account(row: Sequence[object]) -> Account:
    id, name, password, kind, admin, disabled, created = row
    return Account(
        id=int(str(id)),
        name=str(name),
        password=str(password),
        kind=str(kind),
        admin=bool(admin),
        disabled=bool(disabled),
        created_ns=int(str(created)),
    )


def _columns(values: Mapping[str, object], known: Sequence[str]) -> dict[str, object]:
    """Values for the columns that are named; lists and objects as JSON. Raises Invalid."""
    unknown = set(values) - set(known)
    if unknown:
        raise Invalid(f"no such setting: {sorted(unknown)[0]!r}")
    return {
        key: msgspec.json.encode(value).decode() if isinstance(value, list | dict | tuple) else value
        for key, value in values.items()
    }


def _need_admin(caller: Caller) -> None:
    if not caller.admin or caller.grants is not None:
        raise Denied("only an administrator of the hub may do this")


def _event(action: str, by: Caller, target: str, detail: str = "") -> Event:
    return Event(action=action, account=by.account, address=by.address, target=target, detail=detail)
