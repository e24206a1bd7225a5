"""`cais hub webhook`: who is told of what happens in a namespace, and how that went."""

from __future__ import annotations

import sys

from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.hubclient import FORMAT_ROW, HUB_ROWS, choose_hub
from cais.cli.hubsecrets import read_secret
from cais.cli.hubshow import MANY, ago, run_act, say, show_rows, yes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.hubclient import Hub
    from cais.cli.hubshow import Acts
    from cais.cli.session import Session
    from cais.cli.table import Columns

_DELIVERIES = 25


def webhook(session: Session, flags: Flags) -> int:
    """Webhooks of a namespace."""
    return run_act(choose_hub(flags), flags, "webhook", WEBHOOK_ACTS)


def make_webhook(hub: Hub, flags: Flags) -> None:
    """The secret that the hub made up is all of the output: it can be caught in a variable. Who brings one knows it;
    then it is the number of the webhook."""
    namespace, url = flags.args
    own = flags.on("secret-stdin")
    body = {
        "url": url,
        "repository": flags.text("repository"),
        "actions": flags.many("action"),
        "secret": read_secret() if own else "",
    }
    made = hub.call("POST", _path(namespace), body=body)
    say(made["webhook"]["id"] if own else made["secret"])


def list_webhooks(hub: Hub, flags: Flags) -> None:
    """Without their secrets."""
    columns: Columns = {
        "ID": ("ID", lambda one: str(one["id"])),
        "URL": ("URL", lambda one: one["url"]),
        "Repository": ("REPOSITORY", lambda one: one["repository"] or "all"),
        "Actions": ("ACTIONS", lambda one: " ".join(one["actions"]) or "all"),
        "Disabled": ("DISABLED", lambda one: yes(one["disabled"])),
        "Failures": ("FAILURES", lambda one: str(one["failures"])),
        "Created": ("CREATED", lambda one: ago(one["created"])),
    }
    shown = ("ID", "URL", "Repository", "Actions", "Disabled", "Failures")
    show_rows(hub.call("GET", _path(flags.args[0]))["webhooks"], columns, flags, shown)


def remove_webhook(hub: Hub, flags: Flags) -> None:
    """Nobody is told any more."""
    namespace, *ids = flags.args
    for id in ids:
        hub.call("DELETE", _path(namespace, id))
        sys.stdout.write(f"{id}\n")


def disable_webhook(hub: Hub, flags: Flags) -> None:
    """What happens from now on waits."""
    _switch(hub, flags, disabled=True)


def enable_webhook(hub: Hub, flags: Flags) -> None:
    """It goes on where it stopped."""
    _switch(hub, flags, disabled=False)


def _switch(hub: Hub, flags: Flags, *, disabled: bool) -> None:
    namespace, *ids = flags.args
    for id in ids:
        hub.call("PATCH", _path(namespace, id), body={"disabled": disabled})
        sys.stdout.write(f"{id}\n")


def list_deliveries(hub: Hub, flags: Flags) -> None:
    """The last tries, the newest first."""
    columns: Columns = {
        "ID": ("ID", lambda one: str(one["id"])),
        "At": ("WHEN", lambda one: ago(one["at"])),
        "Event": ("EVENT", lambda one: str(one["event"])),
        "Status": ("STATUS", lambda one: str(one["status"] or "none")),
        "Error": ("ERROR", lambda one: one["error"]),
    }
    query = (("n", flags.number("limit", _DELIVERIES)),)
    found = hub.call("GET", f"{_path(*flags.args)}/deliveries", query)["deliveries"]
    show_rows(found, columns, flags, ("At", "Event", "Status", "Error"))


def _path(namespace: str, *id: Any) -> str:
    return "/".join([f"/namespaces/{escape(namespace)}/webhooks", *map(escape, id)])


WEBHOOK_ACTS: Acts = {
    "create": (make_webhook, 2, 2, "NAMESPACE URL"),
    "deliveries": (list_deliveries, 2, 2, "NAMESPACE ID"),
    "disable": (disable_webhook, 2, MANY, "NAMESPACE ID..."),
    "enable": (enable_webhook, 2, MANY, "NAMESPACE ID..."),
    "ls": (list_webhooks, 1, 1, "NAMESPACE"),
    "rm": (remove_webhook, 2, MANY, "NAMESPACE ID..."),
}

HUB_WEBHOOK = Command(
    "hub webhook [OPTIONS] create NAMESPACE URL | ls NAMESPACE |"
    " rm|disable|enable NAMESPACE ID... | deliveries NAMESPACE ID",
    "Have somebody told of what happens in a namespace",
    webhook,
    flags=(
        *HUB_ROWS,
        ("action", "", "list...", "What the new webhook is told: push, tag, untag or delete (all)"),
        FORMAT_ROW,
        ("limit", "", "int", f"Deliveries at most ({_DELIVERIES})"),
        ("repository", "", "string", "The new webhook is told of this one only"),
        ("secret-stdin", "", "bool", "Read the new webhook's secret from stdin, else one is made up"),
    ),
    least=1,
    example="cais hub webhook create --action push team https://ci.example.com/hook\n"
    "cais hub webhook deliveries team 3",
)
