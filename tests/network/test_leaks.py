"""Whatever comes and goes, the host is afterwards as it was before; engines do not touch each other's."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cais.config import Config
from cais.errors import Conflict
from cais.linux import links, netns
from cais.linux.netlink import ROUTE, Netlink
from cais.network.base import EndpointRequest
from cais.network.networks import Networks

pytestmark = pytest.mark.kernel


def host_state() -> dict[str, object]:
    """Links, addresses, routes, firewall rules, sockets, forwarding and descriptors as they are."""
    with Netlink(ROUTE) as netlink:
        state: dict[str, object] = {
            "links": {link.name for link in links.list_links(netlink)},
            "addresses": set(links.list_addresses(netlink)),
            "routes": sorted(links.list_routes(netlink)),
        }
    sockets = {name: Path(f"/proc/thread-self/net/{name}").read_text() for name in ("tcp", "udp", "raw")}
    rules = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    descriptors = len(os.listdir("/proc/self/fd"))
    return (
        state
        | sockets
        | {"rules": rules, "fds": descriptors, "forward": netns.read_sysctl("ipv4/ip_forward")}
    )


async def test_life_of_an_engine(host: int, tmp_path: Path, lab: Any) -> None:
    """Start, containers with and without ports, failures, ends: nothing of it is left."""
    before = host_state()
    networks = Networks(Config(root=tmp_path, netns_pool=2))
    await networks.start()
    await networks.restore(())
    for _ in range(3):
        ports = (lab.tcp(80, 8080), lab.udp(80, 8080), lab.tcp(81, 0, "127.0.0.1"))
        made = [await networks.attach(EndpointRequest("c" * 64, ports)) for ports in (ports, ())]
        with pytest.raises(Conflict):
            await networks.attach(EndpointRequest("d" * 64, ports))
        for endpoint, fd in made:
            os.close(fd)
            await networks.detach(endpoint)
            await networks.detach(endpoint)
    await networks.stop()
    await networks.stop()
    await lab.wait_until(lambda: host_state() == before)


async def test_container_leaves_nothing_while_the_engine_runs(engine: Any, lab: Any) -> None:
    """After a container's end rules, sockets, links and descriptors are those before its start."""
    before = host_state()
    box = await engine.add(lab.tcp(80, 8080), lab.udp(53, 53, "127.0.0.1"))
    assert host_state() != before
    await engine.remove(box)
    await lab.wait_until(lambda: host_state() == before)


async def test_veth_goes_although_the_namespace_lives(
    engine: Any, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that joined a container's namespace is cut off when the container has ended."""
    monkeypatch.setattr("cais.network.bridge._SWEEP_SECONDS", 0.01)
    box = await engine.add()
    holder = os.dup(box.netns)
    await engine.remove(box)
    await lab.wait_until(lambda: box.endpoint.interface not in lab.names())
    os.close(holder)


async def test_address_is_not_reused_at_once(engine: Any) -> None:
    """The next container does not get the address that was just given back."""
    box = await engine.add()
    await engine.remove(box)
    assert (await engine.add()).address != box.address


async def test_engines_side_by_side(start_engine: Any, outside: Any, lab: Any) -> None:
    """Two engines in one host have bridges and networks of their own, and both work."""
    one, two = await start_engine("one"), await start_engine("two")
    boxes = [await one.add(lab.tcp(80, 8080)), await two.add(lab.tcp(80, 8081))]
    servers = [lab.listen(box.netns, 80) for box in boxes]
    for port, server in ((8080, servers[0]), (8081, servers[1])):
        assert lab.talk(outside.netns, server, (lab.host, port)) == lab.outside
        lab.talk(None, server, ("127.0.0.1", port))
    web = lab.listen(outside.netns, 80)
    assert {lab.talk(box.netns, web, (lab.outside, 80)) for box in boxes} == {lab.host}
    assert {"cais0", "cais1"} <= lab.names()


async def test_engines_know_only_what_is_published(start_engine: Any, lab: Any) -> None:
    """Containers of one engine reach those of another by published ports only."""
    one, two = await start_engine("one"), await start_engine("two")
    box, other = await one.add(lab.tcp(80, 8080)), await two.add()
    server = lab.listen(box.netns, 80)
    lab.talk(other.netns, server, (other.endpoint.gateway, 8080))
    assert not lab.is_reachable(other.netns, (box.address, 80))


async def test_engine_restores_only_its_own(start_engine: Any, lab: Any) -> None:
    """An engine's start, restore and end leave the other's veths and ports alone."""
    one = await start_engine("one")
    box = await one.add(lab.tcp(80, 8080))
    two = await start_engine("two")
    identity = two.networks.inspect("bridge").id
    await two.networks.stop()
    again = await start_engine("two")
    assert again.networks.inspect("bridge").id == identity
    lab.talk(None, lab.listen(box.netns, 80), ("127.0.0.1", 8080))
    with pytest.raises(Conflict, match="8080/tcp: address already in use"):
        await again.add(lab.tcp(80, 8080))


async def test_named_bridge_of_another_engine(start_engine: Any, host: int) -> None:
    """A bridge name that was chosen, and belongs to another engine, is refused."""
    await start_engine("one", bridge="quay0")
    with pytest.raises(Conflict, match="bridge quay0 belongs to another engine"):
        await start_engine("two", bridge="quay0")


async def test_bridge_somebody_made_is_kept(start_engine: Any, host: int, lab: Any) -> None:
    """A bridge that the engine did not make is used with its address, and stays when the engine ends."""
    with Netlink(ROUTE) as netlink:
        netlink.transact([links.make_bridge("br0", mtu=1400, mac="02:00:00:00:00:05")])
    lab.configure(None, "br0", "10.9.8.1/24")
    engine = await start_engine(bridge="br0", mtu=1400)
    box = await engine.add()
    assert (box.address, box.endpoint.gateway) == ("10.9.8.2", "10.9.8.1")
    await engine.remove(box)
    await engine.networks.stop()
    assert "br0" in lab.names()


async def test_link_that_is_no_bridge(start_engine: Any, outside: Any) -> None:
    """A link that is no bridge is not taken for one."""
    with pytest.raises(Conflict, match="up0 exists and is not a bridge"):
        await start_engine(bridge="up0")


async def test_new_bridge_address(start_engine: Any, host: int, tmp_path: Path) -> None:
    """A changed address in the configuration replaces the one before."""
    engine = await start_engine(bip="10.1.0.1/24")
    networks = Networks(Config(root=tmp_path / "one", bip="10.2.0.1/24", netns_pool=0))
    await networks.start()
    assert networks.inspect("bridge").subnets == (("10.2.0.0/24", "10.2.0.1"),)
    with Netlink(ROUTE) as netlink:
        assert "10.1.0.1" not in {str(address) for address, _ in links.list_addresses(netlink)}
    await networks.stop()
    assert engine.boxes == []
