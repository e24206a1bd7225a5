"""The value forms of options: texts of flags to typed values. All raise ``ValueError`` in dockerd's words."""

import ipaddress
import re

import msgspec

from cais.config import DEFAULT_HOST

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtTpP])?(?:[iI]?[bB])?")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_LABEL_HINT = "bad attribute format"
LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")


class Ulimit(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One of ``default-ulimits``."""

    name: str = ""
    soft: int = 0
    hard: int = 0


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``default-address-pools``: networks of prefix length ``size`` out of ``base``."""

    base: str = ""
    size: int = 0


class RegistryValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of ``registries``."""

    mirrors: tuple[str, ...] = ()
    insecure: bool = False


def parse_bool(text: str) -> bool:
    """Go's booleans."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def parse_int(text: str) -> int:
    """A decimal integer."""
    if not re.fullmatch(r"[+-]?\d{1,18}", text):
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def parse_size(text: str) -> int:
    """Bytes: ``64m``, ``1.5GiB``, ``4096``; powers of 1024."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])


def parse_label(text: str) -> str:
    """``key=value``."""
    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{_LABEL_HINT}: {text}")
    return text


def parse_pair(text: str) -> tuple[str, str]:
    """``key=value`` as a pair; without ``=`` the value is empty."""
    key, _, value = text.partition("=")
    return key, value


def parse_registry(text: str) -> tuple[str, RegistryValue]:
    """``NAME=URL[,URL…]``: mirrors of a registry."""
    name, equals, urls = text.partition("=")
    if not name or not equals or not urls:
        raise ValueError(f"invalid registry {text}: want NAME=URL[,URL...]")
    return name, RegistryValue(mirrors=tuple(urls.split(",")))


class GcValue(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """``gc``: what the images may take. ``max-size`` as ``20GB`` (or bytes), times as ``30d`` or ``12h``."""

    keep_newest: int = 0
    max_size: int | str = 0
    unused_for: str = ""
    grace: str = "5m"


class BuilderGcPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """One rule of Docker's ``builder.gc.policy``: sizes as texts or bytes, ``unused-for=`` among the filters."""

    keep_storage: int | str = 0
    reserved_space: int | str = 0
    max_used_space: int | str = 0
    filter: list[str] | dict[str, dict[str, bool]] = []
    all: bool = False


class BuilderGc(msgspec.Struct, frozen=True, rename="camel"):
    """Docker's ``builder.gc``."""

    enabled: bool = True
    default_keep_storage: int | str = 0
    default_reserved_space: int | str = 0
    default_max_used_space: int | str = 0
    policy: list[BuilderGcPolicy] = []


class BuilderValue(msgspec.Struct, frozen=True):
    """Docker's ``builder``."""

    gc: BuilderGc = BuilderGc()
    entitlements: dict[str, bool] = {}


BUILDER_GC = ("keep-bytes", "unused-for")


def parse_builder_gc(text: str) -> tuple[str, str]:
    """One ``key=value`` of ``--builder-gc``."""
    key, equals, value = text.partition("=")
    if not equals or key not in BUILDER_GC:
        raise ValueError(f"invalid builder-gc setting {text}: want keep-bytes= or unused-for=")
    return key, value


def parse_gc(text: str) -> tuple[str, str]:
    """One ``key=value`` of ``gc``."""
    key, equals, value = text.partition("=")
    if not equals or key not in GcValue.__struct_encode_fields__:
        raise ValueError(f"invalid gc setting {text}: want keep-newest=, max-size=, unused-for= or grace=")
    return key, value


_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_age_ns(text: str) -> int:
    """Nanoseconds of ``30d``, ``12h``, ``1w2d``; empty and 0 are none."""
    parts = _AGE.findall(text)
    if text in ("", "0"):
        return 0
    if "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"invalid time {text}: want a number and s, m, h, d or w, as in 30d")
    return int(sum(float(number) * _SECONDS[unit] for number, unit in parts) * 1e9)


def parse_codec(text: str) -> str:
    """What a layer can be compressed with."""
    if text not in ("gzip", "zstd", "none"):
        raise ValueError(f"invalid compression {text}: want gzip, zstd or none")
    return text


def parse_compression(text: str) -> str:
    """gzip, zstd or none."""
    if text not in ("gzip", "zstd", "none"):
        raise ValueError(f"invalid push compression {text}: want gzip, zstd or none")
    return text


def parse_feature(text: str) -> tuple[str, bool]:
    """``name`` or ``name=bool``."""
    name, equals, value = text.partition("=")
    return name, parse_bool(value) if equals else True


def parse_ip(text: str) -> str:
    """An address."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ValueError(f"invalid string being converted to IP address: {text}") from None


def parse_ulimit(text: str) -> tuple[str, Ulimit]:
    """``name=soft[:hard]``."""
    name, equals, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    try:
        low = int(soft)
        high = int(hard) if colon else low
    except ValueError:
        raise ValueError(f"invalid ulimit argument: {text}") from None
    if not equals or not name:
        raise ValueError(f"invalid ulimit argument: {text}")
    if high != -1 and (low > high or low == -1):
        raise ValueError("ulimit soft limit must be less than or equal to hard limit: " + text)
    return name, Ulimit(name=name, soft=low, hard=high)


def parse_pool(text: str) -> Pool:
    """``base=CIDR,size=N``."""
    base, size = "", 0
    for field in text.split(","):
        key, equals, value = field.partition("=")
        if not equals:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        if key.strip().lower() == "base":
            base = value.strip()
        elif key.strip().lower() == "size":
            size = parse_int(value.strip())
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    return Pool(base=base, size=size)


def parse_log_level(text: str) -> str:
    """One of dockerd's levels."""
    if text not in LOG_LEVELS:
        raise ValueError(f"invalid logging level: {text}")
    return text


def parse_exec_option(text: str) -> str:
    """``native.cgroupdriver=cgroupfs``; systemd is refused, for limits would then be set behind its back."""
    key, _, value = text.partition("=")
    if key.strip().lower() != "native.cgroupdriver" or value not in ("cgroupfs", ""):
        raise ValueError(f"invalid option {text}: only native.cgroupdriver=cgroupfs is supported")
    return text


def parse_host(text: str) -> str:
    """A listening address in full: ``unix:///path``, ``tcp://host:port``, ``fd://`` or ``fd://name``.

    Docker's short forms: ``unix://`` is the default socket, a path or ``host:port`` alone is understood.
    """
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        return parse_host(f"unix://{text}" if text.startswith("/") else f"tcp://{text}")
    if scheme == "unix":
        if rest and not rest.startswith("/"):
            raise ValueError(f"invalid bind address ({text}): the path must be absolute")
        return text if rest else DEFAULT_HOST
    if scheme == "fd":
        return text
    if scheme == "tcp":
        return f"tcp://{_parse_tcp(text, rest)}"
    raise ValueError(f"invalid bind address ({text}): unsupported proto '{scheme}'")


def _parse_tcp(text: str, rest: str) -> str:
    host, colon, port = rest.rstrip("/").rpartition(":")
    if not colon or "]" in port:
        host, port = rest.rstrip("/"), ""
    number = int(port) if port.isdecimal() and len(port) < 6 else 0 if not port else -1
    if not 0 <= number <= 65535:
        raise ValueError(f"invalid bind address ({text}): invalid port {port}")
    return f"{host or '127.0.0.1'}:{number or 2375}"
