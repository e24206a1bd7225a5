"""Mounts on the command line: ``-v``, ``--mount`` and ``--device``, as the API's objects."""

from __future__ import annotations

import os

from cais.cli.flags import parse_bool
from cais.cli.units import parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def split_csv(text: str) -> list[str]:
    """The fields of one CSV record (RFC 4180). Raises ValueError in Go's words."""
    if not text:
        raise ValueError("EOF")
    fields, at = [], 0
    while True:
        if text[at : at + 1] == '"':
            field, at = _quoted(text, at + 1)
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            field = text[at:end]
            if '"' in field:
                column = at + field.index('"') + 1
                raise ValueError(f'parse error on line 1, column {column}: bare " in non-quoted-field')
            at = end
        fields.append(field)
        if at >= len(text):
            return fields
        at += 1


def _quoted(text: str, at: int) -> tuple[str, int]:
    parts = []
    while True:
        end = text.find('"', at)
        if end < 0 or text[end + 1 : end + 2] not in ("", ",", '"'):
            column = len(text) + 1 if end < 0 else end + 1
            raise ValueError(
                f'parse error on line 1, column {column}: extraneous or missing " in quoted-field'
            )
        parts.append(text[at:end])
        if text[end + 1 : end + 2] != '"':
            return '"'.join(parts), end + 1
        at = end + 2


_KEYS = {
    "source": ("", "Source"),
    "src": ("", "Source"),
    "target": ("", "Target"),
    "dst": ("", "Target"),
    "destination": ("", "Target"),
    "readonly": ("", "ReadOnly"),
    "ro": ("", "ReadOnly"),
    "consistency": ("", "Consistency"),
    "bind-propagation": ("bind", "Propagation"),
    "bind-recursive": ("bind", ""),
    "volume-nocopy": ("volume", "NoCopy"),
    "volume-label": ("volume", "Labels"),
    "volume-driver": ("volume", "Name"),
    "volume-opt": ("volume", "Options"),
    "volume-subpath": ("volume", "Subpath"),
    "image-subpath": ("image", "Subpath"),
    "tmpfs-size": ("tmpfs", "SizeBytes"),
    "tmpfs-mode": ("tmpfs", "Mode"),
}
_BARE = ("readonly", "ro", "volume-nocopy")
_RECURSIVE = {
    "enabled": "",
    "disabled": "NonRecursive",
    "writable": "ReadOnlyNonRecursive",
    "readonly": "ReadOnlyForceRecursive",
}


def parse_mount(text: str) -> dict[str, Any]:
    """One ``--mount`` as the API's Mount. Raises ValueError."""
    mount: dict[str, Any] = {"Type": "volume"}
    options: dict[str, dict[str, Any]] = {}
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if not equals:
            if key not in _BARE:
                raise ValueError(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        if key == "type":
            mount["Type"] = value.lower()
            continue
        if key not in _KEYS:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
        group, name = _KEYS[key]
        target = options.setdefault(group, {}) if group else mount
        _put(target, key, name, value)
    _check(mount, options)
    for group, values in options.items():
        mount[f"{group.capitalize()}Options"] = _with_driver(values) if group == "volume" else values
    return mount


def _put(target: dict[str, Any], key: str, name: str, value: str) -> None:
    """Set one field; the kinds of value differ by key."""
    try:
        if key in ("readonly", "ro", "volume-nocopy"):
            target[name] = parse_bool(value)
        elif key == "tmpfs-size":
            target[name] = parse_bytes(value)
        elif key == "tmpfs-mode":
            if not value or not set(value) <= set("01234567") or int(value, 8) >= 1 << 32:
                raise ValueError
            target[name] = int(value, 8)
        elif key in ("volume-label", "volume-opt"):
            label, _, text = value.partition("=")
            target.setdefault(name, {})[label] = text
        elif key == "bind-recursive":
            if _RECURSIVE[value]:
                target[_RECURSIVE[value]] = True
        elif name == "Source":
            target[name] = absolute(value)
        else:
            target[name] = value.lower() if key in ("consistency", "bind-propagation") else value
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None
    except KeyError:
        choice = '(must be "enabled", "disabled", "writable", or "readonly")'
        raise ValueError(f"invalid value for {key}: {value} {choice}") from None


def _check(mount: dict[str, Any], options: dict[str, dict[str, Any]]) -> None:
    if not mount["Type"]:
        raise ValueError("type is required")
    if not mount.get("Target"):
        raise ValueError("target is required")
    for group in options:
        if group != mount["Type"]:
            raise ValueError(f"cannot mix '{group}-*' options with mount type '{mount['Type']}'")
    bind = options.get("bind", {})
    for name, word in (("ReadOnlyNonRecursive", "writable"), ("ReadOnlyForceRecursive", "readonly")):
        if bind.get(name) and not mount.get("ReadOnly"):
            raise ValueError(
                f"option 'bind-recursive={word}' requires 'readonly' to be specified in conjunction"
            )
    if bind.get("ReadOnlyForceRecursive") and bind.get("Propagation") != "rprivate":
        raise ValueError(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
        )


def _with_driver(volume: dict[str, Any]) -> dict[str, Any]:
    driver = {name: volume.pop(name) for name in ("Name", "Options") if name in volume}
    return {**volume, "DriverConfig": driver} if driver else volume


def absolute(path: str) -> str:
    """``path`` as the engine needs it: what starts with ``./`` is relative to this process's folder."""
    return os.path.abspath(path) if path == "." or path.startswith("./") else path


def parse_volume(text: str) -> tuple[str, str]:
    """One ``-v``: ``("", target)`` for an anonymous volume, else ``("bind", spec)``. Raises ValueError."""
    if not text:
        raise ValueError("invalid empty volume spec")
    parts = _colon_parts(text)
    if len(text) > 2 and "" in parts:
        raise ValueError(f"invalid spec: {text}: empty section between colons")
    if len(parts) > 3:
        raise ValueError(f"invalid spec: {text}: too many colons")
    if len(text) <= 2 or len(parts) == 1:
        return "", text
    source = parts[0]
    if source.startswith("."):
        source = os.path.abspath(source)
    return "bind", ":".join([source, *parts[1:]])


def _colon_parts(text: str) -> list[str]:
    """Split at colons, except one after a single letter: Docker's CLI takes that for a Windows drive."""
    parts: list[str] = [""]
    for char in text:
        if char == ":" and not (len(parts[-1]) == 1 and parts[-1].isalpha()):
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _is_device_mode(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def parse_device(text: str) -> dict[str, str]:
    """One ``--device`` as the API's DeviceMapping. Raises ValueError."""
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise ValueError(f"bad format for path: {text}")
    host, inside, mode = parts[0], parts[0], "rwm"
    if len(parts) == 3:
        inside, mode = parts[1], parts[2]
        if not _is_device_mode(mode):
            raise ValueError(f"bad mode specified: {mode}")
    elif len(parts) == 2:
        inside, mode = (host, parts[1]) if _is_device_mode(parts[1]) else (parts[1], mode)
    inside = os.path.normpath(inside)
    if not inside.startswith("/"):
        raise ValueError(f"{inside} is not an absolute path")
    return {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": mode}
