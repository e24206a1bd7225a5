"""Docker's JSON for events, and which events a client's filters let through."""

from collections.abc import Mapping

import msgspec

from cais.api.version import Version
from cais.api.wire.base import Wire
from cais.events import Event

LEGACY_UNTIL = (1, 52)
"""Before this version ``status``, ``id`` and ``from`` are there too: the CLI up to 24 fails without them."""


class Actor(Wire, frozen=True, kw_only=True):
    """What the event happened to."""

    id: str = msgspec.field(name="ID")
    attributes: Mapping[str, str]


class EventMessage(Wire, frozen=True, kw_only=True):
    """One event; key order is dockerd's."""

    status: str | msgspec.UnsetType = msgspec.field(name="status", default=msgspec.UNSET)
    id: str | msgspec.UnsetType = msgspec.field(name="id", default=msgspec.UNSET)
    from_image: str | msgspec.UnsetType = msgspec.field(name="from", default=msgspec.UNSET)
    type: str
    action: str
    actor: Actor
    scope: str = msgspec.field(name="scope", default="local")
    time: int = msgspec.field(name="time")
    time_nano: int = msgspec.field(name="timeNano")


def event_message(event: Event, version: Version) -> EventMessage:
    """``event`` as clients of ``version`` expect it."""
    legacy = version < LEGACY_UNTIL and event.kind in ("container", "image")
    image = event.attributes.get("image", "") if legacy and event.kind == "container" else msgspec.UNSET
    return EventMessage(
        status=event.action if legacy else msgspec.UNSET,
        id=event.id if legacy else msgspec.UNSET,
        from_image=image or msgspec.UNSET,
        type=event.kind,
        action=event.action,
        actor=Actor(id=event.id, attributes=event.attributes),
        time=event.time_ns // 1_000_000_000,
        time_nano=event.time_ns,
    )


FILTERS = frozenset(
    "config container daemon event image label network node plugin scope secret service type volume".split()  # noqa: SIM905
)


def is_wanted(event: Event, filters: Mapping[str, list[str]]) -> bool:
    """Does ``event`` pass every filter? The values of one key are alternatives, but for labels, which must
    all be there (moby daemon/events/filter.go)."""
    return all(_passes(event, key, values) for key, values in filters.items() if values)


def _passes(event: Event, key: str, values: list[str]) -> bool:
    if key == "event":
        # "exec_start: sh" is asked for as "exec_start".
        return event.action in values or event.action.partition(":")[0] in values
    if key == "type":
        return event.kind in values
    if key == "scope":
        return "local" in values
    if key == "label":
        return all(_has_label(event.attributes, label) for label in values)
    if key == "image":
        return _is_image(event, values)
    if key in ("container", "volume", "network", "daemon", "plugin"):
        return event.kind == key and _is_named(event, values)
    return False


def _is_named(event: Event, values: list[str]) -> bool:
    name = event.attributes.get("name", "")
    return any(
        event.id == value or name == value or (value and event.id.startswith(value)) for value in values
    )


def _is_image(event: Event, values: list[str]) -> bool:
    names = {event.id, event.attributes.get("name", ""), event.attributes.get("image", "")}
    names |= {name.rpartition(":")[0] for name in names if ":" in name}
    return any(value in names for value in values)


def _has_label(attributes: Mapping[str, str], label: str) -> bool:
    key, equals, value = label.partition("=")
    return key in attributes and (not equals or attributes[key] == value)
