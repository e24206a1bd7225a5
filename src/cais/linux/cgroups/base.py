"""The control group contract: what every hierarchy version offers, and the file acts they share."""

import errno
import os
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from cais.errors import Invalid

# Values here are NamedTuples and not dataclasses: importing dataclasses pulls in inspect, ast, dis and
# tokenize, and the keeper, which must stay at a few megabytes, imports this room.

WRITE = os.O_WRONLY | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_CLOEXEC
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Write(NamedTuple):
    """One setting: write ``value`` to ``file`` of the group's folder in the hierarchy of ``controller``."""

    controller: str
    file: str
    value: str


class CgroupMount(NamedTuple):
    """One mount of a container's own /sys/fs/cgroup, in order. ``type`` bind: ``source`` is the group's own folder on
    the host, to be opened there; else a new file system. ``data`` is the file system's own option text. All of them
    get ``nosuid``, ``nodev``, ``noexec`` at the end, and ``ro`` unless the container is privileged."""

    destination: str
    type: str
    source: str
    data: str = ""


class CgroupLink(NamedTuple):
    """A symbolic link to make once the mounts are there: ``path`` points to ``target``."""

    path: str
    target: str


class ContainerView(NamedTuple):
    """What a container sees at /sys/fs/cgroup: make ``mounts`` in order, then ``links``."""

    mounts: tuple[CgroupMount, ...]
    links: tuple[CgroupLink, ...] = ()


class CpuStats(NamedTuple):
    """Nanoseconds of CPU time; periods are counts of the bandwidth limit's periods."""

    total_ns: int = 0
    user_ns: int = 0
    system_ns: int = 0
    per_cpu_ns: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0


class MemoryStats(NamedTuple):
    """Bytes. ``limit`` 0: none. ``detail`` is memory.stat, with the kernel's names."""

    usage: int = 0
    max_usage: int = 0
    limit: int = 0
    failures: int = 0
    detail: Mapping[str, int] = MappingProxyType({})


class BlockIo(NamedTuple):
    """Bytes and operations of one device since the group was made. ``operation`` read or write."""

    major: int
    minor: int
    operation: str
    bytes: int
    operations: int


class Stats(NamedTuple):
    """What a group has used. ``pids_limit`` 0: none."""

    cpu: CpuStats = CpuStats()
    memory: MemoryStats = MemoryStats()
    pids: int = 0
    pids_limit: int = 0
    block_io: tuple[BlockIo, ...] = ()


class Cgroups(Protocol):
    """Groups of processes and their limits. A ``path`` is relative (``cais/<container id>``), the same
    below every hierarchy. ``resources`` is the ``linux.resources`` object of an OCI ``config.json``
    (config-linux.md) as plain dicts. Kernel refusals pass through as OSError naming file and value; a
    limit or device rule whose controller is absent is Unsupported: nothing is left open in silence."""

    kind: str
    """``v1``, ``hybrid`` or ``v2``."""

    def create(self, path: str, resources: dict[str, Any]) -> None:
        """Make a fresh group and set its limits before anything is inside. A left-over empty group of the
        same path is replaced, a populated one is OSError(EBUSY). On failure nothing is left."""
        ...

    def prepare(self, path: str, resources: dict[str, Any]) -> None:
        """The first half of ``create``, for who wants to clone a process meanwhile: refuse what cannot be had and make
        what ``unified_fd`` opens. On failure nothing is left."""
        ...

    def finish(self, path: str, resources: dict[str, Any]) -> None:
        """The other half: before it the process must not ``join``. On failure only what ``prepare`` made is left."""
        ...

    def join(self, path: str, *, entered: bool = True) -> None:
        """Move the calling thread (of a single-threaded process) into the group. ``entered``: it was
        cloned into ``unified_fd(path)``, so the v2 tree is not written to again."""
        ...

    def unified_fd(self, path: str) -> int | None:
        """A descriptor of the group's v2 folder for clone3(CLONE_INTO_CGROUP), which the caller closes;
        None on pure v1."""
        ...

    def pids(self, path: str) -> list[int]:
        """Every process of the group and of groups below; empty when the group is gone."""
        ...

    def kill(self, path: str) -> None:
        """SIGKILL to every process of the group and below, frozen ones included. Idempotent; does not
        wait for the ends."""
        ...

    def freeze(self, path: str) -> None:
        """Stop every process; returns once all stand still. OSError(ETIMEDOUT), thawed again, if some
        would not."""
        ...

    def thaw(self, path: str) -> None:
        """Let the processes run again. Idempotent."""
        ...

    def update(self, path: str, resources: dict[str, Any]) -> None:
        """Change the limits that ``resources`` names; others stay."""
        ...

    def oom_kills(self, path: str) -> int:
        """How many processes of the group the kernel has killed for memory; 0 when that is not known."""
        ...

    def stats(self, path: str) -> Stats:
        """What the group has used so far. FileNotFoundError when it is gone."""
        ...

    def remove(self, path: str, *, timeout: float = 0.25) -> None:
        """Remove the group and groups below. Idempotent; OSError(EBUSY) when processes are still inside
        after ``timeout`` seconds."""
        ...

    def remove_empty(self, path: str) -> None:
        """Remove the group unless there are processes or groups in it (OSError)."""
        ...

    def children(self, path: str) -> set[str]:
        """Names of the groups directly below, in any hierarchy; empty when there is no such group."""
        ...

    def container_mounts(self, path: str) -> ContainerView:
        """What to mount at the /sys/fs/cgroup of a container whose group is ``path``."""
        ...

    def missing(self) -> tuple[str, ...]:
        """What this machine cannot limit, of: memory, swap, cpu-quota, cpu-shares, cpuset, pids,
        blkio-weight, devices, freezer, oom-kill-disable, realtime."""
        ...


