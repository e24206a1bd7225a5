"""`cais exec`."""

from __future__ import annotations

import os
import sys
from time import sleep

from cais.cli.environment import parse_variable, read_lines, resolve_variable
from cais.cli.flags import KINDS, Command
from cais.cli.http import escape
from cais.cli.streams import Attachment, Streams, resize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session


EXIT_POLLS, POLL_SECONDS = 200, 0.005


def execute(session: Session, flags: Flags) -> int:
    """Run a command in a running container. The exit code is the command's."""
    body = make_exec_body(flags, os.environ)
    streams = None
    if not flags.on("detach"):
        streams = Streams(
            session,
            stdin=flags.on("interactive"),
            tty=flags.on("tty"),
            proxy=False,
            keys=flags.text("detach-keys"),
        )
    if flags.on("tty") and os.isatty(1):
        size = os.get_terminal_size(1)
        body["ConsoleSize"] = [size.lines, size.columns]
    identity = session.call("POST", f"/containers/{escape(flags.args[0])}/exec", (), body)["Id"]
    target = f"/exec/{identity}"
    start = {"Detach": streams is None, "Tty": flags.on("tty")}
    if streams is None:
        session.call("POST", f"{target}/start", (), start)
        return 0
    if "ConsoleSize" in body:
        start["ConsoleSize"] = body["ConsoleSize"]
    signals = streams.signals()
    try:
        attachment = Attachment(session.connect(), f"{target}/start", start, tty=streams.tty)
        if streams.tty:
            resize(session, target)
        if streams.pump(attachment, signals, target):
            sys.stderr.write("read escape sequence\n")
            return 1
    finally:
        signals.close()
    return _read_exit(session, target)


def _read_exit(session: Session, target: str) -> int:
    """The command's exit code. Its streams may end a moment before the engine knows it."""
    for _ in range(EXIT_POLLS):
        details = session.call("GET", f"{target}/json")
        if not details.get("Running") and details.get("ExitCode") is not None:
            return int(details["ExitCode"])
        sleep(POLL_SECONDS)
    return 0  # it closed its streams and goes on


def make_exec_body(flags: Flags, outside: Mapping[str, str]) -> dict[str, Any]:
    """The body of ``POST /containers/{id}/exec``; only what was given is in it."""
    body: dict[str, Any] = {"Cmd": flags.args[1:]}
    if not flags.on("detach"):
        body.update(AttachStdout=True, AttachStderr=True)
        if flags.on("interactive"):
            body["AttachStdin"] = True
    for flag, name in (("tty", "Tty"), ("privileged", "Privileged")):
        if flags.on(flag):
            body[name] = True
    for flag, name in (("user", "User"), ("workdir", "WorkingDir"), ("detach-keys", "DetachKeys")):
        if flags.text(flag):
            body[name] = flags.text(flag)
    environment = read_lines(flags.many("env-file"), outside)
    environment += [resolve_variable(text, outside) for text in flags.many("env")]
    if environment:
        body["Env"] = environment
    return body


EXEC = Command(
    "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
    "Run a command in a running container",
    execute,
    flags=(
        ("detach", "d", "bool", "Run in the background"),
        ("detach-keys", "", "string", "Keys that detach, e.g. ctrl-p,ctrl-q"),
        ("env", "e", "env...", "Variable: NAME=value, or NAME to pass it on"),
        ("env-file", "", "list...", "File of NAME=value lines"),
        ("interactive", "i", "bool", "Keep stdin open"),
        ("privileged", "", "bool", "All capabilities"),
        ("tty", "t", "bool", "Give it a terminal"),
        ("user", "u", "string", "User: name|uid[:group|gid]"),
        ("workdir", "w", "string", "Working folder inside"),
    ),
    kinds={**KINDS, "env...": parse_variable},
    least=2,
    interspersed=False,
    example="cais exec -it web sh",
)
