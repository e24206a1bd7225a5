"""Secrets that `cais hub` is told: from standard input, or by who sits at the terminal."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.login import ask
from cais.cli.session import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags

_LONGEST = 64 << 10


def read_secret() -> str:
    """All of standard input, without the end of its line."""
    return sys.stdin.read(_LONGEST).rstrip("\r\n")


def read_password(flags: Flags, prompt: str) -> str:
    """A new password. Who types it does so twice, as it is not shown. Raises Failure."""
    if flags.on("password-stdin"):
        return read_secret()
    if is_terminal(0):
        return _ask_twice(prompt)
    raise Failure("a password is wanted: use --password-stdin")


def read_change(flags: Flags, name: str) -> tuple[str, str]:
    """Somebody's current password and a new one. Raises Failure."""
    if flags.on("password-stdin"):
        current, *new = read_secret().replace("\r\n", "\n").split("\n")
        if len(new) != 1:
            raise Failure("want two lines on stdin: the current password, and the new one")
        return current, new[0]
    if is_terminal(0):
        return ask(f"Current password for {name}: ", echo=False), _ask_twice("New password: ")
    raise Failure("passwords are wanted: use --password-stdin")


def _ask_twice(prompt: str) -> str:
    password = ask(prompt, echo=False)
    if ask("Again: ", echo=False) != password:
        raise Failure("these were two passwords: nothing was changed")
    return password
