"""What the API takes in: bodies of requests, and the bounds of every value. Unknown fields are refused."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from cais.registry.retention import Retention

_LINE = r"^[^\x00-\x1f\x7f]*(?!\n)$"
"""No control characters: these texts end up in terminals, logs and headers."""
Line = Annotated[str, Meta(max_length=200, pattern=_LINE)]
Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=_LINE)]
Prose = Annotated[str, Meta(max_length=1 << 16, pattern=r"^[^\x00]*$")]
Secret = Annotated[str, Meta(max_length=1000)]
Pattern = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.*?\[\]!-]+(?!\n)$")]
"""Of tags: ``*``, ``?`` and ``[…]`` as shells have them."""
Patterns = Annotated[list[Pattern], Meta(max_length=50)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 53)]
Count = Annotated[int, Meta(ge=1, le=100)]
Page = Annotated[int, Meta(ge=1, le=10_000)]
Seconds = Annotated[int, Meta(ge=0, le=10 * 366 * 86_400)]
Id = Annotated[int, Meta(ge=1, le=1 << 53)]
Action = Literal["pull", "push", "delete"]
Role = Literal["read", "write", "admin"]


class RepositoryChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a repository; those that are absent stay as they are."""

    description: Line | UnsetType = UNSET
    readme: Prose | UnsetType = UNSET
    private: bool | UnsetType = UNSET
    immutable: Patterns | UnsetType = UNSET
    retention: Retention | UnsetType = UNSET


class NamespaceMaking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new namespace."""

    name: Name


class NamespaceChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a namespace; those that are absent stay as they are. ``quota``: administrators of the hub only."""

    description: Line | UnsetType = UNSET
    private: bool | UnsetType = UNSET
    quota: Bytes | UnsetType = UNSET
    immutable: Patterns | UnsetType = UNSET
    retention: Retention | UnsetType = UNSET


class MemberChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an account may do in a namespace."""

    role: Role


class RobotMaking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account for a program. ``seconds`` of life, 0: for ever."""

    name: Name
    actions: Annotated[list[Action], Meta(min_length=1, max_length=3)]
    seconds: Seconds = 0


class RobotRenewal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new secret for a robot. ``seconds`` of life, 0: for ever."""

    seconds: Seconds = 0


class WebhookMaking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is to be told of what happens. ``repository`` empty: in all of the namespace; ``actions`` empty: all;
    ``secret`` empty: one is made up."""

    url: Annotated[str, Meta(min_length=1, max_length=1000)]
    repository: Line = ""
    actions: Annotated[list[Literal["push", "tag", "untag", "delete"]], Meta(max_length=4)] = []
    secret: Annotated[str, Meta(max_length=200)] = ""


class WebhookChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether it is told."""

    disabled: bool


class SignUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account for oneself. ``code``: what the hub said at its first start."""

    name: Name
    password: Secret
    code: Secret = ""


class AccountMaking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account that an administrator makes for somebody."""

    name: Name
    password: Secret
    admin: bool = False


class AccountChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the account may log in."""

    disabled: bool


class PasswordChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One's own password; ``current`` proves that it is not just an open browser that asks."""

    current: Secret
    password: Secret


class PasswordReset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody's password, set by an administrator."""

    password: Secret


class TokenMaking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token of one's own. ``scopes`` limit it (``team/*:pull,push``), none: all that the account may. ``seconds`` of
    life, 0: for ever."""

    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=_LINE)]
    scopes: Annotated[list[Annotated[str, Meta(max_length=300)]], Meta(max_length=50)] = []
    seconds: Seconds = 0


class Scrubbing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read up to ``count`` blobs through that were not read for ``age`` seconds."""

    count: Annotated[int, Meta(ge=1, le=100_000)] = 100
    age: Seconds = 0
