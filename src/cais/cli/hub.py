"""`cais hub serve`, `backup`, `restore` and `import`: become the hub's own programs."""

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
TOOLS = "cais.hub.tools"


def serve(session: Session, flags: Flags) -> int:
    """Run the hub in this process; its flags are its own and go through unread."""
    os.execve(sys.executable, [*engine_command(MODULE), *flags.args], engine_environment())


def work(session: Session, flags: Flags) -> int:
    """Run the tool that the verb names in this process."""
    act = session.verb.rpartition(" ")[2]
    os.execve(sys.executable, [*engine_command(TOOLS), act, *flags.args], engine_environment())


HUB_SERVE = Command(
    "hub serve [OPTIONS]",
    "Serve a registry and its pages in the foreground",
    serve,
    raw=True,
    example="cais hub serve --root /srv/hub --listen 127.0.0.1:5000",
)
HUB_BACKUP = Command(
    "hub backup [OPTIONS] ROOT TARGET",
    "Copy a hub, which may be running, to another folder",
    work,
    raw=True,
    example="cais hub backup /srv/hub /backup/hub",
)
HUB_RESTORE = Command(
    "hub restore [OPTIONS] TARGET ROOT",
    "Make a hub's folder of a backup",
    work,
    raw=True,
    example="cais hub restore /backup/hub /srv/hub",
)
HUB_IMPORT = Command(
    "hub import [OPTIONS] ROOT FOLDER",
    "Take over the folder of another registry (registry:2)",
    work,
    raw=True,
    example="cais hub import /srv/hub /var/lib/registry",
)
