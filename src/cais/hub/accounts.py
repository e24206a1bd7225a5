"""Accounts, their namespaces and members, and the tokens they keep. Every change notes an event."""

import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cais.errors import AlreadyExists, Conflict, Denied, Invalid, NotFound, Unauthenticated
from cais.hub.htpasswd import Htpasswd
from cais.hub.passwords import ROUNDS, Passwords, Throttle, check_password
from cais.hub.tokens import PREFIX, hash_secret, make_secret, merge_grants, parse_grant
from cais.registry.base import Caller, Event
from cais.registry.catalog import ROOT_NAMESPACE, note
from cais.registry.database import Database
from cais.registry.retention import parse_retention

Role = Literal["read", "write", "admin"]
ROLES: Mapping[str, frozenset[str]] = {
    "read": frozenset({"pull"}),
    "write": frozenset({"pull", "push", "delete"}),
    "admin": frozenset({"pull", "push", "delete", "admin"}),
}
"""What a member may do in the namespace."""
SESSION_SECONDS = 7 * 24 * 3600
MAX_TOKENS, MAX_NAMESPACES, MAX_SESSIONS = 200, 100, 50
"""Of one account; administrators may have more namespaces. Of sessions the oldest goes, the others are refused."""
MAX_SECONDS = 100 * 366 * 24 * 3600
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9]|[._-](?=[a-z0-9])){1,38}")
RESERVED = frozenset(
    word
    for words in (
        "admin api assets account accounts anonymous audit auth explore favicon.ico healthz hub library login logout",
        "metrics namespaces new openapi.json profile repositories robots.txt search settings signup sitemap.xml",
        "static system token tokens upstream users v1 v2 webhooks",
    )
    for word in words.split()
)
"""Names that are paths of the hub's own pages, or mean something to clients."""
_SETTINGS: Mapping[str, Any] = {
    "description": Annotated[str, Meta(max_length=1000)],
    "private": bool,
    "quota": Annotated[int, Meta(ge=0, le=1 << 53)],
    "immutable": Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=50)],
    "retention": Annotated[dict[str, Any], Meta(max_length=10)],
}
"""What a namespace's settings are: others that read them rely on it."""


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
    are administrators whoever made them; ``taken``: names nobody may have, as they are other registries' here."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        *,
        signup: bool = False,
        htpasswd: Path | None = None,
        admins: Iterable[str] = (),
        taken: Iterable[str] = (),
    ) -> None:
        self._db = database
        self._passwords = passwords
        self._throttle = Throttle()
        self._signups = Throttle()
        self._htpasswd = Htpasswd(htpasswd, is_name)
        self._admins = frozenset(admins)
        self._taken = frozenset(taken)
        self._used: dict[int, int] = {}
        self.signup = signup

    # Who is it

    async def login(self, name: str, secret: str, address: str, *, tokens: bool = True) -> Caller:
        """By password or, if ``tokens``, by kept token. Raises Unauthenticated, always with the same words; Refusal
        TOOMANYREQUESTS."""
        found = self.find_token(secret, name) if tokens and secret.startswith(PREFIX) else None
        if found is not None:
            return msgspec.structs.replace(found, address=address)
        self._throttle.check(name, address)
        with self._throttle.place(address):
            found = await self._by_password(name, secret, address)
        # Again: others that were tried at the same time may have failed, and then this one is not told either.
        self._throttle.check(name, address)
        if found is None:
            self._throttle.fail(name, address)
            raise Unauthenticated("the name or the password is wrong")
        self._throttle.succeed(name, address)
        return msgspec.structs.replace(found, address=address)

    async def _by_password(self, name: str, secret: str, address: str) -> Caller | None:
        account = self.find(name)
        listed = self._htpasswd.find(name)
        if account is None:
            hashed = listed
        elif account.disabled or account.kind != "person":
            hashed = None
        else:
            hashed = account.password or listed
        if not await self._passwords.matches(secret, hashed, max(ROUNDS, self._htpasswd.cost)):
            return None
        if account is None:
            account = await self._welcome(name, address)
        return Caller(account=account.name, admin=account.admin, kind="password")

    async def _welcome(self, name: str, address: str) -> Account:
        """The account of somebody of the htpasswd file, made at the first login; two may come at the same time."""
        event = Event(action="account", account=name, address=address, target=name)
        try:
            return await self._create(name, "", event, admin=name in self._admins, adopt=True)
        except AlreadyExists:
            found = self.find(name)
            if found is None:
                raise
            return found

    def find_token(self, secret: str, name: str = "") -> Caller | None:
        """Who a kept token belongs to; ``name``: who it must belong to."""
        row = self._db.read_one(
            "SELECT a.name, a.admin, t.id, t.scopes, t.expires_ns FROM tokens t JOIN accounts a ON a.id = t.account "
            "WHERE t.hash = ? AND NOT a.disabled",
            hash_secret(secret),
        )
        now = time.time_ns()
        if row is None or (name and row[0] != name) or 0 < row[4] <= now:
            return None
        self._used[row[2]] = now
        scopes = msgspec.json.decode(row[3])
        grants = merge_grants(scopes) if scopes else None
        return Caller(account=row[0], admin=bool(row[1]), grants=grants, kind="token")

    async def flush(self) -> None:
        """Write down when tokens were last used; every few seconds, and at the end."""
        used, self._used = self._used, {}
        if used:
            rows = [(at_ns, id) for id, at_ns in used.items()]
            await self._db.write(
                lambda db: db.executemany("UPDATE tokens SET used_ns = ? WHERE id = ?", rows)
            )

    # Accounts

    def find(self, name: str) -> Account | None:
        """By name."""
        row = self._db.read_one(
            "SELECT id, name, password, kind, admin, disabled, created_ns, stamp FROM accounts WHERE name = ?",
            name,
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
            "SELECT id, name, password, kind, admin, disabled, created_ns, stamp FROM accounts WHERE name > ? "
            "ORDER BY name LIMIT ?",
            after,
            count,
        )
        return list(map(_account, rows))

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
        if not invited and (name in self._admins or self._htpasswd.find(name) is not None):
            raise AlreadyExists(f"the name {name} is taken")
        hashed = await self._passwords.hash(password)
        event = Event(action="account", account=name, address=address, target=name)
        return await self._create(name, hashed, event, admin=invited, invited=invited, adopt=invited)

    async def add(self, name: str, password: str, by: Caller, *, admin: bool = False) -> Account:
        """Made by an administrator. Raises Denied, Invalid, AlreadyExists."""
        _need_admin(by)
        check_name(name)
        hashed = await self._passwords.hash(password)
        event = Event(action="account", account=by.account, address=by.address, target=name)
        return await self._create(name, hashed, event, admin=admin or name in self._admins, adopt=True)

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
            self._check_free(db, name, adopt=adopt)
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

    def _check_free(self, db: sqlite3.Connection, name: str, *, adopt: bool) -> None:
        """Raises AlreadyExists for a name that a namespace has. What an administrator pushed before there was a
        namespace belongs to nobody who just takes the name; ``adopt``: who may have it."""
        taken = (
            name in self._taken or db.execute("SELECT 1 FROM namespaces WHERE name = ?", (name,)).fetchone()
        )
        if not taken and not adopt:
            taken = db.execute("SELECT 1 FROM repositories WHERE namespace = ? LIMIT 1", (name,)).fetchone()
        if taken:
            raise AlreadyExists(f"the name {name} is taken")

    async def change_password(self, name: str, password: str, by: Caller) -> None:
        """Its sessions and registry tokens end. Raises Invalid, NotFound, Denied."""
        if by.account != name or not _is_person(by):
            _need_admin(by)
        account = self.get(name)
        if account.kind != "person":
            raise Invalid(f"{name} is a robot: it has tokens and no password")
        hashed = await self._passwords.hash(password)

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
                db.execute("UPDATE accounts SET admin = 1 WHERE name = ? AND kind = 'person'", (name,))
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
        if not by.admin and (name in self._admins or self._htpasswd.find(name) is not None):
            raise AlreadyExists(f"the name {name} is taken")

        def act(db: sqlite3.Connection) -> None:
            self._check_free(db, name, adopt=by.admin)
            if db.execute("SELECT 1 FROM accounts WHERE name = ?", (name,)).fetchone():
                raise AlreadyExists(f"the name {name} is taken")  # a robot's
            _check_namespaces(db, account)
            db.execute("INSERT INTO namespaces (name, created_ns) VALUES (?, ?)", (name, time.time_ns()))
            db.execute("INSERT INTO members VALUES (?, ?, 'admin')", (name, account.id))
            note(db, _event("namespace", by, name))

        await self._db.write(act, durable=True)

    async def change_namespace(self, name: str, by: Caller, values: Mapping[str, object]) -> None:
        """Set ``description``, ``private``, ``quota`` (administrators of the hub), ``immutable``, ``retention``.
        Raises Denied, NotFound, Invalid."""
        self.need_role(by, name, "admin")
        if "quota" in values:
            _need_admin(by)
        columns = _columns(values)

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
        """Give a role; empty: none any more. Raises Denied, Invalid, NotFound, Conflict: its last administrator, or
        who it is named after."""
        self.need_role(by, namespace, "admin")
        if role and role not in ROLES:
            raise Invalid(f"invalid role: {role!r}: want read, write or admin")
        member = self.get(account)
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
            if old == ("admin",) and namespace != ROOT_NAMESPACE:
                _need_some_admin(db, namespace)
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
        if not _is_person(by) or (by.account != account and not by.admin):
            raise Denied("a token is made by who logs in with the password")
        owner = self.get(account)
        if not 0 < len(name) <= 100 or len(scopes) > 50:
            raise Invalid("a token has a name of up to 100 characters and up to 50 scopes")
        return await self._add_token(owner, name, scopes, seconds, _event("token", by, account, name))

    async def _add_token(
        self, owner: Account, name: str, scopes: Sequence[str], seconds: int, event: Event
    ) -> tuple[Token, str]:
        for scope in scopes:
            parse_grant(scope)
        if not 0 <= seconds <= MAX_SECONDS:
            raise Invalid("a token lives for a number of seconds, or for ever: 0")
        secret, now = make_secret(), time.time_ns()
        expires = now + seconds * 1_000_000_000 if seconds else 0

        def act(db: sqlite3.Connection) -> int:
            (count,) = db.execute("SELECT COUNT(*) FROM tokens WHERE account = ?", (owner.id,)).fetchone()
            if count >= MAX_TOKENS:
                raise Conflict(f"{owner.name} has {count} tokens: remove one first")
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
        if self._htpasswd.find(full) is not None or full in self._admins:
            raise AlreadyExists(f"the name {full} is taken")

        def act(db: sqlite3.Connection) -> None:
            self._check_free(db, full, adopt=True)
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
        """It ends at once, and the registry tokens of its account with it. Raises Denied, NotFound."""
        if by.grants is not None or (by.account != account and not by.admin):
            raise Denied("it is not your token, or you came with one that has limits")
        owner = self.get(account)

        def act(db: sqlite3.Connection) -> None:
            if not db.execute("DELETE FROM tokens WHERE id = ? AND account = ?", (id, owner.id)).rowcount:
                raise NotFound(f"no such token: {id}")
            db.execute("UPDATE accounts SET stamp = stamp + 1 WHERE id = ?", (owner.id,))
            note(db, _event("token removed", by, account, str(id)))

        await self._db.write(act, durable=True)

    # Sessions of browsers

    async def open_session(self, account: str) -> tuple[str, Session]:
        """A new one: the cookie's value, and what it stands for. Raises NotFound, Denied: a robot, or disabled."""
        owner = self.get(account)
        if owner.kind != "person" or owner.disabled:
            raise Denied(f"{account} may not log in here")
        value, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
        now = time.time_ns()
        row = (hash_secret(value), owner.id, csrf, now + SESSION_SECONDS * 1_000_000_000)

        def act(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", row)
            db.execute(
                "DELETE FROM sessions WHERE account = ? AND (expires_ns < ? OR hash NOT IN (SELECT hash FROM sessions "
                "WHERE account = ? ORDER BY expires_ns DESC LIMIT ?))",
                (owner.id, now, owner.id, MAX_SESSIONS),
            )

        await self._db.write(act)
        return value, Session(owner, csrf)

    def find_session(self, value: str) -> Session | None:
        """What a cookie stands for, if it still does."""
        row = self._db.read_one(
            "SELECT a.id, a.name, a.password, a.kind, a.admin, a.disabled, a.created_ns, a.stamp, s.csrf "
            "FROM sessions s "
            "JOIN accounts a ON a.id = s.account WHERE s.hash = ? AND s.expires_ns > ? AND NOT a.disabled",
            hash_secret(value),
            time.time_ns(),
        )
        return Session(_account(row[:8]), row[8]) if row else None

    async def close_session(self, value: str) -> None:
        """Log out. Idempotent."""
        await self._db.write(
            lambda db: db.execute("DELETE FROM sessions WHERE hash = ?", (hash_secret(value),))
        )


def is_name(name: str) -> bool:
    """Whether an account or namespace may be called so."""
    return _NAME.fullmatch(name) is not None and name not in RESERVED


def check_name(name: str) -> None:
    """Raises Invalid for what cannot be an account's or namespace's name."""
    if not is_name(name):
        raise Invalid(
            f"invalid name: {name[:50]!r}: want 2 to 39 lower-case letters and digits, parted by single . _ or -, "
            "and none that the hub needs itself"
        )


def _account(row: Sequence[object]) -> Account:
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


def _is_person(caller: Caller) -> bool:
    """It has shown the password, or a session that began so; no token, of whatever kind."""
    return caller.kind in ("password", "session") and caller.grants is None


def _need_admin(caller: Caller) -> None:
    if not caller.admin or caller.grants is not None:
        raise Denied("only an administrator of the hub may do this")


def _event(action: str, by: Caller, target: str, detail: str = "") -> Event:
    return Event(action=action, account=by.account, address=by.address, target=target, detail=detail)
