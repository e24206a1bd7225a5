"""How `cais hub` shows what a hub says: as a table, by a template, or as it is.

A hub may be anybody's, and most of its texts are somebody else's again: names of files, descriptions, labels. None of
them reaches a terminal as it is, where it could paint over what was said before. In tables and messages what cannot be
printed is replaced; JSON spells it as escapes, so that programs get it whole.
"""

from __future__ import annotations

import sys
import time

from cais.cli.buildshow import clean
from cais.cli.failure import Failure
from cais.cli.late import load
from cais.cli.session import is_terminal
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

DAY = 86_400
MANY = 1000
"""As many arguments as anybody types."""


def show_rows(values: Iterable[Any], columns: Columns, flags: Flags, shown: Sequence[str] = ()) -> None:
    """A list; ``--format json``: each entry as the hub said it."""
    template = flags.text("format")
    if template == "json":
        for value in values:
            show_json(value)
    else:
        print_rows(list(values), _clean_cells(columns), shown or tuple(columns), template)


def show_values(values: Sequence[Any], flags: Flags) -> None:
    """Whole objects, as `inspect` shows them."""
    template = flags.text("format")
    if not template:
        sys.stdout.write(escape_json(format_pretty(list(values))) + "\n")
    elif template == "json":
        for value in values:
            show_json(value)
    else:
        # A program gets a text as it is, say a README, which keeps its lines on a terminal, too.
        known = [clean_value(value) for value in values] if is_terminal(1) else values
        load("cais.cli.template:print_each")(template, known)


def show_fields(value: Any, fields: Columns, flags: Flags) -> None:
    """One object, a field a line. ``fields``: by its name in the object, what it is called and how it is shown."""
    if flags.text("format"):
        show_values([value], flags)
        return
    width = max(len(title) for title, _ in fields.values()) + 1
    for name, (title, make) in fields.items():
        say(f"{f'{title}:':<{width}} {make(value[name])}")


def show_json(value: Any) -> None:
    """One value on a line."""
    sys.stdout.write(escape_json(format_json(value)) + "\n")


def say(text: object) -> None:
    """A line with words of the hub."""
    sys.stdout.write(clean(str(text)) + "\n")


def escape_json(text: str) -> str:
    """The same JSON with escapes for what a terminal would obey; line breaks in it are those between values."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)


def _escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def clean_text(text: str) -> str:
    """A text of several lines for a terminal."""
    return "\n".join("\t".join(map(clean, line.split("\t"))) for line in text.split("\n"))


def clean_value(value: Any) -> Any:
    """A JSON value of which every text may be shown."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_value(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(key): clean_value(item) for key, item in value.items()}
    return value


def _clean_cells(columns: Columns) -> Columns:
    def make_cell(make: Callable[[Any], str]) -> Callable[[Any], str]:
        return lambda value: clean(str(make(value)))

    return {name: (heading, make_cell(make)) for name, (heading, make) in columns.items()}


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
