"""``daemon.json``: read typed, unknown keys refused, contradictions with the command line refused."""

from pathlib import Path
from typing import Any

import msgspec

from cais.daemon.options import BY_KEY, Values
from cais.daemon.values import Pool, Ulimit
from cais.errors import Invalid


def parse_file(data: bytes) -> Values:
    """What a configuration file sets. Raises ``Invalid`` naming the wrong key."""
    if not data.strip():
        return {}
    try:
        raw = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise Invalid(f"invalid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise Invalid("invalid JSON: expected an object")
    unknown = sorted(key for key in raw if key not in BY_KEY)
    if unknown:
        listed = ", ".join(unknown)
        raise Invalid(f"the following directives don't match any configuration option: {listed}")
    return {key: _convert(key, value) for key, value in raw.items() if value is not None}


def _convert(key: str, value: Any) -> Any:
    option = BY_KEY[key]
    try:
        typed = msgspec.convert(value, option.type)
    except msgspec.ValidationError as error:
        text, at, path = str(error).partition(" - at `$")
        raise Invalid(f"invalid JSON: {text} - at `$.{key}{path if at else '`'}") from error
    try:
        if isinstance(typed, str):
            return option.parse(typed)
        if option.many and isinstance(typed, list) and all(isinstance(item, str) for item in typed):
            return [option.parse(item) for item in typed]
    except ValueError as error:
        raise Invalid(f"invalid value for {key}: {error}") from error
    return typed


def read_file(path: Path, *, required: bool) -> Values:
    """The values of the file at ``path``; nothing when it is absent and not ``required``. Raises
    ``Invalid``."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        if not required:
            return {}
        raise Invalid(_failure(path, f"open {path}: no such file or directory")) from error
    except OSError as error:
        raise Invalid(_failure(path, f"open {path}: {error.strerror}")) from error
    try:
        return parse_file(data)
    except Invalid as error:
        raise Invalid(_failure(path, str(error))) from error


def merge(path: Path, flags: Values, file: Values) -> Values:
    """Both together. Raises ``Invalid`` when one thing is set in both, as dockerd does."""
    both = sorted(set(flags) & set(file))
    if both:
        listed = ", ".join(
            f"{key}: (from flag: {_show(flags[key])}, from file: {_show(file[key])})" for key in both
        )
        problem = (
            f"the following directives are specified both as a flag and in the configuration file: {listed}"
        )
        raise Invalid(_failure(path, problem))
    return {**file, **flags}


def _failure(path: Path, problem: str) -> str:
    return f"unable to configure the Docker daemon with file {path}: {problem}"


def _show(value: Any) -> str:
    """As Go prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{' '.join(_show(item) for item in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_show(item)}' for key, item in sorted(value.items()))}]"
    if isinstance(value, Pool):
        return f"{{{value.base} {value.size}}}"
    if isinstance(value, Ulimit):
        return f"{value.name}={value.soft}:{value.hard}"
    return str(value)
