"""The firewall of one bridge as it stands in the kernel: every change is one transaction, at once."""

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Network

from cais.linux import nft
from cais.linux.netlink import Message, Netlink
from cais.network.base import Endpoint
from cais.network.firewall import GUARD, GUARDED, Firewall, find_blockers, make_guard


class Rules:
    """Acts on the event loop itself: a transaction of a few elements takes 0.06 ms, a whole table 1 ms.

    The published endpoints are the truth. What the kernel has is made anew from them when a change does not
    fit, which is what happens after somebody else's ``nft flush ruleset``."""

    def __init__(self, netlink: Netlink, bridge: str, network: IPv4Network, *, nat: bool) -> None:
        self._netlink = netlink
        self._name = nft.pack_name(bridge)
        self._bridge = bridge
        self._firewall = Firewall(bridge, network, nat=nat)
        self._published: dict[str, Endpoint] = {}

    def ensure(self) -> None:
        """Make the table unless an earlier engine left it: then published ports go on working until
        ``restore``."""
        if not nft.has_table(self._netlink, self._firewall.table):
            self._rebuild()

    def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """Publish these and nothing else."""
        self._published = {each.endpoint_id: each for each in endpoints if each.ports}
        self._rebuild()

    def publish(self, endpoint: Endpoint) -> None:
        """Lead the endpoint's ports to it."""
        if endpoint.ports:
            self._published[endpoint.endpoint_id] = endpoint
            self._change(self._firewall.publish([endpoint]))

    def withdraw(self, endpoint: Endpoint) -> None:
        """Lead the endpoint's ports nowhere. Idempotent."""
        if self._published.pop(endpoint.endpoint_id, None) is not None:
            self._change(self._firewall.withdraw([endpoint]))

    def remove(self) -> None:
        """Take the table away. Idempotent."""
        nft.commit(self._netlink, self._firewall.remove())

    def guard_forwarding(self) -> None:
        """Before forwarding is turned on: let nothing through but what comes from or goes to engines'
        bridges."""
        nft.commit(self._netlink, make_guard(self._bridge))

    def join_guard(self) -> None:
        """Be let through where another engine, or an earlier one, guards forwarding."""
        with suppress(FileNotFoundError):
            nft.commit(self._netlink, nft.add_elements(GUARDED, [(self._name, b"")]))

    def leave_guard(self) -> bool:
        """The contrary; true when no bridge is left, and forwarding goes back to what it was."""
        try:
            guarded = {key for key, _ in nft.list_elements(self._netlink, GUARDED)}
        except FileNotFoundError:
            return False
        if self._name in guarded:
            nft.commit(self._netlink, nft.delete_elements(GUARDED, [(self._name, b"")]))
        return guarded <= {self._name}

    def remove_guard(self) -> None:
        """After forwarding is off again. Idempotent."""
        with suppress(FileNotFoundError):
            nft.commit(self._netlink, [nft.delete_table(GUARD)])

    def list_blockers(self) -> list[str]:
        """Warnings about other programs' rules that stand in the way."""
        chains = [chain for family in (nft.IP, nft.INET) for chain in nft.list_chains(self._netlink, family)]
        return find_blockers(chains)

    def list_strays(self) -> list[str]:
        """Elements of the kernel's maps that lead to no published endpoint, and those that are missing."""
        wanted = self._firewall.list_elements(self._published.values())
        lines = []
        for where, elements in wanted.items():
            try:
                there = set(nft.list_elements(self._netlink, where))
            except FileNotFoundError:
                lines.append(f"{where.name}: the map is missing")
                continue
            lines += [f"{where.name}: {key.hex()} leads nowhere" for key, _ in sorted(there - set(elements))]
            lines += [f"{where.name}: {key.hex()} is missing" for key, _ in sorted(set(elements) - there)]
        return lines

    def close(self) -> None:
        """Idempotent."""
        self._netlink.close()

    def _change(self, messages: list[Message]) -> None:
        try:
            nft.commit(self._netlink, messages)
        except OSError:
            self._rebuild()

    def _rebuild(self) -> None:
        nft.commit(self._netlink, self._firewall.rebuild(self._published.values()))
