"""`cais build` and `cais builder prune`."""

from __future__ import annotations

import os
import sys

from cais.cli.contexttar import open_context, read_stream
from cais.cli.failure import Failure
from cais.cli.filters import format_filters
from cais.cli.flags import KINDS, Command
from cais.cli.http import format_target
from cais.cli.images import check_reference
from cais.cli.late import load
from cais.cli.progress import Progress
from cais.cli.prune import confirm
from cais.cli.runflags import parse_host_entry
from cais.cli.units import format_size, parse_bytes
from cais.cli.wirejson import JsonLines, format_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session


def build(session: Session, flags: Flags) -> int:
    """Build an image from a Dockerfile and a context."""
    for name in flags.many("tag"):
        check_reference(name)
    path, dockerfile = flags.args[0], flags.text("file")
    if path.startswith(("http://", "https://", "git://", "git@", "ssh://", "github.com/")):
        raise Failure("contexts from URLs and git are not supported: download it, and build from the folder")
    if path == "-":
        if dockerfile == "-":
            raise Failure("invalid argument: can't use stdin for both build context and dockerfile")
        name, pieces = read_stream()
        name = dockerfile or name
    else:
        context = open_context(path, dockerfile)
        name, pieces = context.dockerfile, context.pieces()
    return _send(session, flags, name, pieces)


def _send(session: Session, flags: Flags, dockerfile: str, pieces: Iterator[bytes]) -> int:
    target = "/cais/build/check" if flags.on("check") else "/build"
    fields = load("cais.cli.credentials:make_config_fields")()
    query = _query(flags, dockerfile)
    answer = session.connect().send("POST", format_target(target, query), pieces, fields)
    if flags.on("check"):
        return _show_findings(answer.json())
    messages = Messages(quiet=flags.on("quiet"))
    messages.follow(answer.pieces())
    if path := flags.text("iidfile"):
        with open(path, "w", encoding="ascii") as file:
            file.write(messages.id)
    return 0


def _query(flags: Flags, dockerfile: str) -> list[tuple[str, object]]:
    query: list[tuple[str, object]] = [
        ("dockerfile", dockerfile),
        ("t", flags.many("tag")),
        ("target", flags.text("target")),
        ("platform", flags.text("platform")),
        ("networkmode", flags.text("network")),
        ("nocache", "1" if flags.on("no-cache") else ""),
        ("pull", "1" if flags.on("pull") else ""),
        ("q", "1" if flags.on("quiet") else ""),
        ("memory", flags.number("memory") or ""),
        ("shmsize", flags.number("shm-size") or ""),
    ]
    if args := _pairs(flags.many("build-arg"), environment=True):
        query.append(("buildargs", format_json(args)))
    if labels := _pairs(flags.many("label")):
        query.append(("labels", format_json(labels)))
    if hosts := flags.many("add-host"):
        query.append(("extrahosts", format_json(list(hosts))))
    return query


def _pairs(texts: Iterable[str], *, environment: bool = False) -> dict[str, str]:
    """``name=value``; a bare name takes the value of this process's environment, or is left out."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals:
            found[name] = value
        elif not environment:
            found[name] = ""
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


class Messages:
    """Shows what the engine tells of a build; ``id`` is the image's, once it is known."""

    __slots__ = ("_progress", "id")

    def __init__(self, *, quiet: bool) -> None:
        self._progress = Progress(number=1)
        self._progress.quiet = quiet
        self.id = ""

    def follow(self, pieces: Iterable[bytes]) -> None:
        """To the end. Raises Failure for an error message."""
        lines = JsonLines()
        try:
            for piece in pieces:
                for message in lines.feed(piece):
                    self._show(message)
            for message in lines.end():
                self._show(message)
        except ValueError as error:
            raise Failure(f"the engine's answer makes no sense: {error}") from None

    def _show(self, message: dict[str, Any]) -> None:
        if aux := message.get("aux"):
            self.id = str(aux.get("ID", ""))
            return
        if self._progress.quiet and "stream" in message:
            self.id = str(message["stream"]).strip()
            sys.stdout.write(f"{self.id}\n")
            return
        self._progress.show(message)


def _show_findings(findings: list[dict[str, Any]]) -> int:
    for finding in findings:
        first, last = finding["Lines"]
        where = f"{finding['File']}:{first}" + (f"-{last}" if last != first else "")
        sys.stdout.write(f"WARNING: {finding['Rule']} - {where}: {finding['Message']}\n")
        for number, text, meant in finding["Excerpt"]:
            sys.stdout.write(f"{number:>4} {'>>>' if meant else '   '} {text}\n")
    count = len(findings)
    shown = "no warnings found" if not count else f"{count} warning{'s' if count > 1 else ''} found"
    sys.stdout.write(f"Check complete, {shown}.\n")
    return 1 if count else 0


BUILD = Command(
    "build [OPTIONS] PATH | -",
    "Build an image from a Dockerfile",
    build,
    flags=(
        ("add-host", "", "host...", "Line for /etc/hosts of RUN steps: name:ip"),
        ("build-arg", "", "list...", "Value of an ARG: NAME=VALUE, or NAME from the environment"),
        ("check", "", "bool", "Look for mistakes, and build nothing"),
        ("file", "f", "string", "Dockerfile (default PATH/Dockerfile; - is stdin)"),
        ("force-rm", "", "bool", "Accepted for compatibility"),
        ("iidfile", "", "string", "Write the image's id into this file"),
        ("label", "", "list...", "Label of the image: NAME=VALUE"),
        ("memory", "m", "bytes", "Memory limit of RUN steps, e.g. 64m"),
        ("network", "", "string", "Network of RUN steps: default, none, host"),
        ("no-cache", "", "bool", "Make every step anew"),
        ("platform", "", "string", "Platform to build for: os/arch[/variant]"),
        ("pull", "", "bool", "Fetch base images even if they are here"),
        ("quiet", "q", "bool", "Print the image's id only"),
        ("rm", "", "bool", "Accepted for compatibility"),
        ("shm-size", "", "bytes", "Size of /dev/shm in RUN steps"),
        ("tag", "t", "list...", "Name of the image; may be given several times"),
        ("target", "", "string", "Stage to build (default the last)"),
    ),
    kinds={**KINDS, "bytes": parse_bytes, "host...": parse_host_entry},
    least=1,
    most=1,
    example="cais build -t my/web:2 .\ncais build --target test --build-arg VERSION=3 -f ci/Dockerfile .",
)


def prune(session: Session, flags: Flags) -> int:
    """Forget what builds made before."""
    warning = "This will remove all build cache that is not in use."
    if not confirm(flags, warning):
        return 0
    query = (
        ("filters", format_filters(flags.many("filter"))),
        ("keep-storage", flags.number("keep-storage") or ""),
    )
    answer: dict[str, Any] = session.call("POST", "/build/prune", query) or {}
    for id in answer.get("CachesDeleted") or ():
        sys.stdout.write(f"{id}\n")
    sys.stdout.write(f"Total:\t{format_size(answer.get('SpaceReclaimed') or 0)}\n")
    return 0


BUILDER_PRUNE = Command(
    "builder prune [OPTIONS]",
    "Remove build cache",
    prune,
    flags=(
        ("all", "a", "bool", "Accepted for compatibility: all of it is removed anyway"),
        ("filter", "", "filter...", "Only what was not used for so long: until=24h"),
        ("force", "f", "bool", "Do not ask"),
        ("keep-storage", "", "bytes", "Leave so much, what was used last"),
    ),
    kinds={**KINDS, "bytes": parse_bytes},
    most=0,
    example="cais builder prune -f --filter until=72h",
)
