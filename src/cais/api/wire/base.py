"""The base of all wire Structs, and the time formats of Docker's JSON."""

from datetime import UTC, datetime

import msgspec

ZERO_TIME = "0001-01-01T00:00:00Z"
"""Go's zero time: "never"."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Docker's PascalCase names; names that break that rule say so at the field."""


def format_time(time_ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC with nanoseconds; 0 is Go's zero time."""
    if not time_ns:
        return ZERO_TIME
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    digits = f".{fraction:09d}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{digits}Z"


def format_time_seconds(time_ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC with whole seconds."""
    return f"{datetime.fromtimestamp(time_ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%S}Z"
