"""Who may do what: the hub's accounts in front of the registry, and the token server that Docker's clients ask."""

import asyncio
import base64
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from cais.errors import CaisError, Denied, Invalid, Unauthenticated
from cais.hub.people import People
from cais.hub.rights import ROLES
from cais.hub.tokens import CATALOG, LIFE, MAX_SCOPES, PREFIX, Grants, Signer, matches, parse_scope
from cais.registry.base import Action, Caller
from cais.registry.catalog import ROOT_NAMESPACE, namespace_of
from cais.registry.database import Database
from cais.registry.http.ask import answer_json
from cais.registry.origins import Origin
from cais.registry.refusal import as_refusal, format_refusal
from cais.remotes.auth import ANONYMOUS

MAX_FORM = 64 << 10
MAX_PATTERNS = 2000
"""Characters of a kept token's limits that a registry token can carry: it must fit into a header."""
_REFUSED = "no such repository, or you may not do this with it"


class AccountGate:
    """See ``base.Gate``. ``anonymous``: public repositories may be pulled by who has not logged in; ``origin``: where
    the token server is, for who comes by another name too; empty: where the client says that we are."""

    def __init__(
        self, people: People, database: Database, signer: Signer, *, anonymous: bool, origin: str = ""
    ) -> None:
        self._people = people
        self._db = database
        self._signer = signer
        self._anonymous = anonymous
        self._origin = origin
        self.find_origin: Callable[[str], Origin | None] = lambda _: None
        """Which other registry a repository comes from."""

    async def identify(self, authorization: str, address: str) -> Caller:
        """See ``base.Gate``. Takes Basic (password or kept token) and Bearer (registry token or kept token)."""
        scheme, _, value = authorization.partition(" ")
        if not authorization:
            return Caller(address=address)
        if scheme.lower() == "basic":
            name, secret = parse_basic(value)
            return await self._people.logins.login(name, secret, address)
        if scheme.lower() != "bearer":
            raise Unauthenticated("want Basic or Bearer authorization")
        if value.startswith(PREFIX):
            found = self._people.tokens.find(value.strip())
            if found is None:
                raise Unauthenticated("the token is not valid")
            return msgspec.structs.replace(found, address=address)
        claims = self._signer.read(value.strip())
        account = self._people.accounts.find(claims.account) if claims.account else None
        if claims.account and (account is None or account.disabled or account.stamp != claims.stamp):
            raise Unauthenticated("the token has ended")
        return Caller(
            account=claims.account,
            admin=account.admin if account else False,
            grants=claims.grants,
            address=address,
            kind="bearer",
        )

    async def check(self, caller: Caller, repository: str, action: Action) -> None:
        """See ``base.Gate``."""
        if not repository:
            # `docker login` asks here whether the password is right: it must be told to say it first.
            if not caller.kind:
                raise Unauthenticated("log in, or ask for an anonymous token")
            return
        if not self.may(caller, repository, action):
            # Who has logged in and may not, may not; a registry token was perhaps for something else.
            if caller.account and caller.kind != "bearer":
                raise Denied(f"{_REFUSED}: {repository}")
            raise Unauthenticated(f"{_REFUSED}: {repository}")

    def may(self, caller: Caller, repository: str, action: str) -> bool:
        """The account's rights and the token's limits both allow it."""
        if caller.grants is not None and not _granted(caller.grants, repository, action):
            return False
        if caller.admin:
            return True
        role = (
            self._people.namespaces.role(caller.account, namespace_of(repository)) if caller.account else ""
        )
        if action in ROLES.get(role, ()):
            return True
        return (
            action == "pull"
            and (self._anonymous or bool(caller.account))
            and self._is_open(caller, repository)
        )

    def _is_open(self, caller: Caller, repository: str) -> bool:
        """What comes from elsewhere need not be here yet; where the hub has credentials there, it may be somebody's
        own, and is for those that have logged in."""
        origin = self.find_origin(repository)
        if origin is not None:
            return bool(caller.account) or origin.credentials == ANONYMOUS
        return self._is_public(repository)

    def _is_public(self, repository: str) -> bool:
        row = self._db.read_one("SELECT private FROM repositories WHERE name = ?", repository)
        return row is not None and not row[0]

    async def visible(self, caller: Caller, names: Sequence[str]) -> list[str]:
        """See ``base.Gate``."""
        # Who may see little is shown little, page after page: others have their turn in between.
        await asyncio.sleep(0)
        if caller.grants is not None and CATALOG in caller.grants:
            caller = msgspec.structs.replace(caller, grants=None)
        return [name for name in names if self.may(caller, name, "pull")]

    def challenge(self, origin: str, repository: str, actions: Iterable[str]) -> str:
        """See ``base.Gate``."""
        scope = f',scope="repository:{repository}:{",".join(actions)}"' if repository else ""
        return f'Bearer realm="{self._origin or origin}/token",service="{self._signer.service}"{scope}'

    # The token server

    async def token(self, request: web.BaseRequest) -> web.StreamResponse:
        """GET and POST ``/token``."""
        try:
            return await self._token(request)
        except CaisError as error:
            refusal = as_refusal(error)
            headers = {"Content-Type": "application/json", **refusal.headers}
            if refusal.status == 401:
                headers["WWW-Authenticate"] = 'Basic realm="cais"'
            reply = web.Response(status=refusal.status, body=format_refusal(refusal), headers=headers)
            if request.body_exists and not request.content.is_eof():
                reply.force_close()  # the rest of the form is not read
            return reply

    async def _token(self, request: web.BaseRequest) -> web.StreamResponse:
        address = request.remote or "unix"
        if request.method == "POST":
            form = await read_form(request)
            caller = await self._by_form(form, address)
        elif request.method == "GET":
            form = parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True)
            caller = await self.identify(request.headers.get("Authorization", ""), address)
        else:
            raise Invalid("want GET or POST")
        fields = dict(form)
        if fields.get("service", "") != self._signer.service:
            raise Invalid(f"this is the token server of {self._signer.service!r}")
        if caller.kind == "bearer":
            raise Unauthenticated("a registry token cannot be exchanged for another")
        asked = [word for key, value in form if key == "scope" for word in value.split()][:MAX_SCOPES]
        grants = self.decide(caller, asked)
        account = self._people.accounts.find(caller.account) if caller.account else None
        token, now = self._signer.sign(caller.account, grants, account.stamp if account else 0)
        answer: dict[str, object] = {"token": token, "access_token": token, "expires_in": LIFE}
        answer["issued_at"] = _iso(now)
        return answer_json(answer, {"Cache-Control": "no-store"})

    async def _by_form(self, form: Sequence[tuple[str, str]], address: str) -> Caller:
        """OAuth2's form: the password, or a kept token in the place of a refresh token."""
        fields = dict(form)
        if fields.get("grant_type") == "password":
            return await self._people.logins.login(
                fields.get("username", ""), fields.get("password", ""), address
            )
        if fields.get("grant_type") == "refresh_token":
            return await self.identify(f"Bearer {fields.get('refresh_token', '')}", address)
        raise Invalid("want grant_type password or refresh_token")

    def decide(self, caller: Caller, asked: Sequence[str]) -> Grants:
        """What of the scopes that were asked for is allowed; less is no error (the client is told on use)."""
        grants: dict[str, frozenset[str]] = {}
        if caller.grants is None and (not asked or f"{CATALOG}:*" in asked):
            grants[CATALOG] = frozenset({"*"})
        elif caller.grants is not None and f"{CATALOG}:*" in asked:
            grants |= _pull_only(caller.grants)
        for text in asked:
            scope = parse_scope(text)
            if scope is not None:
                name, actions = scope
                allowed = {action for action in actions if self.may(caller, name, action)}
                grants[name] = grants.get(name, frozenset()) | allowed
        return grants


