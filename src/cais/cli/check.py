"""`cais system check`."""

from __future__ import annotations

import sys

from cais.cli.flags import Command
from cais.cli.wirejson import format_pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session


def check(session: Session, flags: Flags) -> int:
    """Print whether mounts, links, cgroups, processes or files were left behind; 1 if so."""
    answer = session.call("GET", "/cais/system/check")
    leaks = find_leaks(answer)
    if flags.on("json"):
        sys.stdout.write(format_pretty(answer) + "\n")
    elif leaks:
        sys.stdout.write("".join(f"{kind}: {text}\n" for kind, text in leaks))
        sys.stdout.write(f"{len(leaks)} left behind\n")
    else:
        sys.stdout.write("nothing is left behind\n")
    return 1 if leaks else 0


def find_leaks(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Kind and description of each leak in the engine's answer (``Leaks``: a mapping of lists, or a list)."""
    leaks = answer.get("Leaks", answer.get("leaks")) or ()
    if isinstance(leaks, dict):
        return [(kind, _describe(item)) for kind, items in sorted(leaks.items()) for item in items or ()]
    return [("leak", _describe(item)) for item in leaks]


def _describe(item: Any) -> str:
    if isinstance(item, dict):
        return " ".join(f"{key}={value}" for key, value in item.items())
    return str(item)


SYSTEM_CHECK = Command(
    "system check [OPTIONS]",
    "Look for anything the engine left behind",
    check,
    flags=(("json", "", "bool", "The engine's whole answer"),),
    most=0,
    example="cais system check",
)
