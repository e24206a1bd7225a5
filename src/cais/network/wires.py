"""The thread on which one bridge's links are changed, and its netlink sockets."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import ParamSpec, TypeVar

from cais.config import Config
from cais.linux import links
from cais.linux.netlink import NETFILTER, ROUTE, Netlink
from cais.network import wiring
from cais.network.base import PortMapping
from cais.network.firewall import PROTOCOLS
from cais.network.pool import Ready

P = ParamSpec("P")
T = TypeVar("T")


class Wires:
    """What ``wiring`` does, awaitable, one act after the other. The thread is in the network namespace of whoever
    called ``open`` first: threads inherit it."""

    def __init__(self) -> None:
        self._resources = ExitStack()
        self._thread = self._resources.enter_context(ThreadPoolExecutor(1, "network"))
        self._mtu = 0
        self._hairpin = False
        self._route: Netlink
        self._tracking: Netlink
        self.bridge: wiring.Bridge

    async def open(self, config: Config, network_id: str) -> None:
        """Find or make the bridge. What was opened is closed by ``close`` even after a failure."""
        self._mtu = config.mtu
        self._route = self._resources.enter_context(await self.run(Netlink, ROUTE))
        self._tracking = self._resources.enter_context(await self.run(Netlink, NETFILTER))
        self.bridge = await self.run(wiring.ensure_bridge, self._route, config, network_id)
        self._hairpin = await self.run(wiring.is_bridge_filtered)

    async def build(self, name: str, address: IPv4Address, mac: str) -> Ready:
        """See ``wiring.build_endpoint``."""
        plug = wiring.Plug(self.bridge, self._mtu, name, address, mac, self._hairpin)
        netns = await self.run(wiring.build_endpoint, self._route, plug)
        return Ready(netns, address, mac, name)

    async def list_ports(self) -> set[str]:
        """See ``wiring.list_ports``."""
        return await self.run(wiring.list_ports, self._route, self.bridge)

    async def delete_ports(self, names: Iterable[str]) -> None:
        """See ``wiring.delete_ports``."""
        await self.run(wiring.delete_ports, self._route, self.bridge, names)

    async def delete_bridge(self) -> None:
        """See ``wiring.delete_bridge``."""
        await self.run(wiring.delete_bridge, self._route, self.bridge)

    async def find_counters(self, name: str) -> links.Counters | None:
        """See ``links.find_counters``."""
        return await self.run(links.find_counters, self._route, name)

    async def forget_flows(self, ports: Iterable[PortMapping]) -> None:
        """See ``wiring.forget_flows``. Only UDP needs it: other protocols' connections end with the container."""
        numbers = {port.host_port for port in ports if port.protocol == "udp"}
        if numbers:
            await self.run(wiring.forget_flows, self._tracking, PROTOCOLS["udp"], numbers)

    async def run(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """One act on the thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(*args, **options))

    def close(self) -> None:
        """Idempotent. Waits for the act under way."""
        self._resources.close()
