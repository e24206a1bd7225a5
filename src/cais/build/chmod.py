"""``--chmod``: octal, or symbolic as chmod(1) has it."""

import re
from collections.abc import Callable

from cais.errors import Invalid

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*)+)")
_PART = re.compile(r"([-+=])([rwxXst]*)")
_SHIFT = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}
Change = Callable[[int, bool], int]
"""From a mode and whether it is a folder's to the new mode."""


def parse_chmod(text: str) -> Change:
    """Raises Invalid."""
    if text.isascii() and text.isdecimal():
        try:
            mode = int(text, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o7777:
            raise Invalid(
                f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            )
        return lambda old, is_folder: mode
    clauses = [_CLAUSE.fullmatch(part) for part in text.split(",")]
    if not all(clauses):
        raise Invalid(f"invalid chmod parameter: '{text}': write octal digits, or u=rwX,go=rX")
    parts = [(match[1], _PART.findall(match[2])) for match in clauses if match]

    def change(old: int, is_folder: bool) -> int:
        for who, operations in parts:
            for operator, letters in operations:
                old = _apply(old, who or "a", operator, letters, is_folder)
        return old

    return change


def _apply(mode: int, who: str, operator: str, letters: str, is_folder: bool) -> int:
    users = "ugo" if "a" in who else who
    bits = 0
    for letter in letters:
        if letter in _BITS or letter == "X":
            bit = 1 if letter == "X" else _BITS[letter]
            if letter == "X" and not (is_folder or mode & 0o111):
                continue
            bits |= sum(bit << _SHIFT[user] for user in set(users))
        elif letter == "s":
            bits |= (0o4000 if "u" in users else 0) | (0o2000 if "g" in users else 0)
        elif letter == "t":
            bits |= 0o1000
    if operator == "+":
        return mode | bits
    if operator == "-":
        return mode & ~bits
    cleared = sum(7 << _SHIFT[user] for user in set(users))
    cleared |= (0o4000 if "u" in users else 0) | (0o2000 if "g" in users else 0)
    return (mode & ~cleared) | bits
