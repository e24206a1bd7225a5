"""`cais image bootstrap`."""

from __future__ import annotations

from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session

KNOWN = ("busybox", "debian")


def bootstrap(session: Session, flags: Flags) -> int:
    """Let the engine make a base image from the machine's own package mirror."""
    name = flags.args[0]
    if name.partition(":")[0] not in KNOWN:
        raise Failure(f"cannot bootstrap {name}: choose busybox or debian[:SUITE]")
    response = session.send("POST", "/cais/images/bootstrap", (("name", name),))
    Progress(quiet=flags.on("quiet")).follow(response.pieces())
    return 0


BOOTSTRAP = Command(
    "image bootstrap [OPTIONS] busybox|debian[:SUITE]",
    "Make a base image from this machine's Debian mirror",
    bootstrap,
    flags=(("quiet", "q", "bool", "No progress"),),
    least=1,
    most=1,
    example="cais image bootstrap debian:bookworm",
)
