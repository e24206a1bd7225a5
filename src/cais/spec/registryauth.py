"""Credentials for registries as Docker's clients keep and send them: ``config.json``, helpers, X-Registry-Auth."""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64

TYPE_CHECKING = False  # the command line imports this: `typing` and `dataclasses` would cost it milliseconds
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

HUB_KEY = "https://index.docker.io/v1/"
"""What Docker Hub is called in ``config.json`` and to credential helpers."""
_HUB_NAMES = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io"))
_TOKEN_USER = "<token>"
"""The user name under which credential helpers keep a refresh token."""


def is_hub(server: str) -> bool:
    """Whether ``server``, a name or URL, is Docker Hub."""
    return strip_server(server) in _HUB_NAMES


def strip_server(server: str) -> str:
    """The host[:port] of a server's name or URL (Docker's ConvertToHostname)."""
    return server.partition("://")[2].partition("/")[0] if "://" in server else server.partition("/")[0]


def make_key(domain: str) -> str:
    """What ``config.json`` calls the registry that references call ``domain``."""
    return HUB_KEY if is_hub(domain) else domain


def find_entry(auths: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The entry of ``auths`` for ``key``: exactly, or by the host's name (older clients wrote URLs); may be empty."""
    found = auths.get(key)
    if not isinstance(found, dict):
        host = strip_server(key)
        found = next((value for name, value in auths.items() if strip_server(name) == host), None)
    return found if isinstance(found, dict) else {}


def find_helper(config: Mapping[str, Any], key: str) -> str:
    """The name of the helper that keeps the credentials for ``key``; empty: ``config.json`` itself does."""
    helpers = config.get("credHelpers")
    name = helpers.get(strip_server(key) if key != HUB_KEY else key, "") if isinstance(helpers, dict) else ""
    name = name or config.get("credsStore") or ""
    # It becomes a part of a program's name.
    return name if isinstance(name, str) and name and "/" not in name and "\0" not in name else ""


def read_entry(entry: Mapping[str, Any], key: str) -> dict[str, str]:
    """An AuthConfig of Docker's API from an entry of ``auths``; empty without credentials. Raises ValueError, without
    a word of what it held."""
    texts = {name: value for name, value in entry.items() if isinstance(value, str)}
    username, password = texts.get("username", ""), texts.get("password", "")
    if texts.get("auth"):
        try:
            username, _, password = a2b_base64(texts["auth"], strict_mode=True).decode().partition(":")
        except (Error, ValueError):
            raise ValueError(f"invalid auth configuration for {key}: want base64 of user:password") from None
        password = password.strip("\0")
    return make_auth(key, username, password, texts.get("identitytoken", ""), texts.get("registrytoken", ""))


def make_auth(
    key: str, username: str, password: str, identity_token: str = "", registry_token: str = ""
) -> dict[str, str]:
    """An AuthConfig of Docker's API; empty without credentials."""
    found = {
        "username": username,
        "password": "" if identity_token else password,
        "identitytoken": identity_token,
        "registrytoken": registry_token,
    }
    found = {name: value for name, value in found.items() if value}
    return {**found, "serveraddress": key} if found else {}


def format_entry(auth: Mapping[str, str]) -> dict[str, str]:
    """The entry of ``auths`` that keeps an AuthConfig."""
    pair = f"{auth.get('username', '')}:{auth.get('password', '')}".encode()
    entry = {"auth": b2a_base64(pair, newline=False).decode()}
    return entry | ({"identitytoken": auth["identitytoken"]} if auth.get("identitytoken") else {})


def read_secret(answer: Mapping[str, Any], key: str) -> dict[str, str]:
    """An AuthConfig from what a credential helper answers to ``get``."""
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        return {}
    if username == _TOKEN_USER:
        return make_auth(key, "", "", secret)
    return make_auth(key, username, secret)


def format_secret(auth: Mapping[str, str]) -> dict[str, str]:
    """What a credential helper is given to ``store``."""
    token = auth.get("identitytoken", "")
    return {
        "ServerURL": auth["serveraddress"],
        "Username": _TOKEN_USER if token else auth.get("username", ""),
        "Secret": token or auth.get("password", ""),
    }


def format_header(json: bytes) -> str:
    """The value of X-Registry-Auth for the JSON of an AuthConfig: base64url."""
    return b2a_base64(json, newline=False).decode().replace("+", "-").replace("/", "_")
