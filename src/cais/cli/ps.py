"""`cais ps`."""

from __future__ import annotations

import sys
from time import time

from cais.cli.filters import FILTER_ROW, FORMAT_ROW, format_filters
from cais.cli.flags import Command, quote
from cais.cli.table import print_rows
from cais.cli.times import format_ago, format_go
from cais.cli.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns

SHOWN = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def ps(session: Session, flags: Flags) -> int:
    """List containers."""
    template = flags.text("format")
    sized = flags.on("size") or (".Size" in template)
    limit = flags.number("last", -1)
    limit = 1 if flags.on("latest") and limit == -1 else limit
    query = (
        ("all", flags.on("all") or limit > 0),
        ("limit", limit if limit > 0 else None),
        ("size", sized),
        ("filters", format_filters(flags.many("filter"))),
    )
    found = session.call("GET", "/containers/json", query) or []
    whole = flags.on("no-trunc")
    if flags.on("quiet") and template in ("", "table"):
        sys.stdout.write("".join(f"{item['Id'] if whole else item['Id'][:12]}\n" for item in found))
        return 0
    shown = (*SHOWN, "Size") if flags.on("size") else SHOWN
    print_rows(found, make_columns(time(), whole=whole), shown, template)
    return 0


def make_columns(now: float, *, whole: bool) -> Columns:
    """What a template may name, and the table's headings."""
    return {
        "ID": ("CONTAINER ID", lambda c: c["Id"] if whole else c["Id"][:12]),
        "Names": ("NAMES", lambda c: format_names(c.get("Names") or (), whole=whole)),
        "Image": ("IMAGE", lambda c: format_image(c, whole=whole)),
        "Command": ("COMMAND", lambda c: quote(c["Command"] if whole else shorten(c["Command"], 20))),
        "CreatedAt": ("CREATED AT", lambda c: format_go(c["Created"])),
        "RunningFor": ("CREATED", lambda c: format_ago(c["Created"], now)),
        "Ports": ("PORTS", lambda c: format_ports(c.get("Ports") or ())),
        "State": ("STATE", lambda c: c.get("State", "")),
        "Status": ("STATUS", lambda c: c.get("Status", "")),
        "Size": ("SIZE", format_sizes),
        "Labels": (
            "LABELS",
            lambda c: ",".join(f"{k}={v}" for k, v in sorted((c.get("Labels") or {}).items())),
        ),
        "LocalVolumes": (
            "LOCAL VOLUMES",
            lambda c: str(sum(m.get("Driver") == "local" for m in c.get("Mounts") or ())),
        ),
        "Mounts": ("MOUNTS", lambda c: ",".join(_mount_name(m, whole=whole) for m in c.get("Mounts") or ())),
        "Networks": ("NETWORKS", lambda c: ",".join((c.get("NetworkSettings") or {}).get("Networks") or ())),
        "Platform": ("PLATFORM", lambda c: format_platform(c)),
    }


def format_platform(container: dict[str, Any]) -> str:
    """``linux/amd64`` when the engine says so, else empty."""
    platform = (container.get("ImageManifestDescriptor") or {}).get("platform") or {}
    return "/".join(platform[key] for key in ("os", "architecture", "variant") if platform.get(key))


def _mount_name(mount: dict[str, Any], *, whole: bool) -> str:
    name: str = mount.get("Name") or mount.get("Source", "")
    return name if whole else shorten(name, 15)


def shorten(text: str, width: int) -> str:
    """At most ``width`` characters, the last an ellipsis if some are missing."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def format_names(names: Any, *, whole: bool) -> str:
    """Names without their slash; those of links (``other/alias``) only when asked for everything."""
    stripped = [name.removeprefix("/") for name in names]
    return ",".join(name for name in stripped if whole or "/" not in name)


def format_image(container: dict[str, Any], *, whole: bool) -> str:
    """The image's name; an id is cut to 12 digits."""
    name: str = container.get("Image", "")
    if not name:
        return "<no image>"
    hexes: str = container.get("ImageID", "").partition(":")[2]
    if not whole and hexes and name.removeprefix("sha256:") == hexes:
        return hexes[:12]
    short, _, _ = name.partition("@sha256:")
    return name if whole else short


def format_sizes(container: dict[str, Any]) -> str:
    """The writable layer's size, and with the image's in brackets."""
    text = format_size(container.get("SizeRw") or 0)
    if root := container.get("SizeRootFs"):
        text += f" (virtual {format_size(root)})"
    return text


def format_ports(ports: Any) -> str:
    """Docker's PORTS cell: equal numbers inside and outside first, neighbours joined to ranges, then the rest."""
    shown: list[str] = []
    mapped: list[str] = []
    open_ranges: dict[tuple[str, str], list[int]] = {}
    for port in sorted(ports, key=_port_order):
        address, private, kind = port.get("IP") or "", port["PrivatePort"], port["Type"]
        if address and port.get("PublicPort") != private:
            mapped.append(f"{_bracket(address)}:{port.get('PublicPort')}->{private}/{kind}")
            continue
        last = open_ranges.get((address, kind))
        if last and private == last[1] + 1:
            last[1] = private
            continue
        if last:
            shown.append(_format_range(address, kind, last))
            last[:] = [private, private]
        else:
            open_ranges[address, kind] = [private, private]
    shown += [_format_range(*key, found) for key, found in open_ranges.items()]
    return ", ".join([*shown, *mapped])


def _port_order(port: dict[str, Any]) -> tuple[Any, ...]:
    return port["PrivatePort"], port.get("IP") or "", port.get("PublicPort") or 0, port["Type"]


def _bracket(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _format_range(address: str, kind: str, ends: list[int]) -> str:
    text = str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"
    return f"{_bracket(address)}:{text}->{text}/{kind}" if address else f"{text}/{kind}"


PS = Command(
    "ps [OPTIONS]",
    "List containers",
    ps,
    flags=(
        ("all", "a", "bool", "Also those that do not run"),
        FILTER_ROW,
        FORMAT_ROW,
        ("last", "n", "int", "The last n made, in any state"),
        ("latest", "l", "bool", "The last one made, in any state"),
        ("no-trunc", "", "bool", "Whole ids, commands and names"),
        ("quiet", "q", "bool", "Only ids"),
        ("size", "s", "bool", "Sizes on disk"),
    ),
    most=0,
    example="cais ps -a --filter status=exited\ncais ps --format '{{.Names}}\\t{{.Status}}'",
)
