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
    """Print what was left behind and what is damaged, and with --repair what was done about it; 1 if something is
    wrong still."""
    deep = ("deep", "1" if flags.on("deep") else "")
    if flags.on("repair"):
        answer = session.call("POST", "/cais/system/repair", (deep,))
    else:
        answer = session.call("GET", "/cais/system/check", (("content", "1"), deep))
    leaks, damage = find_leaks(answer), answer.get("Damage") or []
    if flags.on("json"):
        sys.stdout.write(format_pretty(answer) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in describe(leaks, damage)))
    return 1 if leaks or not all(is_mended(each) for each in damage) else 0


def describe(leaks: list[tuple[str, str]], damage: list[dict[str, Any]]) -> list[str]:
    """The lines for people."""
    lines = [f"{kind}: {text}" for kind, text in leaks]
    if leaks:
        lines.append(f"{len(leaks)} left behind")
    for each in damage:
        users = f" (of {', '.join(each['Images'])})" if each["Images"] else ""
        outcome = f": {each['Repair']}" if each["Repair"] else ""
        lines.append(f"{each['Kind']} {each['Name']}{users} {each['Problem']}{outcome}")
    if damage:
        mended = sum(map(is_mended, damage))
        lines.append(f"{len(damage)} damaged, {mended} repaired" if mended else f"{len(damage)} damaged")
    return lines or ["nothing is left behind, nothing is damaged"]


def is_mended(damage: dict[str, Any]) -> bool:
    """Whether this is well again."""
    repair: str = damage["Repair"]
    return bool(repair) and not repair.startswith("not ")


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
    "Look for anything left behind or damaged",
    check,
    flags=(
        ("deep", "", "bool", "Compare every file of every layer with its blob"),
        ("json", "", "bool", "The engine's whole answer"),
        ("repair", "", "bool", "Fetch, unpack or remove what is wrong, and tell of each"),
    ),
    most=0,
    example="cais system check\ncais system check --deep --repair",
)
