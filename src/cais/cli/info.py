"""`cais info`."""

from __future__ import annotations

import sys

from cais import __version__
from cais.cli.failure import Refused, Unreachable
from cais.cli.filters import SHORT_FORMAT_ROW
from cais.cli.flags import Command
from cais.cli.late import load
from cais.cli.units import format_binary_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session


def info(session: Session, flags: Flags) -> int:
    """Print what the engine says about itself and the machine; 1 if none answers."""
    errors: list[str] = []
    value: dict[str, Any] = {}
    try:
        value = session.call("GET", "/info")
    except (Unreachable, Refused) as error:
        errors.append(str(error))
    client = {"Version": __version__, "Host": session.host.text}
    if template := flags.text("format"):
        whole = {**value, "ClientInfo": client, **({"ServerErrors": errors} if errors else {})}
        load("cais.cli.template:print_each")(template, [whole])
    else:
        sys.stdout.write(
            f"Client:\n Version:    {__version__}\n Host:       {session.host.text}\n\nServer:\n"
        )
        sys.stdout.write(format_info(value) if value else "")
    warnings = () if template else value.get("Warnings") or ()
    sys.stderr.write("".join([*(f"ERROR: {text}\n" for text in errors), *(f"{text}\n" for text in warnings)]))
    return 1 if errors else 0


def format_info(value: dict[str, Any]) -> str:
    """The engine's half of the page."""
    get = value.get
    lines = [
        f"Containers: {get('Containers', 0)}",
        f" Running: {get('ContainersRunning', 0)}",
        f" Paused: {get('ContainersPaused', 0)}",
        f" Stopped: {get('ContainersStopped', 0)}",
        f"Images: {get('Images', 0)}",
        f"Server Version: {get('ServerVersion', '')}",
        f"Storage Driver: {get('Driver', '')}",
        *(f" {name}: {text}" for name, text in get("DriverStatus") or ()),
        *_optional(value, ("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver")),
        *_optional(value, ("Cgroup Version", "CgroupVersion")),
    ]
    if plugins := get("Plugins"):
        lines.append("Plugins:")
        lines += [
            f" {name}: {' '.join(plugins[name])}"
            for name in ("Volume", "Network", "Log")
            if plugins.get(name)
        ]
    if runtimes := get("Runtimes"):
        lines += [f"Runtimes: {' '.join(sorted(runtimes))}", f"Default Runtime: {get('DefaultRuntime', '')}"]
    if options := get("SecurityOptions"):
        lines += ["Security Options:", *_format_security(options)]
    lines += _optional(
        value,
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    )
    lines.append(f"Total Memory: {format_binary_size(get('MemTotal') or 0)}")
    lines += _optional(value, ("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir"))
    lines.append(f"Debug Mode: {'true' if get('Debug') else 'false'}")
    lines.append(f"Live Restore Enabled: {'true' if get('LiveRestoreEnabled') else 'false'}")
    return "".join(f" {line}\n" for line in lines)


def _optional(value: dict[str, Any], *rows: tuple[str, str]) -> list[str]:
    return [f"{title}: {value[name]}" for title, name in rows if value.get(name)]


def _format_security(options: list[str]) -> list[str]:
    """``name=seccomp,profile=builtin`` as a heading and its details."""
    lines = []
    for option in options:
        for pair in option.split(","):
            key, _, text = pair.partition("=")
            lines.append(f" {text}" if key == "name" else f"  {key[:1].upper()}{key[1:]}: {text}")
    return lines


INFO = Command(
    "info [OPTIONS]",
    "Show what the engine and the machine can do",
    info,
    flags=(SHORT_FORMAT_ROW,),
    most=0,
    example="cais info --format '{{.CgroupVersion}}'",
)
