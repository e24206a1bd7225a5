"""From a container's record to the OCI runtime specification, exactly as tight as Docker's (pure)."""

import posixpath
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from cais.config import Config
from cais.containers import capabilities
from cais.containers.limits import DEVICE_RULE, Machine
from cais.containers.mountspec import clean, tmpfs_words
from cais.containers.options import shared_with
from cais.containers.record import MountPoint, Record
from cais.spec.container import Resources as Wishes
from cais.spec.runtimespec import (
    BlockIoLimits,
    Box,
    Capabilities,
    CpuLimits,
    Device,
    DeviceRule,
    Linux,
    MemoryLimits,
    Mount,
    Namespace,
    PidsLimit,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
    User,
)

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
"""Docker 28's; what a machine adds of its own (thermal throttling) is ``Machine.masked``."""

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
INIT_ANNOTATION = "cais.init"
"""``true``: the runtime's own init stays as process 1, passes signals on and reaps (``--init``)."""

_MOUNTS = (
    Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev")),
    Mount(
        destination="/dev",
        type="tmpfs",
        source="tmpfs",
        options=("nosuid", "strictatime", "mode=755", "size=65536k"),
    ),
    Mount(
        destination="/dev/pts",
        type="devpts",
        source="devpts",
        options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", "ro")),
    Mount(
        destination="/sys/fs/cgroup",
        type="cgroup",
        source="cgroup",
        options=("ro", "nosuid", "noexec", "nodev"),
    ),
    Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=("nosuid", "noexec", "nodev")),
    Mount(
        destination="/dev/shm",
        type="tmpfs",
        source="shm",
        options=("nosuid", "noexec", "nodev", "mode=1777"),
    ),
)
_STAY_WRITABLE = frozenset(("/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev"))
_DEVICES = (
    Device(type="c", path="/dev/null", major=1, minor=3),
    Device(type="c", path="/dev/zero", major=1, minor=5),
    Device(type="c", path="/dev/full", major=1, minor=7),
    Device(type="c", path="/dev/random", major=1, minor=8),
    Device(type="c", path="/dev/urandom", major=1, minor=9),
    Device(type="c", path="/dev/tty", major=5, minor=0),
)
_DENY_ALL = DeviceRule(allow=False)
_ALLOW_ALL = DeviceRule(allow=True)
_ALLOWED = (
    # mknod of any node is harmless: opening it is what the other rules decide (runc's AllowedDevices).
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(DeviceRule(allow=True, type="c", major=1, minor=minor) for minor in (3, 5, 7, 8, 9)),
    DeviceRule(allow=True, type="c", major=5, minor=0),
    DeviceRule(allow=True, type="c", major=5, minor=1),
    DeviceRule(allow=True, type="c", major=5, minor=2),
    DeviceRule(allow=True, type="c", major=136),
    # /dev/net/tun, of no use without CAP_NET_ADMIN: images of VPN programs make the node themselves.
    DeviceRule(allow=True, type="c", major=10, minor=200),
)


class HostDevice(msgspec.Struct, frozen=True):
    """A device of the host as stat(2) found it, under the path it gets inside; ``access`` of ``rwm``."""

    device: Device
    access: str = "rwm"


class Surroundings(msgspec.Struct, frozen=True):
    """What the specification needs to know beside the record. ``directory`` is the container's folder (etc files);
    ``pids``: id → host pid of the running containers whose namespaces it shares; ``devices``: what ``--device`` (or
    privilege) shows it."""

    config: Config
    machine: Machine
    directory: str
    pids: Mapping[str, int] = msgspec.field(default_factory=dict)
    devices: tuple[HostDevice, ...] = ()


def make_spec(record: Record, around: Surroundings) -> Spec:
    """The container's runtime specification."""
    host, config = record.host, record.config
    privileged = host.privileged
    masked = MASKED_PATHS + around.machine.masked if host.masked_paths is None else host.masked_paths
    readonly = READONLY_PATHS if host.readonly_paths is None else host.readonly_paths
    annotations = dict(host.annotations)
    if (around.config.init if host.init is None else host.init) and host.pid_mode in ("", "private"):
        annotations[INIT_ANNOTATION] = "true"
    mounts = plan_spec_mounts(record, around)
    return Spec(
        hostname="" if host.uts_mode == "host" else config.hostname,
        domainname="" if host.uts_mode == "host" else config.domainname,
        root=Root(readonly=host.readonly_rootfs),
        process=make_process(record, around),
        mounts=mounts,
        linux=Linux(
            namespaces=namespaces(record, around.pids),
            devices=_devices(around.devices),
            cgroups_path=cgroup_path(record, around.config),
            resources=_replace_devices(make_resources(host, around.machine), record, around.devices),
            sysctl=sysctls(record),
            masked_paths=() if privileged else masked,
            readonly_paths=() if privileged else readonly,
            rootfs_propagation=root_propagation(record.mounts),
        ),
        annotations=annotations,
    )


