"""Which control group hierarchies this machine has, from /proc/self/mountinfo."""

import os
from typing import NamedTuple

from cais.errors import Unsupported
from cais.linux.cgroups.base import Cgroups, read_file
from cais.linux.cgroups.v1 import CgroupsV1, Hierarchy
from cais.linux.cgroups.v2 import CgroupsV2

NOT_CONTROLLERS = {
    "rw", "ro", "xattr", "clone_children", "cpuset_v2_mode", "noprefix", "nsdelegate", "memory_localevents",
    "favordynmods", "seclabel", "relatime", "all", "none",
}  # fmt: skip


class Mount(NamedTuple):
    """A mounted hierarchy: v1 ``controllers`` (or its ``name=…``), empty for the v2 tree; ``root``: the
    group it shows."""

    point: str
    root: str
    controllers: tuple[str, ...]


def parse_mounts(mountinfo: str) -> list[Mount]:
    """The hierarchies of a mountinfo text (proc_pid_mountinfo(5)), each once: of several mounts of one
    hierarchy the one that shows its root, else the first."""
    found: dict[tuple[str, ...], Mount] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 6 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        controllers: tuple[str, ...] = ()
        if tail[0] == "cgroup":
            options = [option for option in tail[2].split(",") if option not in NOT_CONTROLLERS]
            controllers = tuple(o for o in options if "=" not in o or o.startswith("name="))
            if not controllers:
                continue
            if any("=" not in option for option in controllers):
                controllers = tuple(option for option in controllers if "=" not in option)
        mount = Mount(_unescape(fields[4]), _unescape(fields[3]), controllers)
        if controllers not in found or (mount.root == "/" and found[controllers].root != "/"):
            found[controllers] = mount
    return list(found.values())


def _unescape(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash as octal escapes."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


def parse_own(cgroup: str) -> dict[tuple[str, ...], str]:
    """Our own group by hierarchy (the controllers as in ``Mount``), from a /proc/self/cgroup text."""
    own = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        own[tuple(controllers.split(",")) if controllers else ()] = path
    return own


def find_base(mount: Mount, own: str) -> str:
    """The folder our groups start at: the hierarchy's root as with dockerd's cgroupfs driver, or, where
    that is not ours to write (a delegated subtree), our own group. Empty when neither can be written."""
    inside = own[len(mount.root) :] if mount.root != "/" and own.startswith(mount.root) else own
    candidates = (mount.point, f"{mount.point}/{inside.strip('/')}".rstrip("/"))
    return next((folder for folder in candidates if os.access(folder, os.W_OK)), "")


def detect() -> Cgroups:
    """The machine's cgroups. ``Unsupported`` when no hierarchy with controllers is mounted and writable."""
    own = parse_own(read_file("/proc/self/cgroup"))
    mounts = parse_mounts(read_file("/proc/self/mountinfo"))
    if not mounts:
        raise Unsupported("no cgroup hierarchy is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    hierarchies, unified = [], ""
    for mount in mounts:
        base = find_base(mount, own.get(mount.controllers, "/"))
        if not mount.controllers:
            unified = base
        elif base:
            hierarchies.append(Hierarchy(mount.controllers, base, os.path.basename(mount.point)))
    if any("=" not in name for each in hierarchies for name in each.controllers):
        return CgroupsV1(tuple(hierarchies), unified)
    if unified:
        return CgroupsV2(unified)
    raise Unsupported(
        f"the cgroup hierarchies are not writable: {', '.join(mount.point for mount in mounts)}"
    )
