"""`cais hub stats`, `config`, `scrub` and `damaged`: how much a hub has, how it was started, whether it is sound."""

from __future__ import annotations

from cais.cli.flags import KINDS, Command
from cais.cli.hubclient import FORMAT_ROW, HUB_ROWS, choose_hub
from cais.cli.hubshow import say, show_fields, show_rows, size
from cais.cli.units import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns

_COUNT = 100
_SECOND = 10**9


def stats(session: Session, flags: Flags) -> int:
    """How much there is."""
    show_fields(choose_hub(flags).call("GET", "/system/stats"), STATS, flags)
    return 0


def config(session: Session, flags: Flags) -> int:
    """How it was started."""
    show_fields(choose_hub(flags).call("GET", "/system/config"), CONFIG, flags)
    return 0


def scrub(session: Session, flags: Flags) -> int:
    """Read blobs through now. Like `cmp`, it says nothing and returns 0 if all is well."""
    body = {"count": flags.number("count", _COUNT), "age": flags.number("age")}
    found = choose_hub(flags).call("POST", "/system/scrub", body=body)["damaged"]
    for digest in found:
        say(digest)
    return 1 if found else 0


def damaged(session: Session, flags: Flags) -> int:
    """What was found damaged until now, in each repository that has it."""
    columns: Columns = {
        "Digest": ("DIGEST", lambda one: one["digest"]),
        "Repository": ("REPOSITORY", lambda one: one["repository"]),
    }
    show_rows(choose_hub(flags).call("GET", "/system/damaged")["damaged"], columns, flags)
    return 0


def parse_age(text: str) -> int:
    """Whole seconds, of a number of them or of a duration. Raises ValueError."""
    seconds = int(text) if text.isascii() and text.isdigit() else parse_duration(text) // _SECOND
    if seconds < 0:
        raise ValueError("it is negative")
    return seconds


def _seconds(value: float) -> str:
    return f"{value:g}s"


def _no_or_yes(value: object) -> str:
    return "yes" if value else "no"


STATS: Columns = {
    "repositories": ("Repositories", str),
    "tags": ("Tags", str),
    "manifests": ("Manifests", str),
    "blobs": ("Blobs", str),
    "bytes": ("On the disk", size),
    "damaged": ("Damaged blobs", str),
    "accounts": ("Accounts", str),
    "namespaces": ("Namespaces", str),
    "pulls": ("Pulls", str),
}
CONFIG: Columns = {
    "name": ("Name", str),
    "version": ("Version", str),
    "open": ("Open to everybody", _no_or_yes),
    "anonymous_pull": ("Pulls without an account", _no_or_yes),
    "signup": ("Sign-up", _no_or_yes),
    "tls": ("TLS", _no_or_yes),
    "upstream": ("Upstreams", lambda texts: ", ".join(texts) or "none"),
    "max_blob": ("Largest blob", lambda bytes: size(bytes) if bytes else "any"),
    "grace": ("Grace", _seconds),
    "upload_age": ("Uploads end after", _seconds),
    "collect_every": ("Collects every", _seconds),
    "collect_untagged": ("Collects what has no tag", _no_or_yes),
    "scrub_every": ("Scrubs every", _seconds),
}

HUB_STATS = Command(
    "hub stats [OPTIONS]",
    "Show how much a hub has",
    stats,
    flags=(*HUB_ROWS, FORMAT_ROW),
    most=0,
    example="cais hub stats --format '{{.bytes}}'",
)
HUB_CONFIG = Command(
    "hub config [OPTIONS]",
    "Show how a hub was started",
    config,
    flags=(*HUB_ROWS, FORMAT_ROW),
    most=0,
    example="cais hub config",
)
HUB_SCRUB = Command(
    "hub scrub [OPTIONS]",
    "Look for damaged blobs of a hub now; exit code 1: there are some",
    scrub,
    flags=(
        *HUB_ROWS,
        ("age", "", "duration", "Only blobs not read through for so long: 24h, or seconds (0)"),
        ("count", "", "int", f"Blobs at most ({_COUNT})"),
    ),
    most=0,
    kinds={**KINDS, "duration": parse_age},
    example="cais hub scrub --count 1000 --age 24h",
)
HUB_DAMAGED = Command(
    "hub damaged [OPTIONS]",
    "List damaged blobs of a hub",
    damaged,
    flags=(*HUB_ROWS, FORMAT_ROW),
    most=0,
    example="cais hub damaged",
)
