"""The engine's own nftables rules: what a bridge lets in and out, and where published ports lead (pure)."""

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from cais.linux import nft
from cais.linux.netlink import Message
from cais.network.base import Endpoint

LOOPBACK = IPv4Network("127.0.0.0/8")
EVERYWHERE = "0.0.0.0"
PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}

_SOURCE, _DESTINATION = 12, 16
"""Offsets of the addresses in an IPv4 header."""

_RAW, _DSTNAT, _FILTER, _SRCNAT = -300, -100, 0, 100
"""Priorities of a hook: before connection tracking, where the destination changes, …"""

GUARD = nft.Table(nft.IP, "cais_forward")
GUARDED = nft.Set(GUARD, "bridges", (nft.Type.INTERFACE,))


class Firewall:
    """The table of one bridge. Every method answers with messages for one transaction."""

    def __init__(self, bridge: str, network: IPv4Network, *, nat: bool) -> None:
        self._bridge = bridge
        self._network = network
        self._nat = nat
        self.table = nft.Table(nft.IP, f"cais_{bridge}")
        kind = nft.Type
        target = (kind.ADDRESS, kind.PORT)
        self._everywhere = nft.Set(self.table, "ports", (kind.PROTOCOL, kind.PORT), target)
        self._one_address = nft.Set(
            self.table, "ports_of_address", (kind.PROTOCOL, kind.ADDRESS, kind.PORT), target
        )

    def rebuild(self, published: Iterable[Endpoint]) -> list[Message]:
        """Replace the table, whatever was in it: other packets see the old one or the new one, never a
        half."""
        return [
            # Made first so that the removal cannot fail: there is no "delete if it is there" before Linux
            # 6.3.
            nft.new_table(self.table),
            nft.delete_table(self.table),
            nft.new_table(self.table),
            nft.new_set(self._everywhere),
            nft.new_set(self._one_address),
            *self._guard(),
            *self._forward(),
            *self._lead("prerouting", nft.PREROUTING),
            *self._lead("output", nft.OUTPUT),
            *self._postrouting(),
            *self.publish(published),
        ]

    def publish(self, published: Iterable[Endpoint]) -> list[Message]:
        """Lead the ports of these to them."""
        return self._elements(published, delete=False)

    def withdraw(self, published: Iterable[Endpoint]) -> list[Message]:
        """Lead the ports of these nowhere."""
        return self._elements(published, delete=True)

    def remove(self) -> list[Message]:
        """Take the whole table away, if it is there."""
        return [nft.new_table(self.table), nft.delete_table(self.table)]

    def _elements(self, published: Iterable[Endpoint], *, delete: bool) -> list[Message]:
        change = nft.delete_elements if delete else nft.add_elements
        return [
            message
            for where, elements in self.list_elements(published).items()
            for message in change(where, elements)
        ]

    def list_elements(self, published: Iterable[Endpoint]) -> dict[nft.Set, list[nft.Element]]:
        """What the maps hold for these endpoints."""
        wide: list[nft.Element] = []
        narrow: list[nft.Element] = []
        for endpoint, port in ((each, port) for each in published for port in each.ports):
            proto = bytes([PROTOCOLS[port.protocol]])
            number = struct.pack(">H", port.host_port)
            target = nft.pack(IPv4Address(endpoint.address).packed, struct.pack(">H", port.container_port))
            if port.host_ip == EVERYWHERE:
                wide.append((nft.pack(proto, number), target))
            else:
                narrow.append((nft.pack(proto, IPv4Address(port.host_ip).packed, number), target))
        return {self._everywhere: wide, self._one_address: narrow}

    def _guard(self) -> list[Message]:
        """With route_localnet on the bridge the kernel no longer drops 127.0.0.0/8 that comes from a
        container: what listens on the host's loopback only would be open to it (CVE-2020-8558). Before
        connection tracking, so that answers to the host's own 127.0.0.1, which get that address back only
        later, are let through."""
        chain = nft.Chain(self.table, "guard", "filter", nft.PREROUTING, _RAW)
        return [
            nft.new_chain(chain),
            nft.new_rule(chain, self._from_bridge(), _match(_DESTINATION, LOOPBACK), nft.verdict(nft.DROP)),
            nft.new_rule(chain, self._from_bridge(), _match(_SOURCE, LOOPBACK), nft.verdict(nft.DROP)),
        ]

    def _forward(self) -> list[Message]:
        """Into the bridge come answers, neighbours on it, and what a published port led there; nothing else,
        even from a machine that knows a route to the containers' network."""
        chain = nft.Chain(self.table, "forward", "filter", nft.FORWARD, _FILTER)
        known = nft.any_bit(nft.CT_STATE, nft.STATE_ESTABLISHED | nft.STATE_RELATED)
        accept = nft.verdict(nft.ACCEPT)
        return [
            nft.new_chain(chain),
            nft.new_rule(chain, self._to_bridge(), known, accept),
            nft.new_rule(chain, self._to_bridge(), self._from_bridge(), accept),
            nft.new_rule(chain, self._to_bridge(), nft.any_bit(nft.CT_STATUS, nft.STATUS_DNAT), accept),
            nft.new_rule(chain, self._to_bridge(), nft.verdict(nft.DROP)),
        ]

    def _lead(self, name: str, hook: int) -> list[Message]:
        """Published ports: those of one address, then those of every address of this host."""
        chain = nft.Chain(self.table, name, "nat", hook, _DSTNAT)
        protocol, port = nft.meta(nft.META_L4PROTO), nft.payload(nft.TRANSPORT_HEADER, 2, 2, slot=2)
        address = nft.payload(nft.NETWORK_HEADER, _DESTINATION, 4, slot=1)
        local = nft.destination_type() + nft.compare(nft.EQUAL, struct.pack("=I", nft.LOCAL))
        rules = [
            nft.new_rule(chain, protocol, address, port, nft.lookup(self._one_address), nft.dnat()),
            nft.new_rule(
                chain,
                local,
                protocol,
                nft.payload(nft.TRANSPORT_HEADER, 2, 2, slot=1),
                nft.lookup(self._everywhere),
                nft.dnat(),
            ),
        ]
        if hook == nft.PREROUTING:
            # This hook is before routing, which would drop it: a neighbour's packet to 127.0.0.1 must not
            # reach a port that is published there only.
            loopback = nft.new_rule(chain, _match(_DESTINATION, LOOPBACK), nft.verdict(nft.RETURN))
            rules.insert(0, loopback)
        return [nft.new_chain(chain), *rules]

    def _postrouting(self) -> list[Message]:
        chain = nft.Chain(self.table, "postrouting", "nat", nft.POSTROUTING, _SRCNAT)
        own = _match(_SOURCE, self._network)
        led = nft.any_bit(nft.CT_STATUS, nft.STATUS_DNAT)
        rules = [
            # The host through its own 127.0.0.1: a container cannot answer to that address.
            nft.new_rule(chain, self._to_bridge(), _match(_SOURCE, LOOPBACK), nft.masquerade()),
            # A container through the host's address: answers must come back this way, not straight over the
            # bridge from an address that was never asked.
            nft.new_rule(chain, self._to_bridge(), own, led, nft.masquerade()),
        ]
        if self._nat:
            outward = nft.interface(nft.META_OIFNAME, self._bridge, nft.NOT_EQUAL)
            rules.append(nft.new_rule(chain, own, outward, nft.masquerade()))
        return [nft.new_chain(chain), *rules]

    def _from_bridge(self) -> bytes:
        return nft.interface(nft.META_IIFNAME, self._bridge)

    def _to_bridge(self) -> bytes:
        return nft.interface(nft.META_OIFNAME, self._bridge)


