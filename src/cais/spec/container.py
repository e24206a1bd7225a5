"""Docker's create-container JSON as typed values (Engine API v1.24 to v1.51, ``/containers/create``).

JSON names are Docker's, attribute names are their snake_case. Unknown fields are ignored; a wrong type raises
``msgspec.ValidationError`` with the field's path (``Expected `int`, got `str` - at `$.HostConfig.Memory```).
Go clients send ``null`` for every empty list and map: ``parse_create`` and its siblings read that as absent.
"""

from typing import Annotated, Any, TypeVar

import msgspec

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
UInt64 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
UInt16 = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
Empty = dict[str, Any]
"""Go's ``struct{}`` as the value of a set-like map: always ``{}``."""

S = TypeVar("S")


class Base(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Docker's PascalCase names; names that break that rule say so at the field."""


class Healthcheck(Base, frozen=True):
    """``Test``: ``["NONE"]``, ``["CMD", …]`` or ``["CMD-SHELL", text]``; times in nanoseconds, 0 inherits."""

    test: tuple[str, ...] = ()
    interval: Int64 = 0
    timeout: Int64 = 0
    start_period: Int64 = 0
    start_interval: Int64 = 0
    retries: Int64 = 0


class ContainerConfig(Base, frozen=True):
    """The portable half: what the image's own configuration has too. ``None`` in ``cmd`` and ``entrypoint``
    inherits from the image, an empty tuple does not."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Empty] = {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Empty] = {}
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: Int64 | None = None
    """Seconds; -1 waits for ever, ``None`` is Docker's 10."""
    shell: tuple[str, ...] = ()


class PortBinding(Base, frozen=True):
    """``HostPort`` is a number, a range ``a-b``, or empty for a free one."""

    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Base, frozen=True):
    """``Name``: empty or ``no``, ``always``, ``unless-stopped``, ``on-failure``."""

    name: str = ""
    maximum_retry_count: Int64 = 0


class LogConfig(Base, frozen=True):
    """Empty ``Type`` is the engine's default driver."""

    type: str = ""
    config: dict[str, str] = {}


class Ulimit(Base, frozen=True):
    """``Name`` without ``RLIMIT_``, lower case; -1 is unlimited."""

    name: str = ""
    soft: Int64 = 0
    hard: Int64 = 0


class DeviceMapping(Base, frozen=True):
    """A host device shown in the container; ``CgroupPermissions`` of ``rwm``."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Base, frozen=True):
    """``--gpus`` and CDI devices."""

    driver: str = ""
    count: Int64 = 0
    device_ids: tuple[str, ...] = msgspec.field(name="DeviceIDs", default=())
    capabilities: tuple[tuple[str, ...], ...] = ()
    options: dict[str, str] = {}


class WeightDevice(Base, frozen=True):
    """Block I/O weight of one device."""

    path: str = ""
    weight: UInt16 = 0


class ThrottleDevice(Base, frozen=True):
    """Block I/O limit of one device: bytes or operations a second."""

    path: str = ""
    rate: UInt64 = 0


class BindOptions(Base, frozen=True):
    """``Propagation``: private, rprivate, shared, rshared, slave, rslave or empty (rprivate)."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Base, frozen=True):
    """A volume driver and its options."""

    name: str = ""
    options: dict[str, str] = {}


class VolumeOptions(Base, frozen=True):
    """Used when the volume is made; ``Subpath`` is relative, inside the volume."""

    no_copy: bool = False
    labels: dict[str, str] = {}
    subpath: str = ""
    driver_config: DriverConfig | None = None


class ImageOptions(Base, frozen=True):
    """``--mount type=image``."""

    subpath: str = ""


class TmpfsOptions(Base, frozen=True):
    """``SizeBytes`` 0 is the kernel's default; ``Mode`` permission bits, 0 is 1777."""

    size_bytes: Int64 = 0
    mode: int = 0
    options: tuple[tuple[str, ...], ...] = ()


