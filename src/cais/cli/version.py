"""`cais version`."""

from __future__ import annotations

import os
import sys

from cais import __version__
from cais.cli.failure import Unreachable
from cais.cli.flags import Command
from cais.cli.late import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session


def version(session: Session, flags: Flags) -> int:
    """Print this program's and the engine's versions; 1 if no engine answers."""
    client = {
        "Version": __version__,
        "ApiVersion": "1.51",
        "Python": sys.version.partition(" ")[0],
        "Os": "linux",
        "Arch": os.uname().machine,
    }
    failure: Unreachable | None = None
    server: dict[str, Any] | None = None
    try:
        server = session.call("GET", "/version")
    except Unreachable as error:
        failure = error
    if template := flags.text("format"):
        value = {"Client": client, "Server": server}
        load("cais.cli.template:print_each")(template, [value])
    else:
        sys.stdout.write(format_client(client))
        if server is not None:
            sys.stdout.write(format_server(server))
    if failure is not None:
        sys.stderr.write(f"{failure}\n")
        return 1
    return 0


def format_client(client: dict[str, Any]) -> str:
    """The first half of the page."""
    return (
        f"Client:\n Version:           {client['Version']}\n API version:       {client['ApiVersion']}\n"
        f" Python version:    {client['Python']}\n OS/Arch:           {client['Os']}/{client['Arch']}\n"
    )


def format_server(server: dict[str, Any]) -> str:
    """The engine's half: itself, then its parts."""
    get = server.get
    lowest = f" (minimum version {get('MinAPIVersion')})" if get("MinAPIVersion") else ""
    text = (
        f"\nServer:\n Engine:\n  Version:          {get('Version', '')}\n"
        f"  API version:      {get('ApiVersion', '')}{lowest}\n"
        f"  OS/Arch:          {get('Os', '')}/{get('Arch', '')}\n"
        f"  Kernel version:   {get('KernelVersion', '')}\n"
    )
    for part in get("Components") or ():
        if part.get("Name") != "Engine":
            text += f" {part.get('Name')}:\n  Version:          {part.get('Version', '')}\n"
    return text


VERSION = Command(
    "version [OPTIONS]",
    "Show the versions of the program and the engine",
    version,
    flags=(("format", "f", "string", "Go template for the output, or 'json'"),),
    most=0,
    example="cais version --format '{{.Server.Version}}'",
)
