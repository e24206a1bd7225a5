"""`cais login` and `cais logout`."""

from __future__ import annotations

import sys

from cais.cli.credentials import config_path, erase_auth, find_auth, store_auth
from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.late import load
from cais.cli.session import is_terminal, warn
from cais.spec.registryauth import HUB_KEY, is_hub, make_auth, make_key, strip_server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session

_LONGEST = 64 << 10


def login(session: Session, flags: Flags) -> int:
    """Have the engine try a password at a registry, and keep what it may be asked with from now on."""
    key = parse_key(flags.args[0] if flags.args else "")
    auth = read_auth(flags, key)
    answer = session.call("POST", "/auth", body=auth) or {}
    if token := str(answer.get("IdentityToken") or ""):
        auth = {**auth, "password": "", "identitytoken": token}
    if not store_auth(auth):
        warn(f"WARNING! Your credentials are stored unencrypted in '{config_path()}'.")
        warn("Configure a credential helper to remove this warning.")
    sys.stdout.write(f"{answer.get('Status') or 'Login Succeeded'}\n")
    return 0


def logout(session: Session, flags: Flags) -> int:
    """Forget what is kept for a registry."""
    key = parse_key(flags.args[0] if flags.args else "")
    if erase_auth(key):
        sys.stdout.write(f"Removing login credentials for {key}\n")
    else:
        sys.stdout.write(f"Not logged in to {key}\n")
    return 0


def parse_key(server: str) -> str:
    """What ``config.json`` calls the server that was typed."""
    return HUB_KEY if not server or is_hub(server) else make_key(strip_server(server))


def read_auth(flags: Flags, key: str) -> dict[str, str]:
    """An AuthConfig from the flags, from what is kept already, or from whoever sits at the terminal."""
    username, password = flags.text("username"), flags.text("password")
    if flags.on("password-stdin"):
        if flags.given("password"):
            raise Failure("--password and --password-stdin are mutually exclusive")
        if not username:
            raise Failure("Must provide --username with --password-stdin")
        password = sys.stdin.read(_LONGEST).rstrip("\r\n")
    elif flags.given("password"):
        warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
        if not password:
            raise Failure("password is empty")
    elif not username and (kept := find_auth(key)):
        sys.stdout.write("Authenticating with existing credentials...\n")
        return kept
    if not username or not password:
        if not is_terminal(0):
            raise Failure("Error: Cannot perform an interactive login from a non TTY device")
        username = username or ask("Username: ")
        password = password or ask("Password: ", echo=False)
    if not username or not password:
        raise Failure("username and password are required")
    return make_auth(key, username, password)


def ask(prompt: str, *, echo: bool = True) -> str:
    """A line from the terminal, which does not show it unless ``echo``."""
    if echo:
        return _read_line(prompt).strip()
    termios = load("cais.cli.terminal:termios")
    before = termios.tcgetattr(0)
    quiet = list(before)
    quiet[3] &= ~termios.ECHO
    # Before the prompt: who types at once must not be seen, nor be flushed away.
    termios.tcsetattr(0, termios.TCSAFLUSH, quiet)
    try:
        return _read_line(prompt).rstrip("\r\n")
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        sys.stdout.write("\n")


def _read_line(prompt: str) -> str:
    sys.stdout.write(prompt)
    sys.stdout.flush()
    return sys.stdin.readline(_LONGEST)


LOGIN = Command(
    "login [OPTIONS] [SERVER]",
    "Try a password at a registry, and keep it",
    login,
    flags=(
        ("password", "p", "string", "Password or token; better --password-stdin"),
        ("password-stdin", "", "bool", "Read the password from stdin"),
        ("username", "u", "string", "User name"),
    ),
    most=1,
    example="cais login localhost:5000\ncais login -u me --password-stdin ghcr.io",
)
LOGOUT = Command(
    "logout [SERVER]",
    "Forget the password of a registry",
    logout,
    most=1,
    example="cais logout localhost:5000",
)
