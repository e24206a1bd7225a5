"""`cais start`."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure, Refused
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.late import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session


def start(session: Session, flags: Flags) -> int:
    """Start stopped containers; with --attach or --interactive one of them, and stay with it."""
    if flags.on("attach") or flags.on("interactive"):
        if len(flags.args) > 1:
            raise Failure("you cannot start and attach multiple containers at once")
        return _start_attached(session, flags)
    failed = []
    for name in flags.args:
        try:
            session.call(
                "POST", f"/containers/{escape(name)}/start", (("detachKeys", flags.text("detach-keys")),)
            )
        except Refused as error:
            sys.stderr.write(f"{error}\n")
            failed.append(name)
        else:
            sys.stdout.write(f"{name}\n")
    if failed:
        raise Failure(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _start_attached(session: Session, flags: Flags) -> int:
    container = session.call("GET", f"/containers/{escape(flags.args[0])}/json")
    if container["State"].get("Running"):
        raise Failure(f"container {container['Name'].lstrip('/')} is running already: use 'cais attach'")
    target = f"/containers/{container['Id']}"
    config = container["Config"]
    stdin = flags.on("interactive") and bool(config.get("OpenStdin"))
    streams = load("cais.cli.streams:Streams")(
        session,
        stdin=stdin,
        tty=bool(config.get("Tty")),
        proxy=flags.on("sig-proxy", True),
        keys=flags.text("detach-keys"),
    )
    query = f"stream=1{'&stdin=1' if stdin else ''}&stdout=1&stderr=1"
    attachment = load("cais.cli.streams:Attachment")(
        session.connect(), f"{target}/attach?{query}", tty=streams.tty
    )
    condition = "removed" if container["HostConfig"].get("AutoRemove") else "next-exit"
    exit_answer = session.connect().send("POST", f"{target}/wait?condition={condition}")
    signals = streams.signals()
    try:
        session.call("POST", f"{target}/start")
        if streams.tty:
            load("cais.cli.streams:resize")(session, target)
        if streams.pump(attachment, signals, target):
            return 0
    finally:
        signals.close()
    return int(exit_answer.json()["StatusCode"])


START = Command(
    "start [OPTIONS] CONTAINER [CONTAINER...]",
    "Start stopped containers",
    start,
    flags=(
        ("attach", "a", "bool", "Attach its output and pass signals on"),
        ("detach-keys", "", "string", "Keys that detach, e.g. ctrl-p,ctrl-q"),
        ("interactive", "i", "bool", "Attach its stdin"),
        ("sig-proxy", "", "bool", "Pass signals on to the process (default true)"),
    ),
    least=1,
    example="cais start -ai mybox",
)
