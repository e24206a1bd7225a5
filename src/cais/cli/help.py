"""Help texts, made from the command table and each verb's own description."""

from __future__ import annotations

import shutil
import textwrap

from cais.cli.commands import COMMON, GROUPS, SHORT, VERBS
from cais.cli.flags import HELP_ROW, HOST_ROW
from cais.cli.late import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cais.cli.flags import Command, Row

WIDTH = 80


def list_verbs() -> list[tuple[str, Command]]:
    """All verbs with their descriptions, in the table's order."""
    return [(name, load(target)) for name, target in VERBS.items()]


def format_program(rows: Sequence[Row]) -> str:
    """What `cais` alone prints."""
    verbs = dict(list_verbs())
    parts = [
        "Usage:  cais [OPTIONS] COMMAND\n",
        "A container engine in Python: Docker's commands, one process.\n",
    ]
    parts.append("Common commands:\n" + _table((name, verbs[name].summary) for name in COMMON))
    parts.append("Management commands:\n" + _table(GROUPS.items()))
    rest = [(name, verb.summary) for name, verb in verbs.items() if name not in COMMON and " " not in name]
    parts.append("Commands:\n" + _table(rest))
    parts.append("Global options:\n" + format_flags(rows))
    return "\n".join(parts) + "\nRun 'cais COMMAND --help' for more information on a command.\n"


def format_group(group: str) -> str:
    """What `cais image` alone prints."""
    names = [name for name in VERBS if name.startswith(f"{group} ")]
    found = {name.partition(" ")[2]: load(VERBS[name]).summary for name in names}
    shorts = {
        name.partition(" ")[2]: load(VERBS[to]).summary
        for name, to in SHORT.items()
        if name.startswith(f"{group} ")
    }
    skipped = ("list", "ps", "remove")
    rows = sorted((name, summary) for name, summary in {**shorts, **found}.items() if name not in skipped)
    return (
        f"Usage:  cais {group} COMMAND\n\n{GROUPS[group]}\n\nCommands:\n{_table(rows)}\n"
        f"Run 'cais {group} COMMAND --help' for more information on a command.\n"
    )


def format_command(name: str, command: Command) -> str:
    """What `cais VERB --help` prints: usage, summary, other names, flags, an example."""
    others = [short for short, to in SHORT.items() if to == name]
    text = f"Usage:  cais {command.usage}\n\n{command.summary}\n"
    if others:
        text += "\nAliases:\n  " + ", ".join(f"cais {other}" for other in [*others, name]) + "\n"
    text += "\nOptions:\n" + format_flags((*command.flags, HOST_ROW, HELP_ROW))
    if command.example:
        text += "\nExample:\n" + textwrap.indent(command.example, "  ") + "\n"
    return text


def format_flags(rows: Iterable[Row]) -> str:
    """The table of flags; spellings kept for compatibility only have no help and are left out."""
    lines = []
    for name, short, kind, help_text in rows:
        if help_text:
            value = "" if kind == "bool" else f" {kind.removesuffix('...')}"
            lines.append((f"{f'-{short}, ' if short else '    '}--{name}{value}", help_text))
    return _table(lines)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    listed = list(rows)
    left = max(len(name) for name, _ in listed) + 5
    width = max(shutil.get_terminal_size((WIDTH, 24)).columns, left + 30)
    lines = []
    for name, text in listed:
        first, *more = textwrap.wrap(text, width - left) or [""]
        lines.append(f"  {name:<{left - 2}}{first}\n")
        lines += [f"{'':<{left}}{line}\n" for line in more]
    return "".join(lines)
