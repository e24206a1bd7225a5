"""Docker's JSON for the engine itself: version, info, disk usage."""

from typing import Any

import msgspec

from cais.api.version import Version
from cais.api.wire.base import Wire


class Component(Wire, frozen=True, kw_only=True):
    """One part of the engine and its version."""

    name: str
    version: str
    details: dict[str, str]


class Platform(Wire, frozen=True, kw_only=True):
    """The product's name."""

    name: str


class VersionReply(Wire, frozen=True, kw_only=True):
    """``GET /version``."""

    platform: Platform
    components: tuple[Component, ...]
    version: str
    api_version: str
    min_api_version: str = msgspec.field(name="MinAPIVersion")
    git_commit: str = ""
    go_version: str = ""
    os: str = "linux"
    arch: str = ""
    kernel_version: str = ""
    build_time: str = ""


class Plugins(Wire, frozen=True, kw_only=True):
    """What is built in."""

    volume: tuple[str, ...] = ("local",)
    network: tuple[str, ...] = ("bridge", "host", "null")
    authorization: tuple[str, ...] | None = None
    log: tuple[str, ...] = ("json-file", "local", "none")


class IndexConfig(Wire, frozen=True, kw_only=True):
    """One registry as the engine treats it."""

    name: str
    mirrors: tuple[str, ...] = ()
    secure: bool = True
    official: bool = False


class RegistryConfig(Wire, frozen=True, kw_only=True):
    """Registries: mirrors, and those that may be spoken to without TLS."""

    index_configs: dict[str, IndexConfig]
    insecure_registry_cidrs: tuple[str, ...] = msgspec.field(name="InsecureRegistryCIDRs")
    mirrors: tuple[str, ...] | None = None


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """One runtime; lower-case names in Docker's JSON."""

    path: str
    status: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class Commit(Wire, frozen=True, kw_only=True):
    """A part's source revision."""

    id: str = msgspec.field(name="ID", default="")


class Swarm(Wire, frozen=True, kw_only=True):
    """Always: not a member of any."""

    node_id: str = msgspec.field(name="NodeID", default="")
    node_addr: str = ""
    local_node_state: str = "inactive"
    control_available: bool = False
    error: str = ""
    remote_managers: None = None


class FirewallBackend(Wire, frozen=True, kw_only=True):
    """Who filters packets."""

    driver: str = "nftables"


class InfoReply(Wire, frozen=True, kw_only=True):
    """``GET /info``; keys and order are dockerd 28's."""

    id: str = msgspec.field(name="ID")
    containers: int
    containers_running: int
    containers_paused: int
    containers_stopped: int
    images: int
    driver: str
    driver_status: tuple[tuple[str, str], ...]
    plugins: Plugins = Plugins()
    memory_limit: bool
    swap_limit: bool
    kernel_memory_tcp: bool = msgspec.field(name="KernelMemoryTCP", default=False)
    cpu_cfs_period: bool
    cpu_cfs_quota: bool
    cpu_shares: bool = msgspec.field(name="CPUShares")
    cpu_set: bool = msgspec.field(name="CPUSet")
    pids_limit: bool
    ipv4_forwarding: bool = msgspec.field(name="IPv4Forwarding")
    debug: bool
    n_fd: int = msgspec.field(name="NFd")
    oom_kill_disable: bool
    n_goroutines: int
    system_time: str
    logging_driver: str
    cgroup_driver: str = "cgroupfs"
    cgroup_version: str
    n_events_listener: int
    kernel_version: str
    operating_system: str
    os_version: str = msgspec.field(name="OSVersion")
    os_type: str = msgspec.field(name="OSType", default="linux")
    architecture: str
    index_server_address: str = "https://index.docker.io/v1/"
    registry_config: RegistryConfig
    n_cpu: int = msgspec.field(name="NCPU")
    mem_total: int
    generic_resources: None = None
    docker_root_dir: str
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    name: str
    labels: tuple[str, ...]
    experimental_build: bool = False
    server_version: str
    runtimes: dict[str, Runtime]
    default_runtime: str
    swarm: Swarm = Swarm()
    live_restore_enabled: bool
    isolation: str = ""
    init_binary: str = "cais-init"
    containerd_commit: Commit = Commit()
    runc_commit: Commit = Commit()
    init_commit: Commit = Commit()
    security_options: tuple[str, ...]
    firewall_backend: FirewallBackend | msgspec.UnsetType = FirewallBackend()
    cdi_spec_dirs: tuple[str, ...] = msgspec.field(name="CDISpecDirs", default=())
    warnings: tuple[str, ...] | None


def legacy_info(reply: InfoReply, version: Version) -> InfoReply | dict[str, Any]:
    """``reply`` as clients of ``version`` expect it (moby, system_routes.go: getInfo)."""
    if version >= (1, 50):
        return reply
    plain: dict[str, Any] = msgspec.to_builtins(reply)
    plain |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False}
    if version < (1, 49):
        del plain["FirewallBackend"]
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            plain[name]["Expected"] = plain[name]["ID"]
    return plain


class DiskUsageReply(Wire, frozen=True, kw_only=True):
    """``GET /system/df``; the parts are what the list routes answer."""

    layers_size: int
    images: tuple[Any, ...] | None
    containers: tuple[Any, ...] | None
    volumes: tuple[Any, ...] | None
    build_cache: tuple[Any, ...] = ()
    accounts: Any = msgspec.UNSET
    """Ours, when asked for: ``wire.usage.Accounts``."""
