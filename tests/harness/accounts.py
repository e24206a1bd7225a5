"""A hub's accounts in the test's own process, on a folder that a real hub can be started on too.

Everybody's password is PASSWORD: ``boss`` is an administrator, ``alice``, ``bob`` and ``carol`` are not.
"""

import asyncio
import base64
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cais.hub import schema as hub_schema
from cais.hub.gate import AccountGate
from cais.hub.passwords import Passwords
from cais.hub.people import People
from cais.hub.tokens import Signer, load_key
from cais.registry import schema as registry_schema
from cais.registry.base import Caller
from cais.registry.catalog import SqliteCatalog
from cais.registry.database import Database
from cais.spec.digest import digest_bytes

PASSWORD = "correct horse 7"
PEOPLE = ("alice", "bob", "carol")
ADDRESS = "192.0.2.7"


@dataclass(frozen=True)
class Desk:
    """Everything that knows accounts, put together as the hub does."""

    root: Path
    database: Database
    passwords: Passwords
    people: People
    signer: Signer
    gate: AccountGate

    async def login(self, name: str, secret: str = PASSWORD, address: str = ADDRESS) -> Caller:
        """As a request of theirs would be identified."""
        return await self.people.logins.login(name, secret, address)

    async def token(self, name: str, *scopes: str, seconds: int = 0) -> str:
        """The secret of a new kept token."""
        _, secret = await self.people.tokens.add(name, "t", scopes, seconds, await self.login(name))
        return secret

    async def make_repository(self, name: str, *, private: bool = False) -> None:
        """With one blob in it."""
        await SqliteCatalog(self.database).link_blob(name, digest_bytes(name.encode()), 1)
        await self.execute("UPDATE repositories SET private = ? WHERE name = ?", private, name)

    async def execute(self, sql: str, *values: Any) -> None:
        """What no method does: to put a database into a state that takes long to come about."""
        await self.database.write(lambda db: db.execute(sql, values))


@asynccontextmanager
async def open_desk(
    root: Path,
    *,
    populated: bool = True,
    signup: bool = False,
    htpasswd: Path | None = None,
    admins: Iterable[str] = (),
    taken: Iterable[str] = (),
    anonymous: bool = True,
    origin: str = "",
) -> AsyncIterator[Desk]:
    """Accounts on ``root``; not ``populated``: as at the first start of a hub."""
    if populated and not root.exists():
        copy_people(root)
    root.mkdir(exist_ok=True)
    database = Database(root / "hub.db", {"registry": registry_schema.STEPS, "hub": hub_schema.STEPS})
    passwords = Passwords()
    try:
        people = People.open(
            database, passwords, signup=signup, htpasswd=htpasswd, admins=admins, taken=taken
        )
        await people.accounts.prepare()
        signer = Signer(load_key(root / "hub.key"), "cais-hub")
        gate = AccountGate(people, database, signer, anonymous=anonymous, origin=origin)
        yield Desk(root, database, passwords, people, signer, gate)
    finally:
        passwords.close()
        database.close()


def copy_people(root: Path) -> None:
    """A hub's folder with the accounts in it: slow to make, as passwords are slow on purpose, so made once."""
    shutil.copytree(_template().name, root)


@cache
def _template() -> "tempfile.TemporaryDirectory[str]":
    folder: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(prefix="cais-people-")
    # Of its own loop: who asks may be on one already.
    thread = threading.Thread(target=lambda: asyncio.run(_make_people(Path(folder.name))))
    thread.start()
    thread.join()
    with sqlite3.connect(Path(folder.name) / "hub.db") as database:
        assert database.execute("SELECT COUNT(*) FROM accounts").fetchone() == (4,)
    database.close()
    return folder


async def _make_people(root: Path) -> None:
    async with open_desk(root, populated=False) as desk:
        code = desk.people.accounts.invitation()
        assert code
        await desk.people.accounts.sign_up("boss", PASSWORD, code, ADDRESS)
        boss = await desk.login("boss")
        await asyncio.gather(*(desk.people.accounts.add(name, PASSWORD, boss) for name in PEOPLE))


def basic(name: str, secret: str = PASSWORD) -> dict[str, str]:
    """The header of somebody who says name and password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    """The header of somebody who has a token."""
    return {"Authorization": f"Bearer {token}"}
