"""The limits of a RUN: processes, memory, disk. Whoever passes one is stopped, and the error names it."""

import asyncio
import os
import stat
import time

import msgspec

from cais.linux.cgroups.base import Cgroups

_MIB = 1 << 20


class StepLimits(msgspec.Struct, frozen=True):
    """``pids``: processes and threads at once, unless the request says another number; ``disk``: bytes that one step
    may write into its layer; ``keep_free``: bytes (a fiftieth of a small disk at most) and ``keep_inodes`` that a step
    must leave of the engine's disk; ``patience``: seconds that a step may be at its limit of processes; ``interval``:
    seconds between two looks; ``count_every``: seconds between two counts of what it has written, which for many files
    take longer."""

    pids: int = 4096
    disk: int = 100 << 30
    keep_free: int = 512 << 20
    keep_inodes: int = 10_000
    patience: float = 3.0
    interval: float = 0.25
    count_every: float = 5.0


_SHARE = 20
"""Counting takes one part in so many of the time."""
_SLACK = 64 << 20
"""Bytes that a step may write even on a full disk: others may have filled it."""


class Guard(msgspec.Struct):
    """One step. ``group``: its control group; ``pids``: its limit of processes (0: none); ``folder``: where it writes,
    empty if that is not a folder of its own."""

    limits: StepLimits
    cgroups: Cgroups
    group: str
    pids: int
    folder: str
    _free: int = 0
    _inodes: int = 0
    _crowded: float = 0.0
    _count_at: float = 0.0
    _was_crowded: bool = False

    async def watch(self, place: str) -> str:
        """Returns when a limit has been passed: which one. ``place``: a folder on the engine's disk."""
        start = os.statvfs(place)
        self._free, self._inodes = start.f_bavail * start.f_frsize, start.f_favail
        self._count_at = time.monotonic() + self.limits.count_every
        while True:
            await asyncio.sleep(self.limits.interval)
            reason = self._look_at_processes() or await self._look_at_disk(place)
            if reason:
                return reason

    def explain(self, place: str) -> str:
        """What a step that failed by itself may have failed of."""
        if self._was_crowded:
            return f"its processes came up to {self.pids}, the limit for a step"
        now = os.statvfs(place)
        free = now.f_bavail * now.f_frsize
        return f"the disk is nearly full, {free // _MIB} MiB are left" if free < self._keep(now) else ""

    def _keep(self, now: os.statvfs_result) -> int:
        return min(self.limits.keep_free, now.f_blocks * now.f_frsize // 50)

    def _look_at_processes(self) -> str:
        if not self.pids:
            return ""
        try:
            count = self.cgroups.stats(self.group).pids
        except OSError:
            return ""  # it has just ended
        # Some die while others are made: about as many as there may be is as many.
        is_crowded = count >= self.pids - self.pids // 32
        self._was_crowded = self._was_crowded or is_crowded
        self._crowded = self._crowded + self.limits.interval if is_crowded else 0.0
        if self._crowded < self.limits.patience:
            return ""
        return f"stopped: it kept {self.pids} processes, the limit for a step, for {self.limits.patience:g} s"

    async def _look_at_disk(self, place: str) -> str:
        now = os.statvfs(place)
        free = now.f_bavail * now.f_frsize
        written = self._free - free
        if free < self._keep(now) and written > _SLACK:
            return f"stopped: the disk is nearly full, {free // _MIB} MiB are left"
        lost = self._inodes - now.f_favail
        if now.f_files and now.f_favail < self.limits.keep_inodes and lost > self.limits.keep_inodes:
            return f"stopped: the disk has room for no more than {now.f_favail} files"
        begun = time.monotonic()
        if self.folder and begun >= self._count_at:
            own = await asyncio.to_thread(count_bytes, self.folder)
            if own > self.limits.disk:
                return f"stopped: it wrote {own // _MIB} MiB, the limit for a step is {self.limits.disk // _MIB} MiB"
            took = time.monotonic() - begun
            self._count_at = begun + max(self.limits.count_every, _SHARE * took)
        return ""


def count_bytes(folder: str) -> int:
    """What everything below ``folder`` takes on the disk; what comes and goes meanwhile counts or does not."""
    total, folders, seen = 0, [folder], set[tuple[int, int]]()
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(found.st_mode):
                folders.append(entry.path)
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_blocks * 512
    return total
