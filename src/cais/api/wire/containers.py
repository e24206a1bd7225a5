"""Docker's JSON for containers: inspect and list, from records. Keys and order are dockerd 28's."""

from collections.abc import Mapping
from typing import Any

import msgspec

from cais.api.version import Version
from cais.api.wire.base import Wire, format_time
from cais.api.wire.human import human_state
from cais.containers.containers import Container
from cais.containers.record import MountPoint, Record, State
from cais.network.base import Endpoint
from cais.spec.container import EndpointIpamConfig, format_inspect

Omitted = msgspec.UnsetType
OMIT = msgspec.UNSET

_SHARED = "container:"


class StateReply(Wire, frozen=True, kw_only=True):
    """Where a container is in its life."""

    status: str
    running: bool
    paused: bool
    restarting: bool
    oom_killed: bool = msgspec.field(name="OOMKilled")
    dead: bool
    pid: int
    exit_code: int
    error: str
    started_at: str
    finished_at: str


class MountReply(Wire, frozen=True, kw_only=True):
    """One mount; a tmpfs has no source, only a volume has name and driver."""

    type: str
    name: str | Omitted = OMIT
    source: str
    destination: str
    driver: str | Omitted = OMIT
    mode: str
    rw: bool = msgspec.field(name="RW")
    propagation: str


class PortBindingReply(Wire, frozen=True, kw_only=True):
    """Where a port is published."""

    host_ip: str
    host_port: str


class EndpointReply(Wire, frozen=True, kw_only=True):
    """A container's place in one network."""

    ipam_config: EndpointIpamConfig | None = msgspec.field(name="IPAMConfig", default=None)
    links: tuple[str, ...] | None = None
    aliases: tuple[str, ...] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0
    network_id: str = msgspec.field(name="NetworkID", default="")
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    gateway: str = ""
    ip_address: str = msgspec.field(name="IPAddress", default="")
    ip_prefix_len: int = msgspec.field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = msgspec.field(name="GlobalIPv6PrefixLen", default=0)
    dns_names: tuple[str, ...] | None = msgspec.field(name="DNSNames", default=None)


class NetworkSettings(Wire, frozen=True, kw_only=True):
    """Inspect's network part; the second half repeats the bridge's endpoint for clients of before API
    1.44."""

    bridge: str = ""
    sandbox_id: str = msgspec.field(name="SandboxID")
    sandbox_key: str
    ports: dict[str, tuple[PortBindingReply, ...] | None]
    hairpin_mode: bool = False
    link_local_ipv6_address: str = msgspec.field(name="LinkLocalIPv6Address", default="")
    link_local_ipv6_prefix_len: int = msgspec.field(name="LinkLocalIPv6PrefixLen", default=0)
    secondary_ip_addresses: None = msgspec.field(name="SecondaryIPAddresses", default=None)
    secondary_ipv6_addresses: None = msgspec.field(name="SecondaryIPv6Addresses", default=None)
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    gateway: str = ""
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = msgspec.field(name="GlobalIPv6PrefixLen", default=0)
    ip_address: str = msgspec.field(name="IPAddress", default="")
    ip_prefix_len: int = msgspec.field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    mac_address: str = ""
    networks: dict[str, EndpointReply]


class GraphDriver(Wire, frozen=True, kw_only=True):
    """Where the root file system's layers lie."""

    data: dict[str, str] | None
    name: str


class InspectReply(Wire, frozen=True, kw_only=True):
    """``GET /containers/{id}/json``."""

    id: str
    created: str
    path: str
    args: tuple[str, ...]
    state: StateReply
    image: str
    resolv_conf_path: str
    hostname_path: str
    hosts_path: str
    log_path: str
    name: str
    restart_count: int
    driver: str
    platform: str
    mount_label: str = ""
    process_label: str = ""
    app_armor_profile: str
    exec_ids: tuple[str, ...] | None = msgspec.field(name="ExecIDs")
    host_config: dict[str, Any]
    graph_driver: GraphDriver
    size_rw: int | Omitted = OMIT
    size_root_fs: int | Omitted = OMIT
    mounts: tuple[MountReply, ...]
    config: dict[str, Any]
    network_settings: NetworkSettings


