"""The engine's configuration: one frozen value, made once by ``daemon`` from flags and ``daemon.json``."""

from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_ROOT = Path("/var/lib/cais")
DEFAULT_RUN = Path("/run/cais")
DEFAULT_HOST = "unix:///run/cais/cais.sock"
GROUP = "cais"
"""Members of this group may use the socket."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for TCP listeners; ``ca`` signs the client certificates that are let in."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Registry:
    """What is said of one registry. ``mirrors`` are URLs, asked in this order before the registry itself; their path
    is a prefix of the repositories' names there. ``insecure``: a bad certificate or none will do."""

    mirrors: tuple[str, ...] = ()
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """What the images may take; see ``images.budget``. Zeros: no such limit. Times in nanoseconds, sizes in bytes."""

    keep_newest: int = 0
    max_size: int = 0
    unused_for_ns: int = 0
    grace_ns: int = 300 * 10**9
    """What was used this recently stays: somebody may be about to make a container from it."""

    @property
    def is_set(self) -> bool:
        """There is something to keep within."""
        return bool(self.keep_newest or self.max_size or self.unused_for_ns)


@dataclass(frozen=True, slots=True)
class BuildBudget:
    """What is kept of builds: no more than ``keep_bytes``, nothing that was not used for ``unused_for_ns``. Zeros: no
    such limit."""

    keep_bytes: int = 0
    unused_for_ns: int = 0

    @property
    def is_set(self) -> bool:
        """There is something to keep within."""
        return bool(self.keep_bytes or self.unused_for_ns)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. Paths are absolute; networks are CIDR texts."""

    root: Path = DEFAULT_ROOT
    run: Path = DEFAULT_RUN
    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    tls: TlsFiles | None = None
    insecure_tcp: bool = False
    """Allow TCP without TLS, on loopback addresses only."""
    pidfile: Path | None = None
    debug: bool = False
    labels: tuple[str, ...] = ()
    bridge: str = "cais0"
    bip: str = ""
    """The bridge's own address with prefix, e.g. 172.29.0.1/16; empty: the first free of
    ``address_pools``."""
    mtu: int = 1500
    address_pools: tuple[str, ...] = ("172.29.0.0/16", "172.30.0.0/16", "172.31.0.0/16", "192.168.224.0/20")
    ip_forward: bool = True
    nat: bool = True
    firewall: bool = True
    netns_pool: int = 4
    """Ready-made network namespaces kept in store; 0 turns the pool off."""
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    cgroup_parent: str = "cais"
    default_shm_size: int = 64 << 20
    default_ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    default_runtime: str = "cais"
    log_driver: str = "json-file"
    log_options: dict[str, str] = field(default_factory=dict)
    seccomp_profile: str = ""
    """Path of a JSON profile, ``unconfined``, or empty for the built-in one."""
    no_new_privileges: bool = False
    init: bool = False
    live_restore: bool = True
    shutdown_timeout: int = 15
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    registries: dict[str, Registry] = field(default_factory=dict)
    """By a registry's name in references: ``ghcr.io``, ``localhost:5000``."""
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    budget: Budget = Budget()
    build_budget: BuildBudget = BuildBudget()
    commit_compression: str = "gzip"
    """What the layers that commits make are compressed with: gzip, zstd, none."""
    push_compression: str = "gzip"
    """What layers that lie here as plain tars become when they are pushed: gzip, zstd, none."""
    workers: int = 0
    """Processes for bytes; 0: as many as there are CPUs."""
    layer_max_bytes: int = 512 << 30
    layer_max_ratio: int = 200
    """Uncompressed by compressed bytes; asked of layers that unpack to more than 2 GiB."""
    layer_max_entries: int = 4_000_000
    """What one layer may ask for before it is refused as a bomb."""
    group: str = GROUP
