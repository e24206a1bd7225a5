"""Links, addresses and routes are made, listed and removed."""

import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.linux import links, netns
from cais.linux.netlink import ROUTE, Netlink

NETWORK = IPv4Network("10.0.0.0/24")
GATEWAY = IPv4Address("10.0.0.1")


@pytest.fixture
def route() -> Iterator[Netlink]:
    """A socket in a network namespace of the test's own, in which the test runs."""
    with netns.created() as fd:
        with Netlink(ROUTE) as netlink:
            yield netlink
        os.close(fd)


def make_bridge(route: Netlink) -> links.Link:
    route.transact([links.make_bridge("br0", mtu=1400, mac="02:00:00:00:00:01")])
    link = links.find_link(route, "br0")
    assert link is not None
    return link


def plug(route: Netlink, bridge: links.Link, name: str) -> int:
    with netns.created() as fd:
        veth = links.Veth(name, bridge.index, 1400, "eth0", "02:00:00:00:00:02", fd)
        route.transact([links.make_veth(veth)])
    return fd


@pytest.mark.kernel
def test_bridge(route: Netlink) -> None:
    """A bridge has the name, MAC and MTU it was made with, and is down."""
    link = make_bridge(route)
    assert (link.kind, link.mac, link.mtu, link.up) == ("bridge", "02:00:00:00:00:01", 1400, False)
    with pytest.raises(FileExistsError, match="br0"):
        route.transact([links.make_bridge("br0", mtu=1400, mac="02:00:00:00:00:01")])


@pytest.mark.kernel
def test_veth(route: Netlink) -> None:
    """A veth's ends are where they belong at once: one up on the bridge, one in the other namespace."""
    bridge = make_bridge(route)
    fd = plug(route, bridge, "port0")
    (port,) = links.list_links(route, master=bridge.index)
    assert (port.name, port.kind, port.up, port.mtu) == ("port0", "veth", True, 1400)
    with netns.entered(fd), Netlink(ROUTE) as inner:
        inside = links.find_link(inner, "eth0")
        assert inside is not None
        assert (inside.mac, inside.mtu, inside.up) == ("02:00:00:00:00:02", 1400, False)
    os.close(fd)


@pytest.mark.kernel
def test_address_and_routes(route: Netlink) -> None:
    """An address brings its network's route; the default route is not listed as a destination."""
    bridge = make_bridge(route)
    route.transact(
        [
            links.add_address(bridge.index, GATEWAY, NETWORK),
            links.set_up(bridge.index, "br0"),
            links.add_default_route(IPv4Address("10.0.0.9")),
        ]
    )
    assert links.list_addresses(route, bridge.index) == [(GATEWAY, NETWORK)]
    assert NETWORK in links.list_routes(route)
    assert all(each.prefixlen for each in links.list_routes(route))
    route.transact([links.delete_address(bridge.index, GATEWAY, NETWORK)])
    assert links.list_addresses(route, bridge.index) == []
    assert links.list_routes(route) == []


@pytest.mark.kernel
def test_delete(route: Netlink) -> None:
    """A removed link is gone, with the other end; removing it again is refused by name."""
    bridge = make_bridge(route)
    fd = plug(route, bridge, "port0")
    route.transact([links.delete_link("port0")])
    assert links.find_link(route, "port0") is None
    with netns.entered(fd), Netlink(ROUTE) as inner:
        assert links.find_link(inner, "eth0") is None
    with pytest.raises(OSError, match="port0"):
        route.transact([links.delete_link("port0")])
    os.close(fd)


@pytest.mark.kernel
def test_changes(route: Netlink) -> None:
    """MTU, state and hairpin mode of a link can be changed."""
    bridge = make_bridge(route)
    fd = plug(route, bridge, "port0")
    changes = [links.set_mtu(bridge.index, 1300, "br0"), links.set_up(bridge.index, "br0")]
    route.transact([*changes, links.set_hairpin("port0")])
    changed = links.find_link(route, "br0")
    assert changed is not None
    assert (changed.mtu, changed.up) == (1300, True)
    os.close(fd)


@pytest.mark.kernel
def test_list_all(route: Netlink) -> None:
    """Without a master all links are listed; of an unknown master, none."""
    make_bridge(route)
    assert {"lo", "br0"} <= {link.name for link in links.list_links(route)}
    assert links.list_links(route, master=999) == []


@pytest.mark.kernel
def test_counters(route: Netlink) -> None:
    """A fresh link has counted nothing; an unknown one has no counters."""
    make_bridge(route)
    assert links.find_counters(route, "br0") == links.Counters(0, 0, 0, 0, 0, 0, 0, 0)
    assert links.find_counters(route, "br1") is None


@given(st.binary(min_size=6, max_size=6).filter(lambda data: not data[0] & 1 and any(data)))
def test_mac_comes_back(data: bytes) -> None:
    """A MAC is read in every way it is written."""
    assert links.parse_mac(data.hex(":")) == data.hex(":")
    assert links.parse_mac(data.hex("-").upper()) == data.hex(":")


@pytest.mark.parametrize(
    "text", ["", "02:00", "01:00:00:00:00:00", "00:00:00:00:00:00", "02:00:00:00:00:zz", "2" * 12]
)
def test_wrong_mac(text: str) -> None:
    """What no interface may have for a MAC is refused."""
    with pytest.raises(ValueError, match="not a MAC address"):
        links.parse_mac(text)
