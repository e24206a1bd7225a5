"""An engine that was killed leaves its containers connected; the next one keeps them and removes the rest."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cais.config import Config
from cais.errors import Conflict
from cais.linux import nft
from cais.linux.netlink import NETFILTER, Netlink
from cais.network.base import Endpoint, EndpointRequest
from cais.network.networks import Networks

pytestmark = pytest.mark.kernel

ENGINE = """
import asyncio, socket, sys
from pathlib import Path
import msgspec
from cais.config import Config
from cais.network.base import EndpointRequest, PortMapping
from cais.network.networks import Networks

async def main():
    channel = socket.socket(fileno=int(sys.argv[2]))
    networks = Networks(Config(root=Path(sys.argv[1]), netns_pool=3))
    await networks.start()
    await networks.restore(())
    for port in 8080, 8081:
        ports = (PortMapping("tcp", 80, "", port), PortMapping("udp", 80, "127.0.0.1", port))
        endpoint, netns = await networks.attach(EndpointRequest("c" * 64, ports))
        socket.send_fds(channel, [msgspec.json.encode(endpoint)], [netns])
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Killed:
    """What two containers of an engine that was killed hold on to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.endpoints: list[Endpoint] = []
        self.netns: list[int] = []
        command = [sys.executable, "-c", ENGINE, str(root), str(theirs.fileno())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with ours, theirs:
            engine = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
            theirs.close()
            for _ in range(2):
                data, fds, _, _ = socket.recv_fds(ours, 4096, 1)
                self.endpoints.append(msgspec.json.decode(data, type=Endpoint))
                self.netns.extend(fds)
            engine.send_signal(signal.SIGKILL)
            engine.wait()

    def networks(self) -> Networks:
        return Networks(Config(root=self.root, netns_pool=0))


@pytest.fixture
def killed(host: int, tmp_path: Path) -> Iterator[Killed]:
    """An engine killed with two containers running, which publish 8080 and 8081."""
    made = Killed(tmp_path / "root")
    yield made
    for fd in made.netns:
        os.close(fd)


def elements() -> int:
    """How many published ports the kernel knows."""
    table = nft.Table(nft.IP, "cais_cais0")
    kind = nft.Type
    with Netlink(NETFILTER) as netlink:
        return sum(
            len(nft.list_elements(netlink, nft.Set(table, name, (kind.PORT,))))
            for name in ("ports", "ports_of_address")
        )


async def test_containers_stay_connected(killed: Killed, lab: Any) -> None:
    """No engine, a new engine, a restored one: the live container's port leads to it all the time."""
    server = lab.listen(killed.netns[0], 80)
    lab.talk(None, server, ("127.0.0.1", 8080))
    networks = killed.networks()
    await networks.start()
    lab.talk(None, server, ("127.0.0.1", 8080))
    await networks.restore(killed.endpoints[:1])
    lab.talk(None, server, ("127.0.0.1", 8080))
    await networks.detach(killed.endpoints[0])
    await networks.stop()


async def test_ports_and_addresses_stay_taken(killed: Killed, lab: Any) -> None:
    """After a restore the live container's port and address are refused to others, and counted in ``inspect``."""
    networks = killed.networks()
    await networks.start()
    await networks.restore(killed.endpoints)
    with pytest.raises(Conflict, match="8080 failed: port is already allocated"):
        await networks.attach(EndpointRequest("d" * 64, (lab.tcp(80, 8080),)))
    with pytest.raises(Conflict, match="address already in use"):
        await networks.attach(EndpointRequest("d" * 64, address=killed.endpoints[0].address))
    assert set(networks.inspect("bridge").endpoints) == set(killed.endpoints)
    for endpoint in killed.endpoints:
        await networks.detach(endpoint)
    await networks.stop()


async def test_the_dead_are_removed(killed: Killed, lab: Any) -> None:
    """Veths and rules of containers that no longer run, and of the old engine's store, are gone after a restore."""
    assert elements() == 4
    networks = killed.networks()
    await networks.start()
    await networks.restore(killed.endpoints[1:])
    assert elements() == 2
    assert {name for name in lab.names() if name.startswith("veth")} == {killed.endpoints[1].interface}
    await networks.detach(killed.endpoints[1])
    await networks.stop()
    assert lab.names() == {"lo"}


async def test_engine_ends_before_its_containers(killed: Killed, lab: Any) -> None:
    """An engine that stops with a container running leaves the bridge and the container's port."""
    networks = killed.networks()
    await networks.start()
    await networks.restore(killed.endpoints[:1])
    await networks.stop()
    server = lab.listen(killed.netns[0], 80)
    lab.talk(None, server, ("127.0.0.1", 8080))


async def test_port_lost_meanwhile_is_reported(killed: Killed, lab: Any) -> None:
    """A program that took a container's port while no engine held it is named in a warning; the container stays."""
    rival = lab.listen(None, 8080)
    networks = killed.networks()
    await networks.start()
    await networks.restore(killed.endpoints)
    assert any("8080/tcp: address already in use" in text for text in networks.warnings)
    rival.close()
    for endpoint in killed.endpoints:
        await networks.detach(endpoint)
    await networks.stop()


async def test_engine_that_fails_early_harms_nobody(killed: Killed, lab: Any) -> None:
    """An engine that ends before it has learnt which containers live leaves them connected."""
    networks = killed.networks()
    await networks.start()
    await networks.stop()
    lab.talk(None, lab.listen(killed.netns[0], 80), ("127.0.0.1", 8080))
