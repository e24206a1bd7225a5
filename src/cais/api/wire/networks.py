"""Docker's JSON for networks."""

from collections.abc import Mapping

import msgspec

from cais.api.wire.base import Wire
from cais.network.base import Endpoint, NetworkInfo


class IpamPool(Wire, frozen=True, kw_only=True):
    """One subnet."""

    subnet: str
    gateway: str | msgspec.UnsetType = msgspec.UNSET


class Ipam(Wire, frozen=True, kw_only=True):
    """Where addresses come from."""

    driver: str = "default"
    options: dict[str, str] | None = None
    config: tuple[IpamPool, ...] | None = None


class ConfigFrom(Wire, frozen=True, kw_only=True):
    """Always: no other network's."""

    network: str = ""


class NetworkContainer(Wire, frozen=True, kw_only=True):
    """One endpoint as the network shows it."""

    name: str
    endpoint_id: str = msgspec.field(name="EndpointID")
    mac_address: str
    ipv4_address: str = msgspec.field(name="IPv4Address")
    ipv6_address: str = msgspec.field(name="IPv6Address", default="")


class NetworkReply(Wire, frozen=True, kw_only=True):
    """One network; keys and order are dockerd 28's."""

    name: str
    id: str
    created: str
    scope: str
    driver: str
    enable_ipv4: bool = msgspec.field(name="EnableIPv4", default=True)
    enable_ipv6: bool = msgspec.field(name="EnableIPv6", default=False)
    ipam: Ipam = msgspec.field(name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_from: ConfigFrom = ConfigFrom()
    config_only: bool = False
    containers: dict[str, NetworkContainer]
    options: Mapping[str, str]
    labels: Mapping[str, str]


def network_reply(info: NetworkInfo, names: Mapping[str, str], *, containers: bool) -> NetworkReply:
    """``info`` for clients; ``names`` are the containers' names by id; only inspect shows ``containers``."""
    pools = tuple(
        IpamPool(subnet=subnet, gateway=gateway or msgspec.UNSET) for subnet, gateway in info.subnets
    )
    return NetworkReply(
        name=info.name,
        id=info.id,
        created=info.created,
        scope=info.scope,
        driver=info.driver,
        enable_ipv6=info.ipv6,
        ipam=Ipam(config=pools or None),
        internal=info.internal,
        attachable=info.attachable,
        containers=_containers(info.endpoints, names) if containers else {},
        options=info.options,
        labels={},
    )


def _containers(endpoints: tuple[Endpoint, ...], names: Mapping[str, str]) -> dict[str, NetworkContainer]:
    return {
        endpoint.container_id: NetworkContainer(
            name=names.get(endpoint.container_id, ""),
            endpoint_id=endpoint.endpoint_id,
            mac_address=endpoint.mac,
            ipv4_address=f"{endpoint.address}/{endpoint.prefix}" if endpoint.address else "",
        )
        for endpoint in endpoints
    }