class Mount(Base, frozen=True):
    """``--mount``: ``Type`` bind, volume, tmpfs, image, npipe or cluster."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: Empty | None = None


class Resources(Base, frozen=True):
    """Limits; what ``/containers/{id}/update`` may change and a part of ``HostConfig``. Sizes in bytes, times
    in microseconds; 0 (or ``None``) is not set."""

    cpu_shares: Int64 = 0
    memory: Int64 = 0
    nano_cpus: Int64 = 0
    cgroup_parent: str = ""
    blkio_weight: UInt16 = 0
    blkio_weight_device: tuple[WeightDevice, ...] = ()
    blkio_device_read_bps: tuple[ThrottleDevice, ...] = ()
    blkio_device_write_bps: tuple[ThrottleDevice, ...] = ()
    blkio_device_read_iops: tuple[ThrottleDevice, ...] = msgspec.field(name="BlkioDeviceReadIOps", default=())
    blkio_device_write_iops: tuple[ThrottleDevice, ...] = msgspec.field(
        name="BlkioDeviceWriteIOps", default=()
    )
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpu_realtime_period: Int64 = 0
    cpu_realtime_runtime: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: tuple[DeviceMapping, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()
    device_requests: tuple[DeviceRequest, ...] = ()
    kernel_memory: Int64 = 0
    kernel_memory_tcp: Int64 = msgspec.field(name="KernelMemoryTCP", default=0)
    memory_reservation: Int64 = 0
    memory_swap: Int64 = 0
    memory_swappiness: Int64 | None = None
    oom_kill_disable: bool | None = None
    pids_limit: Int64 | None = None
    ulimits: tuple[Ulimit, ...] = ()
    cpu_count: Int64 = 0
    cpu_percent: Int64 = 0
    io_maximum_iops: UInt64 = msgspec.field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: UInt64 = msgspec.field(name="IOMaximumBandwidth", default=0)


class HostConfig(Resources, frozen=True):
    """The half that depends on the host. ``None`` in ``masked_paths`` and ``readonly_paths`` is Docker's
    default list, an empty tuple masks nothing (``--security-opt systempaths=unconfined``)."""

    binds: tuple[str, ...] = ()
    container_id_file: str = msgspec.field(name="ContainerIDFile", default="")
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: dict[str, tuple[PortBinding, ...]] = {}
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: tuple[str, ...] = ()
    console_size: tuple[int, int] | None = None
    """Height, width."""
    annotations: dict[str, str] = {}
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    cgroupns_mode: str = ""
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    ipc_mode: str = ""
    cgroup: str = ""
    links: tuple[str, ...] = ()
    oom_score_adj: Int64 = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: tuple[str, ...] = ()
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    uts_mode: str = msgspec.field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: Int64 = 0
    sysctls: dict[str, str] = {}
    runtime: str = ""
    isolation: str = ""
    mounts: tuple[Mount, ...] = ()
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    init: bool | None = None


class ResourceUpdate(Resources, frozen=True):
    """The body of ``/containers/{id}/update``."""

    restart_policy: RestartPolicy = RestartPolicy()


class EndpointIpamConfig(Base, frozen=True):
    """Addresses asked for by the user."""

    ipv4_address: str = msgspec.field(name="IPv4Address", default="")
    ipv6_address: str = msgspec.field(name="IPv6Address", default="")
    link_local_ips: tuple[str, ...] = msgspec.field(name="LinkLocalIPs", default=())


class EndpointSettings(Base, frozen=True):
    """A container's place in one network: wishes on create, facts on inspect."""

    ipam_config: EndpointIpamConfig | None = msgspec.field(name="IPAMConfig", default=None)
    links: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    mac_address: str = ""
    driver_opts: dict[str, str] = {}
    gw_priority: Int64 = 0
    network_id: str = msgspec.field(name="NetworkID", default="")
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    gateway: str = ""
    ip_address: str = msgspec.field(name="IPAddress", default="")
    ip_prefix_len: int = msgspec.field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = msgspec.field(name="IPv6Gateway", default="")
    global_ipv6_address: str = msgspec.field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: int = msgspec.field(name="GlobalIPv6PrefixLen", default=0)
    dns_names: tuple[str, ...] = msgspec.field(name="DNSNames", default=())


class NetworkingConfig(Base, frozen=True):
    """Network name or id → wishes."""

    endpoints_config: dict[str, EndpointSettings] = {}


