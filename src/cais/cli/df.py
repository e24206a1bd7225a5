"""`cais system df`: a summary, or with --verbose every object, in figures that add up to what du says."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.filters import FORMAT_ROW
from cais.cli.flags import Command
from cais.cli.table import format_table, print_rows
from cais.cli.units import format_size
from cais.cli.wirejson import format_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns

_CONTAINER_KEYS = ("Writable", "Logs", "Other")
COLUMNS: Columns = {
    "Type": ("TYPE", lambda row: row["kind"]),
    "TotalCount": ("TOTAL", lambda row: str(row["total"])),
    "Active": ("ACTIVE", lambda row: str(row["active"])),
    "Size": ("SIZE", lambda row: format_size(row["size"], 4)),
    "Reclaimable": ("RECLAIMABLE", lambda row: format_reclaimable(row)),
}


def df(session: Session, flags: Flags) -> int:
    """Show what images, containers and volumes take on disk."""
    if flags.on("verbose"):
        if flags.text("format") not in ("", "json"):
            raise Failure("--verbose takes no template: use --format json")
        accounts = session.call("GET", "/system/df", (("accounts", True),))["Accounts"]
        text = format_json(accounts) + "\n" if flags.text("format") else format_accounts(accounts)
        sys.stdout.write(text)
        return 0
    print_rows(summarise(session.call("GET", "/system/df")), COLUMNS, tuple(COLUMNS), flags.text("format"))
    return 0


def format_accounts(accounts: dict[str, Any]) -> str:
    """Tables of everything that takes disk; the last one is the sum."""
    images, containers, volumes = accounts["Images"], accounts["Containers"], accounts["Volumes"]
    parts = [
        _section(
            "Images",
            ("IMAGE", "ID", "UNIQUE SIZE", "SHARED SIZE", "LAST USED"),
            [
                (
                    (each["Names"] or ["<none>"])[0],
                    each["Id"].rpartition(":")[2][:12],
                    format_size(each["Unique"], 4),
                    format_size(each["Shared"], 4),
                    each["LastUsed"].partition(".")[0] or "never",
                )
                for each in images
            ],
        ),
        _section(
            "Containers",
            ("CONTAINER", "ID", "FILES", "LOGS", "OTHER"),
            [
                (each["Name"], each["Id"][:12], *(format_size(each[key], 4) for key in _CONTAINER_KEYS))
                for each in containers
            ],
        ),
        _section(
            "Volumes", ("VOLUME", "SIZE"), [(each["Name"], format_size(each["Size"], 4)) for each in volumes]
        ),
    ]
    total = [
        ("Images", sum(each["Unique"] for each in images)),
        ("Shared by images", accounts["ImagesShared"]),
        ("Needed by no image", accounts["ImagesLoose"]),
        ("Containers", sum(each[key] for each in containers for key in _CONTAINER_KEYS)),
        ("Volumes", sum(each["Size"] for each in volumes)),
        ("Build cache", accounts["BuildCache"]),
        *((name.capitalize(), size) for name, size in accounts["Other"].items()),
        ("Total", accounts["Total"]),
    ]
    rows = [(name, format_size(size, 4), str(size)) for name, size in total]
    return "\n".join([*parts, _section("Everything", ("WHAT", "SIZE", "BYTES"), rows)])


def _section(title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return f"{title}:\n\n{format_table([headings, *rows])}"


def summarise(usage: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a kind of object: how many, how many in use, bytes, bytes that pruning would free."""
    images = usage.get("Images") or ()
    containers = usage.get("Containers") or ()
    volumes = usage.get("Volumes") or ()
    used_images = [image for image in images if (image.get("Containers") or 0) > 0]
    used = sum(image["Size"] - max(image.get("SharedSize") or 0, 0) for image in used_images)
    layers = usage.get("LayersSize") or sum(image["Size"] for image in images)
    running = [c for c in containers if c.get("State") in ("running", "paused", "restarting")]
    idle = sum(c.get("SizeRw") or 0 for c in containers if c not in running)
    in_use = [v for v in volumes if (v.get("UsageData") or {}).get("RefCount", 0) > 0]
    cache = usage.get("BuildCache") or ()
    return [
        _row("Images", len(images), len(used_images), layers, max(layers - used, 0)),
        _row(
            "Containers", len(containers), len(running), sum(c.get("SizeRw") or 0 for c in containers), idle
        ),
        _row(
            "Local Volumes",
            len(volumes),
            len(in_use),
            _bytes(volumes),
            _bytes(v for v in volumes if v not in in_use),
        ),
        _row("Build Cache", len(cache), 0, sum(item.get("Size") or 0 for item in cache), 0),
    ]


def _row(kind: str, total: int, active: int, size: int, free: int) -> dict[str, Any]:
    return {"kind": kind, "total": total, "active": active, "size": size, "free": free}


def _bytes(volumes: Any) -> int:
    return sum(max((v.get("UsageData") or {}).get("Size", 0), 0) for v in volumes)


def format_reclaimable(row: dict[str, Any]) -> str:
    """The bytes, and their share where there are any."""
    text = format_size(row["free"], 4)
    return f"{text} ({row['free'] * 100 // row['size']}%)" if row["size"] > 0 else text


SYSTEM_DF = Command(
    "system df [OPTIONS]",
    "Show disk usage",
    df,
    flags=(FORMAT_ROW, ("verbose", "v", "bool", "Every object, in allocated bytes that add up")),
    most=0,
    example="cais system df",
)
