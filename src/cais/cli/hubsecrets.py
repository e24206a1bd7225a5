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


def _ask_twice(prompt: str) -> str:
    password = ask(prompt, echo=False)
    if ask("Again: ", echo=False) != password:
        raise Failure("these were two passwords: nothing was changed")
    return password
