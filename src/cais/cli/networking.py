"""From the network flags of `run` and `create` to a network mode and its endpoints."""

from __future__ import annotations

from cais.cli.failure import wrong_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags

_PREDEFINED = ("", "default", "bridge", "host", "none")
_FLAGS = (
    ("network-alias", "aliases", "--network-alias and per-network alias"),
    ("ip", "ip", "--ip and per-network IPv4 address"),
    ("ip6", "ip6", "--ip6 and per-network IPv6 address"),
    ("mac-address", "mac", "--mac-address and per-network MAC address"),
    ("link-local-ip", "local", "--link-local-ip and per-network link-local IP addresses"),
)
_HEX = frozenset("0123456789abcdefABCDEF")


def is_user_defined(network: str) -> bool:
    """Whether the name is a network somebody made, with its own DNS names."""
    return network not in _PREDEFINED and not network.startswith("container:")


def make_networking(flags: Flags) -> tuple[str, dict[str, Any]]:
    """The first network's name as mode, and what is set for each endpoint. Raises Failure."""
    networks: list[dict[str, list[str]]] = flags.many("network") or [{"name": ["default"]}]
    _check_mac(flags.text("mac-address"))
    kinds = {is_user_defined(network["name"][-1]) for network in networks}
    endpoints: dict[str, Any] = {}
    for at, network in enumerate(networks):
        name = network["name"][-1]
        endpoint = _make_endpoint(_with_flags(network, flags) if at == 0 else network)
        if name in endpoints:
            raise wrong_option(f'network "{name}" is specified multiple times')
        if endpoint or len(networks) > 1:
            endpoints[name] = endpoint
    if len(kinds) > 1:
        raise wrong_option(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    return networks[0]["name"][-1], endpoints


def _with_flags(network: dict[str, list[str]], flags: Flags) -> dict[str, list[str]]:
    """The container-wide flags count for the first network; twice the same is a contradiction."""
    merged = dict(network)
    for flag, field, words in _FLAGS:
        values = flags.many(flag) if flag in ("network-alias", "link-local-ip") else [flags.text(flag)]
        if not any(values):
            continue
        if network.get(field):
            raise wrong_option(f"conflicting options: cannot specify both {words}")
        merged[field] = values
    if is_user_defined(network["name"][-1]) and flags.many("link"):
        merged["links"] = flags.many("link")
    return merged


def _make_endpoint(network: dict[str, list[str]]) -> dict[str, Any]:
    name = network["name"][-1]
    aliases = network.get("aliases", [])
    if not name.strip():
        raise wrong_option("no name set for network")
    if aliases and not is_user_defined(name):
        raise wrong_option("network-scoped aliases are only supported for user-defined networks")
    endpoint: dict[str, Any] = {}
    address: dict[str, Any] = {
        api: network[field][-1]
        for field, api in (("ip", "IPv4Address"), ("ip6", "IPv6Address"))
        if field in network
    }
    if local := network.get("local"):
        address["LinkLocalIPs"] = local
    if address:
        endpoint["IPAMConfig"] = address
    if aliases:
        endpoint["Aliases"] = aliases
    if links := network.get("links"):
        endpoint["Links"] = links
    if mac := network.get("mac"):
        endpoint["MacAddress"] = mac[-1]
    if options := network.get("options"):
        endpoint["DriverOpts"] = {key: value for key, _, value in (text.partition("=") for text in options)}
    if priority := network.get("priority"):
        if not priority[-1].removeprefix("-").isdigit():
            raise wrong_option(f"invalid gw-priority ({priority[-1]})")
        endpoint["GwPriority"] = int(priority[-1])
    return endpoint


def _check_mac(text: str) -> None:
    parts = text.replace("-", ":").split(":")
    good = len(parts) in (6, 8) and all(len(part) == 2 and _HEX.issuperset(part) for part in parts)
    if text and not good:
        raise wrong_option(f"{text} is not a valid mac address")
