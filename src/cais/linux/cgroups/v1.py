"""Control groups of version 1 (one hierarchy a controller), with a version 2 tree beside them when hybrid."""

import errno
import os
import signal
import time
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

from cais.errors import Unsupported
from cais.linux.cgroups.base import (
    DIRECTORY,
    WRITE,
    BlockIo,
    CgroupLink,
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
    read_pids,
    remove_groups,
    wait_for,
    write_file,
)
from cais.linux.cgroups.devices import format_v1, parse_rules
from cais.linux.cgroups.limits import plan_v1

FREEZE_TIMEOUT = 2.0
NO_LIMIT = 1 << 62
"""memory.limit_in_bytes of an unlimited group is the largest page-aligned signed 64-bit number."""


class Hierarchy(NamedTuple):
    """A mounted v1 hierarchy. ``controllers``: its subsystems, or one ``name=…``; ``base``: the folder
    our paths start at; ``folder``: the last part of the mount point, the name a container sees it by."""

    controllers: tuple[str, ...]
    base: str
    folder: str


class CgroupsV1:
    """See ``base.Cgroups``; ``unified`` is the base folder of the v2 tree, empty on pure v1."""

    def __init__(self, hierarchies: tuple[Hierarchy, ...], unified: str = "") -> None:
        self.kind = "hybrid" if unified else "v1"
        self._hierarchies = hierarchies
        self._unified = unified
        self._bases = {name: each.base for each in hierarchies for name in each.controllers}
        # Any hierarchy has every process; freezer and systemd cost the kernel least.
        self._listing = unified or self._bases.get("freezer") or hierarchies[0].base

    def create(self, path: str, resources: dict[str, Any]) -> None:
        """See ``base.Cgroups``."""
        self.prepare(path, resources)
        try:
            self.finish(path, resources)
        except BaseException:
            if self._unified:
                os.rmdir(f"{self._unified}/{path}")
            raise

    def prepare(self, path: str, resources: dict[str, Any]) -> None:
        """See ``base.Cgroups``."""
        check_path(path)
        self._check(plan_v1(resources), bool(parse_rules(resources.get("devices") or [])))
        if self._unified:
            _make_group(self._unified, path, inherit=False)

    def finish(self, path: str, resources: dict[str, Any]) -> None:
        """See ``base.Cgroups``."""
        with ExitStack() as undo:
            for each in self._hierarchies:
                inherit = each.base == self._bases.get("cpuset")
                _make_group(each.base, path, inherit=inherit)
                undo.callback(os.rmdir, f"{each.base}/{path}")
                if inherit:
                    _inherit_cpuset(f"{each.base}/{path}")
            self._write_devices(path, parse_rules(resources.get("devices") or []))
            self._write(path, plan_v1(resources))
            undo.pop_all()

    def _all_bases(self) -> list[str]:
        bases = [each.base for each in self._hierarchies]
        return [*bases, self._unified] if self._unified else bases

    def _check(self, writes: list[Write], devices: bool) -> None:
        for write in writes:
            if write.controller not in self._bases:
                raise Unsupported(f"this machine has no {write.controller} cgroup: cannot set {write.file}")
        if devices and "devices" not in self._bases:
            raise Unsupported("this machine has no devices cgroup: device access cannot be limited")

    def _write_devices(self, path: str, rules: list[Any]) -> None:
        folder = f"{self._bases.get('devices')}/{path}/"
        for rule in rules:
            file, line = format_v1(rule)
            write_file(folder + file, line)

    def _write(self, path: str, writes: list[Write]) -> None:
        pending = list(writes)
        while pending:
            write = pending.pop(0)
            folder = f"{self._bases[write.controller]}/{path}"
            try:
                write_file(f"{folder}/{write.file}", write.value)
            except FileNotFoundError:
                self._write_absent(folder, write)
            except OSError as error:
                quota_next = (
                    write.file == "cpu.cfs_period_us" and pending and pending[0].file == "cpu.cfs_quota_us"
                )
                if error.errno == errno.EINVAL and quota_next:
                    # The new period with the old quota exceeds a parent's share: then the other order is
                    # the valid one.
                    pending.insert(1, write._replace(file="cpu.cfs_period_us"))
                    write_file(f"{folder}/{pending[0].file}", pending.pop(0).value)
                    continue
                raise

    def _write_absent(self, folder: str, write: Write) -> None:
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "no such cgroup", folder)
        if write.file == "blkio.weight" and os.path.exists(f"{folder}/blkio.bfq.weight"):
            write_file(f"{folder}/blkio.bfq.weight", write.value)
            return
        if write.file == "memory.memsw.limit_in_bytes":
            # Without swap accounting memory cannot be swapped out of the limit's sight any differently:
            # Docker warns at create (``missing()`` says so) and drops the value.
            return
        raise Unsupported(f"this kernel has no {write.file}")

    def join(self, path: str, *, entered: bool = True) -> None:
        """See ``base.Cgroups``."""
        # "tasks" and not "cgroup.procs": for one thread that moves itself the kernel skips the write side
        # of cgroup_threadgroup_rwsem (and with it an RCU grace period), 0.3 ms instead of 6 to 26 ms for
        # all hierarchies.
        for each in self._hierarchies:
            fd = os.open(f"{each.base}/{path}/tasks", WRITE)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        if self._unified and not entered:
            write_file(f"{self._unified}/{path}/cgroup.procs", "0")

    def unified_fd(self, path: str) -> int | None:
        """See ``base.Cgroups``."""
        return os.open(f"{self._unified}/{path}", DIRECTORY) if self._unified else None

    def pids(self, path: str) -> list[int]:
        """See ``base.Cgroups``."""
        return read_pids(f"{self._listing}/{path}")

    def kill(self, path: str) -> None:
        """See ``base.Cgroups``."""
        if not self._unified or self._kill_unified(path):
            self._kill_listed(path)
        if "freezer" in self._bases:
            # A process frozen by the v1 freezer does not even die before it is thawed.
            with suppress(FileNotFoundError):
                self.thaw(path)

    def _kill_unified(self, path: str) -> bool:
        """cgroup.kill; True when some process is in the v1 group only, put there by a privileged
        container."""
        with suppress(FileNotFoundError):
            write_file(f"{self._unified}/{path}/cgroup.kill", "1")
        # In this order: who dies between the two readings is in the first only.
        unified = set(read_pids(f"{self._unified}/{path}"))
        return bool(set(self._v1_pids(path)) - unified)

    def _kill_listed(self, path: str) -> None:
        frozen = "freezer" in self._bases and self._freezer(path, "FROZEN", must=False)
        # Frozen processes can neither fork nor end, so one pass over the list is complete and no id is
        # reused under us. Without a freezer: again until nobody new shows up, which a fork bomb can only
        # delay while the pids limit holds.
        seen: set[int] = set()
        for _ in range(1 if frozen else 100):
            fresh = set(self._v1_pids(path)) - seen
            for pid in fresh:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            seen |= fresh
            if not fresh:
                break

    def _v1_pids(self, path: str) -> list[int]:
        base = self._bases.get("freezer") or self._hierarchies[0].base
        return read_pids(f"{base}/{path}")

    def freeze(self, path: str) -> None:
        """See ``base.Cgroups``."""
        if "freezer" not in self._bases:
            raise Unsupported("this machine has no freezer cgroup: cannot pause")
        self._freezer(path, "FROZEN", must=True)

    def thaw(self, path: str) -> None:
        """See ``base.Cgroups``."""
        if "freezer" in self._bases:
            self._freezer(path, "THAWED", must=True)

    def _freezer(self, path: str, state: str, *, must: bool) -> bool:
        file = f"{self._bases['freezer']}/{path}/freezer.state"
        try:
            write_file(file, state)
            if wait_for(file, state, FREEZE_TIMEOUT if must else FREEZE_TIMEOUT / 10):
                return True
        except FileNotFoundError:
            if must:
                raise
            return False
        write_file(file, "THAWED")
        if must:
            raise OSError(errno.ETIMEDOUT, f"processes did not become {state}", file)
        return False

    def update(self, path: str, resources: dict[str, Any]) -> None:
        """See ``base.Cgroups``."""
        memsw = None
        if "memory" in self._bases:
            memsw = find_number(f"{self._bases['memory']}/{path}/memory.memsw.limit_in_bytes")
        writes = plan_v1(resources, current_memsw=memsw)
        rules = parse_rules(resources.get("devices") or [])
        self._check(writes, bool(rules))
        self._write_devices(path, rules)
        self._write(path, writes)

    def oom_kills(self, path: str) -> int:
        """See ``base.Cgroups``."""
        base = self._bases.get("memory")
        return find_table(f"{base}/{path}/memory.oom_control").get("oom_kill", 0) if base else 0

    def stats(self, path: str) -> Stats:
        """See ``base.Cgroups``."""
        if not os.path.isdir(f"{self._listing}/{path}"):
            raise FileNotFoundError(errno.ENOENT, "no such cgroup", path)
        pids = f"{self._bases.get('pids')}/{path}"
        return Stats(
            cpu=self._cpu_stats(path),
            memory=self._memory_stats(path),
            pids=find_number(f"{pids}/pids.current") or len(self.pids(path)),
            pids_limit=find_number(f"{pids}/pids.max"),
            block_io=self._block_io(path),
        )

    def _cpu_stats(self, path: str) -> CpuStats:
        account = f"{self._bases.get('cpuacct')}/{path}"
        throttle = find_table(f"{self._bases.get('cpu')}/{path}/cpu.stat")
        per_cpu = ""
        with suppress(FileNotFoundError):
            per_cpu = read_file(f"{account}/cpuacct.usage_percpu")
        return CpuStats(
            total_ns=find_number(f"{account}/cpuacct.usage"),
            user_ns=find_number(f"{account}/cpuacct.usage_user"),
            system_ns=find_number(f"{account}/cpuacct.usage_sys"),
            per_cpu_ns=tuple(map(int, per_cpu.split())),
            periods=throttle.get("nr_periods", 0),
            throttled_periods=throttle.get("nr_throttled", 0),
            throttled_ns=throttle.get("throttled_time", 0),
        )

    def _memory_stats(self, path: str) -> MemoryStats:
        folder = f"{self._bases.get('memory')}/{path}"
        limit = find_number(f"{folder}/memory.limit_in_bytes")
        return MemoryStats(
            usage=find_number(f"{folder}/memory.usage_in_bytes"),
            max_usage=find_number(f"{folder}/memory.max_usage_in_bytes"),
            limit=limit if limit < NO_LIMIT else 0,
            failures=find_number(f"{folder}/memory.failcnt"),
            detail=find_table(f"{folder}/memory.stat"),
        )

    def _block_io(self, path: str) -> tuple[BlockIo, ...]:
        folder = f"{self._bases.get('blkio')}/{path}/blkio.throttle."
        try:
            sizes = _blkio_table(read_file(folder + "io_service_bytes_recursive"))
            counts = _blkio_table(read_file(folder + "io_serviced_recursive"))
        except FileNotFoundError:
            return ()
        return tuple(BlockIo(*key, size, counts.get(key, 0)) for key, size in sizes.items())

    def remove(self, path: str, *, timeout: float = 0.25) -> None:
        """See ``base.Cgroups``."""
        deadline = time.monotonic() + timeout
        for base in self._all_bases():
            remove_groups(f"{base}/{path}", deadline)

    def remove_empty(self, path: str) -> None:
        """See ``base.Cgroups``."""
        check_path(path)
        for base in self._all_bases():
            with suppress(FileNotFoundError):
                os.rmdir(f"{base}/{path}")

    def children(self, path: str) -> set[str]:
        """See ``base.Cgroups``."""
        check_path(path)
        names: set[str] = set()
        return names.union(*(list_children(f"{base}/{path}") for base in self._all_bases()))

    def container_mounts(self, path: str) -> ContainerView:
        """See ``base.Cgroups``. Bound, not mounted anew: a mount in a new cgroup namespace is a super block of its own,
        ten of them for a container, 1.5 ms of its start. To the container both look the same, for mountinfo shows
        a group's path relative to the namespace."""
        mounts, links = [CgroupMount("/sys/fs/cgroup", "tmpfs", "tmpfs", "mode=755")], []
        for each in self._hierarchies:
            target = f"/sys/fs/cgroup/{each.folder}"
            mounts.append(CgroupMount(target, "bind", f"{each.base}/{path}"))
            if len(each.controllers) > 1:
                paths = (f"/sys/fs/cgroup/{name}" for name in each.controllers)
                links += [CgroupLink(path, each.folder) for path in paths if path != target]
        if self._unified:
            mounts.append(CgroupMount("/sys/fs/cgroup/unified", "bind", f"{self._unified}/{path}"))
        return ContainerView(tuple(mounts), tuple(links))

    def missing(self) -> tuple[str, ...]:
        """See ``base.Cgroups``."""
        wanted = (
            ("memory", "memory", "memory.limit_in_bytes"),
            ("swap", "memory", "memory.memsw.limit_in_bytes"),
            ("oom-kill-disable", "memory", "memory.oom_control"),
            ("cpu-quota", "cpu", "cpu.cfs_quota_us"),
            ("cpu-shares", "cpu", "cpu.shares"),
            ("realtime", "cpu", "cpu.rt_runtime_us"),
            ("cpuset", "cpuset", "cpuset.cpus"),
            ("pids", "pids", ""),
            ("devices", "devices", "devices.deny"),
            ("freezer", "freezer", ""),
        )
        absent = [
            word
            for word, name, file in wanted
            if name not in self._bases or not os.path.exists(f"{self._bases[name]}/{file}")
        ]
        # The bfq weight is absent from the root group, its counters are not.
        weights = ("blkio.weight", "blkio.bfq.weight", "blkio.bfq.io_serviced")
        blkio = self._bases.get("blkio")
        if not blkio or not any(os.path.exists(f"{blkio}/{file}") for file in weights):
            absent.append("blkio-weight")
        return tuple(absent)


