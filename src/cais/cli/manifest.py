"""`cais manifest inspect`."""

from __future__ import annotations

import sys

from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.images import check_reference
from cais.cli.late import load
from cais.cli.wirejson import format_pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session


def inspect(session: Session, flags: Flags) -> int:
    """Show what a name stands for in its registry, without pulling it; the engine asks, so its mirrors and
    certificates count."""
    name = flags.args[0]
    check_reference(name)
    reference = load("cais.spec.reference:parse_reference")(name).tagged()
    fields = load("cais.cli.credentials:make_fields")(reference.domain)
    target = f"/cais/registry/{escape(reference.canonical())}/manifest"
    found = session.send("GET", target, fields=fields).json()
    shown = found if flags.on("verbose") else found["Manifest"]
    sys.stdout.write(f"{format_pretty(shown)}\n")
    return 0


MANIFEST_INSPECT = Command(
    "manifest inspect [OPTIONS] NAME[:TAG|@DIGEST]",
    "Show a manifest or index in its registry",
    inspect,
    flags=(
        ("insecure", "", "bool", "Accepted for compatibility: the engine's settings say"),
        ("verbose", "v", "bool", "Also the descriptor and the platforms"),
    ),
    least=1,
    most=1,
    example="cais manifest inspect debian:bookworm",
)
