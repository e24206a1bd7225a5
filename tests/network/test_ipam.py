"""Addresses are handed out in turn, never twice, and networks are chosen where nothing else is."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.errors import Conflict, Invalid, Unavailable
from cais.network.ipam import Addresses, choose_network, make_mac, parse_bridge_address

SMALL = IPv4Network("10.0.0.0/29")


def make_addresses() -> Addresses:
    return Addresses(SMALL, IPv4Address("10.0.0.1"))


def test_order() -> None:
    """Addresses come in ascending order behind the gateway."""
    addresses = make_addresses()
    assert [str(addresses.allocate()) for _ in range(5)] == [f"10.0.0.{n}" for n in range(2, 7)]
    with pytest.raises(Unavailable):
        addresses.allocate()


def test_released_comes_last() -> None:
    """An address that was given back waits for its turn."""
    addresses = make_addresses()
    first = addresses.allocate()
    addresses.release(first)
    assert [addresses.allocate() for _ in range(5)][-1] == first


def test_gateway_stays() -> None:
    """The gateway's address cannot be given back, nor taken."""
    addresses = make_addresses()
    addresses.release(IPv4Address("10.0.0.1"))
    with pytest.raises(Conflict):
        addresses.reserve(IPv4Address("10.0.0.1"))


@pytest.mark.parametrize("address", ["10.0.0.0", "10.0.0.7", "10.0.1.1", "9.9.9.9"])
def test_no_host_address(address: str) -> None:
    """Network, broadcast and foreign addresses are refused."""
    with pytest.raises(Invalid, match=address):
        make_addresses().reserve(IPv4Address(address))


def test_skip_past() -> None:
    """After a restart the search goes on behind what is in use; foreign addresses change nothing."""
    addresses = make_addresses()
    addresses.skip_past(IPv4Address("10.0.0.4"))
    addresses.skip_past(IPv4Address("9.9.9.9"))
    assert str(addresses.allocate()) == "10.0.0.5"


@given(st.lists(st.one_of(st.just("take"), st.integers(1, 6)), max_size=60))
def test_never_twice(acts: list[str | int]) -> None:
    """Whatever is taken, wished for and given back, no address has two owners, and a free one is always found."""
    addresses, held = make_addresses(), set()
    for act in acts:
        if act == "take" and len(held) < 5:
            found = addresses.allocate()
            assert found not in held
            held.add(found)
        elif isinstance(act, int):
            wished = SMALL[act]
            if wished in held:
                addresses.release(wished)
                held.discard(wished)
            elif act != 1:
                addresses.reserve(wished)
                held.add(wished)


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], "172.29.0.1/16"),
        (["172.29.5.0/24"], "172.30.0.1/16"),
        (["172.16.0.0/12"], "192.168.224.1/20"),
        (["10.0.0.0/8", "172.30.0.0/16"], "172.29.0.1/16"),
    ],
)
def test_choose_network(taken: list[str], expected: str) -> None:
    """The first pool that overlaps no route is chosen, with its first address as gateway."""
    pools = ("172.29.0.0/16", "172.30.0.0/16", "192.168.224.0/20")
    assert choose_network(pools, map(IPv4Network, taken)) == IPv4Interface(expected)


def test_no_free_pool() -> None:
    """No free pool is told as dockerd tells it; a wrong one is refused."""
    with pytest.raises(Unavailable, match="all predefined address pools have been fully subnetted"):
        choose_network(("10.1.0.0/16",), [IPv4Network("10.0.0.0/8")])
    for pool in ("10.0.0.1/8", "x", "10.0.0.0/31", "::/64"):
        with pytest.raises(Invalid, match="invalid address pool"):
            choose_network((pool,), [])


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1", "10.0.0.0/24", "10.0.0.255/24", "10.0.0.1/31", "x/8", "::1/64"]
)
def test_wrong_bridge_address(text: str) -> None:
    """A bridge address without network, room or host part is refused."""
    with pytest.raises(Invalid, match="invalid bridge address"):
        parse_bridge_address(text)


def test_bridge_address() -> None:
    """A bridge address keeps its host part."""
    assert str(parse_bridge_address("10.0.3.1/16")) == "10.0.3.1/16"


def test_mac() -> None:
    """The MAC is Docker's classic one: local, individual, made of the address."""
    assert make_mac(IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"
