"""The bridge network: endpoints on a bridge of the host, outgoing NAT, published ports."""

import asyncio
import logging
import os
import secrets
from collections.abc import Iterable
from contextlib import ExitStack
from ipaddress import AddressValueError, IPv4Address

from cais.config import Config
from cais.errors import CaisError, Conflict, Invalid, Unsupported
from cais.linux import links
from cais.linux.netlink import NETFILTER, Netlink
from cais.network import wiring
from cais.network.base import Endpoint, EndpointRequest, Identity, NetworkInfo, PortMapping
from cais.network.ipam import Addresses, make_mac
from cais.network.pool import Pool, PoolCounts, Ready
from cais.network.ports import Ports, check_ports
from cais.network.rules import Rules
from cais.network.wires import Wires

_SWEEP_SECONDS = 2.0
"""A veth ends with its namespace; one that outlives it by one to two sweeps (a process that joined the
namespace) is removed."""

_log = logging.getLogger(__name__)


class Bridge:
    """The predefined network ``bridge``, made by ``open_bridge_network``."""

    def __init__(self, config: Config, identity: Identity, wires: Wires, rules: Rules | None) -> None:
        interface = wires.bridge.interface
        self._config = config
        self._identity = identity
        self._wires = wires
        self._rules = rules
        self._addresses = Addresses(interface.network, interface.ip)
        self._ports = Ports()
        self._pool = Pool(config.netns_pool, self._build_next, self._discard)
        self._live: dict[str, Endpoint] = {}
        # Every veth of ours is in one of the two, from before it is made until it is seen to be gone.
        self._interfaces: set[str] = set()
        self._doomed: set[str] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._restored = False
        self._closed = False
        self.warnings: list[str] = []

    async def attach(self, request: EndpointRequest) -> tuple[Endpoint, int]:
        """See ``Driver.attach``. Without a wish for an address or MAC from the pool: then no link is
        touched."""
        address, mac = self._check(request)
        endpoint_id = secrets.token_hex(32)
        with ExitStack() as undo:
            ports = self._reserve_ports(request, endpoint_id)
            undo.callback(self._ports.release, ports)
            ready = await (self._build_special(address, mac) if address or mac else self._pool.take())
            undo.callback(self._discard, ready)
            endpoint = self._make_endpoint(request, endpoint_id, ports, ready)
            self._live[endpoint_id] = endpoint
            undo.callback(self._live.pop, endpoint_id, None)
            if self._rules:
                undo.callback(self._rules.withdraw, endpoint)
                self._rules.publish(endpoint)
            await self._wires.forget_flows(ports)
            undo.pop_all()
        return endpoint, ready.netns

    async def detach(self, endpoint: Endpoint) -> None:
        """See ``Driver.detach``."""
        if self._live.pop(endpoint.endpoint_id, None) is None:
            return
        if self._rules:
            # Before the socket is closed: else another program could take a port that still leads to the
            # container.
            self._rules.withdraw(endpoint)
        self._ports.release(endpoint.ports)
        self._doom(endpoint.interface)
        try:
            await self._wires.forget_flows(endpoint.ports)
        finally:
            # Last: until its connections are forgotten the address must not get a new owner.
            self._addresses.release(IPv4Address(endpoint.address))

    async def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """See ``Driver.restore``. The pool is filled only from here on: before, it could take a live
        address."""
        for endpoint in endpoints:
            self._adopt(endpoint)
        if self._rules:
            self._rules.restore(self._live.values())
        there = await self._wires.list_ports()
        await self._wires.delete_ports(there - self._interfaces - self._doomed)
        self._restored = True
        self._pool.fill()

    async def stop(self) -> None:
        """Pool drained; with no endpoint left bridge and rules go too, and forwarding is as we found it."""
        if self._closed:
            return
        self._closed = True
        await self._pool.drain()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._wires.delete_ports(set(self._doomed))
        self._ports.release([port for endpoint in self._live.values() for port in endpoint.ports])
        # An engine that fails before ``restore`` does not know yet who lives.
        if self._restored and not self._live:
            await self._dismantle()
        if self._rules:
            self._rules.close()
        self._wires.close()

    def info(self) -> NetworkInfo:
        """Docker's values for its default bridge."""
        bridge = self._wires.bridge
        options = {
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": "true",
            "com.docker.network.bridge.enable_ip_masquerade": "true" if self._config.nat else "false",
            "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
            "com.docker.network.bridge.name": bridge.name,
            "com.docker.network.driver.mtu": str(self._config.mtu),
        }
        return NetworkInfo(
            name="bridge",
            id=self._identity.id,
            created=self._identity.created,
            driver="bridge",
            subnets=((str(bridge.interface.network), str(bridge.interface.ip)),),
            options=options,
            endpoints=tuple(self._live.values()),
        )

    async def find_counters(self, endpoint: Endpoint) -> links.Counters | None:
        """Traffic of an endpoint as the host's end of the veth counts it; ``None`` when it has gone."""
        return await self._wires.find_counters(endpoint.interface)

    async def find_leaks(self) -> list[str]:
        """Interfaces on the bridge and published ports that belong to no endpoint."""
        there = await self._wires.list_ports()
        # Known of after the look: what was made meanwhile has been heard of by now.
        strays = sorted(there - self._interfaces - self._doomed)
        ports = self._rules.list_strays() if self._rules else []
        return [f"interface {name}" for name in strays] + ports

    @property
    def pool_counts(self) -> PoolCounts:
        """How well the store of ready-made namespaces serves; wished addresses and MACs never come from
        it."""
        return self._pool.counts()

    async def protect(self) -> None:
        """The firewall first, then what it guards: 127.0.0.1 on the bridge, and forwarding."""
        if self._rules:
            self._rules.ensure()
            await self._wires.run(wiring.open_bridge, self._wires.bridge)
        else:
            self.warnings.append("the firewall is turned off: ports cannot be published")
        if await self._wires.run(wiring.is_forwarding):
            if self._rules:
                self._rules.join_guard()
        elif self._config.ip_forward:
            if self._rules:
                self._rules.guard_forwarding()
            await self._wires.run(wiring.set_forwarding, True)
        else:
            self.warnings.append("IPv4 forwarding is disabled: networking will not work")
        if self._rules:
            self.warnings.extend(self._rules.list_blockers())

    async def _dismantle(self) -> None:
        if self._rules:
            if self._rules.leave_guard():
                # Nobody else's packets were forwarded while the guard stood: nobody misses it.
                await self._wires.run(wiring.set_forwarding, False)
                self._rules.remove_guard()
            self._rules.remove()
        await self._wires.delete_bridge()

    def _check(self, request: EndpointRequest) -> tuple[IPv4Address | None, str]:
        check_ports(request.ports)
        if request.ports and not self._rules:
            raise Unsupported("ports cannot be published: the firewall is turned off")
        try:
            address = IPv4Address(request.address) if request.address else None
            mac = links.parse_mac(request.mac) if request.mac else ""
        except (AddressValueError, ValueError) as error:
            raise Invalid(f"invalid endpoint settings: {error}") from error
        return address, mac

    def _reserve_ports(self, request: EndpointRequest, endpoint_id: str) -> tuple[PortMapping, ...]:
        try:
            return self._ports.reserve(request.ports)
        except Conflict as error:
            place = f"{request.container_name or request.container_id[:12]} ({endpoint_id})"
            text = f"driver failed programming external connectivity on endpoint {place}: {error}"
            raise Conflict(text) from error

    def _make_endpoint(
        self, request: EndpointRequest, endpoint_id: str, ports: tuple[PortMapping, ...], ready: Ready
    ) -> Endpoint:
        interface = self._wires.bridge.interface
        return Endpoint(
            network="bridge",
            network_id=self._identity.id,
            endpoint_id=endpoint_id,
            container_id=request.container_id,
            address=str(ready.address),
            prefix=interface.network.prefixlen,
            gateway=str(interface.ip),
            mac=ready.mac,
            ports=ports,
            interface=ready.interface,
        )

    def _adopt(self, endpoint: Endpoint) -> None:
        """A live endpoint stays as it is even if its address or ports were taken meanwhile; but then we say
        so."""
        self._live[endpoint.endpoint_id] = endpoint
        self._interfaces.add(endpoint.interface)
        address = IPv4Address(endpoint.address)
        try:
            self._addresses.reserve(address)
            self._addresses.skip_past(address)
        except CaisError as error:
            self.warnings.append(f"container {endpoint.container_id[:12]}: {error}")
        for port in endpoint.ports:
            try:
                self._ports.reserve([port])
            except Conflict as error:
                self.warnings.append(f"container {endpoint.container_id[:12]}: {error}")

    async def _build_next(self) -> Ready:
        return await self._build(self._addresses.allocate(), "")

    async def _build_special(self, address: IPv4Address | None, mac: str) -> Ready:
        if address is None:
            address = self._addresses.allocate()
        else:
            self._pool.evict(address)
            self._addresses.reserve(address)
        task = asyncio.get_running_loop().create_task(self._build(address, mac))
        try:
            # The thread cannot be cancelled: let it end, and throw away what nobody waits for any more.
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._discard_result)
            raise

    async def _build(self, address: IPv4Address, mac: str) -> Ready:
        name = f"veth{secrets.token_hex(4)[:7]}"
        self._interfaces.add(name)
        try:
            return await self._wires.build(name, address, mac or make_mac(address))
        except BaseException:
            self._doom(name)
            self._addresses.release(address)
            raise

    def _discard(self, ready: Ready) -> None:
        # The kernel takes namespace and veth apart in its own time.
        os.close(ready.netns)
        self._doom(ready.interface)
        self._addresses.release(ready.address)

    def _discard_result(self, task: asyncio.Task[Ready]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._discard(task.result())

    def _doom(self, interface: str) -> None:
        self._interfaces.discard(interface)
        self._doomed.add(interface)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        try:
            while self._doomed:
                young = set(self._doomed)
                await asyncio.sleep(_SWEEP_SECONDS)
                await self._wires.delete_ports(young)
                # What was doomed meanwhile gets a full turn to go by itself.
                self._doomed -= young
        except OSError as error:
            _log.warning("interfaces of ended containers are left: %s", error)
        finally:
            self._sweeper = None


async def open_bridge_network(config: Config, identity: Identity) -> Bridge:
    """Bridge up and addressed, firewall in place, forwarding on; adopts what an earlier engine left.

    ``Conflict``: the bridge's name belongs to another engine or link; ``Unavailable``: no address pool is
    free; ``Invalid``: a wrong address or pool in the configuration."""
    with ExitStack() as undo:
        wires = Wires()
        undo.callback(wires.close)
        await wires.open(config, identity.id)
        rules = None
        if config.firewall:
            netlink = Netlink(NETFILTER)
            undo.callback(netlink.close)
            bridge = wires.bridge
            rules = Rules(netlink, bridge.name, bridge.interface.network, nat=config.nat)
        network = Bridge(config, identity, wires, rules)
        await network.protect()
        undo.pop_all()
    return network
