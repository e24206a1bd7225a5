"""What this machine has and lacks, found once, at start, for ``info`` and ``version``."""

import os
import uuid
from pathlib import Path

from cais.api.services import Facts
from cais.config import Config
from cais.linux import apparmor
from cais.linux.caps import names_of
from cais.linux.cgroups.base import Cgroups

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

_LIMIT_WARNINGS = {
    "memory": "No memory limit support",
    "swap": "No swap limit support",
    "cpu-quota": "No cpu cfs quota support",
    "cpu-shares": "No cpu shares support",
    "cpuset": "No cpuset support",
    "pids": "No pids limit support",
    "blkio-weight": "No blkio weight support",
    "devices": "No device access control support",
    "freezer": "No freezer support: pause is not possible",
    "oom-kill-disable": "No oom kill disable support",
}
"""What ``Cgroups.missing`` says, in the words of dockerd's warnings where it has them."""


def find_facts(config: Config, cgroups: Cgroups, *, storage_driver: str) -> Facts:
    """Everything ``info`` and ``version`` say that cannot change while the engine runs."""
    system = os.uname()
    release = parse_os_release(_read("/etc/os-release"))
    return Facts(
        engine_id=_engine_id(config.root),
        hostname=system.nodename,
        kernel=system.release,
        operating_system=release.get("PRETTY_NAME", "Linux"),
        os_version=release.get("VERSION_ID", ""),
        architecture=system.machine,
        go_architecture=_GO_ARCHITECTURES.get(system.machine, system.machine),
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        cgroup_version="2" if cgroups.kind == "v2" else "1",
        storage_driver=storage_driver,
        backing_filesystem=filesystem_of(config.root, _read("/proc/self/mountinfo")),
        missing=frozenset(cgroups.missing()),
        security_options=_security_options(config),
        warnings=_warnings(cgroups),
    )


def parse_os_release(text: str) -> dict[str, str]:
    """os-release(5) as a dict."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {key: value.strip().strip("\"'") for key, equals, value in pairs if equals}


def filesystem_of(path: Path, mountinfo: str) -> str:
    """The type of the file system that holds ``path``, from a mountinfo text (proc_pid_mountinfo(5)): that of
    the longest mount point that is a parent of it; of equals the last, which lies on top."""
    best, kind = "", "unknown"
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        inside = point == "/" or f"{path}/".startswith(f"{point}/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def own_capabilities() -> int:
    """The bit mask of our effective capabilities."""
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _engine_id(root: Path) -> str:
    """A random id that stays with the root folder."""
    path = root / "engine-id"
    text = _read(str(path)).strip()
    if text:
        return text
    text = str(uuid.uuid4())
    temporary = root / f".engine-id.{os.getpid()}"
    temporary.write_text(text + "\n")
    temporary.rename(path)
    return text


def _security_options(config: Config) -> tuple[str, ...]:
    options = [] if apparmor.why_not() else ["name=apparmor"]
    profile = config.seccomp_profile or "builtin"
    if profile != "unconfined":
        options.append(f"name=seccomp,profile={profile}")
    options.append("name=cgroupns")
    if config.no_new_privileges:
        options.append("name=no-new-privileges")
    return tuple(options)


def _warnings(cgroups: Cgroups) -> tuple[str, ...]:
    lines = [_LIMIT_WARNINGS[name] for name in cgroups.missing() if name in _LIMIT_WARNINGS]
    if cgroups.kind != "v2":
        lines.append(f"control groups are {cgroups.kind}: version 2 is not in use on this machine")
    if "CAP_SYS_RESOURCE" not in names_of(own_capabilities()):
        lines.append(
            "No CAP_SYS_RESOURCE: limits above the engine's own cannot be given, OOM scores not lowered"
        )
    lines += _apparmor_warnings()
    if not Path("/run/systemd/system").exists():
        lines.append("No systemd: nothing restarts the engine by itself")
    return tuple(f"WARNING: {line}" for line in lines)


def _apparmor_warnings() -> list[str]:
    missing = apparmor.why_not()
    if missing:
        return [f"No AppArmor support: {missing}"]
    if not apparmor.find_parser():
        return [
            "No apparmor_parser (Debian: package apparmor): containers start with apparmor=unconfined only"
        ]
    return []


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