class PortReply(msgspec.Struct, frozen=True, kw_only=True):
    """One port in the list."""

    ip: str | Omitted = msgspec.field(name="IP", default=OMIT)
    private_port: int = msgspec.field(name="PrivatePort")
    public_port: int | Omitted = msgspec.field(name="PublicPort", default=OMIT)
    type: str = msgspec.field(name="Type")


class ListNetworks(Wire, frozen=True, kw_only=True):
    """The list's network part."""

    networks: dict[str, EndpointReply]


class SummaryReply(Wire, frozen=True, kw_only=True):
    """One row of ``GET /containers/json``."""

    id: str
    names: tuple[str, ...]
    image: str
    image_id: str = msgspec.field(name="ImageID")
    command: str
    created: int
    ports: tuple[PortReply, ...]
    size_rw: int | Omitted = OMIT
    size_root_fs: int | Omitted = OMIT
    labels: Mapping[str, str]
    state: str
    status: str
    host_config: dict[str, str]
    network_settings: ListNetworks
    mounts: tuple[MountReply, ...]


def inspect_reply(found: Container) -> InspectReply:
    """All that is known of a container."""
    record, etc = found.record, found.etc_directory
    return InspectReply(
        id=record.id,
        created=format_time(record.created_ns),
        path=record.path,
        args=record.args,
        state=state_reply(record.state),
        image=record.image_id,
        resolv_conf_path=str(etc / "resolv.conf"),
        hostname_path=str(etc / "hostname"),
        hosts_path=str(etc / "hosts"),
        log_path=found.log_path,
        name=f"/{record.name}",
        restart_count=record.restart_count,
        driver=record.driver,
        platform=record.platform,
        process_label=record.selinux,
        app_armor_profile=record.apparmor,
        exec_ids=found.exec_ids or None,
        host_config=format_inspect(record.host),
        graph_driver=_graph_driver(found),
        size_rw=OMIT if found.size_rw is None else found.size_rw,
        size_root_fs=OMIT if found.size_root is None else found.size_root,
        mounts=mount_replies(record.mounts),
        config=format_inspect(record.config),
        network_settings=_network_settings(record),
    )


def state_reply(state: State) -> StateReply:
    """The state, with Docker's booleans."""
    return StateReply(
        status=state.status,
        running=state.running,
        paused=state.status == "paused",
        restarting=state.status == "restarting",
        oom_killed=state.oom_killed,
        dead=state.status == "dead",
        pid=state.pid,
        exit_code=state.exit_code,
        error=state.error,
        started_at=format_time(state.started_ns),
        finished_at=format_time(state.finished_ns),
    )


def summary_reply(found: Container, image: str, now_ns: int) -> SummaryReply:
    """One row of the list; ``image`` is the name to show."""
    record = found.record
    return SummaryReply(
        id=record.id,
        names=(f"/{record.name}",),
        image=image,
        image_id=record.image_id,
        command=_command(record),
        created=record.created_ns // 1_000_000_000,
        ports=port_replies(record),
        size_rw=found.size_rw or OMIT,
        size_root_fs=found.size_root or OMIT,
        labels=record.config.labels,
        state=record.state.status,
        status=human_state(record.state, now_ns),
        host_config={"NetworkMode": record.host.network_mode},
        network_settings=ListNetworks(networks=_networks(record)),
        mounts=mount_replies(record.mounts),
    )


def legacy_config(reply: InspectReply, version: Version) -> InspectReply | dict[str, Any]:
    """``reply`` as clients of ``version`` expect it: before API 1.44 (and, kept until 1.52, when it was asked
    for) Config has the MAC address."""
    if version >= (1, 44) or not reply.network_settings.mac_address:
        return reply
    plain: dict[str, Any] = msgspec.to_builtins(reply)
    plain["Config"]["MacAddress"] = reply.network_settings.mac_address
    return plain


