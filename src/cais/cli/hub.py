"""`cais hub serve`: becomes the hub."""

from __future__ import annotations

import os
import sys

from cais.cli.flags import Command
from cais.cli.program import engine_command, engine_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session

MODULE = "cais.hub.main"


def serve(session: Session, flags: Flags) -> int:
    """Run the hub in this process; its flags are its own and go through unread."""
    os.execve(sys.executable, [*engine_command(MODULE), *flags.args], engine_environment())


HUB_SERVE = Command(
    "hub serve [OPTIONS]",
    "Serve a registry and its pages in the foreground",
    serve,
    raw=True,
    example="cais hub serve --root /srv/hub --listen 127.0.0.1:5000",
)
