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
    quiet, platform, all_platforms = flags.on("quiet"), flags.text("platform"), flags.on("all-platforms")
    if flags.on("all-tags"):
        if reference.tag or reference.digest:
            raise Failure("tag can't be used with --all-tags/-a")
        pull_image(session, name, platform, quiet=quiet, every=True, all_platforms=all_platforms)
        sys.stdout.write(f"{reference.name}\n")
        return 0
    if not reference.tag and not reference.digest and not quiet:
        sys.stdout.write("Using default tag: latest\n")
    pull_image(session, name, platform, quiet=quiet, all_platforms=all_platforms)
    sys.stdout.write(f"{reference.tagged().canonical()}\n")
    return 0


def pull_image(
    session: Session,
    name: str,
    platform: str,
    *,
    quiet: bool,
    number: int = 1,
    every: bool = False,
    all_platforms: bool = False,
) -> None:
    """Let the engine pull ``name``, or ``every`` tag of it, with progress on descriptor ``number`` and with the
    credentials that are kept for its registry. Raises Failure, Refused."""
    reference = load("cais.spec.reference:parse_reference")(name)
    if not every:
        reference = reference.tagged()
    query = (
        ("fromImage", reference.name),
        ("tag", reference.digest or reference.tag),
        ("platform", platform),
        ("allPlatforms", "1" if all_platforms else ""),
    )
    fields = load("cais.cli.credentials:make_fields")(reference.domain)
    answer = session.send("POST", "/images/create", query, fields=fields)
    Progress(quiet=quiet, number=number).follow(answer.pieces())


PULL = Command(
    "pull [OPTIONS] NAME[:TAG|@DIGEST]",
    "Fetch an image from a registry",
    pull,
    flags=(
        ("all-platforms", "", "bool", "Keep the images of all platforms, and all else the index names"),
        ("all-tags", "a", "bool", "All tags of the repository"),
        ("disable-content-trust", "", "bool", "Accepted for compatibility"),
        ("platform", "", "string", "Platform to pull: os/arch[/variant]"),
        ("quiet", "q", "bool", "Print the image's name only"),
    ),
    least=1,
    most=1,
    example="cais pull debian:bookworm\ncais pull localhost:5000/my/app",
)
