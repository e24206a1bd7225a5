"""`cais run` and `cais create`."""

from __future__ import annotations

import os
import sys

from cais.cli.createbody import check_streams, make_create_body
from cais.cli.failure import USAGE, Failure, Refused, wrong_option
from cais.cli.flags import Command
from cais.cli.late import load
from cais.cli.runflags import CREATE_FLAGS, RUN_FLAGS, RUN_KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.http import Response
    from cais.cli.session import Session
    from cais.cli.streams import Streams

NOT_FOUND, NOT_EXECUTABLE = 127, 126
_MISSING = ("executable file not found", "no such file or directory")
_FORBIDDEN = ("permission denied", "is a directory")
_PLAIN_IMAGE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_./")


def create(session: Session, flags: Flags) -> int:
    """Make a container and print its id."""
    answer = create_container(session, flags)
    sys.stdout.write(f"{answer['Id']}\n")
    return 0


def run(session: Session, flags: Flags) -> int:
    """Make a container, start it, and stay with it unless detached. The exit code is the container's."""
    check_streams(flags)
    if flags.on("detach"):
        return _run_detached(session, flags)
    body = _as_usage(_body, flags)
    wanted = [name for name in ("Stdin", "Stdout", "Stderr") if body.get(f"Attach{name}")]
    module = load("cais.cli.streams:Streams")
    streams: Streams = module(
        session,
        stdin="Stdin" in wanted,
        tty=flags.on("tty"),
        proxy=flags.on("sig-proxy", True),
        keys=flags.text("detach-keys"),
    )
    identity = _as_usage(_create, session, flags, body)["Id"]
    return _run_attached(session, flags, streams, identity, wanted)


def _run_detached(session: Session, flags: Flags) -> int:
    identity = _as_usage(_create, session, flags, _as_usage(_body, flags))["Id"]
    _start(session, identity)
    sys.stdout.write(f"{identity}\n")
    return 0


def _run_attached(session: Session, flags: Flags, streams: Streams, identity: str, wanted: list[str]) -> int:
    """Attach, ask for the exit, start, pump: in this order nothing that happens can be missed."""
    target = f"/containers/{identity}"
    query = "".join(f"&{name.lower()}=1" for name in wanted)
    keys = f"&detachKeys={flags.text('detach-keys')}" if flags.text("detach-keys") else ""
    attach = load("cais.cli.streams:Attachment")
    attachment = attach(session.connect(), f"{target}/attach?stream=1{query}{keys}", tty=streams.tty)
    condition = "removed" if flags.on("rm") else "next-exit"
    exit_answer = session.connect().send("POST", f"{target}/wait?condition={condition}")
    signals = streams.signals()
    try:
        _start(session, identity)
        if streams.tty:
            load("cais.cli.streams:resize")(session, target)
        if streams.pump(attachment, signals, target):
            return 0  # detached: the container goes on
        return _read_exit(exit_answer)
    except BrokenPipeError:
        raise Failure("", 1) from None
    finally:
        signals.close()


def _read_exit(answer: Response) -> int:
    """The exit code in the answer to `wait`."""
    value = answer.json() or {}
    error = (value.get("Error") or {}).get("Message")
    if error:
        sys.stderr.write(f"Error waiting for container: {error}\n")
        return USAGE
    return int(value.get("StatusCode", USAGE))


def _start(session: Session, identity: str) -> None:
    """Start the container. Raises Failure with Docker's code for a program that cannot be run."""
    try:
        session.call("POST", f"/containers/{identity}/start")
    except Refused as error:
        text = str(error).lower()
        code = NOT_FOUND if any(part in text for part in _MISSING) else USAGE
        code = NOT_EXECUTABLE if code == USAGE and any(part in text for part in _FORBIDDEN) else code
        raise Failure(str(error), code, "help") from None


def _as_usage(make: Any, *arguments: Any) -> Any:
    """What goes wrong before `run` has a container is exit code 125, with a pointer to the help."""
    try:
        return make(*arguments)
    except (Refused, Failure) as error:
        if isinstance(error, Failure) and error.show:
            raise
        raise Failure(str(error), USAGE, "help") from None


def create_container(session: Session, flags: Flags) -> dict[str, Any]:
    """The engine's answer to the create request these flags describe. Raises Failure, Refused."""
    check_streams(flags)
    return _create(session, flags, _body(flags))


def _body(flags: Flags) -> dict[str, Any]:
    """The request's body, after all that can be refused here has been."""
    if flags.text("pull", "missing") not in ("always", "missing", "never"):
        choice = 'must be one of "always", "missing" or "never"'
        raise wrong_option(f"invalid pull option: '{flags.text('pull')}': {choice}")
    body = make_create_body(flags, os.environ)
    image = flags.args[0]
    if not image or not _PLAIN_IMAGE.issuperset(image) or not image[0].isalnum():
        load("cais.cli.images:check_reference")(image)
    path = flags.text("cidfile")
    if path and os.path.lexists(path):
        raise Failure(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        )
    if flags.on("tty") and os.isatty(1):
        size = os.get_terminal_size(1)
        body["HostConfig"]["ConsoleSize"] = [size.lines, size.columns]
    return body


def _create(session: Session, flags: Flags, body: dict[str, Any]) -> dict[str, Any]:
    if flags.text("pull") == "always":
        _pull(session, flags)
    query = (("name", flags.text("name")), ("platform", flags.text("platform")))
    try:
        answer: dict[str, Any] = session.call("POST", "/containers/create", query, body)
    except Refused as error:
        missing = error.status == 404 and error.message.lower().startswith("no such image")
        if not missing or flags.text("pull", "missing") != "missing":
            raise
        _pull_missing(session, flags)
        answer = session.call("POST", "/containers/create", query, body)
    for warning in answer.get("Warnings") or ():
        sys.stderr.write(f"WARNING: {warning}\n")
    if path := flags.text("cidfile"):
        with open(path, "x") as file:
            file.write(answer["Id"])
    return answer


def _pull_missing(session: Session, flags: Flags) -> None:
    """Pull the image, and if that fails, say how to have one without a registry."""
    image = flags.args[0]
    if not flags.on("quiet"):
        whole = image if ":" in image.rpartition("/")[2] else f"{image}:latest"
        sys.stderr.write(f"Unable to find image '{whole}' locally\n")
    try:
        _pull(session, flags)
    except (Refused, Failure) as error:
        base = "debian" if "debian" in image else "busybox"
        hint = f"Make a base image with 'cais image bootstrap {base}', or load one with 'cais load'"
        raise Failure(f"{error}\n{hint}") from None


def _pull(session: Session, flags: Flags) -> None:
    pull = load("cais.cli.pull:pull_image")
    pull(session, flags.args[0], flags.text("platform"), quiet=flags.on("quiet"), number=2)


CREATE = Command(
    "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a container without starting it",
    create,
    flags=CREATE_FLAGS,
    kinds=RUN_KINDS,
    least=1,
    interspersed=False,
    example="cais create --name web -p 8080:80 busybox httpd -f",
)

RUN = Command(
    "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create and start a container, and stay with it",
    run,
    flags=RUN_FLAGS,
    kinds=RUN_KINDS,
    least=1,
    interspersed=False,
    example="cais run -it --rm busybox sh\ncais run -d --name web -p 8080:80 busybox httpd -f",
)
