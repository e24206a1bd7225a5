"""`cais port`."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.ports import PROTOCOLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session


def port(session: Session, flags: Flags) -> int:
    """List a container's published ports, or where one of them is published."""
    container = session.call("GET", f"/containers/{escape(flags.args[0])}/json")
    ports = container["NetworkSettings"].get("Ports") or {}
    if len(flags.args) < 2:
        names = sorted(ports, key=lambda name: (int(name.partition("/")[0]), name))
        lines = [f"{name} -> {text}" for name in names for text in _lines(ports[name])]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return 0
    number, slash, protocol = flags.args[1].partition("/")
    if not number.isdigit() or (slash and protocol not in PROTOCOLS):
        raise Failure(f"Error: invalid port ({flags.args[1]})")
    found = _lines(ports.get(f"{number}/{protocol or 'tcp'}"))
    if not found:
        raise Failure(f"Error: No public port '{flags.args[1]}' published for {flags.args[0]}")
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 0


def _lines(bindings: list[dict[str, Any]] | None) -> list[str]:
    hosts = ((item["HostIp"], item["HostPort"]) for item in bindings or ())
    return [f"[{address}]:{number}" if ":" in address else f"{address}:{number}" for address, number in hosts]


PORT = Command(
    "port CONTAINER [PRIVATE_PORT[/PROTO]]",
    "List a container's published ports",
    port,
    least=1,
    most=2,
    example="cais port web 80/tcp",
)
