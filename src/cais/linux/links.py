"""Links, addresses and routes of a network namespace, as rtnetlink(7) messages and answers."""

import errno
import re
import socket
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from cais.linux.netlink import (
    ACK,
    CREATE,
    DUMP,
    EXCL,
    REPLACE,
    Message,
    Netlink,
    attribute,
    nest,
    parse_attributes,
    parse_text,
    text,
    u32,
)

NAME_MAX = 15
"""Bytes of an interface name (IFNAMSIZ without its zero)."""

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _GETROUTE = 24, 26

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFLA_LINKINFO, _IFLA_STATS64, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 18, 23, 28, 29
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER, _BRPORT_MODE = 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_GATEWAY = 1, 5

_SKIP_STATS = 8
_UP, _RUNNING = 0x1, 0x40
_TABLE_MAIN, _PROTOCOL_BOOT, _SCOPE_UNIVERSE, _UNICAST = 254, 3, 0, 1

_MAC = re.compile("[0-9a-fA-F]{1,2}([:-][0-9a-fA-F]{1,2}){5}")

_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, device type, index, flags, which flags to change."""

_ADDRESS = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, interface index."""

_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, destination and source prefix length, tos, table, protocol, scope, type, flags."""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel lists it; ``kind`` is ``bridge``, ``veth``, …, empty for hardware and lo."""

    index: int
    name: str
    kind: str
    master: int
    mac: str
    mtu: int
    up: bool
    running: bool
    """Up, and so is the other end: packets pass."""


@dataclass(frozen=True, slots=True)
class Veth:
    """A pair to make: ``name`` here as a port of the bridge ``master`` (index), ``peer`` in the namespace ``netns``."""

    name: str
    master: int
    mtu: int
    peer: str
    peer_mac: str
    netns: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What went through an interface since it was made, seen from its own side."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def make_bridge(name: str, *, mtu: int, mac: str) -> Message:
    """A bridge, down. With a MAC of its own: without one it takes its ports' and changes it as they come and go."""
    body = (
        _LINK.pack(0, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, name)
        + u32(_IFLA_MTU, mtu)
        + attribute(_IFLA_ADDRESS, _pack_mac(mac))
        + nest(_IFLA_LINKINFO, text(_INFO_KIND, "bridge"))
    )
    return Message(_NEWLINK, ACK | CREATE | EXCL, body, name)


def make_veth(veth: Veth) -> Message:
    """Both ends at once, this one up and on its bridge, the other already in its namespace: moving a link between
    namespaces costs the kernel 20 ms and more. The peer cannot be up yet: it has no peer while it is made."""
    peer = (
        _LINK.pack(0, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, veth.peer)
        + u32(_IFLA_MTU, veth.mtu)
        + attribute(_IFLA_ADDRESS, _pack_mac(veth.peer_mac))
        + u32(_IFLA_NET_NS_FD, veth.netns)
    )
    data = nest(_INFO_DATA, attribute(_VETH_INFO_PEER, peer))
    body = (
        _LINK.pack(0, 0, 0, _UP, _UP)
        + text(_IFLA_IFNAME, veth.name)
        + u32(_IFLA_MTU, veth.mtu)
        + u32(_IFLA_MASTER, veth.master)
        + nest(_IFLA_LINKINFO, text(_INFO_KIND, "veth"), data)
    )
    return Message(_NEWLINK, ACK | CREATE | EXCL, body, veth.name)


def set_up(index: int, subject: str) -> Message:
    """Bring a link up."""
    return Message(_NEWLINK, ACK, _LINK.pack(0, 0, index, _UP, _UP), subject)


def set_mtu(index: int, mtu: int, subject: str) -> Message:
    """Change the largest packet of a link, in bytes."""
    return Message(_NEWLINK, ACK, _LINK.pack(0, 0, index, 0, 0) + u32(_IFLA_MTU, mtu), subject)


def set_hairpin(name: str) -> Message:
    """Let a bridge send a frame back through the port it came from."""
    port = nest(_INFO_SLAVE_DATA, attribute(_BRPORT_MODE, b"\1"))
    info = nest(_IFLA_LINKINFO, text(_INFO_SLAVE_KIND, "bridge"), port)
    return Message(_NEWLINK, ACK, _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + info, name)


def delete_link(name: str) -> Message:
    """Remove a link; a veth's other end goes with it."""
    return Message(_DELLINK, ACK, _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name), name)


def add_address(index: int, address: IPv4Address, network: IPv4Network) -> Message:
    """Give a link an IPv4 address; the route to ``network`` comes with it once the link is up."""
    return Message(
        _NEWADDR, ACK | CREATE | REPLACE, _address(index, address, network), f"{address}/{network.prefixlen}"
    )