def check_path(path: str) -> None:
    """Refuse a group path that could reach outside of the base folder (``--cgroup-parent ../..``)."""
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise Invalid(f"invalid cgroup path: {path!r}")


def check_fresh(folder: str) -> None:
    """OSError(EBUSY) when the existing group has processes: it is somebody's, not a left-over."""
    if read_pids(folder):
        raise OSError(errno.EBUSY, "cgroup exists and is in use", folder)


def write_file(path: str, value: str) -> None:
    """Write ``value`` to an existing control file; OSError names the file and the value."""
    try:
        fd = os.open(path, WRITE)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (writing {value!r})", path) from error


def read_file(path: str) -> str:
    """The text of a control file."""
    fd = os.open(path, READ)
    try:
        chunks = []
        # Kernel files may answer a page at a time (cgroup.procs does): read to the end.
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
    finally:
        os.close(fd)
    return b"".join(chunks).decode("ascii", "replace")


def find_number(path: str) -> int:
    """The number in a control file; 0 when the file is absent or says ``max``."""
    try:
        text = read_file(path).strip()
    except FileNotFoundError:
        return 0
    return int(text) if text.lstrip("-").isdigit() else 0


def find_table(path: str) -> dict[str, int]:
    """A flat-keyed file (``name number`` lines) as a dict; empty when the file is absent."""
    try:
        text = read_file(path)
    except FileNotFoundError:
        return {}
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def walk_groups(folder: str) -> Iterator[str]:
    """The folder and all groups below it, deepest first. Nothing when it is gone."""
    try:
        with os.scandir(folder) as entries:
            children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for child in children:
        yield from walk_groups(child)
    yield folder


def list_children(folder: str) -> set[str]:
    """Names of the groups directly below ``folder``."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    except FileNotFoundError:
        return set()


def read_own_pids(group: str) -> list[int]:
    """Process ids of this one group. 0 stands for a process of another pid namespace: left out."""
    try:
        text = read_file(group + "/cgroup.procs")
    except OSError as error:
        # A container may remove its own groups while we look; a threaded v2 group has no process list of its own, its
        # processes are listed by the domain above it (cgroup-v2.rst, Threads).
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return []
        raise
    return [pid for pid in map(int, text.split()) if pid]


def read_pids(folder: str) -> list[int]:
    """Process ids of the group and below, each once."""
    return list(dict.fromkeys(pid for group in walk_groups(folder) for pid in read_own_pids(group)))


def remove_groups(folder: str, deadline: float) -> None:
    """rmdir the group and all below; EBUSY is tried again until ``deadline`` (time.monotonic), because a
    killed process leaves its group only when it has been cleaned up. A new group made meanwhile by what
    is dying is found by the retry."""
    pause = 0.0005
    while True:
        try:
            remove_tree(folder)
            return
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def remove_tree(folder: str) -> None:
    """rmdir the group; only one that has groups below (EBUSY says so too) is worth a listing."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        for group in walk_groups(folder):
            os.rmdir(group)


def wait_for(path: str, wanted: str, timeout: float) -> bool:
    """Read ``path`` until ``wanted`` is one of its lines; False after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while wanted not in read_file(path).splitlines():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.0005)
    return True
