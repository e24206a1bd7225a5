"""Addresses of one network: which are taken, and which comes next (pure)."""

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network, NetmaskValueError

from cais.errors import Conflict, Invalid, Unavailable


class Addresses:
    """Hands out the addresses of ``network`` in turn: one that was just given back comes last, so that what still
    remembers its old owner (ARP caches, connection tracking, clients) does not meet the new one at once."""

    def __init__(self, network: IPv4Network, gateway: IPv4Address) -> None:
        self._network = network
        self._first = int(network.network_address) + 1
        self._last = int(network.broadcast_address) - 1
        self._gateway = int(gateway)
        self._taken: set[int] = {self._gateway}
        self._next = self._first

    def allocate(self) -> IPv4Address:
        """The next free address. ``Unavailable`` when all are taken."""
        span = self._last - self._first + 1
        if len(self._taken) >= span:
            raise Unavailable(f"no available IPv4 addresses on this network's address pools: {self._network}")
        while self._next in self._taken:
            self._advance(self._next)
        found = self._next
        self._taken.add(found)
        self._advance(found)
        return IPv4Address(found)

    def reserve(self, address: IPv4Address) -> None:
        """Take this one. ``Invalid`` if it is not a host address of the network, ``Conflict`` if it is taken."""
        number = int(address)
        if not self._first <= number <= self._last:
            raise Invalid(f"no configured subnet contains IP address {address}")
        if number in self._taken:
            raise Conflict(f"address already in use: {address}")
        self._taken.add(number)

    def skip_past(self, address: IPv4Address) -> None:
        """Go on behind ``address``: after a restart, so that addresses just given back are not the next ones."""
        if self._first <= int(address) <= self._last:
            self._advance(int(address))

    def release(self, address: IPv4Address) -> None:
        """Give an address back. Idempotent; the gateway's stays."""
        if int(address) != self._gateway:
            self._taken.discard(int(address))

    def _advance(self, number: int) -> None:
        self._next = self._first if number >= self._last else number + 1


def parse_bridge_address(text: str) -> IPv4Interface:
    """The bridge's address with its network, e.g. ``172.29.0.1/16``. ``Invalid``: not a host address of a network
    with room for a container."""
    try:
        interface = IPv4Interface(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise Invalid(f"invalid bridge address: {text}") from error
    network = interface.network
    if "/" not in text or network.prefixlen > 30 or interface.ip in (network[0], network[-1]):
        raise Invalid(f"invalid bridge address: {text}")
    return interface


def choose_network(pools: Iterable[str], taken: Iterable[IPv4Network]) -> IPv4Interface:
    """The first pool that overlaps with nothing the host can reach, with its first address as the gateway.

    ``Invalid`` for a wrong pool, ``Unavailable`` when none is free.
    """
    taken = tuple(taken)
    for pool in pools:
        try:
            network = IPv4Network(pool)
        except ValueError as error:
            raise Invalid(f"invalid address pool: {pool}") from error
        if network.prefixlen > 30:
            raise Invalid(f"invalid address pool: {pool}")
        if not any(network.overlaps(other) for other in taken):
            return IPv4Interface((network[1], network.prefixlen))
    raise Unavailable("all predefined address pools have been fully subnetted")


def make_mac(address: IPv4Address) -> str:
    """A container's MAC: locally administered, made of its address, so that a neighbour that remembers the address's
    last owner is right by chance and needs no announcement."""
    return (b"\x02\x42" + address.packed).hex(":")
