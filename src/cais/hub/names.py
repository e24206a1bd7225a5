"""Names of accounts and namespaces, which are one space: what they look like, and which are free."""

import re
import sqlite3
from collections.abc import Iterable

from cais.errors import AlreadyExists, Invalid
from cais.hub.htpasswd import Htpasswd

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


class Names:
    """``htpasswd``: whose users may log in too; ``admins``: names that are administrators whoever made them; ``taken``:
    names nobody may have, as they are other registries' here."""

    def __init__(self, htpasswd: Htpasswd, admins: Iterable[str], taken: Iterable[str]) -> None:
        self._htpasswd = htpasswd
        self._taken = frozenset(taken)
        self.admins = frozenset(admins)

    def is_promised(self, name: str) -> bool:
        """Whether it is somebody's who may not have come yet: nobody else is to be called so."""
        return name in self.admins or self._htpasswd.find(name) is not None

    def check_free(self, db: sqlite3.Connection, name: str, *, adopt: bool) -> None:
        """Raises AlreadyExists for a name that a namespace has. What an administrator pushed before there was a
        namespace belongs to nobody who just takes the name; ``adopt``: who may have it."""
        taken = (
            name in self._taken or db.execute("SELECT 1 FROM namespaces WHERE name = ?", (name,)).fetchone()
        )
        if not taken and not adopt:
            taken = db.execute("SELECT 1 FROM repositories WHERE namespace = ? LIMIT 1", (name,)).fetchone()
        if taken:
            raise AlreadyExists(f"the name {name} is taken")


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
