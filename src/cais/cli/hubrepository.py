"""`cais hub set`, `retention` and `pulls`: how a repository is set up, and how much it is used."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.hubclient import FORMAT_ROW, HUB_ROWS, choose_repository
from cais.cli.hubsettings import read_settings
from cais.cli.hubshow import say, show_rows
from cais.cli.late import load
from cais.cli.session import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns

_DAYS = 30
_MOST = 1 << 20
"""Bytes of a README that are read; the hub takes fewer, and says so."""
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"
_NARROW, _WIDE = 20, 60
"""A terminal's columns beside a bar, and the longest bar."""


def set_repository(session: Session, flags: Flags) -> int:
    """Only what was given changes."""
    settings = read_settings(flags)
    if flags.given("readme"):
        settings["readme"] = _read_text(flags.text("readme"))
    if not settings:
        raise Failure("nothing to set: give --description, --immutable, --private, --readme or --retention")
    hub, name = choose_repository(flags, flags.args[0])
    hub.call("PATCH", f"/repositories/{escape(name)}", body=settings)
    sys.stdout.write(f"{name}\n")
    return 0


def _read_text(path: str) -> str:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_MOST)
        else:
            with open(path, "rb") as file:
                data = file.read(_MOST)
        return data.decode()
    except OSError as error:
        raise Failure(f"cannot read {path}: {(error.strerror or '').lower()}") from None
    except UnicodeDecodeError:
        raise Failure(f"cannot read {path}: it is not UTF-8") from None


def retention(session: Session, flags: Flags) -> int:
    """Tags that the rules would remove now, its own or its namespace's."""
    hub, name = choose_repository(flags, flags.args[0])
    columns: Columns = {
        "Tag": ("TAG", lambda one: one["tag"]),
        "Digest": ("DIGEST", lambda one: one["digest"]),
    }
    show_rows(hub.call("GET", f"/repositories/{escape(name)}/-/retention")["removed"], columns, flags)
    return 0


def pulls(session: Session, flags: Flags) -> int:
    """Pulls by day, the oldest first."""
    hub, name = choose_repository(flags, flags.args[0])
    query = (("days", flags.number("days", _DAYS)),)
    found = hub.call("GET", f"/repositories/{escape(name)}/-/pulls", query)
    if flags.text("format"):
        columns: Columns = {
            "Day": ("DAY", lambda one: one["day"]),
            "Count": ("COUNT", lambda one: str(one["count"])),
        }
        show_rows(found["days"], columns, flags)
    elif is_terminal(1):
        _show_bars(found)
    else:
        for one in found["days"]:
            say(f"{one['day']} {one['count']}")
    return 0


def _show_bars(found: Any) -> None:
    days = found["days"]
    most = max((one["count"] for one in days), default=0)
    _, columns = load("cais.cli.terminal:get_size")()
    width = max(1, min(_WIDE, (columns or 80) - _NARROW))
    for one in days:
        say(f"{one['day']} {one['count']:>7} {format_bar(one['count'], most, width)}".rstrip())
    say(f"{sum(one['count'] for one in days)} pulls in {len(days)} days, {found['total']} in all")


def format_bar(value: int, most: int, width: int) -> str:
    """A bar of block characters, as long as ``width`` for ``most``; something is to be seen of all but nothing."""
    eighths = max(round(8 * width * value / most), 1) if value and most else 0
    whole, rest = divmod(eighths, 8)
    return _FULL * whole + (_EIGHTHS[rest] if rest else "")


HUB_SET = Command(
    "hub set [OPTIONS] [HUB/]REPOSITORY",
    "Change settings of a repository in a hub",
    set_repository,
    flags=(
        *HUB_ROWS,
        ("description", "", "string", "What it is, in a line"),
        ("immutable", "", "list...", "Tags that may not move; an empty one: none"),
        ("private", "", "bool", "Only members may pull (--private=false: everybody)"),
        ("readme", "", "string", "File with its README, Markdown; -: from stdin"),
        ("retention", "", "string", "Rules by which tags go, as JSON; empty: those of the namespace"),
    ),
    least=1,
    most=1,
    example="cais hub set --description 'Our web server' --readme README.md team/web\n"
    """cais hub set --retention '{"rules": [{"include": ["pr-*"], "pulled_days": 14}]}' team/web""",
)
HUB_RETENTION = Command(
    "hub retention [OPTIONS] [HUB/]REPOSITORY",
    "Show which tags a repository's rules would remove now",
    retention,
    flags=(*HUB_ROWS, FORMAT_ROW),
    least=1,
    most=1,
    example="cais hub retention team/web",
)
HUB_PULLS = Command(
    "hub pulls [OPTIONS] [HUB/]REPOSITORY",
    "Show how often a repository was pulled, by day",
    pulls,
    flags=(*HUB_ROWS, ("days", "", "int", f"Days, today the last ({_DAYS})"), FORMAT_ROW),
    least=1,
    most=1,
    example="cais hub pulls --days 90 team/web",
)
