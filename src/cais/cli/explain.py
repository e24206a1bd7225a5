"""`cais explain`: what isolates a container, on one screen."""

from __future__ import annotations

import sys

from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.session import is_terminal
from cais.cli.wirejson import format_pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session


WIDTH = 100


def explain(session: Session, flags: Flags) -> int:
    """Show a container's namespaces, limits, capabilities, seccomp, mounts, layers and network."""
    answer = session.call("GET", f"/cais/containers/{escape(flags.args[0])}/explain")
    if flags.on("json"):
        sys.stdout.write(format_pretty(answer) + "\n")
    else:
        sys.stdout.write(format_explain(answer, bold=is_terminal(1)))
    return 0


def format_explain(answer: dict[str, Any], *, bold: bool) -> str:
    """A heading for each part of the answer, below it one line for each fact; whatever parts the engine sends."""
    lines: list[str] = []
    for name, value in answer.items():
        if isinstance(value, dict | list):
            title = _title(name)
            lines += ["", f"\x1b[1m{title}\x1b[0m" if bold else title, *_lines(value)]
        else:
            lines.append(f"{_title(name)}: {_short(value)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _title(name: str) -> str:
    text = name.replace("_", " ").replace("-", " ")
    return text[:1].upper() + text[1:]


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        left = max((len(str(key)) for key in value), default=0) + 4
        return [
            line for key, item in value.items() for line in _wrap(f"  {key!s:<{left - 2}}", _short(item))
        ] or ["  none"]
    if value and all(isinstance(item, dict) for item in value):
        return _columns(value)
    return _wrap("  ", " ".join(map(_short, value))) if value else ["  none"]


def _wrap(head: str, text: str) -> list[str]:
    """``head`` and ``text``, going on below the text where the screen ends; long words stay whole."""
    lines, line = [], head
    for word in text.split(" "):
        if len(line) + len(word) > WIDTH and line.strip() and line != head:
            lines.append(line.rstrip())
            line = " " * len(head)
        line += f"{word} "
    return [*lines, line.rstrip()]


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Objects of one shape as a table without headings."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_short(row.get(key, "")) for key in keys] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(keys))]
    return [
        ("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in cells
    ]


def _short(value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(_short(item) for item in value)
    return str(value)


EXPLAIN = Command(
    "explain [OPTIONS] CONTAINER",
    "Show what isolates a container",
    explain,
    flags=(("json", "", "bool", "For programs"),),
    least=1,
    most=1,
    example="cais explain web",
)
