"""`cais hub token`, `namespace`, `member` and `account`: who may do what in a hub."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.flags import KINDS, Command
from cais.cli.http import escape
from cais.cli.hubclient import FORMAT_ROW, HUB_ROWS, choose_hub
from cais.cli.hubsecrets import read_password
from cais.cli.hubsettings import read_settings
from cais.cli.hubshow import DAY, MANY, ago, run_act, say, show_rows, size, yes
from cais.cli.units import parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.hubclient import Hub
    from cais.cli.hubshow import Acts
    from cais.cli.session import Session
    from cais.cli.table import Columns


def token(session: Session, flags: Flags) -> int:
    """One's own kept tokens."""
    return run_act(choose_hub(flags), flags, "token", TOKEN_ACTS)


def namespace(session: Session, flags: Flags) -> int:
    """Namespaces and their settings."""
    return run_act(choose_hub(flags), flags, "namespace", NAMESPACE_ACTS)


def member(session: Session, flags: Flags) -> int:
    """Who belongs to a namespace."""
    return run_act(choose_hub(flags), flags, "member", MEMBER_ACTS)


def account(session: Session, flags: Flags) -> int:
    """Accounts, for administrators of the hub."""
    return run_act(choose_hub(flags), flags, "account", ACCOUNT_ACTS)


def make_token(hub: Hub, flags: Flags) -> None:
    """Only the secret goes to the output: it can be caught in a variable."""
    body = {
        "name": flags.args[0],
        "scopes": flags.many("scope"),
        "seconds": flags.number("days") * DAY,
    }
    say(hub.call("POST", "/tokens", body=body)["secret"])


def list_tokens(hub: Hub, flags: Flags) -> None:
    """Without their secrets."""
    columns: Columns = {
        "ID": ("ID", lambda one: str(one["id"])),
        "Name": ("NAME", lambda one: one["name"]),
        "Scopes": ("SCOPES", lambda one: " ".join(one["scopes"]) or "everything"),
        "Created": ("CREATED", lambda one: ago(one["created"])),
        "Used": ("USED", lambda one: ago(one["used"])),
        "Expires": ("EXPIRES", lambda one: one["expires"] or "never"),
    }
    show_rows(hub.call("GET", "/tokens")["tokens"], columns, flags)


def remove_token(hub: Hub, flags: Flags) -> None:
    """It ends at once."""
    for id in flags.args:
        hub.call("DELETE", f"/tokens/{escape(id)}")
        sys.stdout.write(f"{id}\n")


def make_namespace(hub: Hub, flags: Flags) -> None:
    """With the settings that stand beside it."""
    name = flags.args[0]
    hub.call("POST", "/namespaces", body={"name": name})
    if settings := read_settings(flags):
        hub.call("PATCH", f"/namespaces/{escape(name)}", body=settings)
    sys.stdout.write(f"{name}\n")


def list_namespaces(hub: Hub, flags: Flags) -> None:
    """Those of which one is a member, or the ones that are named."""
    if flags.args:
        found = [hub.call("GET", f"/namespaces/{escape(name)}") for name in flags.args]
    else:
        found = hub.call("GET", "/namespaces")["namespaces"]
    columns: Columns = {
        "Name": ("NAME", lambda one: one["name"]),
        "Role": ("ROLE", lambda one: one["role"]),
        "Private": ("PRIVATE", lambda one: yes(one["private"])),
        "Used": ("USED", lambda one: "" if one["used"] is None else size(one["used"])),
        "Quota": ("QUOTA", lambda one: size(one["quota"]) if one["quota"] else ""),
        "Description": ("DESCRIPTION", lambda one: one["description"]),
    }
    shown = ("Name", "Role", "Private", "Used", "Quota", "Description")
    show_rows(found, columns, flags, shown if flags.args else ("Name", "Role", "Private", "Description"))


def set_namespace(hub: Hub, flags: Flags) -> None:
    """Only what was given changes."""
    settings = read_settings(flags)
    if not settings:
        raise Failure("nothing to set: give --description, --immutable, --private, --quota or --retention")
    hub.call("PATCH", f"/namespaces/{escape(flags.args[0])}", body=settings)
    sys.stdout.write(f"{flags.args[0]}\n")


def add_member(hub: Hub, flags: Flags) -> None:
    """Or give another role."""
    space, name, *role = flags.args
    body = {"role": role[0] if role else "read"}
    hub.call("PUT", f"/namespaces/{escape(space)}/members/{escape(name)}", body=body)
    sys.stdout.write(f"{name}\n")


def remove_member(hub: Hub, flags: Flags) -> None:
    """Its rights end at once."""
    space, name = flags.args
    hub.call("DELETE", f"/namespaces/{escape(space)}/members/{escape(name)}")
    sys.stdout.write(f"{name}\n")


def list_members(hub: Hub, flags: Flags) -> None:
    """People and robots."""
    columns: Columns = {
        "Name": ("NAME", lambda one: one["name"]),
        "Kind": ("KIND", lambda one: one["kind"]),
        "Role": ("ROLE", lambda one: one["role"]),
    }
    path = f"/namespaces/{escape(flags.args[0])}/members"
    show_rows(hub.call("GET", path)["members"], columns, flags)


