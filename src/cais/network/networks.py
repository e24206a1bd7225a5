"""All networks of an engine, by name and id."""

import asyncio
from collections.abc import Iterable, Sequence

from cais.config import Config
from cais.errors import Invalid, NotFound, Unavailable
from cais.linux.links import Counters
from cais.network.base import Driver, Endpoint, EndpointRequest, NetworkInfo
from cais.network.bridge import Bridge, open_bridge_network
from cais.network.identities import ensure_identities
from cais.network.plain import Plain
from cais.network.pool import PoolCounts

_DEFAULT = ("", "default")
"""Names by which a container asks for ``bridge``."""


class Networks:
    """The predefined networks ``bridge``, ``host`` and ``none``; others will stand beside them as further drivers.

    ``start``, then ``restore`` once, then endpoints come and go, then ``stop``.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._drivers: dict[str, Driver] = {}
        self._bridge: Bridge | None = None

    async def start(self) -> None:
        """Bring all networks up; adopts what an earlier engine of this root left. Idempotent.

        ``Conflict``, ``Unavailable``, ``Invalid``: see ``open_bridge_network``; ``Corrupt``: see ``ensure_identities``.
        """
        if self._drivers:
            return
        identities = await asyncio.to_thread(ensure_identities, self._config.root)
        self._bridge = await open_bridge_network(self._config, identities["bridge"])
        self._drivers = {
            "bridge": self._bridge,
            "host": Plain("host", "host", identities["host"]),
            "none": Plain("none", "null", identities["none"]),
        }

    async def attach(self, request: EndpointRequest) -> tuple[Endpoint, int]:
        """A place for a container in the requested network, and the descriptor of its network namespace, which the
        caller closes (-1: the network has none of its own). See ``Driver.attach`` for errors."""
        return await self._find_driver(request.network).attach(request)

    async def detach(self, endpoint: Endpoint) -> None:
        """Give back everything; address and ports are free when this returns. Idempotent."""
        driver = self._drivers.get(endpoint.network)
        if driver is not None:
            await driver.detach(endpoint)

    async def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """After an engine's restart: these live on and keep addresses and ports; all else is removed."""
        endpoints = tuple(endpoints)
        for name, driver in self._drivers.items():
            await driver.restore([each for each in endpoints if each.network == name])

    async def stop(self) -> None:
        """Stores drained; networks with live endpoints stay for the next engine. Idempotent."""
        drivers, self._drivers = self._drivers, {}
        for driver in drivers.values():
            await driver.stop()

    def list(self) -> list[NetworkInfo]:
        """All networks, by name."""
        return [self._drivers[name].info() for name in sorted(self._drivers)]

    def inspect(self, name: str) -> NetworkInfo:
        """The network with this name, id or unique start of an id."""
        infos = self.list()
        for info in infos:
            if name in (info.name, info.id):
                return info
        found = [info for info in infos if name and info.id.startswith(name)]
        if len(found) > 1:
            raise Invalid(f"network {name} is ambiguous ({len(found)} matches found based on ID prefix)")
        if not found:
            raise NotFound(f"network {name} not found")
        return found[0]

    async def find_counters(self, endpoint: Endpoint) -> Counters | None:
        """Traffic of an endpoint, counted at the host's end of its veth; ``None`` when it has none."""
        if self._bridge is None or not endpoint.interface:
            return None
        return await self._bridge.find_counters(endpoint)

    async def find_leaks(self) -> Sequence[str]:
        """Interfaces and published ports that belong to no endpoint, one line each."""
        return await self._bridge.find_leaks() if self._bridge else []

    @property
    def pool_counts(self) -> PoolCounts:
        """How well the store of ready-made network namespaces serves."""
        return self._bridge.pool_counts if self._bridge else PoolCounts()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not work here, and why; for ``info`` and the log."""
        return tuple(self._bridge.warnings) if self._bridge else ()

    def _find_driver(self, name: str) -> Driver:
        if not self._drivers:
            raise Unavailable("the networks are not started")
        driver = self._drivers.get("bridge" if name in _DEFAULT else name)
        if driver is None:
            raise NotFound(f"network {name} not found")
        return driver