def make_process(record: Record, around: Surroundings) -> Process:
    """The first process."""
    config, host = record.config, record.host
    size = host.console_size
    return Process(
        args=record.command,
        cwd=config.working_dir or "/",
        env=environment(record, config.tty),
        terminal=config.tty,
        console_size=Box(height=size[0], width=size[1]) if config.tty and size and any(size) else None,
        user=User(username=config.user, group_add=host.group_add),
        capabilities=capability_sets(record, around.machine),
        rlimits=rlimits(record, around.config),
        no_new_privileges=record.no_new_privileges,
        oom_score_adj=host.oom_score_adj,
        apparmor_profile=record.apparmor,
        selinux_label=record.selinux,
    )


def environment(record: Record, tty: bool) -> tuple[str, ...]:
    """What Docker sets, then what the image and the user set."""
    defaults = [PATH, f"HOSTNAME={record.config.hostname}"] + (["TERM=xterm"] if tty else [])
    return merge_env(defaults, record.config.env)


def merge_env(defaults: Iterable[str], overrides: Iterable[str]) -> tuple[str, ...]:
    """``NAME=value`` replaces or is added; a bare ``NAME`` removes."""
    found = {text.partition("=")[0]: text for text in defaults}
    for text in overrides:
        name, equals, _ = text.partition("=")
        if equals:
            found[name] = text
        else:
            found.pop(name, None)
    return tuple(found.values())


def capability_sets(record: Record, machine: Machine, *, privileged: bool = False) -> Capabilities:
    """Bounding, effective and permitted. Inheritable and ambient stay empty: an inheritable set would give a
    non-root user capabilities back through file capabilities (CVE-2022-24769)."""
    host = record.host
    names = (
        machine.capabilities
        if host.privileged or privileged
        else capabilities.choose(host.cap_add, host.cap_drop, machine.capabilities)
    )
    return Capabilities(bounding=names, effective=names, permitted=names)


def rlimits(record: Record, config: Config) -> tuple[Rlimit, ...]:
    """Those asked for, and the engine's defaults for the rest."""
    wanted = {name: (soft, hard) for name, (soft, hard) in config.default_ulimits.items()}
    wanted |= {ulimit.name: (ulimit.soft, ulimit.hard) for ulimit in record.host.ulimits}
    return tuple(
        Rlimit(type=f"RLIMIT_{name.upper()}", soft=soft, hard=hard)
        for name, (soft, hard) in sorted(wanted.items())
    )


def namespaces(record: Record, pids: Mapping[str, int]) -> tuple[Namespace, ...]:
    """Own ones, joined ones (with a path), and none for those of the host."""
    host = record.host
    modes = {
        "network": "private" if record.config.network_disabled else host.network_mode,
        "ipc": host.ipc_mode,
        "pid": host.pid_mode,
        "uts": host.uts_mode,
        "cgroup": host.cgroupns_mode,
    }
    files = {"network": "net"}
    found = [Namespace(type="mount")]
    for kind, mode in modes.items():
        donor = shared_with(mode)
        if donor:
            found.append(Namespace(type=kind, path=f"/proc/{pids[donor]}/ns/{files.get(kind, kind)}"))
        elif mode != "host":
            found.append(Namespace(type=kind))
    return tuple(found)


def cgroup_path(record: Record, config: Config) -> str:
    """``<parent>/<id>``, relative to the hierarchy's root and inside it whatever ``--cgroup-parent`` says."""
    parent = clean("/" + (record.host.cgroup_parent or config.cgroup_parent))
    return posixpath.join(parent, record.id).lstrip("/")


def sysctls(record: Record) -> dict[str, str]:
    """Those asked for; in a network namespace that the runtime makes also unprivileged ping and low ports, as Docker.
    A namespace that a network made has them already."""
    own = record.host.network_mode == "none" or record.config.network_disabled
    defaults = {"net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0"}
    # A key with slashes only is the same in dots (sysctl(8)).
    return (defaults if own else {}) | {
        key.replace("/", "."): value for key, value in record.host.sysctls.items()
    }


def root_propagation(points: Iterable[MountPoint]) -> str:
    """A shared (slave) bind needs a root that is shared (slave) too."""
    kinds = {point.propagation.removeprefix("r") for point in points if point.type == "bind"}
    return "shared" if "shared" in kinds else "rslave" if "slave" in kinds else ""


def plan_spec_mounts(record: Record, around: Surroundings) -> tuple[Mount, ...]:
    """Docker's default mounts, those replaced or hidden by the user's taken out, then the user's by depth."""
    user = sorted(_user_mounts(record, around), key=lambda mount: mount.destination.count("/"))
    taken = {mount.destination for mount in user}
    defaults = [
        _default_mount(mount, record)
        for mount in _MOUNTS
        if mount.destination not in taken
        and not ("/dev" in taken and mount.destination.startswith("/dev/"))
        and not (mount.destination == "/dev/shm" and record.host.ipc_mode == "none")
    ]
    return tuple(defaults + user)


