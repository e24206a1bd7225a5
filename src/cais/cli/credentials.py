"""Credentials for registries as this user keeps them: Docker's ``config.json`` and its credential helpers."""

from __future__ import annotations

import os

from cais.cli.failure import Failure
from cais.cli.late import load
from cais.cli.session import warn
from cais.cli.wirejson import format_json, format_pretty, parse_json
from cais.spec.registryauth import (
    find_entry,
    find_helper,
    format_entry,
    format_header,
    format_secret,
    make_key,
    read_entry,
    read_secret,
    strip_server,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NOT_FOUND = "credentials not found in native keychain"


def config_path() -> str:
    """Where ``config.json`` is: in DOCKER_CONFIG, else in the home folder."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return f"{folder}/config.json"


def read_config() -> dict[str, Any]:
    """Its content; empty when there is none. Raises Failure when it cannot be read."""
    path = config_path()
    try:
        with open(path, "rb") as file:
            value = parse_json(file.read())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Failure(f"cannot read {path}: {(error.strerror or '').lower()}") from None
    except ValueError:
        raise Failure(f"cannot read {path}: it is not JSON") from None
    if not isinstance(value, dict):
        raise Failure(f"cannot read {path}: want a JSON object")
    return value


def make_fields(domain: str) -> list[tuple[str, str]]:
    """The header field that carries what is kept for the registry that references call ``domain``; none without.
    What cannot be read is told, and left out: many images can be had without."""
    try:
        auth = find_auth(make_key(domain))
    except Failure as failure:
        warn(f"WARNING: {failure}")
        return []
    return [format_field(auth)] if auth else []


def make_config_fields() -> list[tuple[str, str]]:
    """The header field of a build, with what is kept for every registry: nobody knows yet which ones it needs."""
    found = {}
    for key in _auths(read_config()):
        try:
            found[key] = find_auth(key)
        except Failure as failure:
            warn(f"WARNING: {failure}")
    found = {key: auth for key, auth in found.items() if auth}
    return [("X-Registry-Config", format_header(format_json(found).encode()))] if found else []


def format_field(auth: dict[str, str]) -> tuple[str, str]:
    """The header field for an AuthConfig."""
    return "X-Registry-Auth", format_header(format_json(auth).encode())


def find_auth(key: str) -> dict[str, str]:
    """The AuthConfig for ``key`` (HUB_KEY or host[:port]); empty without. Raises Failure."""
    config = read_config()
    if helper := find_helper(config, key):
        return read_secret(_ask(helper, "get", key), key)
    try:
        return read_entry(find_entry(_auths(config), key), key)
    except ValueError as error:
        raise Failure(f"cannot read {config_path()}: {error}") from None


def store_auth(auth: dict[str, str]) -> str:
    """Keep an AuthConfig; where: the helper's name, or empty for ``config.json``. Raises Failure."""
    config, key = read_config(), auth["serveraddress"]
    auths = _auths(config)
    if helper := find_helper(config, key):
        _ask(helper, "store", format_json(format_secret(auth)))
        auths[key] = {}  # that there is something, as Docker notes it
    else:
        auths[key] = format_entry(auth)
    _write({**config, "auths": auths})
    return helper


def erase_auth(key: str) -> bool:
    """Forget what is kept for ``key``; False if nothing was. Raises Failure."""
    config = read_config()
    auths = _auths(config)
    known = [name for name in auths if strip_server(name) == strip_server(key)]
    if helper := find_helper(config, key):
        known = known or ([key] if read_secret(_ask(helper, "get", key), key) else [])
        if known:
            _ask(helper, "erase", key)
    if not known:
        return False
    _write({**config, "auths": {name: value for name, value in auths.items() if name not in known}})
    return True


def _auths(config: dict[str, Any]) -> dict[str, Any]:
    auths = config.get("auths")
    return auths if isinstance(auths, dict) else {}


def _write(config: dict[str, Any]) -> None:
    """Replace the file as a whole, for its owner's eyes only; a link to it stays one."""
    path = os.path.realpath(config_path())
    temporary = f"{path}.cais-{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(number, "w", encoding="utf-8") as file:
                file.write(format_pretty(config, "\t"))
                file.flush()
                os.fsync(number)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise Failure(f"cannot write {path}: {(error.strerror or '').lower()}") from None


def _ask(helper: str, verb: str, text: str) -> dict[str, Any]:
    """What the helper answers (its protocol: docker-credential-helpers, README): a JSON object or nothing. Secrets go
    over its standard input, never into arguments or messages."""
    program = f"docker-credential-{helper}"
    try:
        done = load("subprocess:run")([program, verb], input=text.encode(), capture_output=True)
    except OSError as error:
        raise Failure(f"cannot run {program}: {(error.strerror or '').lower()}") from None
    said = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode:
        if said == _NOT_FOUND and verb != "store":
            return {}
        raise Failure(f"error from {program} at {verb}: {said if verb != 'store' else 'it could not store'}")
    if verb != "get":
        return {}
    try:
        value = parse_json(said)
    except ValueError:
        raise Failure(f"error from {program} at {verb}: its answer is not JSON") from None
    return value if isinstance(value, dict) else {}
