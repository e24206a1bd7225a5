"""`cais search`."""

from __future__ import annotations

from cais.cli.filters import FILTER_ROW, FORMAT_ROW, format_filters
from cais.cli.flags import Command
from cais.cli.late import load
from cais.cli.table import print_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns

_WIDTH = 45


def search(session: Session, flags: Flags) -> int:
    """Look for images in Docker Hub, or in the registry that stands before the text."""
    term = flags.args[0]
    first, slash, _ = term.partition("/")
    domain = first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"
    query = (
        ("term", term),
        ("limit", flags.number("limit") or None),
        ("filters", format_filters(flags.many("filter"))),
    )
    fields = load("cais.cli.credentials:make_fields")(domain)
    found = session.send("GET", "/images/search", query, fields=fields).json() or []
    columns = make_columns(whole=flags.on("no-trunc"))
    print_rows(found, columns, ("Name", "Description", "StarCount", "IsOfficial"), flags.text("format"))
    return 0


def make_columns(*, whole: bool) -> Columns:
    """What a template may name, and the table's headings."""
    return {
        "Name": ("NAME", lambda one: one["name"]),
        "Description": ("DESCRIPTION", lambda one: _shorten(one["description"], whole=whole)),
        "StarCount": ("STARS", lambda one: str(one["star_count"])),
        "IsOfficial": ("OFFICIAL", lambda one: "[OK]" if one["is_official"] else ""),
        "IsAutomated": ("AUTOMATED", lambda one: "[OK]" if one["is_automated"] else ""),
    }


def _shorten(text: str, *, whole: bool) -> str:
    text = " ".join(text.split())
    return text if whole or len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


SEARCH = Command(
    "search [OPTIONS] [REGISTRY/]TERM",
    "Look for images in a registry",
    search,
    flags=(
        FILTER_ROW,
        FORMAT_ROW,
        ("limit", "", "int", "Results at most (25)"),
        ("no-trunc", "", "bool", "Whole descriptions"),
    ),
    least=1,
    most=1,
    example="cais search --filter is-official=true debian\ncais search localhost:5000/my",
)
