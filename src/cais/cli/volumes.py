"""`cais volume create`, `ls` and `rm`."""

from __future__ import annotations

import sys

from cais.cli.environment import parse_label, split_pairs
from cais.cli.failure import Failure
from cais.cli.filters import FILTER_ROW, FORMAT_ROW, format_filters
from cais.cli.flags import KINDS, Command
from cais.cli.http import escape
from cais.cli.lifecycle import for_each
from cais.cli.table import print_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns

COLUMNS: Columns = {
    "Driver": ("DRIVER", lambda v: v["Driver"]),
    "Name": ("VOLUME NAME", lambda v: v["Name"]),
    "Labels": ("LABELS", lambda v: ",".join(f"{k}={x}" for k, x in sorted((v.get("Labels") or {}).items()))),
    "Links": ("LINKS", lambda v: str((v.get("UsageData") or {}).get("RefCount", "N/A"))),
    "Mountpoint": ("MOUNTPOINT", lambda v: v["Mountpoint"]),
    "Scope": ("SCOPE", lambda v: v.get("Scope", "")),
    "Size": ("SIZE", lambda v: "N/A"),
}


def create(session: Session, flags: Flags) -> int:
    """Make a volume and print its name."""
    body: dict[str, object] = {"Name": flags.args[0] if flags.args else ""}
    if flags.given("name"):
        if flags.args:
            raise Failure(
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
            )
        body["Name"] = flags.text("name")
    body["Driver"] = flags.text("driver", "local")
    for flag, name in (("label", "Labels"), ("opt", "DriverOpts")):
        if flags.many(flag):
            body[name] = split_pairs(flags.many(flag))
    sys.stdout.write(f"{session.call('POST', '/volumes/create', (), body)['Name']}\n")
    return 0


def list_volumes(session: Session, flags: Flags) -> int:
    """List volumes by name."""
    answer = session.call("GET", "/volumes", (("filters", format_filters(flags.many("filter"))),))
    found = sorted(answer.get("Volumes") or (), key=lambda volume: volume["Name"])
    if flags.on("quiet") and not flags.text("format"):
        sys.stdout.write("".join(f"{volume['Name']}\n" for volume in found))
        return 0
    print_rows(found, COLUMNS, ("Driver", "Name"), flags.text("format"))
    return 0


def remove(session: Session, flags: Flags) -> int:
    """Remove volumes that no container uses."""

    def act(name: str) -> str:
        session.send("DELETE", f"/volumes/{escape(name)}", (("force", flags.on("force")),)).read()
        return name

    return for_each(flags.args, act)


VOLUME_CREATE = Command(
    "volume create [OPTIONS] [VOLUME]",
    "Make a volume",
    create,
    flags=(
        ("driver", "d", "string", "Driver (default local)"),
        ("label", "", "label...", "Label, key=value"),
        ("name", "", "string", ""),
        ("opt", "o", "list...", "Option of the driver, key=value"),
    ),
    kinds={**KINDS, "label...": parse_label},
    most=1,
    example="cais volume create data",
)
VOLUME_LS = Command(
    "volume ls [OPTIONS]",
    "List volumes",
    list_volumes,
    flags=(FILTER_ROW, FORMAT_ROW, ("quiet", "q", "bool", "Only names")),
    most=0,
    example="cais volume ls --filter dangling=true",
)
VOLUME_RM = Command(
    "volume rm [OPTIONS] VOLUME [VOLUME...]",
    "Remove volumes that no container uses",
    remove,
    flags=(("force", "f", "bool", "Not an error if it does not exist"),),
    least=1,
    example="cais volume rm data",
)
