"""Sizes, times and other amounts as Docker reads and shows them (docker/go-units, Go's time.ParseDuration)."""

from __future__ import annotations

from cais.cli.flags import parse_int, quote

_BINARY = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DIGITS = frozenset("0123456789")
_NANO = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def parse_bytes(text: str) -> int:
    """``64m``, ``1.5 GiB``, ``100``: bytes, in powers of 1024. Raises ValueError."""
    last = max((text.rfind(char) for char in "0123456789. "), default=-1)
    if last < 0:
        raise ValueError(f"invalid size: '{text}'")
    number, suffix = text[: last + (text[last] != " ")], text[last + 1 :].lower()
    try:
        if "_" in number or number != number.strip():
            raise ValueError
        size = float(number)
    except ValueError:
        raise ValueError(f"invalid size: '{text}'") from None
    if not 0 <= size < 1 << 63:
        raise ValueError(f"invalid size: '{text}'")
    if suffix and (
        suffix[0] not in _BINARY or suffix[1:] not in (("",) if suffix[0] == "b" else ("", "b", "ib"))
    ):
        raise ValueError(f"invalid suffix: '{suffix}'")
    return int(size * 1024 ** _BINARY[suffix[0]]) if suffix else int(size)


def parse_swap(text: str) -> int:
    """Bytes, or -1 for no limit."""
    return -1 if text == "-1" else parse_bytes(text)


def parse_cpus(text: str) -> int:
    """``1.5`` or ``3/2`` CPUs as billionths (``NanoCpus``). Raises ValueError."""
    above, slash, below = text.partition("/")
    whole, _, part = above.lstrip("+-").partition(".")
    digits = whole + part
    if not digits or not _DIGITS.issuperset(digits) or (slash and (part or not _DIGITS.issuperset(below))):
        raise ValueError(f"failed to parse {text} as a rational number")
    divisor: int = (int(below or "0") if slash else 1) * 10 ** len(part)
    if not divisor:
        raise ValueError(f"failed to parse {text} as a rational number")
    nano, rest = divmod(int(digits) * 10**9, divisor)
    if rest:
        raise ValueError("value is too precise")
    return -nano if text.startswith("-") else nano


def parse_duration(text: str) -> int:
    """Go's duration, ``1m30s``, in nanoseconds. Raises ValueError."""
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total = 0
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = rest[: len(rest) - len(rest.lstrip("nuµmsh"))] if number else ""
        whole, _, part = number.partition(".")
        if not (whole + part) or "." in part:
            raise ValueError(f"time: invalid duration {quote(text)}")
        if unit not in _NANO:
            unit = rest[: len(rest) - len(rest.lstrip("abcdefghijklmnopqrstuvwxyzµ"))]
            about = f"unknown unit {quote(unit)} in" if unit else "missing unit in"
            raise ValueError(f"time: {about} duration {quote(text)}")
        total += int((whole + part) or "0") * _NANO[unit] // 10 ** len(part)
        rest = rest[len(unit) :]
    if not text.lstrip("+-"):
        raise ValueError(f"time: invalid duration {quote(text)}")
    return -total if text.startswith("-") else total


_ULIMITS = frozenset(
    ("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile")
) | frozenset(("nproc", "rss", "rtprio", "rttime", "sigpending", "stack"))


def parse_ulimit(text: str) -> dict[str, object]:
    """``name=soft[:hard]`` as the API's object. Raises ValueError."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise ValueError(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
    soft = parse_int(parts[0])
    hard = parse_int(parts[1]) if len(parts) > 1 else soft
    if hard != -1 and (soft == -1 or soft > hard):
        shown = f"soft: -1 (unlimited), hard: {hard}" if soft == -1 else f"{soft} > {hard}"
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {shown}")
    return {"Name": name, "Hard": hard, "Soft": soft}


def format_size(size: float, digits: int = 3) -> str:
    """Powers of 1000 with ``digits`` significant digits: ``1.98MB``."""
    return _scaled(size, 1000.0, ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"), digits)


def format_binary_size(size: float) -> str:
    """Powers of 1024 with four significant digits: ``23.54GiB``."""
    return _scaled(size, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"), 4)


def _scaled(size: float, base: float, names: tuple[str, ...], digits: int) -> str:
    at = 0
    while size >= base and at < len(names) - 1:
        size /= base
        at += 1
    return f"{size:.{digits}g}{names[at]}"


def format_age(seconds: float) -> str:
    """A length of time for people: ``About a minute``, ``3 hours``."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if int(seconds) == 1 else f"{int(seconds)} seconds"
    minutes = int(seconds / 60)
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, unit, name in (
        (24 * 14, 24, "days"),
        (24 * 60, 24 * 7, "weeks"),
        (24 * 730, 24 * 30, "months"),
    ):
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{int(seconds / 3600) // 24 // 365} years"
