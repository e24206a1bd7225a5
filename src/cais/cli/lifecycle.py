"""The verbs that do one thing to each container named: stop, kill, restart, wait, rm, pause, unpause, rename."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure, Refused
from cais.cli.flags import Command
from cais.cli.http import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cais.cli.flags import Flags
    from cais.cli.session import Session


def for_each(names: list[str], act: Callable[[str], str]) -> int:
    """Act on every name, print what each act gives; 1 if one was refused, the others are still done."""
    code = 0
    for name in names:
        try:
            text = act(name)
        except Refused as error:
            sys.stdout.flush()
            sys.stderr.write(f"{error}\n")
            code = 1
        else:
            sys.stdout.write(f"{text}\n" if text else "")
    return code


def _post(session: Session, name: str, verb: str, query: tuple[tuple[str, object], ...] = ()) -> str:
    session.call("POST", f"/containers/{escape(name)}/{verb}", query)
    return name


def stop(session: Session, flags: Flags) -> int:
    """Ask containers to stop; kill those that do not within their time."""
    return for_each(flags.args, lambda name: _post(session, name, "stop", _patience(flags)))


def restart(session: Session, flags: Flags) -> int:
    """Stop and start containers."""
    return for_each(flags.args, lambda name: _post(session, name, "restart", _patience(flags)))


def _patience(flags: Flags) -> tuple[tuple[str, object], ...]:
    # str: zero seconds is a value here, and format_target leaves only empty ones out
    seconds = str(flags.number("timeout")) if flags.given("timeout") else ""
    return ("signal", flags.text("signal")), ("t", seconds)


def kill(session: Session, flags: Flags) -> int:
    """Send containers a signal."""
    query = (("signal", flags.text("signal")),)
    return for_each(flags.args, lambda name: _post(session, name, "kill", query))


def pause(session: Session, flags: Flags) -> int:
    """Freeze all processes of containers."""
    return for_each(flags.args, lambda name: _post(session, name, "pause"))


def unpause(session: Session, flags: Flags) -> int:
    """Let frozen containers go on."""
    return for_each(flags.args, lambda name: _post(session, name, "unpause"))


def wait(session: Session, flags: Flags) -> int:
    """Wait for containers to stop and print their exit codes."""

    def act(name: str) -> str:
        answer = session.call("POST", f"/containers/{escape(name)}/wait")
        if message := (answer.get("Error") or {}).get("Message"):
            raise Refused(500, message)
        return str(answer["StatusCode"])

    return for_each(flags.args, act)


def remove(session: Session, flags: Flags) -> int:
    """Remove containers."""

    def act(name: str) -> str:
        query = (("v", flags.on("volumes")), ("link", flags.on("link")), ("force", flags.on("force")))
        clean = name.strip("/")
        if not clean:
            raise Failure("container name cannot be empty")
        try:
            session.send("DELETE", f"/containers/{escape(clean)}", query).read()
        except Refused as error:
            if error.status != 404 or not flags.on("force"):
                raise
            sys.stderr.write(f"{error}\n")  # said, but what was asked for is so
            return ""
        return name

    return for_each(flags.args, act)


def rename(session: Session, flags: Flags) -> int:
    """Give a container another name."""
    old, new = (text.strip() for text in flags.args)
    if not old or not new:
        raise Failure("Error: Neither old nor new names may be empty")
    try:
        session.call("POST", f"/containers/{escape(old)}/rename", (("name", new),))
    except Refused as error:
        raise Failure(f"{error}\nError: failed to rename container named {old}") from None
    return 0


_STOP_FLAGS = (
    ("signal", "s", "string", "Signal to send"),
    ("time", "", "int", ""),
    ("timeout", "t", "int", "Seconds to wait before killing; -1: for ever"),
)

STOP = Command(
    "stop [OPTIONS] CONTAINER [CONTAINER...]",
    "Stop running containers",
    stop,
    flags=_STOP_FLAGS,
    least=1,
    example="cais stop -t 3 web",
)
RESTART = Command(
    "restart [OPTIONS] CONTAINER [CONTAINER...]",
    "Stop and start containers",
    restart,
    flags=_STOP_FLAGS,
    least=1,
    example="cais restart web",
)
KILL = Command(
    "kill [OPTIONS] CONTAINER [CONTAINER...]",
    "Send running containers a signal",
    kill,
    flags=(("signal", "s", "string", "Signal to send (default KILL)"),),
    least=1,
    example="cais kill -s HUP web",
)
PAUSE = Command(
    "pause CONTAINER [CONTAINER...]",
    "Freeze all processes of containers",
    pause,
    least=1,
    example="cais pause web",
)
UNPAUSE = Command(
    "unpause CONTAINER [CONTAINER...]",
    "Let frozen containers go on",
    unpause,
    least=1,
    example="cais unpause web",
)
WAIT = Command(
    "wait CONTAINER [CONTAINER...]",
    "Wait until containers stop, then print their exit codes",
    wait,
    least=1,
    example="cais wait job && echo done",
)
RM = Command(
    "rm [OPTIONS] CONTAINER [CONTAINER...]",
    "Remove containers",
    remove,
    flags=(
        ("force", "f", "bool", "Kill it first if it runs"),
        ("link", "l", "bool", "Remove the link, not the container"),
        ("volumes", "v", "bool", "Remove its anonymous volumes too"),
    ),
    least=1,
    example="cais rm -fv web",
)
RENAME = Command(
    "rename CONTAINER NEW_NAME",
    "Rename a container",
    rename,
    least=2,
    most=2,
    example="cais rename web old-web",
)
