"""Logging in: by a password, ours or the htpasswd file's, or by a kept token."""

import msgspec

from cais.errors import Unauthenticated
from cais.hub.accounts import Accounts
from cais.hub.htpasswd import Htpasswd
from cais.hub.kepttokens import KeptTokens
from cais.hub.passwords import ROUNDS, Passwords, Throttle
from cais.hub.tokens import PREFIX
from cais.registry.base import Caller


class Logins:
    """Who fails often waits; see ``passwords``."""

    def __init__(
        self, accounts: Accounts, tokens: KeptTokens, passwords: Passwords, htpasswd: Htpasswd
    ) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self._passwords = passwords
        self._htpasswd = htpasswd
        self._throttle = Throttle()

    async def login(self, name: str, secret: str, address: str, *, tokens: bool = True) -> Caller:
        """By password or, if ``tokens``, by kept token. Raises Unauthenticated, always with the same words; Refusal
        TOOMANYREQUESTS."""
        found = self._tokens.find(secret, name) if tokens and secret.startswith(PREFIX) else None
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
        account = self._accounts.find(name)
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
            account = await self._accounts.welcome(name, address)
        return Caller(account=account.name, admin=account.admin, kind="password")
