"""What listens on the host's loopback only stays out of reach, and the host becomes nobody's router."""

import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cais.linux import links, netns, nft
from cais.linux.netlink import NETFILTER, ROUTE, Netlink
from cais.network.firewall import GUARD

pytestmark = pytest.mark.kernel


def send_datagram(place: int, mac: str, source: tuple[str, int], target: tuple[str, int]) -> None:
    """Put a UDP packet with any addresses on the wire of ``eth0``, as a process with CAP_NET_RAW can."""
    data = b"intruder"
    udp = struct.pack(">HHHH", source[1], target[1], 8 + len(data), 0) + data
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0)
    head += socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    total = sum(struct.unpack(">10H", head))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    packet = head[:10] + struct.pack(">H", checksum) + head[12:] + udp
    with netns.entered(place):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    with raw:
        raw.sendto(packet, ("eth0", 0x0800, 0, 1, bytes.fromhex(mac.replace(":", ""))))


def received(server: socket.socket, settle: Callable[[], object]) -> list[bytes]:
    """What ``server`` has got once ``settle``, whose packets take the same way, is through."""
    settle()
    server.setblocking(False)
    got = []
    while True:
        try:
            got.append(server.recv(64))
        except BlockingIOError:
            return got


def bridge_mac(name: str = "cais0") -> str:
    with Netlink(ROUTE) as netlink:
        link = links.find_link(netlink, name)
    assert link is not None
    return link.mac


@pytest.mark.parametrize("target", ["127.0.0.1", "127.0.0.7"])
async def test_loopback_is_closed_to_containers(engine: Any, lab: Any, target: str) -> None:
    """A container's packet to the host's 127.0.0.0/8 is dropped although the bridge routes it (CVE-2020-8558)."""
    box = await engine.add()
    server = lab.listen(None, 5000, lab.datagram, target)
    mark = lab.listen(None, 5001, lab.datagram, box.endpoint.gateway)
    send_datagram(box.netns, bridge_mac(), (box.address, 5000), (target, 5000))
    assert received(server, lambda: lab.talk(box.netns, mark, (box.endpoint.gateway, 5001))) == []


async def test_the_guard_is_what_closes_it(engine: Any, lab: Any) -> None:
    """Without the firewall's table the same packet arrives: the test above sees what it should."""
    box = await engine.add()
    server = lab.listen(None, 5000, lab.datagram, "127.0.0.1")
    with Netlink(NETFILTER) as netlink:
        nft.commit(netlink, [nft.delete_table(nft.Table(nft.IP, "cais_cais0"))])
    send_datagram(box.netns, bridge_mac(), (box.address, 5000), ("127.0.0.1", 5000))
    assert server.recv(64) == b"intruder"


async def test_loopback_source_is_refused(engine: Any, lab: Any) -> None:
    """A container cannot pass for a process of the host by sending from 127.0.0.0/8."""
    box = await engine.add()
    server = lab.listen(None, 5000, lab.datagram, box.endpoint.gateway)
    mark = lab.listen(None, 5001, lab.datagram, box.endpoint.gateway)
    send_datagram(box.netns, bridge_mac(), ("127.0.0.2", 5000), (box.endpoint.gateway, 5000))
    assert received(server, lambda: lab.talk(box.netns, mark, (box.endpoint.gateway, 5001))) == []


async def test_loopback_port_is_closed_to_neighbours(engine: Any, outside: Any, lab: Any) -> None:
    """Another machine cannot get at a port published on 127.0.0.1 by sending to that address."""
    box = await engine.add(lab.udp(53, 5353, "127.0.0.1"), lab.udp(54, 5354))
    server, mark = (lab.listen(box.netns, port, lab.datagram) for port in (53, 54))
    send_datagram(outside.netns, outside.host_mac, (lab.outside, 5000), ("127.0.0.1", 5353))
    assert received(server, lambda: lab.talk(outside.netns, mark, (lab.host, 5354))) == []


async def test_host_does_not_route_for_others(engine: Any, outside: Any, lab: Any) -> None:
    """Forwarding that the engine turned on serves its bridge only."""
    third = lab.connect("up1", "198.51.100.1/24", "198.51.100.2/24")
    lab.configure(third, "eth0", "", gateway="198.51.100.1")
    lab.configure(outside.netns, "eth0", "", gateway=lab.host)
    lab.listen(third, 80)
    assert netns.read_sysctl("ipv4/ip_forward") == "1"
    assert not lab.is_reachable(outside.netns, ("198.51.100.2", 80))
    with Netlink(NETFILTER) as netlink:
        nft.commit(netlink, [nft.delete_table(GUARD)])
    assert lab.is_reachable(outside.netns, ("198.51.100.2", 80))


async def test_forwarding_goes_back(start_engine: Any, host: int) -> None:
    """The last engine that ends without containers leaves forwarding as the first one found it."""
    one, two = await start_engine("one"), await start_engine("two")
    await one.networks.stop()
    assert netns.read_sysctl("ipv4/ip_forward") == "1"
    await two.networks.stop()
    assert netns.read_sysctl("ipv4/ip_forward") == "0"


async def test_forwarding_that_was_on_stays_on(start_engine: Any, host: int) -> None:
    """Where the host forwards already, the engine neither guards that nor turns it off."""
    netns.write_sysctl("ipv4/ip_forward", "1")
    engine = await start_engine()
    with Netlink(NETFILTER) as netlink:
        assert not nft.has_table(netlink, GUARD)
    await engine.networks.stop()
    assert netns.read_sysctl("ipv4/ip_forward") == "1"


async def test_foreign_drop_is_reported(start_engine: Any, host: int) -> None:
    """Another firewall that drops forwarded packets by default is named in a warning."""
    table = nft.Table(nft.IP, "filter")
    chain = nft.Chain(table, "FORWARD", "filter", nft.FORWARD, 0, nft.DROP)
    with Netlink(NETFILTER) as netlink:
        nft.commit(netlink, [nft.new_table(table), nft.new_chain(chain)])
    engine = await start_engine()
    assert any("chain FORWARD of the nft table filter" in text for text in engine.networks.warnings)


async def test_flushed_rules_come_back(engine: Any, outside: Any, lab: Any) -> None:
    """After somebody's ``nft flush ruleset`` the next published port brings back all of them."""
    first = await engine.add(lab.tcp(80, 8080))
    with Netlink(NETFILTER) as netlink:
        nft.commit(netlink, [nft.delete_table(nft.Table(nft.IP, "cais_cais0"))])
    assert await engine.networks.find_leaks() == [
        "ports: the map is missing",
        "ports_of_address: the map is missing",
    ]
    await engine.add(lab.tcp(80, 8081))
    server = lab.listen(first.netns, 80)
    assert lab.talk(outside.netns, server, (lab.host, 8080)) == lab.outside


async def test_firewall_turned_off(start_engine: Any, lab: Any, tmp_path: Path) -> None:
    """Without firewall no table is made, loopback stays closed, and a published port is refused with the reason."""
    engine = await start_engine(firewall=False)
    with Netlink(NETFILTER) as netlink:
        assert nft.list_chains(netlink, nft.IP) == []
    assert netns.read_sysctl("ipv4/conf/cais0/route_localnet") == "0"
    with pytest.raises(Exception, match="firewall is turned off"):
        await engine.add(lab.tcp(80, 8080))