class CreateRequest(ContainerConfig, frozen=True):
    """The whole body of ``/containers/create``: Docker puts the config's fields beside the two others.
    ``config`` and the other two attributes are what ``Containers.create`` takes."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()

    @property
    def config(self) -> ContainerConfig:
        """The portable half alone."""
        return ContainerConfig(**{name: getattr(self, name) for name in ContainerConfig.__struct_fields__})


class ExecConfig(Base, frozen=True):
    """The body of ``/containers/{id}/exec``."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: tuple[str, ...] = ()
    working_dir: str = ""
    cmd: tuple[str, ...] = ()


class ExecStartConfig(Base, frozen=True):
    """The body of ``/exec/{id}/start``."""

    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None


_MAP_VALUES: dict[str, Any] = {"ExposedPorts": {}, "Volumes": {}, "PortBindings": [], "EndpointsConfig": {}}
"""Maps whose keys mean something without a value: null there is the empty value, not an absent key."""

_TEXT_OR_LIST = frozenset(("Cmd", "Entrypoint", "Shell"))
"""Docker's strslice: one string stands for a list of one."""


def _without_nulls(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        empty = _MAP_VALUES.get(name)
        out: dict[str, Any] = {}
        for key, item in value.items():
            if item is None:
                if empty is not None:
                    out[key] = empty
            elif isinstance(item, str) and key in _TEXT_OR_LIST:
                out[key] = [item]
            else:
                out[key] = _without_nulls(item, key) if isinstance(item, dict | list) else item
        return out
    return [
        _without_nulls(item) if isinstance(item, dict | list) else item for item in value if item is not None
    ]


def parse_body(body: bytes, kind: type[S]) -> S:
    """Read a JSON object of Docker's as ``kind`` (one of this file's Structs), nulls counting as absent.

    Raises ``msgspec.DecodeError`` for what is no JSON and its subclass ``msgspec.ValidationError``, naming
    the field, for a wrong type.
    """
    raw = msgspec.json.decode(body or b"{}")
    if not isinstance(raw, dict):
        raw = {} if raw is None else raw
    return msgspec.convert(_without_nulls(raw) if isinstance(raw, dict) else raw, kind)


def parse_create(body: bytes) -> CreateRequest:
    """Read the body of ``/containers/create``; errors as ``parse_body``."""
    return parse_body(body, CreateRequest)


def format_create(config: ContainerConfig, host: HostConfig, networking: NetworkingConfig) -> bytes:
    """The body of ``/containers/create``; ``parse_create`` reads it back."""
    body: dict[str, Any] = msgspec.to_builtins(config)
    body["HostConfig"] = host
    body["NetworkingConfig"] = networking
    return msgspec.json.encode(body)


_OMITTED_WHEN_EMPTY = frozenset(
    """ExposedPorts Healthcheck ArgsEscaped NetworkDisabled MacAddress StopSignal StopTimeout Shell
    Annotations StorageOpt Tmpfs Sysctls Runtime Mounts Init Capabilities KernelMemory KernelMemoryTCP
    """.split()  # noqa: SIM905
)
"""Fields that carry Go's ``omitempty`` in Docker 28's inspect answer."""

_NEVER_NULL = frozenset(
    """Dns DnsOptions DnsSearch Devices BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps
    BlkioDeviceReadIOps BlkioDeviceWriteIOps PortBindings Labels Env MaskedPaths ReadonlyPaths
    """.split()  # noqa: SIM905
)
"""Empty lists and maps that Docker shows as such; all the others it shows as null."""

_POINTERS = frozenset(("Init", "StopTimeout"))
"""Fields where false and 0 differ from absent."""


def format_inspect(value: ContainerConfig | HostConfig) -> dict[str, Any]:
    """The value as ``docker inspect`` shows it in ``Config`` and ``HostConfig``: what Go would omit is left
    out, what Go would show as null is null."""
    out: dict[str, Any] = {}
    for key, item in msgspec.to_builtins(value).items():
        empty_collection = isinstance(item, list | dict | tuple) and not item
        if key in _OMITTED_WHEN_EMPTY and not item and (item is None or key not in _POINTERS):
            continue
        out[key] = None if empty_collection and key not in _NEVER_NULL else item
    if out.get("ConsoleSize", ()) is None:
        out["ConsoleSize"] = [0, 0]
    return out
