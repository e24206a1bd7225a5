"""`cais logs`."""

from __future__ import annotations

from time import time

from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.late import load
from cais.cli.pump import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session


def logs(session: Session, flags: Flags) -> int:
    """Print a container's output so far, and with --follow what comes."""
    try:
        since, until = (_point(flags.text(name)) for name in ("since", "until"))
    except ValueError as error:
        raise Failure(f'invalid value for "since": {error}') from None
    query = (
        ("stdout", 1),
        ("stderr", 1),
        ("follow", flags.on("follow")),
        ("timestamps", flags.on("timestamps")),
        ("details", flags.on("details")),
        ("since", since),
        ("until", until),
        ("tail", flags.text("tail", "all")),
    )
    response = session.send("GET", f"/containers/{escape(flags.args[0])}/logs", query)
    output = Output(multiplexed="multiplexed" in response.fields.get("content-type", "multiplexed"))
    for piece in response.pieces():
        output.write(piece)
    return 0


def _point(text: str) -> str:
    since: str = load("cais.cli.times:parse_since")(text, time()) if text else ""
    return since


LOGS = Command(
    "logs [OPTIONS] CONTAINER",
    "Print a container's output",
    logs,
    flags=(
        ("details", "", "bool", "Also the log driver's attributes"),
        ("follow", "f", "bool", "Go on with what comes"),
        ("since", "", "string", "From a time, or a duration ago: 2026-01-02T13:23:37Z, 42m"),
        ("tail", "n", "string", "Only the last lines (default all)"),
        ("timestamps", "t", "bool", "A time before every line"),
        ("until", "", "string", "Up to a time, or a duration ago"),
    ),
    least=1,
    most=1,
    example="cais logs -f --tail 100 web",
)
