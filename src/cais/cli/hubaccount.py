"""`cais hub signup` and `password`: one's own account."""

from __future__ import annotations

import sys

from cais.cli.credentials import store_auth
from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.hubclient import HUB_ROWS, choose_hub
from cais.cli.hubsecrets import read_change, read_password

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session


def sign_up(session: Session, flags: Flags) -> int:
    """Make an account for oneself; one is not logged in by that."""
    name = flags.args[0]
    password = read_password(flags, f"Password for {name}: ")
    # As nobody: whose password is kept here has an account already.
    hub = choose_hub(flags, known=False)
    hub.call("POST", "/signup", body={"name": name, "password": password, "code": flags.text("code")})
    sys.stdout.write(f"{name}\n")
    return 0


def change_password(session: Session, flags: Flags) -> int:
    """Change the password of who is logged in, and keep the new one if the old one was kept."""
    hub = choose_hub(flags)
    kept = hub.auth
    if not kept.get("username"):
        raise Failure(f"you are not logged in to {hub}: use cais hub login")
    current, new = read_change(flags, kept["username"])
    # Who is logged in with a token may do it, too: knowing the password is what counts.
    hub.auth = {**kept, "password": current, "identitytoken": "", "registrytoken": ""}
    hub.call("PUT", "/account/password", body={"current": current, "password": new})
    if kept.get("password") == current:
        store_auth({**kept, "password": new})
    sys.stdout.write(f"{kept['username']}\n")
    return 0


HUB_SIGNUP = Command(
    "hub signup [OPTIONS] NAME",
    "Make an account for oneself in a hub",
    sign_up,
    flags=(
        *HUB_ROWS,
        ("code", "", "string", "What the hub said at its first start, for the first account"),
        ("password-stdin", "", "bool", "Read the password from stdin"),
    ),
    least=1,
    most=1,
    example="cais hub signup alice\ncais hub signup --code 'the hub says it' --password-stdin root",
)
HUB_PASSWORD = Command(
    "hub password [OPTIONS]",
    "Change one's own password in a hub",
    change_password,
    flags=(
        *HUB_ROWS,
        ("password-stdin", "", "bool", "Read two lines from stdin: the current password, the new one"),
    ),
    most=0,
    example="cais hub password",
)