def _command(record: Record) -> str:
    words = [f"'{word}'" if " " in word else word for word in record.args]
    return " ".join([record.path, *words])


def mount_replies(points: tuple[MountPoint, ...]) -> tuple[MountReply, ...]:
    """The mounts that the user or the image asked for."""
    return tuple(
        MountReply(
            type=point.type,
            name=point.name if point.type == "volume" else OMIT,
            source=point.source,
            destination=point.destination,
            driver=point.driver if point.type == "volume" else OMIT,
            mode=point.mode,
            rw=point.rw,
            propagation=point.propagation if point.type == "bind" else "",
        )
        for point in points
    )


def port_replies(record: Record) -> tuple[PortReply, ...]:
    """Published ports, and exposed ones that are not."""
    found: list[PortReply] = []
    published: set[tuple[int, str]] = set()
    for endpoint in record.endpoints:
        for port in endpoint.ports:
            published.add((port.container_port, port.protocol))
            found.append(
                PortReply(
                    ip=port.host_ip or "0.0.0.0",
                    private_port=port.container_port,
                    public_port=port.host_port,
                    type=port.protocol,
                )
            )
    if record.state.running:
        for text in record.config.exposed_ports:
            number, _, protocol = text.partition("/")
            key = (int(number) if number.isdecimal() else 0, protocol or "tcp")
            if key not in published:
                found.append(PortReply(private_port=key[0], type=key[1]))
    return tuple(sorted(found, key=lambda port: (port.private_port, port.type)))


def _network_settings(record: Record) -> NetworkSettings:
    bridge = next((each for each in record.endpoints if each.network == "bridge"), None)
    live = record.state.live
    return NetworkSettings(
        sandbox_id=record.id if live else "",
        sandbox_key=f"/proc/{record.state.pid}/ns/net" if live else "",
        ports=_port_map(record),
        endpoint_id=bridge.endpoint_id if bridge else "",
        gateway=bridge.gateway if bridge else "",
        ip_address=bridge.address if bridge else "",
        ip_prefix_len=bridge.prefix if bridge else 0,
        mac_address=bridge.mac if bridge else "",
        networks=_networks(record),
    )


def _port_map(record: Record) -> dict[str, tuple[PortBindingReply, ...] | None]:
    if not record.state.running:
        return {}
    ports: dict[str, tuple[PortBindingReply, ...] | None] = dict.fromkeys(record.config.exposed_ports)
    for endpoint in record.endpoints:
        for port in endpoint.ports:
            key = f"{port.container_port}/{port.protocol}"
            binding = PortBindingReply(host_ip=port.host_ip or "0.0.0.0", host_port=str(port.host_port))
            ports[key] = (*(ports.get(key) or ()), binding)
    return ports


def _networks(record: Record) -> dict[str, EndpointReply]:
    """The endpoints it has; one that does not run shows the network it will be in."""
    mode = record.host.network_mode
    if mode.startswith(_SHARED):
        return {}
    found = {endpoint.network: _endpoint(endpoint, record) for endpoint in record.endpoints}
    return found or {mode: EndpointReply()}


def _endpoint(endpoint: Endpoint, record: Record) -> EndpointReply:
    wish = record.networking.endpoints_config.get(endpoint.network)
    return EndpointReply(
        ipam_config=wish.ipam_config if wish else None,
        mac_address=endpoint.mac,
        network_id=endpoint.network_id,
        endpoint_id=endpoint.endpoint_id,
        gateway=endpoint.gateway,
        ip_address=endpoint.address,
        ip_prefix_len=endpoint.prefix,
    )


def _graph_driver(found: Container) -> GraphDriver:
    record = found.record
    if record.driver != "overlayfs":
        return GraphDriver(name=record.driver, data=None)
    merged = f"/proc/{record.state.pid}/root" if record.state.live else ""
    data = {
        "ID": record.id,
        "LowerDir": ":".join(record.lowers),
        "MergedDir": merged,
        "UpperDir": str(found.directory / "upper"),
        "WorkDir": str(found.directory / "work"),
    }
    return GraphDriver(name=record.driver, data=data)
