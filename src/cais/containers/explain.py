"""What isolates a container, as facts read from the kernel where there is a process, else from the record."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cais.containers.fleet import Fleet, Live
from cais.containers.limits import Machine
from cais.containers.record import Record
from cais.containers.services import Rooms
from cais.errors import CaisError
from cais.images.image import Image
from cais.linux import apparmor, caps
from cais.linux.cgroups.base import Cgroups, Stats

NAMESPACES = {
    "mnt": "mount",
    "pid": "pid",
    "net": "network",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "user": "user",
}
SECCOMP_MODES = {"0": "off", "1": "strict", "2": "filter"}
UNLIMITED = 1 << 60
"""Limits from here on mean none: cgroup v1 shows none as the largest page-aligned integer."""


class Explainer:
    """Answers ``GET /cais/containers/{id}/explain``."""

    def __init__(self, rooms: Rooms, fleet: Fleet, cgroups: Cgroups) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._cgroups = cgroups

    async def explain(self, live: Live) -> dict[str, Any]:
        """One mapping of parts; each a mapping or a list of plain values."""
        record, pid = live.record, live.state.pid if live.state.live else 0
        status = read_status(pid) if pid else {}
        answer: dict[str, Any] = {
            "container": f"{record.name} ({record.id[:12]})",
            "state": f"{record.state.status}, pid {pid}" if pid else record.state.status,
            "image": record.config.image,
        }
        if pid:
            answer["namespaces"] = self._namespaces(pid)
            answer["limits"] = self._limits(record.id)
        answer["capabilities"] = describe_capabilities(int(status.get("CapBnd", "0"), 16)) if pid else {}
        answer["seccomp"] = {
            "profile": record.seccomp or "the engine's own",
            "mode": SECCOMP_MODES.get(status.get("Seccomp", ""), "not running"),
            "filters": status.get("Seccomp_filters", "0"),
            "no new privileges": status.get("NoNewPrivs") == "1"
            if pid
            else "no-new-privileges" in record.host.security_opt,
        }
        answer["labels"] = describe_labels(record, self._rooms.machine, pid)
        answer["mounts"] = [
            {
                "destination": m.destination,
                "type": m.type,
                "source": m.name or m.source,
                "mode": "rw" if m.rw else "ro",
            }
            for m in record.mounts
        ]
        answer["layers"] = await self._layers(live)
        answer["network"] = self._network(live)
        return answer

    def _namespaces(self, pid: int) -> list[dict[str, str]]:
        """Each kind, its number, and who else is in it."""
        others = {each.id: each for each in self._fleet if each.state.live and each.state.pid != pid}
        rows = []
        for name, kind in NAMESPACES.items():
            number = namespace_number(pid, name)
            sharing = [
                o.record.name for o in others.values() if namespace_number(o.state.pid, name) == number
            ]
            if number == namespace_number(os.getpid(), name):
                sharing = ["the host"]
            rows.append({"kind": kind, "id": number, "shared with": ", ".join(sharing) or "nobody"})
        return rows

    def _limits(self, id: str) -> list[dict[str, str]]:
        try:
            stats = self._cgroups.stats(f"{self._rooms.config.cgroup_parent}/{id}")
        except OSError:
            return []
        host = self._fleet.find(id).record.host
        return describe_limits(stats, host.nano_cpus / 1e9 or (host.cpu_quota / (host.cpu_period or 100_000)))

    async def _layers(self, live: Live) -> list[dict[str, str]]:
        """The stack from the top: the writable layer, then the image's, with the instruction that made
        each."""
        mount = self._rooms.snapshots.mounts(live.id)
        rows = [
            {"layer": "writable", "holds": f"{self._rooms.snapshots.usage(live.id)} bytes", "at": mount.upper}
        ]
        try:
            made = made_by(await self._rooms.images.resolve(live.record.image_id))
        except CaisError:
            made = []
        for number, path in enumerate(mount.lower):
            rows.append(
                {"layer": "read-only", "holds": made[number] if number < len(made) else "-", "at": path}
            )
        return rows

    def _network(self, live: Live) -> dict[str, Any]:
        if not live.record.endpoints:
            return {"mode": live.record.host.network_mode}
        endpoint = live.record.endpoints[0]
        ports = [f"{p.host_ip}:{p.host_port}->{p.container_port}/{p.protocol}" for p in endpoint.ports]
        return {
            "mode": live.record.host.network_mode,
            "address": f"{endpoint.address}/{endpoint.prefix}" if endpoint.address else "",
            "gateway": endpoint.gateway,
            "mac": endpoint.mac,
            "interface on the host": endpoint.interface,
            "published": ports,
        }


def read_status(pid: int) -> dict[str, str]:
    """/proc/<pid>/status as a mapping (proc_pid_status(5)); empty when the process has gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def namespace_number(pid: int, name: str) -> str:
    """The number that identifies a namespace; empty when the process has gone."""
    try:
        return str(Path(f"/proc/{pid}/ns/{name}").readlink()).partition("[")[2].rstrip("]")
    except OSError:
        return ""


def describe_capabilities(bounding: int) -> dict[str, str]:
    """What is kept and what is dropped."""
    kept = caps.names_of(bounding)
    dropped = [name for name in caps.NUMBERS if name not in kept]
    return {"kept": _words(kept), "dropped": _words(dropped)}


def describe_labels(record: Record, machine: Machine, pid: int) -> dict[str, str]:
    """By module: what the kernel says of the process, else what was asked for, else why there is none."""
    answer = {
        "apparmor": record.apparmor or machine.no_apparmor,
        "selinux": record.selinux or machine.no_selinux,
    }
    for module, missing in (("apparmor", machine.no_apparmor), ("selinux", machine.no_selinux)):
        if pid and not missing:
            answer[module] = apparmor.read_label(pid) if module == "apparmor" else read_selinux_label(pid)
    return answer


def read_selinux_label(pid: int) -> str:
    """The label of a process; empty when it has gone. The file is SELinux's where there is SELinux."""
    try:
        return Path(f"/proc/{pid}/attr/current").read_text(encoding="utf-8", errors="replace").rstrip("\0\n")
    except OSError:
        return ""


def _words(names: Iterable[str]) -> str:
    return " ".join(name.removeprefix("CAP_").lower() for name in names) or "none"


def describe_limits(stats: Stats, cpus: float) -> list[dict[str, str]]:
    """Limit against use."""
    memory, limit = stats.memory, stats.memory.limit
    return [
        {
            "of": "memory",
            "limit": _size(limit) if 0 < limit < UNLIMITED else "none",
            "use": _size(memory.usage),
        },
        {
            "of": "processes",
            "limit": str(stats.pids_limit) if stats.pids_limit else "none",
            "use": str(stats.pids),
        },
        {
            "of": "cpus",
            "limit": f"{cpus:g}" if cpus else "none",
            "use": f"{stats.cpu.total_ns / 1e9:.2f} s so far",
        },
    ]


def _size(number: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g}{unit}"
        number /= 1024  # type: ignore[assignment]
    return f"{number:.4g}GiB"


def made_by(image: Image) -> list[str]:
    """The instruction that made each layer, top first."""
    steps = [
        entry.created_by or entry.comment or "-" for entry in image.config.history if not entry.empty_layer
    ]
    return list(reversed(steps))
