"""`cais hub robot`: accounts for programs, each of one namespace and with a token only."""

from __future__ import annotations

import sys

from cais.cli.buildshow import clean
from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.hubclient import FORMAT_ROW, HUB_ROWS, choose_hub
from cais.cli.hubshow import DAY, MANY, run_act, say, show_rows
from cais.cli.session import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.hubclient import Hub
    from cais.cli.hubshow import Acts
    from cais.cli.session import Session
    from cais.cli.table import Columns


def robot(session: Session, flags: Flags) -> int:
    """Robots of a namespace."""
    return run_act(choose_hub(flags), flags, "robot", ROBOT_ACTS)


def make_robot(hub: Hub, flags: Flags) -> None:
    """With the rights that are given; none is guessed."""
    namespace, name = flags.args
    actions = flags.many("action")
    if not actions:
        raise Failure(
            "say what the robot may do: --action pull, push or delete, which may be repeated", 1, "help"
        )
    body = {"name": name, "actions": actions, "seconds": flags.number("days") * DAY}
    _show_made(hub.call("POST", f"/namespaces/{escape(namespace)}/robots", body=body))


def renew_robot(hub: Hub, flags: Flags) -> None:
    """Another secret; the one before ends, the rights stay."""
    namespace, name = flags.args
    path = f"/namespaces/{escape(namespace)}/robots/{escape(_full_name(namespace, name))}/secret"
    _show_made(hub.call("POST", path, body={"seconds": flags.number("days") * DAY}))


def _show_made(made: Any) -> None:
    """Only the secret goes to the output: it can be caught in a variable. The name to log in with stands beside it."""
    warn(f"robot {clean(made['name'])}, whose secret is shown this once:")
    say(made["secret"])


def list_robots(hub: Hub, flags: Flags) -> None:
    """Without their secrets."""
    members = hub.call("GET", f"/namespaces/{escape(flags.args[0])}/members")["members"]
    columns: Columns = {
        "Name": ("NAME", lambda one: one["name"]),
        "Role": ("ROLE", lambda one: one["role"]),
    }
    show_rows([one for one in members if one["kind"] == "robot"], columns, flags)


def remove_robot(hub: Hub, flags: Flags) -> None:
    """It ends, with its tokens, unless another namespace has it as a member too."""
    namespace, *names = flags.args
    for name in names:
        full = _full_name(namespace, name)
        path = f"/namespaces/{escape(namespace)}/members/{escape(full)}"
        if hub.call("GET", path)["kind"] != "robot":
            raise Failure(f"{full} is no robot: use cais hub member rm")
        hub.call("DELETE", path)
        sys.stdout.write(f"{name}\n")


def _full_name(namespace: str, name: str) -> str:
    """As an account it is called ``namespace.name``, and that may be typed, too."""
    return name if name.startswith(f"{namespace}.") else f"{namespace}.{name}"


ROBOT_ACTS: Acts = {
    "create": (make_robot, 2, 2, "NAMESPACE NAME"),
    "ls": (list_robots, 1, 1, "NAMESPACE"),
    "renew": (renew_robot, 2, 2, "NAMESPACE NAME"),
    "rm": (remove_robot, 2, MANY, "NAMESPACE NAME..."),
}

HUB_ROBOT = Command(
    "hub robot [OPTIONS] create NAMESPACE NAME | ls NAMESPACE | renew NAMESPACE NAME | rm NAMESPACE NAME...",
    "Make, list and remove a namespace's accounts for programs",
    robot,
    flags=(
        *HUB_ROWS,
        ("action", "", "list...", "What the new robot may do: pull, push or delete"),
        ("days", "", "int", "Days that the new secret is good for (0: for ever)"),
        FORMAT_ROW,
    ),
    least=1,
    example="cais hub robot create --action pull --action push --days 90 team ci\ncais hub robot renew team ci",
)
