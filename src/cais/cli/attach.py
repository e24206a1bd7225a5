"""`cais attach`."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.http import escape, format_target
from cais.cli.streams import Attachment, Streams, resize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session


def attach(session: Session, flags: Flags) -> int:
    """Join a running container's streams. The exit code is the container's; 1 after detaching."""
    target = f"/containers/{escape(flags.args[0])}"
    container = session.call("GET", f"{target}/json")
    check_attachable(container)
    config = container["Config"]
    streams = Streams(
        session,
        stdin=bool(config.get("OpenStdin")) and not flags.on("no-stdin"),
        tty=bool(config.get("Tty")),
        proxy=flags.on("sig-proxy", True),
        keys=flags.text("detach-keys"),
    )
    return follow(session, f"/containers/{container['Id']}", streams, flags.text("detach-keys"))


def follow(session: Session, target: str, streams: Streams, keys: str) -> int:
    """Attach to what runs already, and give back its exit code."""
    query = (("stream", 1), ("stdin", streams.stdin), ("stdout", 1), ("stderr", 1), ("detachKeys", keys))
    exit_answer = session.connect().send("POST", f"{target}/wait")
    attachment = Attachment(session.connect(), format_target(f"{target}/attach", query), tty=streams.tty)
    signals = streams.signals()
    try:
        if streams.tty:
            resize(session, target)
        if streams.pump(attachment, signals, target):
            sys.stderr.write("read escape sequence\n")
            return 1
    finally:
        signals.close()
    return int(exit_answer.json()["StatusCode"])


def check_attachable(container: dict[str, Any]) -> None:
    """Raises Failure unless the container runs."""
    state = container["State"]
    if not state.get("Running"):
        raise Failure("You cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise Failure("You cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise Failure("You cannot attach to a restarting container, wait until it is running")


ATTACH = Command(
    "attach [OPTIONS] CONTAINER",
    "Join the streams of a running container",
    attach,
    flags=(
        ("detach-keys", "", "string", "Keys that detach, e.g. ctrl-p,ctrl-q"),
        ("no-stdin", "", "bool", "Do not attach stdin"),
        ("sig-proxy", "", "bool", "Pass signals on to the process (default true)"),
    ),
    least=1,
    most=1,
    example="cais attach --detach-keys ctrl-x web",
)
