"""Sessions of browsers that have logged in. A cookie has its secret, the database a hash of it."""

import secrets
import sqlite3
import time

import msgspec

from cais.errors import Denied
from cais.hub.accounts import Account, Accounts, read_account
from cais.hub.tokens import hash_secret
from cais.registry.database import Database

SESSION_SECONDS = 7 * 24 * 3600
MAX_SESSIONS = 50
"""Of one account: the oldest goes."""


class Session(msgspec.Struct, frozen=True):
    """A browser that has logged in."""

    account: Account
    csrf: str


class Sessions:
    """They end with their time, with the account's password, and when it is disabled."""

    def __init__(self, database: Database, accounts: Accounts) -> None:
        self._db = database
        self._accounts = accounts

    async def open(self, account: str) -> tuple[str, Session]:
        """A new one: the cookie's value, and what it stands for. Raises NotFound, Denied: a robot, or disabled."""
        owner = self._accounts.get(account)
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

    def find(self, value: str) -> Session | None:
        """What a cookie stands for, if it still does."""
        row = self._db.read_one(
            "SELECT a.id, a.name, a.password, a.kind, a.admin, a.disabled, a.created_ns, a.stamp, s.csrf "
            "FROM sessions s "
            "JOIN accounts a ON a.id = s.account WHERE s.hash = ? AND s.expires_ns > ? AND NOT a.disabled",
            hash_secret(value),
            time.time_ns(),
        )
        return Session(read_account(row[:8]), row[8]) if row else None

    async def close(self, value: str) -> None:
        """Log out. Idempotent."""
        await self._db.write(
            lambda db: db.execute("DELETE FROM sessions WHERE hash = ?", (hash_secret(value),))
        )
