"""Control groups of version 2 (one tree)."""

import errno
import os
import time
from contextlib import ExitStack, suppress
from typing import Any

from cais.errors import Unsupported
from cais.linux.cgroups.base import (
    DIRECTORY,
    BlockIo,
    CgroupMount,
    ContainerView,
    CpuStats,
    MemoryStats,
    Stats,
    Write,
    check_fresh,
    check_path,
    find_number,
    find_table,
    list_children,
    read_file,
    read_own_pids,
    read_pids,
    remove_groups,
    wait_for,
    walk_groups,
    write_file,
)
from cais.linux.cgroups.bpf import attach_devices, make_program
from cais.linux.cgroups.devices import parse_rules
from cais.linux.cgroups.limits import plan_v2

FREEZE_TIMEOUT = 2.0
WANTED = ("cpu", "cpuset", "io", "memory", "pids")


class CgroupsV2:
    """See ``base.Cgroups``; ``base`` is the folder our paths start at."""

    kind = "v2"

    def __init__(self, base: str) -> None:
        self._base = base
        self._prepared: set[str] = set()
        self._controllers = read_file(f"{base}/cgroup.controllers").split()

    def create(self, path: str, resources: dict[str, Any]) -> None:
        """See ``base.Cgroups``."""
        check_path(path)
        writes = plan_v2(resources)
        rules = parse_rules(resources.get("devices") or [])
        self._check(writes)
        folder = f"{self._base}/{path}"
        self._make(path)
        with ExitStack() as undo:
            undo.callback(os.rmdir, folder)
            if rules:
                self._limit_devices(folder, make_program(rules), fresh=True)
            self._write(folder, writes)
            undo.pop_all()

    def prepare(self, path: str, resources: dict[str, Any]) -> None:
        """See ``base.Cgroups``: all of it, for a process is cloned into a group whose limits hold."""
        self.create(path, resources)

    def finish(self, path: str, resources: dict[str, Any]) -> None:
        """See ``base.Cgroups``: nothing is left to do."""

    def _check(self, writes: list[Write]) -> None:
        for write in writes:
            if write.controller not in self._controllers:
                raise Unsupported(f"this machine has no {write.controller} cgroup: cannot set {write.file}")

    def _make(self, path: str) -> None:
        folder, parent = f"{self._base}/{path}", path.rpartition("/")[0]
        if parent not in self._prepared:
            self._prepare(parent)
        try:
            os.mkdir(folder, 0o755)
        except FileExistsError:
            check_fresh(folder)
            remove_groups(folder, 0)
            os.mkdir(folder, 0o755)
        except FileNotFoundError:
            # Somebody has removed the parent since we prepared it.
            self._prepare(parent)
            os.mkdir(folder, 0o755)

    def _prepare(self, path: str) -> None:
        """Make the folder and its parents, each giving its children every controller it has
        (cgroup-v2.rst, Top-down Constraint): only then do the children have the files."""
        folder = self._base
        self._enable(folder)
        for part in path.split("/") if path else ():
            folder = f"{folder}/{part}"
            with suppress(FileExistsError):
                os.mkdir(folder, 0o755)
            self._enable(folder)
        self._prepared.add(path)

    def _enable(self, folder: str) -> None:
        have = set(read_file(f"{folder}/cgroup.subtree_control").split())
        missing = [name for name in WANTED if name in self._controllers and name not in have]
        if missing and folder == self._base and os.path.exists(f"{folder}/cgroup.type"):
            # Before the first: cpu and pids would be taken with processes inside, but then make the group
            # a threaded one.
            self._vacate()
        for name in missing:
            try:
                # One by one: a controller that cannot (cpu with realtime tasks about) must not take the
                # others with it.
                write_file(f"{folder}/cgroup.subtree_control", f"+{name}")
            except OSError as error:
                if error.errno in (errno.EBUSY, errno.EOPNOTSUPP):
                    raise Unsupported(
                        f"{folder} has processes, so its groups cannot be limited: move them away"
                    ) from error
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise

    def _vacate(self) -> None:
        """Our base is not the machine's root but a container's or a delegated one, and we and what else
        runs in it stand in the way: all move to a group beside our containers'."""
        aside = f"{self._base}/init"
        with suppress(FileExistsError):
            os.mkdir(aside, 0o755)
        while pids := read_own_pids(self._base):
            for pid in pids:
                with suppress(ProcessLookupError):
                    write_file(f"{aside}/cgroup.procs", str(pid))

    def _limit_devices(self, folder: str, program: bytes, *, fresh: bool) -> None:
        fd = os.open(folder, DIRECTORY)
        try:
            attach_devices(fd, program, fresh=fresh)
        finally:
            os.close(fd)

    def _write(self, folder: str, writes: list[Write]) -> None:
        for write in writes:
            try:
                write_file(f"{folder}/{write.file}", write.value)
            except FileNotFoundError:
                self._write_absent(folder, write)

    def _write_absent(self, folder: str, write: Write) -> None:
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "no such cgroup", folder)
        if write.file == "io.weight" and os.path.exists(f"{folder}/io.bfq.weight"):
            # bfq's own range ends at 1000.
            number = int(write.value.split()[-1])
            write_file(f"{folder}/io.bfq.weight", str(max(1, number // 10)))
            return
        if write.file == "memory.swap.max":
            return  # No swap accounting: Docker warns at create (``missing()`` says so) and drops the value.
        raise Unsupported(f"this kernel has no {write.file}")

    def join(self, path: str, *, entered: bool = True) -> None:
        """See ``base.Cgroups``. Moving is slow (the kernel takes cgroup_threadgroup_rwsem for writing and
        waits for an RCU grace period), being cloned into the group is not: so nothing is left to do when
        ``entered``."""
        if not entered:
            write_file(f"{self._base}/{path}/cgroup.procs", "0")

    def unified_fd(self, path: str) -> int | None:
        """See ``base.Cgroups``. A group that has given controllers to groups below, as an engine inside a
        container does with its own, takes no processes any more (cgroup-v2.rst, No Internal Process
        Constraint): then it is the group below where its oldest process has gone."""
        folder = f"{self._base}/{path}"
        if read_file(f"{folder}/cgroup.subtree_control").strip():
            oldest = ((min(pids), group) for group in walk_groups(folder) if (pids := read_own_pids(group)))
            folder = min(oldest, default=(0, folder))[1]
        return os.open(folder, DIRECTORY)

    def pids(self, path: str) -> list[int]:
        """See ``base.Cgroups``."""
        return read_pids(f"{self._base}/{path}")

    def kill(self, path: str) -> None:
        """See ``base.Cgroups``. cgroup.kill reaches groups below, frozen processes and those forking
        meanwhile."""
        with suppress(FileNotFoundError):
            write_file(f"{self._base}/{path}/cgroup.kill", "1")

    def freeze(self, path: str) -> None:
        """See ``base.Cgroups``."""
        folder = f"{self._base}/{path}"
        write_file(f"{folder}/cgroup.freeze", "1")
        if not wait_for(f"{folder}/cgroup.events", "frozen 1", FREEZE_TIMEOUT):
            write_file(f"{folder}/cgroup.freeze", "0")
            raise OSError(errno.ETIMEDOUT, "processes did not freeze", folder)

    def thaw(self, path: str) -> None:
        """See ``base.Cgroups``."""
        folder = f"{self._base}/{path}"
        write_file(f"{folder}/cgroup.freeze", "0")
        wait_for(f"{folder}/cgroup.events", "frozen 0", FREEZE_TIMEOUT)

    def update(self, path: str, resources: dict[str, Any]) -> None:
        """See ``base.Cgroups``."""
        folder = f"{self._base}/{path}"
        cpu_max = "max 100000"
        with suppress(FileNotFoundError):
            cpu_max = read_file(f"{folder}/cpu.max").strip()
        writes = plan_v2(resources, current_cpu_max=cpu_max)
        rules = parse_rules(resources.get("devices") or [])
        self._check(writes)
        if rules:
            self._limit_devices(folder, make_program(rules), fresh=False)
        self._write(folder, writes)

    def oom_kills(self, path: str) -> int:
        """See ``base.Cgroups``."""
        return find_table(f"{self._base}/{path}/memory.events").get("oom_kill", 0)

    def stats(self, path: str) -> Stats:
        """See ``base.Cgroups``."""
        folder = f"{self._base}/{path}"
        cpu = find_table(f"{folder}/cpu.stat")
        if not cpu:
            raise FileNotFoundError(errno.ENOENT, "no such cgroup", folder)
        return Stats(
            cpu=CpuStats(
                total_ns=cpu.get("usage_usec", 0) * 1000,
                user_ns=cpu.get("user_usec", 0) * 1000,
                system_ns=cpu.get("system_usec", 0) * 1000,
                periods=cpu.get("nr_periods", 0),
                throttled_periods=cpu.get("nr_throttled", 0),
                throttled_ns=cpu.get("throttled_usec", 0) * 1000,
            ),
            memory=MemoryStats(
                usage=find_number(f"{folder}/memory.current"),
                max_usage=find_number(f"{folder}/memory.peak"),
                limit=find_number(f"{folder}/memory.max"),
                failures=find_table(f"{folder}/memory.events").get("max", 0),
                detail=find_table(f"{folder}/memory.stat"),
            ),
            pids=find_number(f"{folder}/pids.current"),
            pids_limit=find_number(f"{folder}/pids.max"),
            block_io=_block_io(folder),
        )

    def remove(self, path: str, *, timeout: float = 0.25) -> None:
        """See ``base.Cgroups``."""
        remove_groups(f"{self._base}/{path}", time.monotonic() + timeout)
        self._prepared.discard(path)

    def remove_empty(self, path: str) -> None:
        """See ``base.Cgroups``."""
        check_path(path)
        with suppress(FileNotFoundError):
            os.rmdir(f"{self._base}/{path}")
        self._prepared.discard(path)

    def children(self, path: str) -> set[str]:
        """See ``base.Cgroups``."""
        check_path(path)
        return list_children(f"{self._base}/{path}")

    def container_mounts(self, path: str) -> ContainerView:
        """See ``base.Cgroups``."""
        return ContainerView((CgroupMount("/sys/fs/cgroup", "cgroup2", "cgroup"),))

    def missing(self) -> tuple[str, ...]:
        """See ``base.Cgroups``. Realtime limits and switching the OOM killer off do not exist in version
        2."""
        words = {
            "memory": "memory",
            "cpu-quota": "cpu",
            "cpu-shares": "cpu",
            "cpuset": "cpuset",
            "pids": "pids",
        }
        absent = [word for word, name in words.items() if name not in self._controllers]
        if "io" not in self._controllers:
            absent.append("blkio-weight")
        if "memory" not in self._controllers or not os.path.exists("/proc/swaps"):
            absent.append("swap")
        return (*absent, "oom-kill-disable", "realtime")


def _block_io(folder: str) -> tuple[BlockIo, ...]:
    """``major:minor rbytes=… wbytes=… rios=… wios=…`` lines of io.stat."""
    try:
        text = read_file(f"{folder}/io.stat")
    except FileNotFoundError:
        return ()
    found = []
    for line in text.splitlines():
        device, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        if "rbytes" in values:
            major, minor = map(int, device.split(":"))
            found.append(BlockIo(major, minor, "read", int(values["rbytes"]), int(values.get("rios", 0))))
            found.append(BlockIo(major, minor, "write", int(values["wbytes"]), int(values.get("wios", 0))))
    return tuple(found)