def add_account(hub: Hub, flags: Flags) -> None:
    """The password comes from standard input, or from who sits at the terminal."""
    name = flags.args[0]
    password = read_password(flags, f"Password for {name}: ")
    hub.call("POST", "/accounts", body={"name": name, "password": password, "admin": flags.on("admin")})
    sys.stdout.write(f"{name}\n")


def set_password(hub: Hub, flags: Flags) -> None:
    """Somebody else's, who has forgotten it: the one before need not be known."""
    name = flags.args[0]
    password = read_password(flags, f"New password for {name}: ")
    hub.call("PUT", f"/accounts/{escape(name)}/password", body={"password": password})
    sys.stdout.write(f"{name}\n")


def disable_account(hub: Hub, flags: Flags) -> None:
    """It is nobody from now on."""
    _switch(hub, flags, disabled=True)


def enable_account(hub: Hub, flags: Flags) -> None:
    """It may log in again."""
    _switch(hub, flags, disabled=False)


def _switch(hub: Hub, flags: Flags, *, disabled: bool) -> None:
    for name in flags.args:
        hub.call("PATCH", f"/accounts/{escape(name)}", body={"disabled": disabled})
        sys.stdout.write(f"{name}\n")


def list_accounts(hub: Hub, flags: Flags) -> None:
    """All of them."""
    columns: Columns = {
        "Name": ("NAME", lambda one: one["name"]),
        "Kind": ("KIND", lambda one: one["kind"]),
        "Admin": ("ADMIN", lambda one: yes(one["admin"])),
        "Disabled": ("DISABLED", lambda one: yes(one["disabled"])),
        "Created": ("CREATED", lambda one: ago(one["created"])),
    }
    show_rows(hub.pages("/accounts", "accounts"), columns, flags)


TOKEN_ACTS: Acts = {
    "create": (make_token, 1, 1, "NAME"),
    "ls": (list_tokens, 0, 0, ""),
    "rm": (remove_token, 1, MANY, "ID..."),
}
NAMESPACE_ACTS: Acts = {
    "create": (make_namespace, 1, 1, "NAME"),
    "ls": (list_namespaces, 0, MANY, "[NAME...]"),
    "set": (set_namespace, 1, 1, "NAME"),
}
MEMBER_ACTS: Acts = {
    "add": (add_member, 2, 3, "NAMESPACE ACCOUNT [read|write|admin]"),
    "ls": (list_members, 1, 1, "NAMESPACE"),
    "rm": (remove_member, 2, 2, "NAMESPACE ACCOUNT"),
}
ACCOUNT_ACTS: Acts = {
    "add": (add_account, 1, 1, "NAME"),
    "disable": (disable_account, 1, MANY, "NAME..."),
    "enable": (enable_account, 1, MANY, "NAME..."),
    "ls": (list_accounts, 0, 0, ""),
    "password": (set_password, 1, 1, "NAME"),
}

HUB_TOKEN = Command(
    "hub token [OPTIONS] create NAME | ls | rm ID...",
    "Make, list and end tokens for programs",
    token,
    flags=(
        *HUB_ROWS,
        ("days", "", "int", "Days that the new token lives (0: for ever)"),
        FORMAT_ROW,
        ("scope", "", "list...", "What the new token is good for: team/*:pull,push"),
    ),
    least=1,
    example="cais hub token create --scope 'team/*:pull' --days 90 ci\ncais hub token rm 7",
)
HUB_NAMESPACE = Command(
    "hub namespace [OPTIONS] create NAME | ls [NAME...] | set NAME",
    "Make, list and set up namespaces",
    namespace,
    flags=(
        *HUB_ROWS,
        ("description", "", "string", "What it is for"),
        FORMAT_ROW,
        ("immutable", "", "list...", "Tags that may not move; an empty one: none"),
        ("private", "", "bool", "New repositories are private"),
        ("quota", "", "bytes", "Bytes that it may have (administrators of the hub)"),
        ("retention", "", "string", "Rules by which tags go, as JSON"),
    ),
    least=1,
    kinds={**KINDS, "bytes": parse_bytes},
    example="cais hub namespace create --private team\ncais hub namespace set --quota 10g team",
)
HUB_MEMBER = Command(
    "hub member [OPTIONS] add NAMESPACE ACCOUNT [ROLE] | ls NAMESPACE | rm NAMESPACE ACCOUNT",
    "Say who may do what in a namespace",
    member,
    flags=(*HUB_ROWS, FORMAT_ROW),
    least=1,
    example="cais hub member add team alice write\ncais hub member ls team",
)
HUB_ACCOUNT = Command(
    "hub account [OPTIONS] add NAME | disable NAME... | enable NAME... | ls | password NAME",
    "Make, list and stop accounts of a hub",
    account,
    flags=(
        *HUB_ROWS,
        ("admin", "", "bool", "The new account administers the hub"),
        FORMAT_ROW,
        ("password-stdin", "", "bool", "Read the new password from stdin"),
    ),
    least=1,
    example="cais hub account add --password-stdin alice\ncais hub account disable bob",
)
