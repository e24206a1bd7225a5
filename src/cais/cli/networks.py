"""`cais network ls`."""

from __future__ import annotations

import sys

from cais.cli.filters import FILTER_ROW, FORMAT_ROW, format_filters
from cais.cli.flags import Command
from cais.cli.table import print_rows
from cais.cli.templatefuncs import format_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns


def list_networks(session: Session, flags: Flags) -> int:
    """List networks by name."""
    found = session.call("GET", "/networks", (("filters", format_filters(flags.many("filter"))),)) or []
    found.sort(key=lambda network: network["Name"])
    whole = flags.on("no-trunc")
    if flags.on("quiet") and not flags.text("format"):
        sys.stdout.write("".join(f"{item['Id'] if whole else item['Id'][:12]}\n" for item in found))
        return 0
    print_rows(found, make_columns(whole=whole), ("ID", "Name", "Driver", "Scope"), flags.text("format"))
    return 0


def make_columns(*, whole: bool) -> Columns:
    """What a template may name, and the table's headings."""
    return {
        "ID": ("NETWORK ID", lambda n: n["Id"] if whole else n["Id"][:12]),
        "Name": ("NAME", lambda n: n["Name"]),
        "Driver": ("DRIVER", lambda n: n["Driver"]),
        "Scope": ("SCOPE", lambda n: n["Scope"]),
        "IPv4": ("IPV4", lambda n: format_value(bool(n.get("EnableIPv4", True)))),
        "IPv6": ("IPV6", lambda n: format_value(bool(n.get("EnableIPv6")))),
        "Internal": ("INTERNAL", lambda n: format_value(bool(n.get("Internal")))),
        "Labels": (
            "LABELS",
            lambda n: ",".join(f"{k}={v}" for k, v in sorted((n.get("Labels") or {}).items())),
        ),
        "CreatedAt": ("CREATED AT", lambda n: n.get("Created", "")),
    }


NETWORK_LS = Command(
    "network ls [OPTIONS]",
    "List networks",
    list_networks,
    flags=(
        FILTER_ROW,
        FORMAT_ROW,
        ("no-trunc", "", "bool", "Whole ids"),
        ("quiet", "q", "bool", "Only ids"),
    ),
    most=0,
    example="cais network ls",
)
