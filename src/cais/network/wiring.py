"""Acts on links and forwarding, run on the network's own thread: another program may hold the kernel's rtnl lock."""

import errno
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from cais.config import Config
from cais.errors import Conflict, Invalid
from cais.linux import conntrack, links, netns
from cais.linux.netlink import Netlink
from cais.network.ipam import choose_network, parse_bridge_address

INSIDE = "eth0"
"""A container's interface, as it sees it."""

_MARK = "02:ca:"
"""How the MAC of a bridge of ours begins; the rest is the start of its network's id. The kernel sets it in the same
act that makes the bridge, so that two engines that start at once never take each other's."""

_BRIDGES = 64
"""Bridge names tried when engines live side by side: cais0, cais1, …"""

_SETTLE_TRIES, _SETTLE_SECONDS = 50, 0.001
"""How often and at what distance a new link is looked at; after that we go on as if it were up."""

_NETNS_SYSCTLS = (
    # Docker's: ping and low ports need no privilege in a container that has its own network.
    ("ipv4/ping_group_range", "0 2147483647"),
    ("ipv4/ip_unprivileged_port_start", "0"),
)


@dataclass(frozen=True, slots=True)
class Bridge:
    """The bridge endpoints are plugged into; ``ours``: made by this engine, which may remove it."""

    index: int
    name: str
    interface: IPv4Interface
    ours: bool


@dataclass(frozen=True, slots=True)
class Plug:
    """An endpoint to build: the veth's name on the host and what its other end gets."""

    bridge: Bridge
    mtu: int
    name: str
    address: IPv4Address
    mac: str
    hairpin: bool


def make_bridge_mac(network_id: str) -> str:
    """The MAC by which an engine knows its bridge."""
    return _MARK + bytes.fromhex(network_id[:8]).hex(":")


def ensure_bridge(netlink: Netlink, config: Config, network_id: str) -> Bridge:
    """The configured bridge, made unless it is there, up and with its address.

    Under the default name the next number is taken while the bridge belongs to another engine; under any other name
    that is a ``Conflict``, as is a link that is no bridge. A bridge somebody else made is used, and never removed.
    """
    mac = make_bridge_mac(network_id)
    for name in _names(config.bridge):
        link = links.find_link(netlink, name)
        if link is None:
            # Another engine may be faster: then see whose it is.
            with suppress(FileExistsError):
                netlink.transact([links.make_bridge(name, mtu=config.mtu, mac=mac)])
            link = links.find_link(netlink, name)
        if link is None or (link.mac.startswith(_MARK) and link.mac != mac):
            continue
        if link.kind != "bridge":
            raise Conflict(f"interface {name} exists and is not a bridge")
        if link.mtu != config.mtu:
            netlink.transact([links.set_mtu(link.index, config.mtu, name)])
        interface = _ensure_address(netlink, link, config)
        return Bridge(link.index, name, interface, ours=link.mac == mac)
    raise Conflict(f"bridge {config.bridge} belongs to another engine")


def build_endpoint(netlink: Netlink, plug: Plug) -> int:
    """A new network namespace with its interface up and its routes set; the caller closes the descriptor.

    About 1.4 ms, a third each for the namespace and the veth. On failure the namespace ends, and the veth with it.
    """
    interface = plug.bridge.interface
    with netns.created() as fd:
        for name, value in _NETNS_SYSCTLS:
            netns.write_sysctl(name, value)
        veth = links.Veth(plug.name, plug.bridge.index, plug.mtu, INSIDE, plug.mac, fd)
        netlink.transact([links.make_veth(veth)])
        if plug.hairpin:
            netlink.transact([links.set_hairpin(plug.name)])
        # Before the interface is up, or it would take a link-local address and solicit for it.
        disable_ipv6(INSIDE)
        with Netlink(0) as inner:
            loopback, inside = links.find_link(inner, "lo"), links.find_link(inner, INSIDE)
            if loopback is None or inside is None:
                raise OSError(errno.ENODEV, "no interface in the new network namespace", plug.name)
            inner.transact(
                [
                    links.set_up(loopback.index, "lo"),
                    # In this order: the route needs a link that is up, with an address in the gateway's network.
                    links.add_address(inside.index, plug.address, interface.network),
                    links.set_up(inside.index, INSIDE),
                    links.add_default_route(interface.ip),
                ]
            )
        _settle(netlink, plug)
    return fd


