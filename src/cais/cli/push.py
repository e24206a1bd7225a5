"""`cais push`."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.images import check_reference
from cais.cli.late import load
from cais.cli.progress import Progress
from cais.cli.wirejson import format_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session


def push(session: Session, flags: Flags) -> int:
    """Send an image, or all tags of a repository, to its registry."""
    name = flags.args[0]
    check_reference(name)
    reference = load("cais.spec.reference:parse_reference")(name)
    quiet, every = flags.on("quiet"), flags.on("all-tags")
    if reference.digest:
        raise Failure("cannot push a digest reference")
    if every and reference.tag:
        raise Failure("tag can't be used with --all-tags/-a")
    if not every and not reference.tag:
        reference = reference.tagged()
        if not quiet:
            sys.stdout.write(f"Using default tag: {reference.tag}\n")
    query = (
        ("tag", reference.tag),
        ("compression", flags.text("compression")),
        ("platform", _platform(flags.text("platform"))),
    )
    fields = load("cais.cli.credentials:make_fields")(reference.domain)
    answer = session.send("POST", f"/images/{escape(reference.name)}/push", query, fields=fields)
    Progress(quiet=quiet).follow(answer.pieces())
    if quiet:
        sys.stdout.write(f"{reference.familiar() if reference.tag else reference.familiar_name}\n")
    return 0


def _platform(text: str) -> str:
    """``os/arch[/variant]`` as the API's JSON."""
    if not text:
        return ""
    names = ("os", "architecture", "variant")
    parts = text.split("/")
    if not 2 <= len(parts) <= len(names) or not all(parts):
        raise Failure(f"invalid platform {text!r}: want os/arch[/variant]")
    value: dict[str, Any] = dict(zip(names, parts, strict=False))
    return format_json(value)


PUSH = Command(
    "push [OPTIONS] NAME[:TAG]",
    "Send an image to its registry",
    push,
    flags=(
        ("all-tags", "a", "bool", "All tags of the repository"),
        ("compression", "", "string", "Of layers that are plain here: gzip, zstd or none"),
        ("disable-content-trust", "", "bool", "Accepted for compatibility"),
        ("platform", "", "string", "Only this platform: os/arch[/variant]"),
        ("quiet", "q", "bool", "Print the image's name only"),
    ),
    least=1,
    most=1,
    example="cais push localhost:5000/my/app:1\ncais push -a localhost:5000/my/app",
)
