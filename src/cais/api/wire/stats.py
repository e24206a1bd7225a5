"""Docker's JSON for what a container uses. Lower-case names; zero numbers that Go omits are left out."""

import msgspec

from cais.api.wire.base import format_time
from cais.linux.cgroups.base import BlockIo, CpuStats, MemoryStats, Stats
from cais.linux.links import Counters

Omitted = msgspec.UnsetType
OMIT = msgspec.UNSET


class _Lower(msgspec.Struct, frozen=True, kw_only=True):
    """Names as they are."""


class Throttling(_Lower, frozen=True, kw_only=True):
    """Periods of the CPU bandwidth limit."""

    periods: int
    throttled_periods: int
    throttled_time: int


class CpuUsage(_Lower, frozen=True, kw_only=True):
    """Nanoseconds."""

    total_usage: int
    percpu_usage: tuple[int, ...] | Omitted
    usage_in_kernelmode: int
    usage_in_usermode: int


class CpuReply(_Lower, frozen=True, kw_only=True):
    """The group's time and the whole machine's."""

    cpu_usage: CpuUsage
    system_cpu_usage: int | Omitted = OMIT
    online_cpus: int | Omitted = OMIT
    throttling_data: Throttling


class MemoryReply(_Lower, frozen=True, kw_only=True):
    """Bytes."""

    usage: int | Omitted = OMIT
    max_usage: int | Omitted = OMIT
    stats: dict[str, int] | Omitted = OMIT
    failcnt: int | Omitted = OMIT
    limit: int | Omitted = OMIT


class BlkioEntry(_Lower, frozen=True, kw_only=True):
    """One device and operation."""

    major: int
    minor: int
    op: str
    value: int


class BlkioReply(_Lower, frozen=True, kw_only=True):
    """Bytes and operations of block devices; what kernels do not count any more is null."""

    io_service_bytes_recursive: tuple[BlkioEntry, ...] | None
    io_serviced_recursive: tuple[BlkioEntry, ...] | None
    io_queue_recursive: None = None
    io_service_time_recursive: None = None
    io_wait_time_recursive: None = None
    io_merged_recursive: None = None
    io_time_recursive: None = None
    sectors_recursive: None = None


class PidsReply(_Lower, frozen=True, kw_only=True):
    """Processes and threads."""

    current: int | Omitted = OMIT
    limit: int | Omitted = OMIT


class NetworkReply(_Lower, frozen=True, kw_only=True):
    """Traffic of one interface, seen from the container."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class StatsReply(_Lower, frozen=True, kw_only=True):
    """``GET /containers/{id}/stats``."""

    name: str
    id: str
    read: str
    preread: str
    pids_stats: PidsReply
    blkio_stats: BlkioReply
    num_procs: int = 0
    storage_stats: dict[str, int]
    cpu_stats: CpuReply
    precpu_stats: CpuReply
    memory_stats: MemoryReply
    networks: dict[str, NetworkReply] | Omitted = OMIT


class Sample(_Lower, frozen=True, kw_only=True):
    """One look: at ``time_ns`` (0: the container does not run), the machine's CPU time ``system_ns``."""

    time_ns: int = 0
    stats: Stats = Stats()
    system_ns: int = 0
    cpus: int = 0
    traffic: Counters | None = None


def stats_reply(name: str, id: str, now: Sample, before: Sample, memory: int) -> StatsReply:
    """Two looks for clients, which compute percentages of the difference; ``memory`` is the machine's, in bytes."""
    return StatsReply(
        name=f"/{name}",
        id=id,
        read=format_time(now.time_ns),
        preread=format_time(before.time_ns),
        pids_stats=PidsReply(current=now.stats.pids or OMIT, limit=now.stats.pids_limit or OMIT),
        blkio_stats=_blkio(now.stats.block_io),
        storage_stats={},
        cpu_stats=_cpu(now),
        precpu_stats=_cpu(before),
        memory_stats=_memory(now.stats.memory, memory) if now.time_ns else MemoryReply(),
        networks={"eth0": _network(now.traffic)} if now.traffic else OMIT,
    )


def _cpu(sample: Sample) -> CpuReply:
    cpu: CpuStats = sample.stats.cpu
    return CpuReply(
        cpu_usage=CpuUsage(
            total_usage=cpu.total_ns,
            percpu_usage=cpu.per_cpu_ns or OMIT,
            usage_in_kernelmode=cpu.system_ns,
            usage_in_usermode=cpu.user_ns,
        ),
        system_cpu_usage=sample.system_ns or OMIT,
        online_cpus=sample.cpus or OMIT,
        throttling_data=Throttling(
            periods=cpu.periods, throttled_periods=cpu.throttled_periods, throttled_time=cpu.throttled_ns
        ),
    )


def _memory(memory: MemoryStats, machine: int) -> MemoryReply:
    limit = min(memory.limit, machine) if memory.limit else machine
    return MemoryReply(
        usage=memory.usage or OMIT,
        max_usage=memory.max_usage or OMIT,
        stats=dict(memory.detail) or OMIT,
        failcnt=memory.failures or OMIT,
        limit=limit,
    )


def _blkio(entries: tuple[BlockIo, ...]) -> BlkioReply:
    sizes = tuple(
        BlkioEntry(major=each.major, minor=each.minor, op=each.operation, value=each.bytes)
        for each in entries
    )
    counts = tuple(
        BlkioEntry(major=each.major, minor=each.minor, op=each.operation, value=each.operations)
        for each in entries
    )
    return BlkioReply(io_service_bytes_recursive=sizes or None, io_serviced_recursive=counts or None)


def _network(host_end: Counters) -> NetworkReply:
    """What the host's end of the veth sent is what the container received."""
    return NetworkReply(
        rx_bytes=host_end.tx_bytes,
        rx_packets=host_end.tx_packets,
        rx_errors=host_end.tx_errors,
        rx_dropped=host_end.tx_dropped,
        tx_bytes=host_end.rx_bytes,
        tx_packets=host_end.rx_packets,
        tx_errors=host_end.rx_errors,
        tx_dropped=host_end.rx_dropped,
    )


def parse_system_time(stat: str, ticks: int) -> int:
    """Nanoseconds of CPU time the machine has seen, from a /proc/stat text (proc_stat(5)): user to softirq, as
    dockerd counts; ``ticks`` a second."""
    fields = stat.partition("\n")[0].split()
    return sum(map(int, fields[1:8])) * 1_000_000_000 // ticks