def delete_ports(netlink: Netlink, bridge: Bridge, names: Iterable[str]) -> None:
    """Remove those of ``names`` that are still on the bridge. 10 to 20 ms each: the kernel waits for its readers."""
    wanted = set(names)
    for link in links.list_links(netlink, master=bridge.index):
        if link.name in wanted:
            _delete(netlink, link.name)


def list_ports(netlink: Netlink, bridge: Bridge) -> set[str]:
    """Names of the veths on the bridge."""
    return {link.name for link in links.list_links(netlink, master=bridge.index) if link.kind == "veth"}


def delete_bridge(netlink: Netlink, bridge: Bridge) -> None:
    """Remove a bridge that this engine made. Idempotent."""
    if bridge.ours:
        _delete(netlink, bridge.name)


def open_bridge(bridge: Bridge) -> None:
    """Let the host reach containers from its own 127.0.0.1. Only after the firewall's guard stands."""
    netns.write_sysctl(f"ipv4/conf/{bridge.name}/route_localnet", "1")


def disable_ipv6(name: str) -> None:
    """No IPv6 on an interface whose network has none: else its neighbours reach it by link-local addresses."""
    # A kernel without IPv6 has no such file.
    with suppress(FileNotFoundError):
        netns.write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")


def is_bridge_filtered() -> bool:
    """Whether frames between two ports of a bridge pass the IP firewall (br_netfilter): then an address is changed
    within the bridge, and a container reaches itself only through a port that sends frames back."""
    try:
        return netns.read_sysctl("bridge/bridge-nf-call-iptables") == "1"
    except FileNotFoundError:
        return False


def is_forwarding() -> bool:
    """Whether the host forwards IPv4 packets."""
    return netns.read_sysctl("ipv4/ip_forward") == "1"


def set_forwarding(on: bool) -> None:
    """Let the host forward IPv4 packets, or not."""
    netns.write_sysctl("ipv4/ip_forward", "1" if on else "0")


def forget_flows(netlink: Netlink, protocol: int, ports: Collection[int]) -> None:
    """Let connections to these ports of the host be judged anew: a UDP client that never pauses would go on being
    led to the host, before the port is published, and to whoever has the container's address, after that."""
    only = next(iter(ports)) if len(ports) == 1 else 0
    for flow in conntrack.list_flows(netlink, protocol, only):
        if flow.destination_port in ports:
            conntrack.delete_flow(netlink, flow)


def _settle(netlink: Netlink, plug: Plug) -> None:
    """Wait until packets pass. That the veth's other end is up, and that the bridge has a port, the kernel tells queues
    and bridge later, on a thread that waits for the rtnl lock; what is sent before that is dropped, and TCP tries again
    after a second. Since Linux 6.8 asking for a link makes it so at once; before, it takes a moment."""
    for name in (plug.name, plug.bridge.name):
        for _ in range(_SETTLE_TRIES):
            link = links.find_link(netlink, name)
            if link is None or link.running:
                break
            time.sleep(_SETTLE_SECONDS)


def _names(configured: str) -> list[str]:
    if len(configured.encode()) > links.NAME_MAX or not configured or "/" in configured:
        raise Invalid(f"invalid bridge name: {configured}")
    if configured == Config().bridge:
        return [f"{configured.rstrip('0123456789')}{n}" for n in range(_BRIDGES)]
    return [configured]


def _ensure_address(netlink: Netlink, link: links.Link, config: Config) -> IPv4Interface:
    held = links.list_addresses(netlink, link.index)
    if config.bip:
        interface = parse_bridge_address(config.bip)
    elif held:
        address, network = held[0]
        interface = IPv4Interface((address, network.prefixlen))
    else:
        interface = choose_network(config.address_pools, _taken_networks(netlink))
    if (interface.ip, interface.network) not in held:
        # An address of an earlier configuration; its containers keep their addresses until they stop.
        removals = [links.delete_address(link.index, *each) for each in held]
        netlink.transact([*removals, links.add_address(link.index, interface.ip, interface.network)])
    disable_ipv6(link.name)
    netlink.transact([links.set_up(link.index, link.name)])
    return interface


def _taken_networks(netlink: Netlink) -> list[IPv4Network]:
    return links.list_routes(netlink) + [network for _, network in links.list_addresses(netlink)]


def _delete(netlink: Netlink, name: str) -> None:
    try:
        netlink.transact([links.delete_link(name)])
    except OSError as error:
        # Gone already: a veth ends with the namespace of its other end.
        if error.errno != errno.ENODEV:
            raise
