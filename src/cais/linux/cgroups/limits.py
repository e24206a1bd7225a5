"""OCI resource limits as control file writes, for both hierarchy versions; pure."""

import math
from typing import Any

from cais.errors import Invalid
from cais.linux.cgroups.base import Write

Resources = dict[str, Any]

UNLIMITED = -1


def plan_v1(resources: Resources, *, current_memsw: int | None = None) -> list[Write]:
    """The writes for v1 controllers, in an order the kernel accepts (cgroup-v1/*.rst).

    ``current_memsw``: bytes of the memory+swap limit now in force, for an update; None for a fresh,
    unlimited group.
    """
    writes = _memory_v1(resources.get("memory") or {}, current_memsw)
    cpu = resources.get("cpu") or {}
    if shares := cpu.get("shares"):
        writes.append(Write("cpu", "cpu.shares", str(shares)))
    # The period first: a quota below the old period's minimum is refused, and the pair is checked on each
    # write.
    for key, file in (
        ("period", "cpu.cfs_period_us"),
        ("quota", "cpu.cfs_quota_us"),
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
    ):
        if value := cpu.get(key):
            writes.append(Write("cpu", file, str(value)))
    writes += [Write("cpuset", f"cpuset.{key}", cpu[key]) for key in ("cpus", "mems") if cpu.get(key)]
    if (pids := _pids(resources)) is not None:
        writes.append(Write("pids", "pids.max", pids))
    if weight := (resources.get("blockIO") or {}).get("weight"):
        writes.append(Write("blkio", "blkio.weight", str(weight)))
    return writes


def _memory_v1(memory: Resources, current_memsw: int | None) -> list[Write]:
    limit, swap = memory.get("limit"), memory.get("swap")
    if limit == UNLIMITED and not swap:
        # Memory+swap may never be below memory: an unlimited memory needs it unlimited first.
        swap = UNLIMITED
    writes = []
    limit_write = Write("memory", "memory.limit_in_bytes", str(limit))
    swap_write = Write("memory", "memory.memsw.limit_in_bytes", str(swap))
    if limit and swap:
        # The kernel keeps limit <= memsw at every moment: raise memsw before the limit, lower it after
        # the limit.
        raising = current_memsw is not None and (swap == UNLIMITED or current_memsw < swap)
        writes += [swap_write, limit_write] if raising else [limit_write, swap_write]
    elif limit:
        writes.append(limit_write)
    elif swap:
        writes.append(swap_write)
    if reservation := memory.get("reservation"):
        writes.append(Write("memory", "memory.soft_limit_in_bytes", str(reservation)))
    if (swappiness := memory.get("swappiness")) is not None and swappiness != UNLIMITED:
        writes.append(Write("memory", "memory.swappiness", str(swappiness)))
    if _no_oom_killer(memory):
        writes.append(Write("memory", "memory.oom_control", "1"))
    return writes


def _no_oom_killer(memory: Resources) -> bool:
    # disableOOMKiller is the specification's spelling; the other is what a camel-casing encoder makes of it.
    return bool(memory.get("disableOOMKiller") or memory.get("disableOomKiller"))


def _pids(resources: Resources) -> str | None:
    limit = (resources.get("pids") or {}).get("limit")
    if limit is None:
        return None
    return str(limit) if limit > 0 else "max"


def plan_v2(resources: Resources, *, current_cpu_max: str = "max 100000") -> list[Write]:
    """The writes for v2 controllers (cgroup-v2.rst). ``current_cpu_max``: the text of cpu.max, whose
    other half an update of only quota or only period keeps. Realtime and the OOM switch have no v2 file
    and are left out, as runc does."""
    memory = resources.get("memory") or {}
    writes = []
    swap = swap_max(memory.get("limit"), memory.get("swap"))
    if swap is not None:
        # v2 counts swap by itself, so unlike v1 neither order is refused; swap first never lets a group
        # that is being lowered flee into the swap it is about to lose.
        writes.append(Write("memory", "memory.swap.max", swap))
    if limit := memory.get("limit"):
        writes.append(Write("memory", "memory.max", _amount(limit)))
    if reservation := memory.get("reservation"):
        writes.append(Write("memory", "memory.low", _amount(reservation)))
    cpu = resources.get("cpu") or {}
    if shares := cpu.get("shares"):
        writes.append(Write("cpu", "cpu.weight", str(cpu_weight(shares))))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        old_quota, old_period = current_cpu_max.split()
        new_quota = _amount(quota) if quota else old_quota
        writes.append(Write("cpu", "cpu.max", f"{new_quota} {period or old_period}"))
    writes += [Write("cpuset", f"cpuset.{key}", cpu[key]) for key in ("cpus", "mems") if cpu.get(key)]
    if (pids := _pids(resources)) is not None:
        writes.append(Write("pids", "pids.max", pids))
    if weight := (resources.get("blockIO") or {}).get("weight"):
        writes.append(Write("io", "io.weight", f"default {io_weight(weight)}"))
    return writes


def _amount(value: int) -> str:
    return "max" if value < 0 else str(value)


def swap_max(limit: int | None, swap: int | None) -> str | None:
    """memory.swap.max (swap alone) from the specification's ``swap`` (memory plus swap); None: leave it."""
    if not swap:
        return "max" if limit == UNLIMITED else None
    if swap == UNLIMITED:
        return "max"
    if not limit or limit == UNLIMITED:
        raise Invalid("unable to set swap limit without memory limit")
    if swap < limit:
        raise Invalid("memory+swap limit should be >= memory limit")
    return str(swap - limit)


def cpu_weight(shares: int) -> int:
    """cpu.weight (1 to 10000) from cpu.shares (2 to 262144): the quadratic in the logarithm that runc
    1.3.2 and crun 1.23 use, through (2, 1), (1024, 100) and (262144, 10000), so that the two defaults
    meet."""
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """io.weight (1 to 10000) from blkio.weight (10 to 1000), linear as runc does."""
    return 1 + (weight - 10) * 9999 // 990