def _make_group(base: str, path: str, *, inherit: bool) -> None:
    folder = f"{base}/{path}"
    try:
        os.mkdir(folder, 0o755)
    except FileExistsError:
        check_fresh(folder)
        remove_groups(folder, 0)
        os.mkdir(folder, 0o755)
    except FileNotFoundError:
        parts = path.split("/")
        for end in range(1, len(parts)):
            parent = f"{base}/{'/'.join(parts[:end])}"
            # Another engine may make the shared parent at the same moment.
            with suppress(FileExistsError):
                os.mkdir(parent, 0o755)
            if inherit:
                _inherit_cpuset(parent)
        os.mkdir(folder, 0o755)


def _inherit_cpuset(folder: str) -> None:
    """A v1 cpuset starts empty and takes no process until it has cpus and mems: copy the parent's where
    empty."""
    parent = os.path.dirname(folder)
    for file in ("/cpuset.cpus", "/cpuset.mems"):
        if not read_file(folder + file).strip():
            write_file(folder + file, read_file(parent + file).strip())


def _blkio_table(text: str) -> dict[tuple[int, int, str], int]:
    """``major:minor Read|Write… number`` lines (blkio-controller.rst); other operations are parts of
    these two."""
    table = {}
    for line in text.splitlines():
        row = line.split()
        if len(row) == 3 and row[1] in ("Read", "Write"):
            major, minor = map(int, row[0].split(":"))
            table[major, minor, row[1].lower()] = int(row[2])
    return table
