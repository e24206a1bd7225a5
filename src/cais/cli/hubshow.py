"""How `cais hub` shows what a hub says: as a table, by a template, or as it is."""

from __future__ import annotations

import sys
import time

from cais.cli.failure import Failure
from cais.cli.late import load
from cais.cli.table import print_rows
from cais.cli.times import format_ago, parse_time
from cais.cli.units import format_size
from cais.cli.wirejson import format_json, format_pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.hubclient import Hub
    from cais.cli.table import Columns

    Acts = Mapping[str, tuple[Callable[[Hub, Flags], None], int, int, str]]
    """By its word: what it does, how many arguments it takes, and what they are called."""


def show_rows(values: Iterable[Any], columns: Columns, flags: Flags, shown: Sequence[str] = ()) -> None:
    """A list; ``--format json``: each entry as the hub said it."""
    template = flags.text("format")
    if template == "json":
        for value in values:
            sys.stdout.write(format_json(value) + "\n")
    else:
        print_rows(list(values), columns, shown or tuple(columns), template)


def show_values(values: Sequence[Any], flags: Flags) -> None:
    """Whole objects, as `inspect` shows them."""
    if template := flags.text("format"):
        load("cais.cli.template:print_each")(template, values)
    else:
        sys.stdout.write(format_pretty(list(values)) + "\n")


def ago(text: str | None) -> str:
    """How long ago a time of the API was."""
    return format_ago(parse_time(text), time.time()) if text else "never"


def yes(value: object) -> str:
    """A bool in a table."""
    return "yes" if value else ""


def size(value: int) -> str:
    """Bytes in a table."""
    return format_size(value)


def run_act(hub: Hub, flags: Flags, verb: str, acts: Acts) -> int:
    """Do what the first argument says with the others. Raises Failure when there is no such act, or when it wants
    other arguments."""
    word, *rest = flags.args
    if word not in acts:
        raise Failure(f"unknown command: cais hub {verb} {word}: want {', '.join(acts)}", 1, "help")
    act, least, most, usage = acts[word]
    if not least <= len(rest) <= most:
        raise Failure(f"want: cais hub {verb} {word} {usage}".rstrip(), 1, "help")
    del flags.args[0]
    try:
        act(hub, flags)
    finally:
        hub.close()
    return 0
