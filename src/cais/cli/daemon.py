"""`cais daemon`: becomes the engine."""

from __future__ import annotations

import os
import sys

from cais.cli.flags import Command
from cais.cli.program import engine_command, engine_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session


def daemon(session: Session, flags: Flags) -> int:
    """Run the engine in this process; its flags are its own and go through unread."""
    os.execve(sys.executable, [*engine_command(), *flags.args], engine_environment())


DAEMON = Command(
    "daemon [OPTIONS]",
    "Run the engine in the foreground; it takes dockerd's flags",
    daemon,
    raw=True,
    example="cais daemon --host unix:///run/cais/cais.sock --root /var/lib/cais",
)
