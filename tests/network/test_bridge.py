"""Containers on the bridge reach out, are reached where they publish, and nowhere else."""

from typing import Any

import pytest

from cais.linux import links, netns
from cais.linux.netlink import ROUTE, Netlink

pytestmark = pytest.mark.kernel


async def test_container_reaches_outside_by_nat(engine: Any, outside: Any, lab: Any) -> None:
    """Another machine sees a container's connection coming from the host."""
    box = await engine.add()
    server = lab.listen(outside.netns, 7000)
    assert lab.talk(box.netns, server, (lab.outside, 7000)) == lab.host


@pytest.mark.parametrize("kind", ["tcp", "udp"])
async def test_outside_reaches_published_port(engine: Any, outside: Any, lab: Any, kind: str) -> None:
    """A published port is open to other machines, and the container sees who they are."""
    box = await engine.add(getattr(lab, kind)(80, 8080))
    server = lab.listen(box.netns, 80, lab.stream if kind == "tcp" else lab.datagram)
    assert lab.talk(outside.netns, server, (lab.host, 8080)) == lab.outside


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3"])
async def test_host_reaches_published_port_by_loopback(
    engine: Any, lab: Any, kind: str, address: str
) -> None:
    """A published port is open on the host's own loopback; the container sees the bridge."""
    box = await engine.add(getattr(lab, kind)(80, 8080))
    server = lab.listen(box.netns, 80, lab.stream if kind == "tcp" else lab.datagram)
    assert lab.talk(None, server, (address, 8080)) == box.endpoint.gateway


@pytest.mark.parametrize("kind", ["tcp", "udp"])
async def test_container_reaches_itself_by_the_host(engine: Any, outside: Any, lab: Any, kind: str) -> None:
    """A container may use its own published port, by the host's address and by the gateway's."""
    box = await engine.add(getattr(lab, kind)(80, 8080))
    server = lab.listen(box.netns, 80, lab.stream if kind == "tcp" else lab.datagram)
    assert lab.talk(box.netns, server, (lab.host, 8080)) == box.endpoint.gateway
    assert lab.talk(box.netns, server, (box.endpoint.gateway, 8080)) == box.endpoint.gateway


@pytest.mark.parametrize("kind", ["tcp", "udp"])
async def test_container_reaches_another_by_the_host(engine: Any, outside: Any, lab: Any, kind: str) -> None:
    """A container may use another one's published port."""
    box, other = await engine.add(getattr(lab, kind)(80, 8080)), await engine.add()
    server = lab.listen(box.netns, 80, lab.stream if kind == "tcp" else lab.datagram)
    assert lab.talk(other.netns, server, (lab.host, 8080)) == box.endpoint.gateway


async def test_container_reaches_another_directly(engine: Any, lab: Any) -> None:
    """Neighbours on the bridge reach each other's ports and see each other's addresses."""
    box, other = await engine.add(), await engine.add()
    server = lab.listen(box.netns, 80)
    assert lab.talk(other.netns, server, (box.address, 80)) == other.address


async def test_port_of_one_address(engine: Any, outside: Any, lab: Any) -> None:
    """A port published on 127.0.0.1 is open there and nowhere else."""
    box = await engine.add(lab.tcp(80, 8080, "127.0.0.1"))
    server = lab.listen(box.netns, 80)
    assert lab.talk(None, server, ("127.0.0.1", 8080)) == box.endpoint.gateway
    assert not lab.is_reachable(outside.netns, (lab.host, 8080))


async def test_unpublished_port_is_closed_to_a_router(engine: Any, outside: Any, lab: Any) -> None:
    """A machine that routes to the containers' network gets at what is published through the host, no more."""
    box = await engine.add(lab.tcp(80, 8080))
    lab.listen(box.netns, 80)
    lab.configure(outside.netns, "eth0", "", gateway=lab.host)
    assert lab.is_reachable(outside.netns, (lab.host, 8080))
    assert not lab.is_reachable(outside.netns, (box.address, 80))


async def test_inside(engine: Any) -> None:
    """A container has loopback, one interface with the endpoint's address and MAC, a default route and no IPv6."""
    box = await engine.add()
    with netns.entered(box.netns), Netlink(ROUTE) as netlink:
        link = links.find_link(netlink, "eth0")
        assert link is not None
        assert link.up
        assert (link.mac, link.mtu) == (box.endpoint.mac, 1500)
        assert {each.name for each in links.list_links(netlink)} >= {"lo", "eth0"}
        assert [str(a) for a, _ in links.list_addresses(netlink, link.index)] == [box.address]
        assert netns.read_sysctl("ipv6/conf/eth0/disable_ipv6") == "1"
        assert netns.read_sysctl("ipv4/ip_unprivileged_port_start") == "0"
        assert netns.read_sysctl("ipv4/ping_group_range").split() == ["0", "2147483647"]


async def test_wished_address_and_mac(engine: Any) -> None:
    """A container gets the address and MAC it asks for."""
    box = await engine.add(address="172.29.7.7", mac="02-42-00-00-00-07")
    assert (box.address, box.endpoint.mac) == ("172.29.7.7", "02:42:00:00:00:07")


async def test_counters(engine: Any, lab: Any) -> None:
    """What a container receives is counted at the host's end as sent."""
    box, other = await engine.add(), await engine.add()
    lab.talk(other.netns, lab.listen(box.netns, 80), (box.address, 80))
    counters = await engine.networks.find_counters(box.endpoint)
    assert counters.tx_packets >= 3
    assert counters.rx_bytes > 0
