"""Tokens that people and robots keep: made, listed, used, ended. See ``tokens`` for what they look like."""

import sqlite3
import time
from collections.abc import Sequence

import msgspec

from cais.errors import Conflict, Denied, Invalid, NotFound
from cais.hub.accounts import Accounts
from cais.hub.audit import make_event
from cais.hub.rights import is_person
from cais.hub.tokens import hash_secret, make_secret, merge_grants, parse_grant
from cais.registry.base import Caller
from cais.registry.catalog import note
from cais.registry.database import Database

MAX_TOKENS = 200
"""Of one account; more are refused."""
MAX_SECONDS = 100 * 366 * 24 * 3600


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A kept token, without its secret; ``expires_ns`` 0: never."""

    id: int
    name: str
    account: str
    scopes: tuple[str, ...]
    expires_ns: int
    created_ns: int
    used_ns: int


class KeptTokens:
    """Only hashes of them are on record. When they were last used is written down by ``flush``."""

    def __init__(self, database: Database, accounts: Accounts) -> None:
        self._db = database
        self._accounts = accounts
        self._used: dict[int, int] = {}

    def find(self, secret: str, name: str = "") -> Caller | None:
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

    async def add(
        self, account: str, name: str, scopes: Sequence[str], seconds: int, by: Caller
    ) -> tuple[Token, str]:
        """A token and its secret, which is shown only now. ``seconds`` of life, 0: for ever. Raises Denied, Invalid."""
        if not is_person(by) or (by.account != account and not by.admin):
            raise Denied("a token is made by who logs in with the password")
        owner = self._accounts.get(account)
        if not 0 < len(name) <= 100 or len(scopes) > 50:
            raise Invalid("a token has a name of up to 100 characters and up to 50 scopes")
        token, secret = make_token(account, name, scopes, seconds)

        def act(db: sqlite3.Connection) -> Token:
            note(db, make_event("token", by, account, name))
            return insert_token(db, owner.id, token, secret)

        return await self._db.write(act, durable=True), secret

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

    async def remove(self, account: str, id: int, by: Caller) -> None:
        """It ends at once, and the registry tokens of its account with it. Raises Denied, NotFound."""
        if by.grants is not None or (by.account != account and not by.admin):
            raise Denied("it is not your token, or you came with one that has limits")
        owner = self._accounts.get(account)

        def act(db: sqlite3.Connection) -> None:
            if not db.execute("DELETE FROM tokens WHERE id = ? AND account = ?", (id, owner.id)).rowcount:
                raise NotFound(f"no such token: {id}")
            db.execute("UPDATE accounts SET stamp = stamp + 1 WHERE id = ?", (owner.id,))
            note(db, make_event("token removed", by, account, str(id)))

        await self._db.write(act, durable=True)


def make_token(account: str, name: str, scopes: Sequence[str], seconds: int) -> tuple[Token, str]:
    """A token that is nowhere yet, and its secret. Raises Invalid."""
    for scope in scopes:
        parse_grant(scope)
    if not 0 <= seconds <= MAX_SECONDS:
        raise Invalid("a token lives for a number of seconds, or for ever: 0")
    now = time.time_ns()
    token = Token(
        id=0,
        name=name,
        account=account,
        scopes=tuple(scopes),
        expires_ns=now + seconds * 1_000_000_000 if seconds else 0,
        created_ns=now,
        used_ns=0,
    )
    return token, make_secret()


def insert_token(db: sqlite3.Connection, owner: int, token: Token, secret: str) -> Token:
    """Keep it, within the transaction of who has asked whether it may be made. Raises Conflict: too many."""
    (count,) = db.execute("SELECT COUNT(*) FROM tokens WHERE account = ?", (owner,)).fetchone()
    if count >= MAX_TOKENS:
        raise Conflict(f"{token.account} has {count} tokens: remove one first")
    scopes = msgspec.json.encode(token.scopes).decode()
    made = db.execute(
        "INSERT INTO tokens (account, name, hash, scopes, expires_ns, created_ns) VALUES (?, ?, ?, ?, ?, ?)",
        (owner, token.name, hash_secret(secret), scopes, token.expires_ns, token.created_ns),
    )
    return msgspec.structs.replace(token, id=int(made.lastrowid or 0))
