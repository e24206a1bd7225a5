"""`cais env`."""

from __future__ import annotations

import sys

from cais.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session


def env(session: Session, flags: Flags) -> int:
    """Print the shell line that makes Docker's own clients use this engine."""
    text = session.host.text.replace("'", "'\\''")
    plain = all(char.isalnum() or char in "/:._-" for char in text)
    sys.stdout.write(f"export DOCKER_HOST={text if plain else repr(text)}\n")
    if tls := session.host.tls:
        folder = tls.ca.rpartition("/")[0]
        sys.stdout.write(f"export DOCKER_TLS_VERIFY={int(tls.verify)}\nexport DOCKER_CERT_PATH={folder}\n")
    return 0


ENV = Command(
    "env",
    "Print the shell line that points Docker's clients here",
    env,
    most=0,
    example='eval "$(cais env)" && docker ps',
)
