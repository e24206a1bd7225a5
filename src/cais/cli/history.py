"""`cais history`."""

from __future__ import annotations

import sys
from time import time

from cais.cli.filters import FORMAT_ROW
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.ps import shorten
from cais.cli.table import print_rows
from cais.cli.times import format_ago, format_utc
from cais.cli.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns

SHOWN = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")


def history(session: Session, flags: Flags) -> int:
    """List the steps an image was made in, newest first."""
    query = (("platform", flags.text("platform")),)
    found = session.call("GET", f"/images/{escape(flags.args[0])}/history", query) or []
    columns = make_columns(time(), whole=flags.on("no-trunc"), human=flags.on("human", True))
    if flags.on("quiet") and not flags.text("format"):
        sys.stdout.write("".join(f"{columns['ID'][1](item)}\n" for item in found))
        return 0
    print_rows(found, columns, SHOWN, flags.text("format"))
    return 0


def make_columns(now: float, *, whole: bool, human: bool) -> Columns:
    """What a template may name, and the table's headings."""
    return {
        "ID": ("IMAGE", lambda h: h["Id"] if whole else h["Id"].rpartition(":")[2][:12]),
        "CreatedAt": ("CREATED AT", lambda h: format_utc(h["Created"])),
        "CreatedSince": (
            "CREATED" if human else "CREATED AT",
            lambda h: format_ago(h["Created"], now) if human else format_utc(h["Created"]),
        ),
        "CreatedBy": ("CREATED BY", lambda h: _one_line(h.get("CreatedBy") or "", whole=whole)),
        "Size": ("SIZE", lambda h: format_size(h["Size"]) if human else str(h["Size"])),
        "Comment": ("COMMENT", lambda h: h.get("Comment") or ""),
    }


def _one_line(text: str, *, whole: bool) -> str:
    text = text.replace("\t", " ")
    return text if whole else shorten(text, 45)


HISTORY = Command(
    "history [OPTIONS] IMAGE",
    "List the steps an image was made in",
    history,
    flags=(
        FORMAT_ROW,
        ("human", "H", "bool", "Sizes and dates for people (default true)"),
        ("no-trunc", "", "bool", "Whole ids and commands"),
        ("platform", "", "string", "Of this platform: os/arch[/variant]"),
        ("quiet", "q", "bool", "Only ids"),
    ),
    least=1,
    most=1,
    example="cais history --no-trunc busybox",
)
