"""Saying who we are to a registry: challenges, credentials, and the talk with a token server, without any I/O."""

import base64
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from cais.errors import Denied, Invalid, Unauthenticated, Unavailable
from cais.remotes.refusals import clean_text, describe_body

CLIENT_ID = "cais"
_HEADER_LIMIT = 64 << 10
# RFC 9110 section 11.6.1: a scheme, then name=value pairs; several challenges may share one field.
_PART = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)(?:\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+)))?")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client gave to reach one registry. All empty: anonymous. The secret ones have no ``repr``."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token (OAuth 2), in the password's place."""
    registry_token: str = field(default="", repr=False)
    """A bearer token that is sent as it is."""

    def secrets(self) -> tuple[str, ...]:
        """Texts that no log and no error may show."""
        given = (self.password, self.identity_token, self.registry_token)
        return tuple(text for text in given if text)


ANONYMOUS = Credentials()


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to identify that a server offers; ``scheme`` and names of ``fields`` are in lower case."""

    scheme: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What to ask a token server: a GET, or with ``form`` a POST of it."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    form: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Authorization:
    """What to write into ``Authorization``, and the refresh token that came with it (empty: none)."""

    value: str = field(repr=False)
    refresh_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TokenReply:
    """What it said."""

    status: int
    body: bytes = field(repr=False)


def parse_registry_auth(text: str) -> Credentials:
    """The ``X-Registry-Auth`` header of Docker's clients: base64url of a JSON object; empty is anonymous.

    Docker's API, "Authentication". Raises Invalid, without a word of what it held.
    """
    if not text:
        return ANONYMOUS
    if len(text) > _HEADER_LIMIT:
        raise Invalid("invalid X-Registry-Auth header: it is too long")
    try:
        # Some clients use the other alphabet, some leave the padding out.
        plain = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
        data = base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
        raw = msgspec.json.decode(data, type=dict[str, Any] | None) or {}
    except (ValueError, RecursionError):
        raise Invalid("invalid X-Registry-Auth header: want base64url of a JSON object") from None
    given = {key.lower(): value for key, value in raw.items() if isinstance(value, str)}
    username, password = given.get("username", ""), given.get("password", "")
    if not username and given.get("auth"):
        username, password = parse_basic(given["auth"])
    return Credentials(username, password, given.get("identitytoken", ""), given.get("registrytoken", ""))


def parse_basic(text: str) -> tuple[str, str]:
    """User and password of base64 ``user:password``, as ``config.json`` keeps them. Raises Invalid."""
    try:
        username, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except ValueError:
        raise Invalid("invalid auth configuration: want base64 of user:password") from None
    if not colon:
        raise Invalid("invalid auth configuration: want base64 of user:password")
    return username, password.strip("\0")


def parse_challenges(lines: Iterable[str]) -> list[Challenge]:
    """The challenges of all ``WWW-Authenticate`` fields; what cannot be read is passed over."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in lines:
        for name, quoted, plain in _PART.findall(line[:_HEADER_LIMIT]):
            if quoted or plain or f'{name}=""' in line:
                if found:
                    found[-1][1].setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or plain)
            else:
                found.append((name.lower(), {}))
    return [Challenge(scheme, fields) for scheme, fields in found]


def authenticate(
    challenges: Iterable[Challenge],
    credentials: Credentials,
    *,
    scope: str,
    secure: bool,
    extra: str = "",
    offline: bool = False,
) -> Generator[TokenRequest, TokenReply, Authorization]:
    """What to write into ``Authorization``; yields what has to be asked for it and wants the replies sent in.

    Bearer goes before basic. ``scope`` is what to ask for where the challenge does not say; ``extra`` (several with
    blanks between) is asked for in any case: one token for all that is to be done. ``secure``: the registry was
    reached by TLS, so no secret may go to a token server without. ``offline``: a refresh token is wanted too
    (distribution spec, "Token Authentication Specification"; RFC 6749 section 6 for refresh tokens).
    Raises Unauthenticated, Denied, Unavailable.
    """
    offered = {challenge.scheme: challenge for challenge in reversed([*challenges])}
    if "bearer" in offered:
        if credentials.registry_token:
            return Authorization(f"Bearer {credentials.registry_token}")
        fields = offered["bearer"].fields
        _check_realm(fields.get("realm", ""), credentials, secure)
        wanted = merge_scopes(extra, fields.get("scope") or scope)
        return (yield from _ask_for_token(fields, credentials, wanted, offline))
    if "basic" in offered and credentials.username:
        return Authorization(format_basic(credentials))
    if "basic" in offered:
        raise Unauthenticated("no basic auth credentials")
    raise Unauthenticated("unauthorized: authentication required")


def merge_scopes(*texts: str) -> tuple[str, ...]:
    """Every scope once; of two for the same resource the one with more actions, joined.

    Distribution spec, "Token Scope Documentation": ``type:name:actions``; the name may have a colon (a port).
    """
    actions: dict[str, list[str]] = {}
    for scope in " ".join(texts).split():
        resource, _, words = scope.rpartition(":")
        known = actions.setdefault(resource, [])
        known += [word for word in words.split(",") if word not in known]
    return tuple(f"{resource}:{','.join(words)}" for resource, words in actions.items() if resource)


def format_basic(credentials: Credentials) -> str:
    """The value of a basic ``Authorization`` (RFC 7617)."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _check_realm(realm: str, credentials: Credentials, secure: bool) -> None:
    try:
        parts = urlsplit(realm)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise Unavailable(f"the registry names no usable token server: {clean_text(realm)!r}")
    if secure and parts.scheme == "http" and credentials.secrets():
        raise Denied(f"the registry wants its credentials sent to {clean_text(host)} without TLS")


def _ask_for_token(
    fields: Mapping[str, str], credentials: Credentials, scopes: Sequence[str], offline: bool
) -> Generator[TokenRequest, TokenReply, Authorization]:
    query = [("service", fields["service"])] if fields.get("service") else []
    realm = fields["realm"]
    if credentials.identity_token:
        form = [
            *query,
            *([("scope", " ".join(scopes))] if scopes else []),
            ("client_id", CLIENT_ID),
            ("grant_type", "refresh_token"),
            ("refresh_token", credentials.identity_token),
        ]
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        reply = yield TokenRequest(realm, kind, urlencode(form))
    else:
        headers = {}
        query += [("scope", scope) for scope in scopes]
        if credentials.username and offline:
            query.append(("offline_token", "true"))
        if credentials.username:
            query = [("account", credentials.username), ("client_id", CLIENT_ID), *query]
            headers = {"Authorization": format_basic(credentials)}
        joint = "&" if urlsplit(realm).query else "?"
        reply = yield TokenRequest(f"{realm}{joint}{urlencode(query)}" if query else realm, headers)
    return _read_token(reply, credentials)


def _read_token(reply: TokenReply, credentials: Credentials) -> Authorization:
    if reply.status in (400, 401, 403):
        said = describe_body(reply.body, credentials.secrets()) or "authentication required"
        raise Unauthenticated(said if said.startswith("unauthorized") else f"unauthorized: {said}")
    if reply.status != 200:
        raise Unavailable(f"the token server answered with HTTP status {reply.status}")
    try:
        raw = msgspec.json.decode(reply.body)
        token = raw.get("token") or raw.get("access_token")
        refresh = raw.get("refresh_token")
    except (ValueError, AttributeError, RecursionError):
        token = refresh = None
    # It goes into a header field: nothing that could end that may be in it.
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise Unavailable("authorization server did not include a token in the response")
    return Authorization(f"Bearer {token}", refresh if isinstance(refresh, str) else "")
