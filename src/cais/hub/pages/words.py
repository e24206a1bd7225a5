"""Numbers, times and foreign text as people read them. Pure."""

import time
import unicodedata
from urllib.parse import quote

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_STEPS = ((60, "second"), (60, "minute"), (24, "hour"), (30, "day"), (12, "month"), (1000, "year"))
_KEPT = "\n\t"
# Marks that turn the direction of what follows: a name could be made to look like another.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def format_size(count: int) -> str:
    """Bytes with three digits, in steps of a thousand: ``1.23 MB``."""
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    if unit == "B":
        return f"{count} B"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def format_count(count: int) -> str:
    """A count that may be large: ``1 234``, ``12.3 k``, ``4.5 M``."""
    for least, divisor, letter in ((10**9, 10**9, "G"), (10**6, 10**6, "M"), (10**4, 10**3, "k")):
        if count >= least:
            return f"{count / divisor:.1f} {letter}"
    return f"{count:,}".replace(",", "\u202f")


def format_ago(time_ns: int, now_ns: int = 0) -> str:
    """How long ago: ``3 days ago``; ``never`` for 0."""
    if not time_ns:
        return "never"
    value = ((now_ns or time.time_ns()) - time_ns) // 1_000_000_000
    if value < 10:
        return "just now"
    for size, word in _STEPS:
        if value < size or word == "year":
            return f"{value} {word}{'' if value == 1 else 's'} ago"
        value //= size
    return "long ago"


def format_time(time_ns: int) -> str:
    """Date and minute in UTC: ``2024-05-01 12:00 UTC``; empty for 0."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_ns // 1_000_000_000)) if time_ns else ""


def format_iso(time_ns: int) -> str:
    """For machines (HTML's ``datetime``)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ns // 1_000_000_000)) if time_ns else ""


def format_day(day: int) -> str:
    """A day since the epoch: ``1 May 2024``."""
    date = time.gmtime(day * 86_400)
    return f"{date.tm_mday} {time.strftime('%b %Y', date)}"


def format_mode(mode: int) -> str:
    """Permissions as ``ls`` shows them, without the kind."""
    letters = "".join(
        letter if mode >> bit & 1 else "-" for bit, letter in zip(range(8, -1, -1), "rwxrwxrwx", strict=True)
    )
    for bit, place, small in ((11, 2, "s"), (10, 5, "s"), (9, 8, "t")):
        if mode >> bit & 1:
            letters = (
                letters[:place] + (small if letters[place] == "x" else small.upper()) + letters[place + 1 :]
            )
    return letters


def visible(text: str) -> str:
    """Foreign text with what cannot be seen made visible: control characters, marks that turn the writing."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter
        if letter in _KEPT or not (letter in _TURNING or unicodedata.category(letter) in ("Cc", "Cs"))
        else f"\\u{ord(letter):04x}"
        for letter in text
    )


def short_digest(digest: str) -> str:
    """Twelve digits, as clients show it."""
    return digest.partition(":")[2][:12]


def repository_url(name: str, ref: str = "", verb: str = "") -> str:
    """The page of a repository, or of a tag or digest in it; ``verb``: of something about it."""
    mark = "@" if ":" in ref else ":"
    path = f"/r/{quote(name)}" + (f"{mark}{quote(ref, safe=':')}" if ref else "")
    return f"{path}/-/{verb}" if verb else path


def namespace_url(name: str, verb: str = "") -> str:
    """The page of a namespace."""
    return f"/n/{quote(name)}" + (f"/-/{verb}" if verb else "")


def mark_letters(name: str) -> str:
    """Two letters for a repository's crate."""
    short = name.rpartition("/")[2]
    words = [word for word in short.replace("_", "-").replace(".", "-").split("-") if word]
    return (words[0][0] + words[1][0] if len(words) > 1 else short[:2]).upper()


def mark_colour(name: str, colours: int = 6) -> int:
    """Which of the crates' colours; always the same for a name."""
    return sum(byte * (index % 7 + 1) for index, byte in enumerate(name.encode())) % colours
