"""`cais pull`, and the pull that `run` and `create` do for a missing image."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.images import check_reference
from cais.cli.late import load
from cais.cli.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session


def pull(session: Session, flags: Flags) -> int:
    """Fetch an image from its registry and print its full name."""
    name = flags.args[0]
    check_reference(name)
    reference = load("cais.spec.reference:parse_reference")(name)
    quiet = flags.on("quiet")
    if flags.on("all-tags"):
        raise Failure("pulling all tags is not supported yet: name one")
    if not reference.tag and not reference.digest and not quiet:
        sys.stdout.write("Using default tag: latest\n")
    pull_image(session, name, flags.text("platform"), quiet=quiet)
    sys.stdout.write(f"{reference.tagged().canonical()}\n")
    return 0


def pull_image(session: Session, name: str, platform: str, *, quiet: bool, number: int = 1) -> None:
    """Let the engine pull ``name``, with progress on descriptor ``number``. Raises Failure, Refused."""
    reference = load("cais.spec.reference:parse_reference")(name).tagged()
    tag = reference.digest or reference.tag
    query = (("fromImage", reference.name), ("tag", tag), ("platform", platform))
    Progress(quiet=quiet, number=number).follow(session.send("POST", "/images/create", query).pieces())


PULL = Command(
    "pull [OPTIONS] NAME[:TAG|@DIGEST]",
    "Fetch an image from a registry",
    pull,
    flags=(
        ("all-tags", "a", "bool", "All tags of the repository (not supported yet)"),
        ("disable-content-trust", "", "bool", "Accepted for compatibility"),
        ("platform", "", "string", "Platform to pull: os/arch[/variant]"),
        ("quiet", "q", "bool", "Print the image's name only"),
    ),
    least=1,
    most=1,
    example="cais pull debian:bookworm\ncais pull localhost:5000/my/app",
)