def make_guard(bridge: str) -> list[Message]:
    """The table that all engines of a host share once one of them turned forwarding on: the host must not
    become a router for anybody else because of it (dockerd sets the FORWARD policy to DROP for the same
    reason)."""
    chain = nft.Chain(GUARD, "forward", "filter", nft.FORWARD, _FILTER)
    accept = nft.verdict(nft.ACCEPT)
    return [
        nft.new_table(GUARD),
        nft.delete_table(GUARD),
        nft.new_table(GUARD),
        nft.new_set(GUARDED),
        nft.new_chain(chain),
        nft.new_rule(chain, nft.meta(nft.META_IIFNAME), nft.lookup(GUARDED), accept),
        nft.new_rule(chain, nft.meta(nft.META_OIFNAME), nft.lookup(GUARDED), accept),
        nft.new_rule(chain, nft.verdict(nft.DROP)),
        *nft.add_elements(GUARDED, [(nft.pack_name(bridge), b"")]),
    ]


def find_blockers(chains: Iterable[nft.Chain]) -> list[str]:
    """Warnings about other tables whose forward chain drops what it does not know; ours cannot overrule
    them."""
    return [
        f"forwarded packets are dropped by default by the chain {chain.name} of the nft table {chain.table.name}: "
        "containers may be cut off from other hosts"
        for chain in chains
        if chain.hook == nft.FORWARD and chain.policy == nft.DROP
    ]


def _match(offset: int, network: IPv4Network) -> bytes:
    return nft.network(offset, network.network_address.packed, network.prefixlen)
