"""Looks for whatever the engine may have left behind, in the kernel and on disk: nothing of it should ever be
found."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from cais.containers.fleet import Fleet
from cais.containers.services import Rooms
from cais.images.check import Damage
from cais.linux.cgroups.base import Cgroups

_OLD = 3600.0


class Leaky(Protocol):
    """A room that can tell what it has left behind."""

    async def find_leaks(self) -> Sequence[str]:
        """One line for each thing that belongs to nothing."""
        ...


class Checker:
    """Answers ``GET /cais/system/check``. ``network``: who knows links and firewall elements. ``guests``: ids of the
    containers that builds run, which are on no record."""

    def __init__(
        self,
        rooms: Rooms,
        fleet: Fleet,
        cgroups: Cgroups,
        network: Leaky,
        guests: Callable[[], set[str]] = set,
    ) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._cgroups = cgroups
        self._network = network
        self._guests = guests

    async def check_patiently(self) -> dict[str, Any]:
        """``check``; what is being cleared away in this moment gets two seconds to go."""
        answer = await self.check()
        for _ in range(20):
            if not answer["Leaks"]:
                break
            await asyncio.sleep(0.1)
            answer = await self.check()
        return answer

    async def check(self) -> dict[str, Any]:
        """``Leaks``: kind → lines, empty when all is well; ``Counts``: what is there, for comparing before
        and after."""
        guests = self._guests()
        known = {live.id for live in self._fleet} | guests
        running = {live.id for live in self._fleet if live.state.live} | guests
        groups = self._cgroups.children(self._rooms.config.cgroup_parent)
        tasks = await self._rooms.driver.list()
        leaks = {
            "mounts": self._mounts(),
            "cgroups": sorted(groups - running),
            "processes": self._processes(groups - running),
            "tasks": sorted(task.id for task in tasks if task.exit is None and task.id not in running),
            "network": await self._network.find_leaks(),
            "snapshots": sorted(names(self._rooms.config.root / "containers") - known),
            "volumes": sorted(names(self._rooms.config.root / "volumes") - self._volumes()),
            "temporary files": sorted(names(self._rooms.config.root / "tmp")),
        }
        counts = {
            "containers": len(known - guests),
            "running": len(running - guests),
            "cgroups": len(groups),
            "tasks": len(tasks),
            "engine descriptors": len(os.listdir("/proc/self/fd")),
            "keeper descriptors": self._rooms.driver.count_descriptors(),
            "held descriptors": self._rooms.driver.count_held(),
        }
        return {"Leaks": {kind: lines for kind, lines in leaks.items() if lines}, "Counts": counts}

    async def repair(self) -> Sequence[Damage]:
        """Remove the left-over folders that nobody can miss, and tell of each. What the kernel holds goes with the
        next start of the engine."""
        leaks = (await self.check_patiently())["Leaks"]
        root, done = self._rooms.config.root, []
        for id in leaks.get("snapshots", ()):
            await asyncio.to_thread(self._rooms.snapshots.remove, id)
            done.append(Damage("left-over", f"{root}/containers/{id}", "is no container's", repair="removed"))
        for name in leaks.get("temporary files", ()):
            # Somebody may have made it just now.
            is_old = await asyncio.to_thread(remove_old, root / "tmp" / name)
            outcome = "removed" if is_old else "not removed: it is not an hour old"
            done.append(Damage("left-over", f"{root}/tmp/{name}", "belongs to nothing", repair=outcome))
        for name in leaks.get("volumes", ()):
            outcome = "not removed: it may hold data that somebody wants"
            done.append(Damage("left-over", f"{root}/volumes/{name}", "is no volume's", repair=outcome))
        return done

    def _mounts(self) -> list[str]:
        """Mounts of the host below our folders: containers' mounts live in their own namespaces only."""
        config = self._rooms.config
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        places = [line.split()[4] for line in table.splitlines()]
        return [place for place in places for base in (config.root, config.run) if is_below(place, base)]

    def _processes(self, groups: Iterable[str]) -> list[str]:
        parent = self._rooms.config.cgroup_parent
        return [
            f"{pid} in {name}" for name in sorted(groups) for pid in self._cgroups.pids(f"{parent}/{name}")
        ]

    def _volumes(self) -> set[str]:
        return {volume.name for volume in self._rooms.volumes.list()}


def is_below(place: str, base: Path) -> bool:
    """Whether a mount point lies inside ``base``; the folder itself may well be a mount of the
    administrator's."""
    return place.startswith(f"{base}/")


def remove_old(path: Path) -> bool:
    """Remove what has not been touched for an hour; whether it was so."""
    if path.lstat().st_mtime > time.time() - _OLD:
        return False
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return True


def names(folder: Path) -> set[str]:
    """The entries of a folder; empty when there is none."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()
