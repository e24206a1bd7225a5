"""`cais top`."""

from __future__ import annotations

import sys

from cais.cli.flags import Command
from cais.cli.http import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session

_WIDE = 20


def top(session: Session, flags: Flags) -> int:
    """List the processes of a container."""
    name, *options = flags.args
    answer = session.call("GET", f"/containers/{escape(name)}/top", (("ps_args", " ".join(options)),))
    rows = [answer["Titles"], *(answer.get("Processes") or ())]
    sys.stdout.write(format_top(rows))
    return 0


def format_top(rows: list[list[str]]) -> str:
    """Docker's table here is wider than elsewhere: 20 blanks at least."""
    if not rows[0]:
        return ""
    widths = [max(_WIDE, *(len(row[at]) + 1 for row in rows)) for at in range(len(rows[0]))]
    return "".join(
        "".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip() + "\n"
        for row in rows
    )


TOP = Command(
    "top CONTAINER [ps OPTIONS]",
    "List the processes of a container",
    top,
    least=1,
    interspersed=False,
    example="cais top web -o pid,comm",
)
