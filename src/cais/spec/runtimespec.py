"""The OCI runtime specification's ``config.json`` as typed values (runtime-spec 1.2, config.md and
config-linux.md)."""

import msgspec


class Base(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """JSON names are the specification's; absent and default mean the same."""


class User(Base, frozen=True, omit_defaults=False):
    """Who the process is. ``username`` holds Docker's ``user[:group]`` text, looked up in the image by the
    init (which has the file system to look in); when it is not empty it wins over ``uid`` and ``gid``."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    username: str = ""
    group_add: tuple[str, ...] = ()
    """Not in the specification: names or numbers from ``--group-add``, looked up like ``username``."""


class Capabilities(Base, frozen=True):
    """Capability sets as ``CAP_…`` names."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Base, frozen=True, omit_defaults=False):
    """One resource limit: ``type`` is ``RLIMIT_…``, values in the unit of getrlimit(2), -1 means
    unlimited."""

    type: str
    soft: int
    hard: int


class Box(Base, frozen=True, omit_defaults=False):
    """A terminal's size in characters."""

    height: int = 0
    width: int = 0


class Process(Base, frozen=True):
    """What is executed, as whom, with which rights."""

    args: tuple[str, ...]
    cwd: str = "/"
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: Box | None = None
    user: User = User()
    capabilities: Capabilities = Capabilities()
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    apparmor_profile: str = ""
    selinux_label: str = ""


class Root(Base, frozen=True):
    """The root file system; the layers come beside the specification as mounts (``RootMount``)."""

    path: str = "rootfs"
    readonly: bool = False


class Mount(Base, frozen=True):
    """One mount inside the container, in the order of the list. ``options`` are fstab words: ``rbind``,
    ``ro``, ``nosuid``, ``rslave``, ``mode=1777`` …; ``type`` is ``bind`` for binds."""

    destination: str
    source: str = ""
    type: str = ""
    options: tuple[str, ...] = ()


class Namespace(Base, frozen=True):
    """A namespace to create (no ``path``) or to join (``path`` is /proc/<pid>/ns/<type>). ``type``: pid,
    network, mount, ipc, uts, cgroup, user, time. Not listed: shared with the host."""

    type: str
    path: str = ""


class Device(Base, frozen=True):
    """A device node to make: ``type`` c, b or p; ``file_mode`` permission bits."""

    type: str
    path: str
    major: int = 0
    minor: int = 0
    file_mode: int = 0o666
    uid: int = 0
    gid: int = 0


class DeviceRule(Base, frozen=True):
    """One device cgroup rule, applied in order. ``type`` a, c or b; absent numbers mean all; ``access`` of
    ``rwm``."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class MemoryLimits(Base, frozen=True):
    """Bytes; -1 means unlimited. ``swap`` is memory plus swap."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool = False


class CpuLimits(Base, frozen=True):
    """``shares`` relative weight (1024 is one), ``quota`` and ``period`` microseconds, ``cpus`` and ``mems``
    lists."""

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""


class PidsLimit(Base, frozen=True):
    """Most tasks at once; -1 means unlimited."""

    limit: int


class BlockIoLimits(Base, frozen=True):
    """``weight`` 10 to 1000."""

    weight: int | None = None


class Resources(Base, frozen=True):
    """Everything the cgroup limits."""

    devices: tuple[DeviceRule, ...] = ()
    memory: MemoryLimits = MemoryLimits()
    cpu: CpuLimits = CpuLimits()
    pids: PidsLimit | None = None
    block_io: BlockIoLimits = msgspec.field(name="blockIO", default=BlockIoLimits())


class Linux(Base, frozen=True):
    """The Linux part. The seccomp filter is not here: it comes compiled, as bytes, beside the
    specification."""

    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources = Resources()
    sysctl: dict[str, str] = {}
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    rootfs_propagation: str = ""
    mount_label: str = ""


class Spec(Base, frozen=True, kw_only=True, omit_defaults=False):
    """One container's configuration."""

    process: Process
    oci_version: str = "1.2.0"
    hostname: str = ""
    domainname: str = ""
    root: Root = Root()
    mounts: tuple[Mount, ...] = ()
    linux: Linux = Linux()
    annotations: dict[str, str] = {}


class RootMount(Base, frozen=True):
    """The root file system as data, from the snapshotter: an overlay (``lower`` from the top down, absolute
    paths; ``upper`` and ``work`` empty for a read-only view), or a plain folder (only ``lower[0]``,
    writable)."""

    type: str
    lower: tuple[str, ...]
    upper: str = ""
    work: str = ""
