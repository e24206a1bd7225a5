"""Points in time: RFC 3339 as the API writes it, Unix seconds as `since` wants them, and what people read."""

from __future__ import annotations

from time import gmtime, localtime, strftime

from cais.cli.units import format_age, parse_duration


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time. ValueError for anything else."""
    date, _, clock = text.replace("t", "T").partition("T")
    offset = 0
    if clock.endswith(("Z", "z")):
        clock = clock[:-1]
    elif len(clock) > 6 and clock[-6] in "+-" and clock[-3] == ":":
        sign = -1 if clock[-6] == "-" else 1
        offset = sign * (int(clock[-5:-3]) * 3600 + int(clock[-2:]) * 60)
        clock = clock[:-6]
    year, month, day = (int(part) for part in date.split("-"))
    hours, minutes, seconds = clock.split(":")
    # pathlib, datetime and calendar would cost more than the whole verb
    return _days(year, month, day) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds) - offset


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        raise ValueError("not a date")
    year -= month < 3
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def parse_since(text: str, now: float) -> str:
    """`--since` and `--until`: RFC 3339, a date, Unix seconds or a Go duration before ``now``, as Unix seconds."""
    try:
        nano = parse_duration(text)
    except ValueError:
        pass
    else:
        whole = int(now * 10**9) - nano
        return f"{whole // 10**9}.{whole % 10**9:09d}"
    if text.replace(".", "", 1).isdigit():
        return text
    try:
        return f"{parse_local(text):.9f}"
    except (ValueError, IndexError):
        raise ValueError(f'failed to parse value as time or duration: "{text}"') from None


def parse_local(text: str) -> float:
    """RFC 3339 of which the zone (then this machine's counts), the seconds or the whole clock may be missing."""
    date, _, clock = text.partition("T")
    zoned = clock.endswith("Z") or (len(clock) > 6 and clock[-6] in "+-")
    zone, clock = (
        ("", clock)
        if not zoned
        else (clock[-1], clock[:-1])
        if clock[-1] == "Z"
        else (clock[-6:], clock[:-6])
    )
    parts = clock.split(":") if clock else []
    full = ":".join([*parts, *["00"] * (3 - len(parts))])
    at = parse_time(f"{date}T{full}{zone or 'Z'}")
    return at if zoned else at - localtime(at).tm_gmtoff


def format_ago(then: float, now: float) -> str:
    """``3 hours ago``."""
    return f"{format_age(now - then)} ago"


def format_go(then: float) -> str:
    """Go's ``time.String()`` in this machine's zone: ``2026-11-24 05:57:34 +0000 UTC``."""
    return strftime("%Y-%m-%d %H:%M:%S %z %Z", localtime(int(then)))


def format_nano(nano: int) -> str:
    """RFC 3339 with nanoseconds in this machine's zone, as `events` shows it."""
    at = localtime(nano // 10**9)
    zone = strftime("%z", at)
    zone = f"{zone[:3]}:{zone[3:]}" if at.tm_gmtoff else "Z"
    return f"{strftime('%Y-%m-%dT%H:%M:%S', at)}.{nano % 10**9:09d}{zone}"


def format_utc(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(int(seconds)))
