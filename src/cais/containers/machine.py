"""What this machine can do, read once from /proc and /sys; and devices and mounts of the host by path."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from cais.containers import capabilities
from cais.containers.limits import Machine, parse_set
from cais.containers.runspec import HostDevice
from cais.errors import Invalid
from cais.linux import apparmor
from cais.runtime import procfs
from cais.spec.container import DeviceMapping
from cais.spec.runtimespec import Device

_CGROUP = Path("/sys/fs/cgroup")


def read_machine() -> Machine:
    """Look around."""
    cpus = _read_set("/sys/devices/system/cpu/online") or frozenset(range(os.cpu_count() or 1))
    v2 = (_CGROUP / "cgroup.controllers").exists()
    return Machine(
        cpu_count=len(os.sched_getaffinity(0)),
        cpus=cpus,
        mems=_read_set("/sys/devices/system/node/online") or frozenset((0,)),
        capabilities=capabilities.from_mask(_effective_capabilities()),
        cgroup_v2=v2,
        swap=v2 or (_CGROUP / "memory/memory.memsw.limit_in_bytes").exists(),
        no_apparmor=apparmor.why_not(),
        no_selinux=why_no_selinux(_read("/proc/filesystems"), procfs.read_own_label()),
        realtime=(_CGROUP / "cpu/cpu.rt_runtime_us").exists(),
        hostname=socket.gethostname(),
        masked=tuple(sorted(map(str, Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")))),
    )


def why_no_selinux(filesystems: str, own_label: str) -> str:
    """Why no SELinux label can be given to a container, by /proc/filesystems and our own label; empty where one can.

    The kernel registers the file system when SELinux is on, and calls everybody "kernel" until a policy is loaded."""
    if "\tselinuxfs\n" not in filesystems:
        return "this kernel has no selinux"
    if own_label in ("", "kernel"):
        return "selinux has no policy loaded"
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_set(path: str) -> frozenset[int]:
    try:
        return parse_set(_read(path).strip())
    except ValueError:
        return frozenset()


def _effective_capabilities() -> int:
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def find_devices(mapping: DeviceMapping) -> list[HostDevice]:
    """The device at a path of the host, or all devices below a folder. Raises Invalid in Docker's words."""
    inside = mapping.path_in_container or mapping.path_on_host
    access = mapping.cgroup_permissions or "rwm"
    real = os.path.realpath(mapping.path_on_host)
    try:
        single = _device(real, inside)
    except OSError as error:
        raise _no_device(
            mapping, f"lstat {mapping.path_on_host}: {(error.strerror or '').lower()}"
        ) from error
    if single:
        return [HostDevice(device=single, access=access)]
    found = [
        HostDevice(device=device, access=access)
        for path in _walk(real)
        if (device := _device(path, inside + path.removeprefix(real)))
    ]
    if not found:
        raise _no_device(mapping, "not a device node")
    return found


def _no_device(mapping: DeviceMapping, why: str) -> Invalid:
    return Invalid(
        f'error gathering device information while adding custom device "{mapping.path_on_host}": {why}'
    )


def all_devices() -> list[HostDevice]:
    """Every device of the host's /dev that Docker shows the privileged: not what the container has of its own."""
    own = ("/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts")
    return [
        HostDevice(device=device)
        for path in _walk("/dev", skip=own)
        if path != "/dev/console" and (device := _device(path, path))
    ]


def _walk(top: str, skip: tuple[str, ...] = ()) -> Iterator[str]:
    for folder, names, files in os.walk(top):
        names[:] = [name for name in names if f"{folder}/{name}" not in skip]
        yield from (f"{folder}/{name}" for name in files)


def _device(path: str, inside: str) -> Device | None:
    status = os.lstat(path)
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
    if not kind:
        return None
    return Device(
        type=kind,
        path=inside,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def check_propagation(source: str, propagation: str) -> None:
    """A shared (slave) bind wants its source on a shared (or slave) mount. Raises Invalid in Docker's words."""
    kind = propagation.removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    real = os.path.realpath(source)
    point, fields = "/", ""
    for line in _read("/proc/self/mountinfo").splitlines():
        words, _, _ = line.partition(" - ")
        parts = words.split(" ")
        place = parts[4].replace("\\040", " ")
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(point):
            point, fields = place, " ".join(parts[6:])
    accepted = ("shared:",) if kind == "shared" else ("shared:", "master:")
    if not any(word.startswith(accepted) for word in fields.split()):
        wanted = "a shared mount" if kind == "shared" else "a shared or slave mount"
        raise Invalid(f"path {source} is mounted on {point} but it is not {wanted}")