def parse_basic(value: str) -> tuple[str, str]:
    """Name and password. Raises Unauthenticated."""
    try:
        name, colon, secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError:  # binascii's too
        raise Unauthenticated("invalid Basic authorization") from None
    if not colon:
        raise Unauthenticated("invalid Basic authorization")
    return name, secret


async def read_form(request: web.BaseRequest) -> list[tuple[str, str]]:
    """A small form's fields. Raises Invalid."""
    data = bytearray()
    while piece := await request.content.readany():
        data += piece
        if len(data) > MAX_FORM:
            raise Invalid(f"a form has {MAX_FORM} bytes at most")
    try:
        return parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise Invalid("the form is not one") from None


def _granted(grants: Mapping[str, frozenset[str]], repository: str, action: str) -> bool:
    if action in grants.get(repository, ()):
        return True
    # What a namespace's patterns mean, they mean of the root's repositories too, which do not say its name.
    full = repository if "/" in repository else f"{ROOT_NAMESPACE}/{repository}"
    return any(
        "*" in name and action in actions and (matches(name, repository) or matches(name, full))
        for name, actions in grants.items()
    )


def _pull_only(grants: Grants) -> dict[str, frozenset[str]]:
    """A kept token's limits as a registry token's, to list what they mean; no more than a header holds."""
    found: dict[str, frozenset[str]] = {}
    left = MAX_PATTERNS
    for pattern, actions in grants.items():
        left -= len(pattern)
        if "pull" in actions and left >= 0:
            found[pattern] = frozenset({"pull"})
    return found


def _iso(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
