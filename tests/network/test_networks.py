"""Networks by name and id, as ``network ls`` and ``network inspect`` show them."""

import os
from pathlib import Path
from typing import Any

import pytest

from cais.config import Config
from cais.errors import Invalid, NotFound, Unavailable
from cais.linux import links, netns, nft
from cais.linux.netlink import NETFILTER, ROUTE, Netlink
from cais.network.base import EndpointRequest
from cais.network.networks import Networks
from cais.network.pool import PoolCounts

pytestmark = pytest.mark.kernel


async def test_list(engine: Any) -> None:
    """The three predefined networks have Docker's names, drivers and scope."""
    shown = [(info.name, info.driver, info.scope) for info in engine.networks.list()]
    assert shown == [("bridge", "bridge", "local"), ("host", "host", "local"), ("none", "null", "local")]


async def test_inspect(engine: Any) -> None:
    """A network is found by name, id and unique start of its id, with its containers."""
    box = await engine.add()
    info = engine.networks.inspect("bridge")
    assert info == engine.networks.inspect(info.id) == engine.networks.inspect(info.id[:12])
    assert info.subnets == (("172.29.0.0/16", "172.29.0.1"),)
    assert info.options["com.docker.network.bridge.name"] == "cais0"
    assert info.endpoints == (box.endpoint,)


@pytest.mark.parametrize(("name", "error"), [("nope", NotFound), ("", NotFound)])
async def test_inspect_unknown(engine: Any, name: str, error: type[Exception]) -> None:
    """A name of no network is refused in dockerd's words."""
    with pytest.raises(error, match=f"network {name} not found"):
        engine.networks.inspect(name)


async def test_ids_stay(start_engine: Any) -> None:
    """A network's id and age survive the engine."""
    first = await start_engine()
    before = [(info.id, info.created) for info in first.networks.list()]
    await first.networks.stop()
    second = await start_engine()
    assert [(info.id, info.created) for info in second.networks.list()] == before


@pytest.mark.parametrize("name", ["host", "none"])
async def test_plain_networks(engine: Any, name: str) -> None:
    """An endpoint of ``host`` and ``none`` has no namespace of ours and is listed until it is detached."""
    endpoint, fd = await engine.networks.attach(EndpointRequest("c" * 64, network=name))
    assert fd == -1
    assert engine.networks.inspect(name).endpoints == (endpoint,)
    await engine.networks.detach(endpoint)
    assert engine.networks.inspect(name).endpoints == ()
    with pytest.raises(Invalid, match="conflicting options"):
        await engine.networks.attach(EndpointRequest("c" * 64, network=name, address="10.0.0.1"))


async def test_default_is_bridge(engine: Any) -> None:
    """The network ``default`` is ``bridge``; an unknown one is refused."""
    assert (await engine.add(network="default")).endpoint.network == "bridge"
    with pytest.raises(NotFound, match="network blue not found"):
        await engine.add(network="blue")


@pytest.mark.parametrize(
    "wish",
    [
        {"address": "10.0.0.1"},
        {"address": "172.29"},
        {"mac": "01:00:00:00:00:01"},
        {"mac": "zz"},
        {"mac": "0:0:0:0:0:0"},
    ],
)
async def test_wrong_wish(engine: Any, wish: dict[str, str]) -> None:
    """An address outside the network and a MAC that no interface may have are refused."""
    with pytest.raises(Invalid):
        await engine.add(**wish)


async def test_store(start_engine: Any, lab: Any) -> None:
    """Namespaces wait in store with addresses of their own; hits and misses are counted."""
    engine = await start_engine(netns_pool=2)
    await lab.wait_until(lambda: engine.networks.pool_counts.ready == 2)
    boxes = [await engine.add() for _ in range(3)]
    assert engine.networks.pool_counts == PoolCounts(0, 2, 1)
    assert len({box.address for box in boxes}) == 3
    await lab.wait_until(lambda: engine.networks.pool_counts.ready == 2)
    lab.talk(boxes[0].netns, lab.listen(boxes[2].netns, 80), (boxes[2].address, 80))


async def test_leaks_are_found(start_engine: Any, lab: Any) -> None:
    """Containers and store count as no leak; a foreign veth on the bridge and a lost rule do."""
    engine = await start_engine(netns_pool=1)
    await engine.add(lab.tcp(80, 8080))
    await lab.wait_until(lambda: engine.networks.pool_counts.ready == 1)
    assert await engine.networks.find_leaks() == []
    with Netlink(ROUTE) as route, Netlink(NETFILTER) as netlink, netns.created() as fd:
        bridge = links.find_link(route, "cais0")
        assert bridge is not None
        veth = links.Veth("stray0", bridge.index, 1500, "eth0", "02:00:00:00:00:09", fd)
        route.transact([links.make_veth(veth)])
        table = nft.Table(nft.IP, "cais_cais0")
        ports = nft.Set(table, "ports", (nft.Type.PROTOCOL, nft.Type.PORT))
        nft.commit(netlink, nft.delete_elements(ports, nft.list_elements(netlink, ports)))
    leaks = await engine.networks.find_leaks()
    os.close(fd)
    assert leaks == ["interface stray0", "ports: 060000001f900000 is missing"]


async def test_store_yields_wished_address(start_engine: Any, lab: Any) -> None:
    """An address that only waits in store is given to whoever asks for it."""
    engine = await start_engine(netns_pool=1)
    await lab.wait_until(lambda: engine.networks.pool_counts.ready == 1)
    assert (await engine.add(address="172.29.0.2")).address == "172.29.0.2"
    assert (await engine.add()).address != "172.29.0.2"


async def test_full_network(start_engine: Any) -> None:
    """When all addresses are in use the next container is refused, until one is given back."""
    engine = await start_engine(bip="10.1.0.1/29")
    boxes = [await engine.add() for _ in range(5)]
    with pytest.raises(Unavailable, match="no available IPv4 addresses"):
        await engine.add()
    await engine.remove(boxes[3])
    assert (await engine.add()).address == boxes[3].address


async def test_before_start(tmp_path: Path) -> None:
    """Networks that were not started refuse endpoints."""
    with pytest.raises(Unavailable):
        await Networks(Config(root=tmp_path)).attach(EndpointRequest("c" * 64))


async def test_descriptor_belongs_to_the_caller(engine: Any) -> None:
    """The namespace's descriptor is open, and not inherited by programs the engine starts."""
    box = await engine.add()
    assert not os.get_inheritable(box.netns)
