"""Device rules in their normal form and as lines of the v1 device controller; pure."""

from typing import Any, NamedTuple

from cais.errors import Invalid


class Rule(NamedTuple):
    """One device rule: ``type`` a, c or b; None matches every number; ``access`` a text of r, w, m. ``a``
    always means every device and every access."""

    allow: bool
    type: str
    major: int | None
    minor: int | None
    access: str


EVERYTHING = Rule(False, "a", None, None, "rwm")


def parse_rules(devices: list[dict[str, Any]]) -> list[Rule]:
    """The rules of ``linux.resources.devices`` (config-linux.md, Allowed device list), in order.

    Rules that do not start with one for all devices start from "nothing allowed": a list that only allows
    would otherwise allow all. An ``a`` with numbers or less access is split into c and b, because the v1
    controller takes every line of type a for all devices. No rules at all: nothing is said, everything
    stays allowed.
    """
    rules = [rule for device in devices for rule in _parse_rule(device)]
    if rules and rules[0].type != "a":
        rules.insert(0, EVERYTHING)
    return rules


def _parse_rule(device: dict[str, Any]) -> list[Rule]:
    kind = device.get("type") or "a"
    access = device.get("access") or "rwm"
    if kind not in ("a", "c", "b", "u"):
        raise Invalid(f"invalid device rule type: {kind}")
    if set(access) - set("rwm"):
        raise Invalid(f"invalid device rule access: {access}")
    numbers = [_parse_number(device.get(key)) for key in ("major", "minor")]
    whole = kind == "a" and numbers == [None, None] and set(access) == set("rwm")
    kinds = "cb" if kind == "a" and not whole else "c" if kind == "u" else kind
    return [Rule(bool(device.get("allow")), each, numbers[0], numbers[1], access) for each in kinds]


def _parse_number(value: int | None) -> int | None:
    # -1 is how Go programs write "all" (the specification says: absent).
    return None if value is None or value == -1 else int(value)


def format_v1(rule: Rule) -> tuple[str, str]:
    """The control file and the line of one rule (cgroup-v1/devices.rst)."""
    file = "devices.allow" if rule.allow else "devices.deny"
    if rule.type == "a":
        return file, "a"
    major = "*" if rule.major is None else rule.major
    minor = "*" if rule.minor is None else rule.minor
    return file, f"{rule.type} {major}:{minor} {rule.access}"
