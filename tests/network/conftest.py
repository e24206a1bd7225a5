"""A host of our own to act on: a network namespace the test runs in, with another machine on its wire."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from cais.config import Config
from cais.linux import links, netns
from cais.linux.netlink import ROUTE, Netlink
from cais.network.base import Endpoint, EndpointRequest, PortMapping
from cais.network.networks import Networks

HOST_ADDRESS, OUTSIDE_ADDRESS = "192.0.2.2", "192.0.2.1"
PATIENCE = 5.0
"""Seconds after which something that should have come is held to be lost."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Another machine, one wire away from the host: the namespace's descriptor, and the host's MAC on the wire."""

    netns: int
    host_mac: str


@pytest.fixture
def host() -> Iterator[int]:
    """The test's own network namespace; /proc/sys/net, new sockets and new threads are inside."""
    with netns.created() as fd:
        with Netlink(ROUTE) as netlink:
            netlink.transact([links.set_up(1, "lo")])
        yield fd
    os.close(fd)


@pytest.fixture
def outside(host: int, lab: "Lab") -> Iterator[Outside]:
    """A neighbour of the host at 192.0.2.1; the host is 192.0.2.2."""
    fd = lab.connect("up0", f"{HOST_ADDRESS}/24", f"{OUTSIDE_ADDRESS}/24")
    with Netlink(ROUTE) as netlink:
        link = links.find_link(netlink, "up0")
    assert link is not None
    yield Outside(fd, link.mac)


@dataclass(frozen=True, slots=True)
class Box:
    """A container as far as the network knows it: its endpoint and its network namespace."""

    endpoint: Endpoint
    netns: int

    @property
    def address(self) -> str:
        return self.endpoint.address


class Engine:
    """Networks of one engine root and the boxes in them."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.boxes: list[Box] = []

    async def add(self, *ports: PortMapping, **wishes: str) -> Box:
        """A new box with these published ports."""
        name = f"box{len(self.boxes)}"
        request = EndpointRequest(name * 16, ports, container_name=name, **wishes)
        box = Box(*await self.networks.attach(request))
        self.boxes.append(box)
        return box

    def port(self, protocol: str, container_port: int, host_ip: str, host_port: int) -> PortMapping:
        return PortMapping(protocol, container_port, host_ip, host_port)

    async def remove(self, box: Box) -> None:
        """The box ends."""
        self.boxes.remove(box)
        os.close(box.netns)
        await self.networks.detach(box.endpoint)


@pytest.fixture
async def start_engine(host: int, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Engine]]]:
    """Starts engines, each with a root of its own; at the end all boxes and engines are gone."""
    engines: list[Engine] = []

    async def start(name: str = "one", **options: object) -> Engine:
        networks = Networks(Config(root=tmp_path / name, **{"netns_pool": 0, **options}))
        await networks.start()
        engines.append(Engine(networks))
        await networks.restore(())
        return engines[-1]

    yield start
    for engine in engines:
        for box in list(engine.boxes):
            await engine.remove(box)
        await engine.networks.stop()


@pytest.fixture
async def engine(start_engine: Callable[..., Awaitable[Engine]]) -> Engine:
    """An engine without a store of namespaces."""
    return await start_engine()


class Lab:
    """What tests do in and between namespaces; ``None`` is the host's."""

    host = HOST_ADDRESS
    outside = OUTSIDE_ADDRESS
    stream = socket.SOCK_STREAM
    datagram = socket.SOCK_DGRAM

    def tcp(self, container_port: int, host_port: int = 0, host_ip: str = "") -> PortMapping:
        return PortMapping("tcp", container_port, host_ip, host_port)

    def udp(self, container_port: int, host_port: int = 0, host_ip: str = "") -> PortMapping:
        return PortMapping("udp", container_port, host_ip, host_port)

    def open(self, place: int | None, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket in a namespace, with patience; closed at the test's end."""
        with netns.entered(place) if place is not None else nullcontext():
            made = socket.socket(socket.AF_INET, kind)
        self._sockets.append(made)
        made.settimeout(PATIENCE)
        return made

    def listen(
        self, place: int | None, port: int, kind: int = socket.SOCK_STREAM, address: str = ""
    ) -> socket.socket:
        """A server in a namespace."""
        server = self.open(place, kind)
        server.bind((address, port))
        if kind == socket.SOCK_STREAM:
            server.listen()
        return server

    def talk(self, place: int | None, server: socket.socket, address: tuple[str, int]) -> str:
        """Go to ``address`` from ``place``, be answered by ``server``; comes back with who it thinks we are."""
        client = self.open(place, server.type)
        client.connect(address)
        client.send(b"question")
        if server.type == socket.SOCK_DGRAM:
            data, peer = server.recvfrom(64)
            server.sendto(data + b"!", peer)
        else:
            connection, peer = server.accept()
            self._sockets.append(connection)
            connection.settimeout(PATIENCE)
            connection.send(connection.recv(64) + b"!")
        assert client.recv(64) == b"question!"
        return str(peer[0])

    def connect(self, name: str, here: str, there: str) -> int:
        """Another machine on a wire of its own, the interface ``name``; closed at the test's end."""
        with Netlink(ROUTE) as netlink, netns.created() as fd:
            netlink.transact([links.make_veth(links.Veth(name, 0, 1500, "eth0", "02:00:00:00:00:01", fd))])
        self._places.append(fd)
        self.configure(fd, "lo", "")
        self.configure(fd, "eth0", there)
        self.configure(None, name, here)
        return fd

    def configure(self, place: int | None, name: str, address: str, *, gateway: str = "") -> None:
        """Give an interface an address (with prefix) and a default route."""
        with netns.entered(place) if place is not None else nullcontext(), Netlink(ROUTE) as netlink:
            link = links.find_link(netlink, name)
            assert link is not None
            if address:
                value = IPv4Interface(address)
                netlink.transact([links.add_address(link.index, value.ip, value.network)])
            netlink.transact([links.set_up(link.index, name)])
            if gateway:
                netlink.transact([links.add_default_route(IPv4Address(gateway))])

    def is_reachable(self, place: int | None, address: tuple[str, int]) -> bool:
        """Whether a TCP connection comes to stand within a short while."""
        client = self.open(place)
        client.settimeout(0.2)
        return client.connect_ex(address) == 0

    def names(self) -> set[str]:
        """The interfaces of the host."""
        with Netlink(ROUTE) as netlink:
            return {link.name for link in links.list_links(netlink)}

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Come back once the condition holds; fail when it does not within ``PATIENCE``."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            await asyncio.sleep(0.01)

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._places: list[int] = []

    def close(self) -> None:
        for place in self._places:
            os.close(place)
        for each in self._sockets:
            each.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Sockets and helpers; all sockets are closed at the end."""
    made = Lab()
    yield made
    made.close()
