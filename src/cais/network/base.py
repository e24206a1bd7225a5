"""What the rest of the engine says to networks, and what a network driver must be able to do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One published port. ``protocol`` tcp, udp or sctp; ``host_ip`` empty: every address of the host;
    ``host_port`` 0: choose a free one. Ranges come as one mapping a port."""

    protocol: str
    container_port: int
    host_ip: str
    host_port: int


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """A container's wish for a place in a network; empty texts mean: choose. ``container_name`` is for messages."""

    container_id: str
    ports: tuple[PortMapping, ...] = ()
    address: str = ""
    mac: str = ""
    network: str = "bridge"
    container_name: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place in a network; kept in the container's record and given back after an engine's restart.

    ``ports`` have the host's address and port filled in; ``interface`` is the veth's end on the host. The texts are
    empty for the networks ``host`` and ``none``.
    """

    network: str
    network_id: str
    endpoint_id: str
    container_id: str
    address: str = ""
    prefix: int = 0
    gateway: str = ""
    mac: str = ""
    ports: tuple[PortMapping, ...] = ()
    interface: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """What of a predefined network stays the same for good: its id (64 hex digits) and when it was made (RFC 3339)."""

    id: str
    created: str


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """What ``network ls`` and ``network inspect`` show. ``subnets`` holds (network, gateway) texts."""

    name: str
    id: str
    created: str
    driver: str
    subnets: tuple[tuple[str, str], ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    endpoints: tuple[Endpoint, ...] = ()
    scope: str = "local"
    internal: bool = False
    attachable: bool = False
    ipv6: bool = False


class Driver(Protocol):
    """One open network. Called on the event loop only; slow acts of the kernel happen on a thread of its own."""

    async def attach(self, request: EndpointRequest) -> tuple[Endpoint, int]:
        """A new endpoint and the descriptor of its network namespace, which the caller closes; -1 when the network
        has none of its own. ``Invalid`` for a wrong request, ``Conflict`` for a port or address that is taken;
        nothing is left of a failed one."""
        ...

    async def detach(self, endpoint: Endpoint) -> None:
        """Give back address, ports and interface; they are free when this returns. Idempotent."""
        ...

    async def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """Once, before any ``attach``: these live on; whatever else an earlier engine left is removed."""
        ...

    async def stop(self) -> None:
        """Let go of everything that no live endpoint needs. Idempotent."""
        ...

    def info(self) -> NetworkInfo:
        """The network as it is now."""
        ...
