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
    """A password. Raises Failure where there is nobody to ask."""
    if flags.on("password-stdin"):
        return read_secret()
    if is_terminal(0):
        return ask(prompt, echo=False)
    raise Failure("a password is wanted: use --password-stdin")
