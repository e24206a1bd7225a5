"""`cais daemon`: becomes the engine."""

from __future__ import annotations

import os
import sys

from cais.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session

MODULE = "cais.daemon.main"


def daemon(session: Session, flags: Flags) -> int:
    """Run the engine in this process; its flags are its own and go through unread."""
    os.execv(sys.executable, [sys.executable, "-m", MODULE, *flags.args])


DAEMON = Command(
    "daemon [OPTIONS]",
    "Run the engine in the foreground; it takes dockerd's flags",
    daemon,
    raw=True,
    example="cais daemon --host unix:///run/cais/cais.sock --root /var/lib/cais",
)
