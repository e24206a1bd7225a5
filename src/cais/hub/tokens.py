"""Tokens: those that people and robots keep (opaque, stored as hashes), and the registry's short-lived ones (JWT).

A registry token says what it was asked for and allowed; what the account may do is asked again when it is used, so a
membership that ends, ends its tokens too. It carries the account's stamp: when that has moved on (a new password, a
kept token removed), it has ended. Only HS256 with our own key, our own issuer and the service it is for is
believed (docs.docker.com, "Token authentication implementation").
"""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jwt
import msgspec

from cais.errors import Invalid, Unauthenticated
from cais.spec.reference import is_path

PREFIX = "cais_"
LIFE = 300
"""Seconds of a registry token."""
LEEWAY = 10
MAX_SCOPES = 50
ACTIONS = ("pull", "push", "delete")
_ALGORITHM = "HS256"
_SCOPE = re.compile(r"repository(?:\([a-z]+\))?:(?P<name>[^:\s]{1,255}):(?P<actions>[a-z*,]{1,64})")
_GRANT = re.compile(r"(?P<pattern>[a-z0-9._/*-]{1,255}):(?P<actions>[a-z,]{1,32})")

Grants = Mapping[str, frozenset[str]]
CATALOG = "registry:catalog"
"""Key of a registry token's grants, no repository's name: it may list all that the account may see."""


def make_secret() -> str:
    """A new token: unguessable, and recognisable in a log or a repository by its beginning."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """What is stored of it. It has 256 bits of chance: a fast hash is enough."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def parse_scope(text: str) -> tuple[str, frozenset[str]] | None:
    """Repository and actions of one ``scope`` of the token protocol; None for other types of resources."""
    match = _SCOPE.fullmatch(text)
    if match is None or not is_path(match["name"]):
        return None
    wanted = set(match["actions"].split(","))
    return match["name"], frozenset(ACTIONS if "*" in wanted else wanted & set(ACTIONS))


def parse_grant(text: str) -> tuple[str, frozenset[str]]:
    """A limit of a kept token: ``team/*:pull,push``. Raises Invalid."""
    match = _GRANT.fullmatch(text)
    actions = frozenset(match["actions"].split(",")) if match else frozenset()
    if match is None or not actions <= set(ACTIONS):
        raise Invalid(f"invalid scope {text[:100]!r}: want repository:pull,push,delete, with * for any name")
    return match["pattern"], actions


def merge_grants(scopes: Iterable[str]) -> Grants:
    """What several limits allow together. Raises Invalid."""
    grants: dict[str, frozenset[str]] = {}
    for pattern, actions in map(parse_grant, scopes):
        grants[pattern] = grants.get(pattern, frozenset()) | actions
    return grants


def matches(pattern: str, name: str) -> bool:
    """Whether a grant's pattern means this repository. ``*`` stands for anything, slashes too.

    By hand: a regular expression with many stars would take for ever on a name chosen for it."""
    if "*" not in pattern:
        return pattern == name
    first, *middle, last = pattern.split("*")
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in middle:
        found = name.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


class Claims(msgspec.Struct, frozen=True):
    """A registry token that was believed; ``stamp``: the account's, when it was made."""

    account: str
    grants: Grants
    stamp: int


class Signer:
    """Makes and reads registry tokens. ``key``: 32 bytes that nobody else has; ``service``: who they are for."""

    def __init__(self, key: bytes, service: str) -> None:
        self._key = key
        self.service = service
        self._read: dict[str, tuple[float, float, Claims]] = {}
        """Those that were believed, from when and until when they are."""

    def sign(self, account: str, grants: Grants, stamp: int = 0) -> tuple[str, int]:
        """The token, and when it was made, seconds since the epoch."""
        now = int(time.time())
        access = [_entry(name, actions) for name, actions in grants.items()]
        claims = {
            "iss": "cais-hub",
            "aud": self.service,
            "sub": account,
            "iat": now,
            "nbf": now - LEEWAY,
            "exp": now + LIFE,
            "jti": secrets.token_hex(8),
            "stamp": stamp,
            "access": access,
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM), now

    def read(self, token: str) -> Claims:
        """Raises Unauthenticated: not ours, for somebody else, too old, changed."""
        known = self._read.get(token)
        # Both ends: a clock that is set back makes nobody young again whose time had passed.
        if known and known[0] <= time.time() < known[1]:
            return known[2]
        try:
            found = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                audience=self.service,
                issuer="cais-hub",
                leeway=LEEWAY,
                options={"require": ["exp", "iat", "nbf", "sub", "aud", "iss"]},
            )
            claims = Claims(str(found["sub"]), dict(_grants(found.get("access"))), int(found["stamp"]))
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise Unauthenticated(f"the token is not valid: {type(error).__name__}") from None
        if len(self._read) >= 1000:
            self._read.clear()
        self._read[token] = float(found["iat"]) - LEEWAY, float(found["exp"]), claims
        return claims


def _entry(name: str, actions: Iterable[str]) -> dict[str, object]:
    if name == CATALOG:
        return {"type": "registry", "name": "catalog", "actions": sorted(actions)}
    return {"type": "repository", "name": name, "actions": sorted(actions)}


def _grants(access: Any) -> Iterable[tuple[str, frozenset[str]]]:
    for entry in access or ():
        kind, name, actions = entry["type"], entry["name"], entry["actions"]
        if not isinstance(name, str) or not isinstance(actions, list):
            raise TypeError("an entry of access is not one")
        if kind == "repository":
            yield name, frozenset(map(str, actions))
        elif (kind, name) == ("registry", "catalog"):
            yield CATALOG, frozenset(map(str, actions))


def load_key(path: Path) -> bytes:
    """The signing key, made when it is not there."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(32)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(key)
    if len(key) < 32:
        raise Invalid(f"{path} is no signing key: remove it, and tokens given out until now end")
    return key