def delete_address(index: int, address: IPv4Address, network: IPv4Network) -> Message:
    """Take an IPv4 address from a link."""
    return Message(_DELADDR, ACK, _address(index, address, network), f"{address}/{network.prefixlen}")


def add_default_route(gateway: IPv4Address) -> Message:
    """Send everything else to ``gateway``; needs a link that is up and has an address in the gateway's network."""
    head = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, _SCOPE_UNIVERSE, _UNICAST, 0)
    return Message(
        _NEWROUTE, ACK | CREATE | EXCL, head + attribute(_RTA_GATEWAY, gateway.packed), f"gateway {gateway}"
    )


def list_links(netlink: Netlink, *, master: int = 0) -> list[Link]:
    """All links, or the ports of the bridge ``master``."""
    body = _LINK.pack(0, 0, 0, 0, 0) + u32(_IFLA_EXT_MASK, _SKIP_STATS)
    if master:
        body += u32(_IFLA_MASTER, master)
    replies = netlink.ask(Message(_GETLINK, DUMP, body, "links"))
    # The kernel leaves the filter out when the master has gone, so look again.
    links = [_parse_link(reply.body) for reply in replies]
    return [link for link in links if not master or link.master == master]


def find_link(netlink: Netlink, name: str) -> Link | None:
    """The link called ``name``, if there is one."""
    reply = _ask(netlink, name, _SKIP_STATS)
    return None if reply is None else _parse_link(reply)


def find_counters(netlink: Netlink, name: str) -> Counters | None:
    """Traffic of the link called ``name``, if there is one (struct rtnl_link_stats64)."""
    reply = _ask(netlink, name, 0)
    if reply is None:
        return None
    stats = parse_attributes(reply[_LINK.size :])[_IFLA_STATS64]
    rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped = (
        struct.unpack_from("=8Q", stats)
    )
    return Counters(rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped)


def list_addresses(netlink: Netlink, index: int = 0) -> list[tuple[IPv4Address, IPv4Network]]:
    """The IPv4 addresses of one link or of all, each with its network."""
    body = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, index)
    addresses = []
    for reply in netlink.ask(Message(_GETADDR, DUMP, body, "addresses")):
        _, prefix, _, _, link = _ADDRESS.unpack_from(reply.body)
        values = parse_attributes(reply.body[_ADDRESS.size :])
        if index in (0, link) and _IFA_LOCAL in values:
            address = IPv4Address(values[_IFA_LOCAL])
            addresses.append((address, IPv4Network((address, prefix), strict=False)))
    return addresses


def list_routes(netlink: Netlink) -> list[IPv4Network]:
    """Destinations of every IPv4 route of every table, the default route left out."""
    body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    destinations = []
    for reply in netlink.ask(Message(_GETROUTE, DUMP, body, "routes")):
        prefix = _ROUTE.unpack_from(reply.body)[1]
        values = parse_attributes(reply.body[_ROUTE.size :])
        if _RTA_DST in values:
            destinations.append(IPv4Network((values[_RTA_DST], prefix), strict=False))
    return destinations


def parse_mac(value: str) -> str:
    """A MAC in the lower-case form with colons. ValueError: not six bytes, or a group address."""
    data = b""
    if _MAC.fullmatch(value):
        data = bytes(int(part, 16) for part in re.split("[:-]", value))
    if not any(data) or data[0] & 1:
        raise ValueError(f"not a MAC address of an interface: {value}")
    return data.hex(":")


def _pack_mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _address(index: int, address: IPv4Address, network: IPv4Network) -> bytes:
    return (
        _ADDRESS.pack(socket.AF_INET, network.prefixlen, 0, 0, index)
        + attribute(_IFA_LOCAL, address.packed)
        + attribute(_IFA_ADDRESS, address.packed)
        + attribute(_IFA_BROADCAST, network.broadcast_address.packed)
    )


def _ask(netlink: Netlink, name: str, mask: int) -> bytes | None:
    body = _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + u32(_IFLA_EXT_MASK, mask)
    try:
        return netlink.ask(Message(_GETLINK, ACK, body, name))[0].body
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def _parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    values = parse_attributes(body[_LINK.size :])
    info = parse_attributes(values.get(_IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=parse_text(values[_IFLA_IFNAME]),
        kind=parse_text(info.get(_INFO_KIND, b"")),
        master=int.from_bytes(values.get(_IFLA_MASTER, b""), sys.byteorder),
        mac=values.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(values.get(_IFLA_MTU, b""), sys.byteorder),
        up=bool(flags & _UP),
        running=bool(flags & _RUNNING),
    )
