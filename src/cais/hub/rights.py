"""What roles allow, and what only some callers may do."""

from collections.abc import Mapping
from typing import Literal

from cais.errors import Denied
from cais.registry.base import Caller

Role = Literal["read", "write", "admin"]
ROLES: Mapping[str, frozenset[str]] = {
    "read": frozenset({"pull"}),
    "write": frozenset({"pull", "push", "delete"}),
    "admin": frozenset({"pull", "push", "delete", "admin"}),
}
"""What a member may do in the namespace."""


def is_person(caller: Caller) -> bool:
    """It has shown the password, or a session that began so; no token, of whatever kind."""
    return caller.kind in ("password", "session") and caller.grants is None


def need_hub_admin(caller: Caller) -> None:
    """Raises Denied unless it administers the hub, and no token limits it."""
    if not caller.admin or caller.grants is not None:
        raise Denied("only an administrator of the hub may do this")
