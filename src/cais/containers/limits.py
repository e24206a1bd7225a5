"""Checks of resource limits, in Docker's words, before anything is made (pure)."""

import re

import msgspec

from cais.errors import Invalid, Unsupported
from cais.spec.container import Resources, Ulimit

_MINIMUM_MEMORY = 6 << 20
RLIMITS = frozenset(
    """core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending
    stack""".split()  # noqa: SIM905
)
DEVICE_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})", re.ASCII)


class Machine(msgspec.Struct, frozen=True):
    """What limits can be kept here. ``capabilities`` is what the engine itself has; ``cpus`` and ``mems`` are what
    may be asked for; ``swap``: memory plus swap can be limited."""

    cpu_count: int = 1
    cpus: frozenset[int] = frozenset((0,))
    mems: frozenset[int] = frozenset((0,))
    capabilities: tuple[str, ...] = ()
    cgroup_v2: bool = False
    swap: bool = True
    no_apparmor: str = "this kernel has no apparmor"
    """Why no AppArmor profile can be given to a container; empty where one can."""
    no_selinux: str = "this kernel has no selinux"
    """The same of SELinux labels."""
    realtime: bool = False
    hostname: str = "localhost"
    masked: tuple[str, ...] = ()
    """Paths to mask that only some machines have."""


def check_resources(resources: Resources, machine: Machine, *, update: bool = False) -> list[str]:
    """Warnings; raises Invalid for what cannot be."""
    warnings = _check_memory(resources, machine, update)
    _check_cpu(resources, machine)
    if resources.blkio_weight and not 10 <= resources.blkio_weight <= 1000:
        raise Invalid("Range of blkio weight is from 10 to 1000")
    if resources.io_maximum_bandwidth or resources.io_maximum_iops:
        raise Invalid("Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps")
    for ulimit in resources.ulimits:
        check_ulimit(ulimit)
    for rule in resources.device_cgroup_rules:
        if not DEVICE_RULE.fullmatch(rule):
            raise Invalid(f"invalid device cgroup rule format: '{rule}'")
    for device in resources.devices:
        if set(device.cgroup_permissions) - set("rwm"):
            raise Invalid(f"invalid device mode: {device.cgroup_permissions}")
    if resources.blkio_weight_device or _throttles(resources):
        raise Unsupported("limits of single block devices are not supported")
    for request in resources.device_requests:
        wanted = " ".join("[" + " ".join(group) + "]" for group in request.capabilities)
        raise Invalid(f'could not select device driver "{request.driver}" with capabilities: [{wanted}]')
    if resources.cpu_percent > 0:
        warnings.append("linux does not support CPU percent. Percent discarded.")
    return warnings


def _throttles(resources: Resources) -> bool:
    return any(
        (
            resources.blkio_device_read_bps,
            resources.blkio_device_write_bps,
            resources.blkio_device_read_iops,
            resources.blkio_device_write_iops,
        )
    )


def _check_memory(resources: Resources, machine: Machine, update: bool) -> list[str]:
    memory, swap, reservation = resources.memory, resources.memory_swap, resources.memory_reservation
    warnings: list[str] = []
    if memory != 0 and memory < _MINIMUM_MEMORY:
        raise Invalid("Minimum memory limit allowed is 6MB")
    if memory > 0 and 0 < swap < memory:
        raise Invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory == 0 and swap > 0 and not update:
        raise Invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
    if memory > 0 and swap != -1 and not machine.swap:
        warnings.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
            "Memory limited without swap."
        )
    swappiness = resources.memory_swappiness
    if swappiness is not None and swappiness != -1 and not 0 <= swappiness <= 100:
        raise Invalid(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if 0 < reservation < _MINIMUM_MEMORY:
        raise Invalid("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reservation:
        raise Invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
    if resources.oom_kill_disable and memory == 0:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources."
        )
    return warnings


def _check_cpu(resources: Resources, machine: Machine) -> None:
    nano, period, quota = resources.nano_cpus, resources.cpu_period, resources.cpu_quota
    if nano > 0 and period > 0:
        raise Invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if nano > 0 and quota > 0:
        raise Invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if nano < 0 or nano > machine.cpu_count * 10**9:
        raise Invalid(
            f"range of CPUs is from 0.01 to {machine.cpu_count}.00, "
            f"as there are only {machine.cpu_count} CPUs available"
        )
    if period and not 1000 <= period <= 1_000_000:
        raise Invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < quota < 1000:
        raise Invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if resources.cpu_shares < 0:
        raise Invalid(f"invalid CPU shares ({resources.cpu_shares}): value must be a positive integer")
    realtime, window = resources.cpu_realtime_runtime, resources.cpu_realtime_period
    if (realtime or window) and not machine.realtime:
        raise Invalid("kernel does not support CPU real-time scheduler")
    if window and realtime > window:
        raise Invalid("cpu real-time runtime cannot be higher than cpu real-time period")
    _check_set(resources.cpuset_cpus, machine.cpus, "cpus", "CPUs")
    _check_set(resources.cpuset_mems, machine.mems, "mems", "memory nodes")


def _check_set(text: str, available: frozenset[int], kind: str, noun: str) -> None:
    try:
        wanted = parse_set(text)
    except ValueError as error:
        raise Invalid(f"Invalid value {text} for cpuset {kind}: {error}") from error
    if not wanted <= available:
        raise Invalid(
            f"Requested {noun} are not available - requested {text}, available: {format_set(available)}"
        )


def parse_set(text: str) -> frozenset[int]:
    """A cpuset list ``0-2,5`` (cpuset(7), List format). Raises ValueError."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        if not (first.isascii() and first.isdecimal()) or (
            dash and not (last.isascii() and last.isdecimal())
        ):
            raise ValueError(f"invalid format: {part}")
        low, high = int(first), int(last) if dash else int(first)
        if high < low or high > 8191:
            raise ValueError(f"invalid range: {part}")
        found.update(range(low, high + 1))
    return frozenset(found)


def format_set(numbers: frozenset[int]) -> str:
    """The list that ``parse_set`` reads, with ranges."""
    parts: list[str] = []
    start: int | None = None
    for number in sorted(numbers):
        start = number if start is None else start
        if number + 1 not in numbers:
            parts.append(str(start) if start == number else f"{start}-{number}")
            start = None
    return ",".join(parts)


def check_ulimit(ulimit: Ulimit) -> None:
    """Raises Invalid for an unknown name or a soft limit over the hard one."""
    if ulimit.name not in RLIMITS:
        raise Invalid(f"invalid ulimit type: {ulimit.name}")
    if ulimit.hard != -1 and (ulimit.soft == -1 or ulimit.soft > ulimit.hard):
        raise Invalid(
            f"ulimit soft limit must be less than or equal to hard limit: {ulimit.soft} > {ulimit.hard}"
        )
