"""All that a hub knows of people, put together on one database: for the hub, and for who tests its parts."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec

from cais.hub.accounts import Accounts
from cais.hub.htpasswd import Htpasswd
from cais.hub.kepttokens import KeptTokens
from cais.hub.logins import Logins
from cais.hub.names import Names, is_name
from cais.hub.namespaces import Namespaces
from cais.hub.passwords import Passwords
from cais.hub.robots import Robots
from cais.hub.sessions import Sessions
from cais.registry.database import Database


class People(msgspec.Struct, frozen=True, kw_only=True):
    """Each rule is kept by one of them; they share the database."""

    accounts: Accounts
    logins: Logins
    namespaces: Namespaces
    robots: Robots
    sessions: Sessions
    tokens: KeptTokens

    @classmethod
    def open(
        cls,
        database: Database,
        passwords: Passwords,
        *,
        signup: bool = False,
        htpasswd: Path | None = None,
        admins: Iterable[str] = (),
        taken: Iterable[str] = (),
    ) -> Self:
        """``signup``: anybody may make an account; ``htpasswd``: a file whose users may log in too; ``admins`` and
        ``taken``: see ``Names``."""
        listed = Htpasswd(htpasswd, is_name)
        names = Names(listed, admins, taken)
        accounts = Accounts(database, passwords, names, signup=signup)
        namespaces = Namespaces(database, names, accounts)
        tokens = KeptTokens(database, accounts)
        return cls(
            accounts=accounts,
            logins=Logins(accounts, tokens, passwords, listed),
            namespaces=namespaces,
            robots=Robots(database, names, namespaces),
            sessions=Sessions(database, accounts),
            tokens=tokens,
        )