def _default_mount(mount: Mount, record: Record) -> Mount:
    options = list(mount.options)
    if mount.destination == "/dev/shm":
        options.append(f"size={record.host.shm_size}")
    security = record.writable_cgroups
    writable = record.host.privileged if security is None else security
    if (mount.type == "sysfs" and record.host.privileged) or (mount.type == "cgroup" and writable):
        options.remove("ro")
    elif record.host.readonly_rootfs and mount.destination not in _STAY_WRITABLE and "ro" not in options:
        options.append("ro")
    return Mount(destination=mount.destination, type=mount.type, source=mount.source, options=tuple(options))


def _user_mounts(record: Record, around: Surroundings) -> list[Mount]:
    host = record.host
    mounts = [point_mount(point) for point in record.mounts]
    taken = {mount.destination for mount in mounts}
    options = ("rbind", "rro", "rprivate") if host.readonly_rootfs else ("rbind", "rprivate")
    for name in ("resolv.conf", "hostname", "hosts"):
        if f"/etc/{name}" not in taken:
            mounts.append(
                Mount(
                    destination=f"/etc/{name}",
                    type="bind",
                    source=f"{around.directory}/{name}",
                    options=options,
                )
            )
    for destination, text in host.tmpfs.items():
        mounts.append(
            Mount(destination=clean(destination), type="tmpfs", source="tmpfs", options=tmpfs_words(text))
        )
        taken.add(clean(destination))
    source = _shared_memory(host.ipc_mode, around.pids)
    if source and "/dev/shm" not in taken:
        mounts.append(
            Mount(destination="/dev/shm", type="bind", source=source, options=("rbind", "rprivate"))
        )
    return mounts


def _shared_memory(mode: str, pids: Mapping[str, int]) -> str:
    """Who shares an IPC namespace shares /dev/shm: POSIX shared memory is files there."""
    if mode == "host":
        return "/dev/shm"
    donor = shared_with(mode)
    return f"/proc/{pids[donor]}/root/dev/shm" if donor else ""


def point_mount(point: MountPoint) -> Mount:
    """One mount that was asked for, in the specification's words."""
    if point.type == "tmpfs":
        return Mount(
            destination=point.destination, type="tmpfs", source="tmpfs", options=tmpfs_words(point.options)
        )
    options = ["bind" if point.non_recursive else "rbind"]
    if not point.rw:
        options.append("ro" if point.read_only_non_recursive else "rro")
    options.append(point.propagation or "rprivate")
    return Mount(destination=point.destination, type="bind", source=point.source, options=tuple(options))


def _devices(extra: Sequence[HostDevice]) -> tuple[Device, ...]:
    found = {device.path: device for device in _DEVICES}
    return tuple((found | {item.device.path: item.device for item in extra}).values())


def device_rules(record: Record, extra: Sequence[HostDevice]) -> tuple[DeviceRule, ...]:
    """Nothing, then the default list, then what the user gave; everything for the privileged."""
    if record.host.privileged:
        return (_ALLOW_ALL,)
    given = [
        DeviceRule(
            allow=True,
            type=item.device.type,
            major=item.device.major,
            minor=item.device.minor,
            access=item.access,
        )
        for item in extra
    ]
    return (_DENY_ALL, *_ALLOWED, *given, *(parse_rule(text) for text in record.host.device_cgroup_rules))


def parse_rule(text: str) -> DeviceRule:
    """``--device-cgroup-rule``: ``c 42:* rmw``; checked by ``limits``."""
    found = DEVICE_RULE.fullmatch(text)
    if not found:
        raise ValueError(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = found.groups()
    return DeviceRule(
        allow=True,
        type=kind,
        major=None if major == "*" else int(major),
        minor=None if minor == "*" else int(minor),
        access=access,
    )


def make_resources(wishes: Wishes, machine: Machine) -> Resources:
    """Docker's numbers as the cgroup's; without device rules."""
    quota, period = wishes.cpu_quota or None, wishes.cpu_period or None
    if wishes.nano_cpus > 0:
        period = 100_000
        quota = wishes.nano_cpus * period // 10**9
    swap = wishes.memory_swap if machine.swap else 0
    swappiness = wishes.memory_swappiness
    pids = wishes.pids_limit
    return Resources(
        memory=MemoryLimits(
            limit=wishes.memory or None,
            reservation=wishes.memory_reservation or None,
            swap=swap or None,
            swappiness=None if swappiness == -1 else swappiness,
            disable_oom_killer=bool(wishes.oom_kill_disable),
        ),
        cpu=CpuLimits(
            shares=wishes.cpu_shares or None,
            quota=quota,
            period=period,
            realtime_runtime=wishes.cpu_realtime_runtime or None,
            realtime_period=wishes.cpu_realtime_period or None,
            cpus=wishes.cpuset_cpus,
            mems=wishes.cpuset_mems,
        ),
        pids=None if pids is None else PidsLimit(limit=pids if pids > 0 else -1),
        block_io=BlockIoLimits(weight=wishes.blkio_weight or None),
    )


def _replace_devices(resources: Resources, record: Record, extra: Sequence[HostDevice]) -> Resources:
    return Resources(
        devices=device_rules(record, extra),
        memory=resources.memory,
        cpu=resources.cpu,
        pids=resources.pids,
        block_io=resources.block_io,
    )
