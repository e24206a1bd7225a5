"""Signals by Docker's names and numbers."""

import signal

from cais.errors import Invalid

_RTMIN, _RTMAX = 34, 64
"""What libc leaves free of 32 to 64, and what Docker counts from."""

_NUMBERS = {
    item.name.removeprefix("SIG"): int(item) for item in signal.Signals if item.name.startswith("SIG")
}


def _table() -> dict[str, int]:
    table = {name: number for name, number in _NUMBERS.items() if not name.startswith("RT")}
    table |= {"RTMIN": _RTMIN, "RTMAX": _RTMAX, "CLD": int(signal.SIGCHLD), "IOT": int(signal.SIGABRT)}
    table |= {f"RTMIN+{offset}": _RTMIN + offset for offset in range(1, 16)}
    table |= {f"RTMAX-{offset}": _RTMAX - offset for offset in range(1, 15)}
    return table


_SIGNALS = _table()


def parse_signal(text: str) -> int:
    """A signal's number from ``TERM``, ``SIGTERM``, ``sigterm``, ``15``, ``RTMIN+3``. Raises Invalid in Docker's
    words."""
    if text.isascii() and text.isdecimal():
        number = int(text)
        if not 0 < number <= _RTMAX:
            raise Invalid(f"invalid signal: {text}")
        return number
    found = _SIGNALS.get(text.upper().removeprefix("SIG"))
    if found is None:
        raise Invalid(f"invalid signal: {text}")
    return found
