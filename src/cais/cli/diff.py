"""`cais diff`."""

from __future__ import annotations

import sys

from cais.cli.flags import Command
from cais.cli.http import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session

_LETTERS = "CAD"


def diff(session: Session, flags: Flags) -> int:
    """List what a container changed of its image's files: A added, C changed, D deleted."""
    changes = session.call("GET", f"/containers/{escape(flags.args[0])}/changes") or []
    sys.stdout.write("".join(f"{_LETTERS[change['Kind']]} {change['Path']}\n" for change in changes))
    return 0


DIFF = Command(
    "diff CONTAINER",
    "List what a container changed of its image's files",
    diff,
    least=1,
    most=1,
    example="cais diff web",
)
