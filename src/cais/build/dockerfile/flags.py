"""Flags of instructions, and the options of ``RUN --mount``: names, values, near misses."""

import csv
import re
from collections.abc import Sequence

from cais.build.dockerfile.fault import DockerfileError, suggest
from cais.build.dockerfile.values import MountOption

FLAGS: dict[str, tuple[str, ...]] = {
    "FROM": ("platform",),
    "RUN": ("mount", "network", "security", "device"),
    "COPY": ("from", "chown", "chmod", "link", "parents", "exclude"),
    "ADD": ("chown", "chmod", "link", "checksum", "keep-git-dir", "exclude", "unpack"),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
}
_BOOLEAN = frozenset(("link", "parents", "keep-git-dir", "unpack"))
_REPEATED = frozenset(("mount", "device", "exclude"))
_TRUE = ("true", "1", "t")
_FALSE = ("false", "0", "f")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

Flags = dict[str, list[str]]


def parse_flags(keyword: str, words: Sequence[str]) -> Flags:
    """The flags by name; a switch without value is ``true``. Raises DockerfileError."""
    known = FLAGS.get(keyword, ())
    found: Flags = {}
    for word in words:
        name, equals, value = word[2:].partition("=")
        if name not in known:
            raise DockerfileError(f"unknown flag: --{name}", hint=_flag_hint(keyword, name, known))
        if name in found and name not in _REPEATED:
            raise DockerfileError(f"duplicate flag specified: --{name}")
        if name in _BOOLEAN:
            value = str(parse_switch(f"--{name}", value) if equals else True).lower()
        elif not equals:
            raise DockerfileError(f"missing a value on flag: --{name}", hint=f"write --{name}=VALUE")
        found.setdefault(name, []).append(value)
    return found


def _flag_hint(keyword: str, name: str, known: Sequence[str]) -> str:
    near = suggest(f"--{name}", [f"--{flag}" for flag in known])
    if near or known:
        return near or f"{keyword} knows {', '.join(f'--{flag}' for flag in known)}"
    return f"{keyword} has no flags"


def parse_switch(what: str, text: str) -> bool:
    """A boolean. Raises DockerfileError."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise DockerfileError(f"expecting boolean value for flag {what}, not: {text}")


def parse_size(text: str) -> int:
    """Bytes of ``64m`` and the like. Raises DockerfileError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise DockerfileError(f"invalid size: {text!r}", hint="write a number and b, k, m or g")
    return int(float(found[1]) * _UNITS[found[2].lower()])


# --mount

_ALIASES = {
    "dst": "target",
    "destination": "target",
    "src": "source",
    "ro": "readonly",
    "rw": "readwrite",
}
_OPTIONS: dict[str, tuple[str, ...]] = {
    "bind": ("type", "target", "source", "from", "readonly", "readwrite"),
    "cache": (
        *("type", "id", "target", "source", "from", "sharing", "readonly", "readwrite"),
        *("mode", "uid", "gid"),
    ),
    "tmpfs": ("type", "target", "size", "mode", "uid", "gid"),
    "secret": ("type", "id", "target", "source", "required", "mode", "uid", "gid", "env"),
    "ssh": ("type", "id", "target", "required", "mode", "uid", "gid"),
}
_SWITCHES = frozenset(("readonly", "readwrite", "required"))
_NUMBERS = frozenset(("mode", "uid", "gid"))
_SHARING = ("shared", "private", "locked")


def parse_mount(text: str) -> MountOption:
    """The value of one ``--mount``. Raises DockerfileError."""
    options = _split_options(text)
    kind = options.get("type", "bind").lower()
    if kind not in _OPTIONS:
        raise DockerfileError(f"unsupported mount type {kind!r}", hint=suggest(kind, _OPTIONS))
    for key in options:
        if key not in _OPTIONS[kind]:
            raise DockerfileError(
                f"unexpected key '{key}' for mount type '{kind}'", hint=suggest(key, _OPTIONS[kind])
            )
    return _check_mount(_make_mount(kind, options))


def _split_options(text: str) -> dict[str, str]:
    """Comma-separated ``key=value``, by the rules of CSV."""
    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise DockerfileError(f"failed to parse csv mounts: {text!r}") from None
    found: dict[str, str] = {}
    for field in row:
        key, equals, value = field.partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        if not equals:
            if key not in _SWITCHES:
                raise DockerfileError(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        found[key] = value
    return found


def _make_mount(kind: str, options: dict[str, str]) -> MountOption:
    readonly: bool | None = None
    if "readonly" in options:
        readonly = parse_switch("readonly", options["readonly"])
    if "readwrite" in options:
        readonly = not parse_switch("readwrite", options["readwrite"])
    numbers = {key: _number(key, options[key]) for key in _NUMBERS if key in options}
    return MountOption(
        type=kind,
        target=options.get("target", ""),
        source=options.get("source", ""),
        from_=options.get("from", ""),
        id=options.get("id", ""),
        sharing=options.get("sharing", "").lower(),
        env=options.get("env", ""),
        readonly=readonly,
        required=parse_switch("required", options.get("required", "false")),
        mode=numbers.get("mode"),
        uid=numbers.get("uid"),
        gid=numbers.get("gid"),
        size=parse_size(options["size"]) if "size" in options else 0,
    )


def _number(key: str, text: str) -> int:
    base, most = (8, 0o7777) if key == "mode" else (10, (1 << 31) - 1)
    digits = text.removeprefix("0o") if key == "mode" else text
    try:
        value = int(digits, base) if digits.isascii() and digits.isdigit() else -1
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise DockerfileError(f"invalid value '{text}' for {key}")
    return value


def _check_mount(mount: MountOption) -> MountOption:
    if mount.type in ("bind", "cache", "tmpfs") and not mount.target:
        raise DockerfileError(f"mount of type {mount.type} needs a target")
    if mount.sharing and mount.sharing not in _SHARING:
        raise DockerfileError(
            f"unsupported sharing value {mount.sharing!r}", hint=suggest(mount.sharing, _SHARING)
        )
    if mount.type == "secret" and not mount.id and not mount.target and not mount.source:
        raise DockerfileError("one of source, target required", hint="name the secret with id=NAME")
    return mount
