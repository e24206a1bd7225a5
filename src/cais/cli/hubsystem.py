"""`cais hub login`, `collect` and `audit`."""

from __future__ import annotations

import sys

from cais.cli.credentials import config_path, store_auth
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.hubclient import FORMAT_ROW, HUB_ROWS, choose_hub
from cais.cli.hubshow import ago, say, show_json, show_rows, size
from cais.cli.login import parse_key, read_auth
from cais.cli.session import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.hubclient import Hub
    from cais.cli.session import Session
    from cais.cli.table import Columns

_PAGE = 100


def login(session: Session, flags: Flags) -> int:
    """Try a name and password, or token, at the hub, and keep it where `docker login` keeps it."""
    hub = choose_hub(flags, known=False)
    hub.auth = read_auth(flags, parse_key(hub.address))
    hub.call("GET", "/account")
    if not store_auth(hub.auth):
        warn(f"WARNING! Your credentials are stored unencrypted in '{config_path()}'.")
    sys.stdout.write("Login Succeeded\n")
    return 0


def collect(session: Session, flags: Flags) -> int:
    """Remove what nothing needs any more, now."""
    done = choose_hub(flags).call("POST", "/system/collect")
    if flags.text("format") == "json":
        show_json(done)
    else:
        say(
            f"Removed {done['blobs']} blobs, {done['manifests']} manifests and {done['uploads']} unfinished uploads"
        )
        say(f"Total reclaimed space: {size(done['freed'])}")
    return 0


def audit(session: Session, flags: Flags) -> int:
    """What was done, the newest first."""
    columns: Columns = {
        "ID": ("ID", lambda one: str(one["id"])),
        "At": ("WHEN", lambda one: ago(one["at"])),
        "Account": ("WHO", lambda one: one["account"] or "anonymous"),
        "Address": ("FROM", lambda one: one["address"]),
        "Action": ("ACTION", lambda one: one["action"]),
        "What": ("WHAT", _describe),
    }
    hub = choose_hub(flags)
    path = f"/namespaces/{escape(flags.args[0])}/audit" if flags.args else "/audit"
    which = {"account": flags.text("account"), "action": flags.text("action")}
    found = _events(hub, path, which, flags.number("limit", _PAGE))
    show_rows(found, columns, flags, ("At", "Account", "Action", "What"))
    return 0


def _events(hub: Hub, path: str, which: Mapping[str, object], left: int) -> Iterator[Any]:
    """Page after page: one that is short, or empty, need not be the last."""
    before = 0
    while left > 0:
        query = {**which, "n": min(left, _PAGE), "before": before or None}
        page = hub.call("GET", path, query.items())
        yield from page["events"]
        left -= len(page["events"])
        before = page["next"]
        if not before:
            return


def _describe(event: Any) -> str:
    """What was changed: a tag, a repository, or something of the hub's own; and how."""
    what = event["repository"]
    if event["tag"]:
        what += f":{event['tag']}"
    elif event["target"]:
        what += f"@{event['target'][:19]}" if what else event["target"]
    return f"{what} ({event['detail']})" if event["detail"] else what


HUB_LOGIN = Command(
    "hub login [OPTIONS]",
    "Try a password or token at a hub, and keep it",
    login,
    flags=(
        *HUB_ROWS,
        ("password", "p", "string", "Password or token; better --password-stdin"),
        ("password-stdin", "", "bool", "Read the password or token from stdin"),
        ("username", "u", "string", "Account's name"),
    ),
    most=0,
    example="cais hub login --hub https://hub.example.com\ncais hub login -u me --password-stdin",
)
HUB_COLLECT = Command(
    "hub collect [OPTIONS]",
    "Collect a hub's garbage now",
    collect,
    flags=(*HUB_ROWS, FORMAT_ROW),
    most=0,
    example="cais hub collect",
)
HUB_AUDIT = Command(
    "hub audit [OPTIONS] [NAMESPACE]",
    "Show what was done in a hub, or in a namespace",
    audit,
    flags=(
        *HUB_ROWS,
        ("account", "", "string", "Only what this account did"),
        ("action", "", "string", "Only events of this kind: push, delete, settings"),
        FORMAT_ROW,
        ("limit", "", "int", "Events at most (100)"),
    ),
    most=1,
    example="cais hub audit --limit 20 team\ncais hub audit --account alice --action push",
)
