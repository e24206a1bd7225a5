"""`cais commit`."""

from __future__ import annotations

import sys

from cais.cli.flags import Command
from cais.cli.images import check_reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session


def commit(session: Session, flags: Flags) -> int:
    """Make an image of a container's files and configuration."""
    container, name = flags.args[0], flags.args[1] if len(flags.args) > 1 else ""
    if name:
        check_reference(name)
    repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "")
    query = (
        ("container", container),
        ("repo", repository),
        ("tag", tag),
        ("comment", flags.text("message")),
        ("author", flags.text("author")),
        ("changes", flags.many("change")),
        ("pause", "1" if flags.on("pause", True) else "0"),
    )
    answer = session.call("POST", "/commit", query)
    sys.stdout.write(f"{answer['Id']}\n")
    return 0


COMMIT = Command(
    "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Make an image of a container's changes",
    commit,
    flags=(
        ("author", "a", "string", "Who made it"),
        ("change", "c", "list...", "Dockerfile instruction for the image's configuration"),
        ("message", "m", "string", "Comment in the image's history"),
        ("pause", "p", "bool", "Freeze the container meanwhile (default true)"),
    ),
    least=1,
    most=2,
    example="cais commit -m 'with curl' -c 'CMD [\"httpd\", \"-f\"]' web my/web:2",
)
