"""Settings of namespaces and repositories as they are given to `cais hub`: only those change."""

from __future__ import annotations

from cais.cli.failure import Failure
from cais.cli.wirejson import parse_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags


def read_settings(flags: Flags) -> dict[str, object]:
    """Those that both have, and a quota. Raises Failure."""
    found: dict[str, object] = {}
    if flags.given("description"):
        found["description"] = flags.text("description")
    if flags.given("private"):
        found["private"] = flags.on("private")
    if flags.given("quota"):
        found["quota"] = flags.number("quota")
    if flags.given("immutable"):
        found["immutable"] = [pattern for pattern in flags.many("immutable") if pattern]
    if flags.given("retention"):
        try:
            found["retention"] = parse_json(flags.text("retention") or "{}")
        except ValueError:
            raise Failure("--retention is not JSON") from None
    return found
