"""Resource limits become the right control file writes, in the right order."""

import pytest

from cais.errors import Invalid
from cais.linux.cgroups.limits import cpu_weight, io_weight, plan_v1, plan_v2, swap_max

LIMIT = ("memory", "memory.limit_in_bytes", "100")
SWAP = ("memory", "memory.memsw.limit_in_bytes", "200")


def test_no_limits_write_nothing():
    """An empty resources object changes nothing."""
    assert plan_v1({}) == plan_v2({}) == []


def test_v1_fresh_group_gets_the_limit_before_the_swap():
    """A fresh group is unlimited: memory must go down before memory+swap."""
    assert plan_v1({"memory": {"limit": 100, "swap": 200}}) == [LIMIT, SWAP]


@pytest.mark.parametrize(("current", "expected"), [(150, [SWAP, LIMIT]), (1000, [LIMIT, SWAP])])
def test_v1_swap_is_raised_first_and_lowered_last(current, expected):
    """memory+swap is never below memory in between."""
    assert plan_v1({"memory": {"limit": 100, "swap": 200}}, current_memsw=current) == expected


def test_v1_unlimited_memory_takes_the_swap_with_it():
    """--memory -1 without a swap value makes memory+swap unlimited first."""
    assert [write[2] for write in plan_v1({"memory": {"limit": -1}}, current_memsw=5)] == ["-1", "-1"]
    assert plan_v1({"memory": {"limit": -1}}, current_memsw=5)[0].file == "memory.memsw.limit_in_bytes"


def test_v1_writes_every_limit():
    """Each member of the resources object has its v1 file."""
    writes = plan_v1(
        {
            "memory": {"reservation": 7, "swappiness": 0, "disableOOMKiller": True},
            "cpu": {"shares": 2, "quota": -1, "period": 1000, "cpus": "0-1", "mems": "0"}
            | {"realtimeRuntime": 5, "realtimePeriod": 6},
            "pids": {"limit": -1},
            "blockIO": {"weight": 300},
        }
    )
    assert [f"{write.file}={write.value}" for write in writes] == [
        "memory.soft_limit_in_bytes=7",
        "memory.swappiness=0",
        "memory.oom_control=1",
        "cpu.shares=2",
        "cpu.cfs_period_us=1000",
        "cpu.cfs_quota_us=-1",
        "cpu.rt_period_us=6",
        "cpu.rt_runtime_us=5",
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "pids.max=max",
        "blkio.weight=300",
    ]


def test_v2_writes_every_limit():
    """Each member of the resources object that v2 has a file for is written to it."""
    writes = plan_v2(
        {
            "memory": {"limit": 100, "swap": 150, "reservation": 7, "swappiness": 0},
            "cpu": {"shares": 1024, "quota": 500, "period": 1000, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 9},
            "blockIO": {"weight": 10},
        }
    )
    assert [f"{write.file}={write.value}" for write in writes] == [
        "memory.swap.max=50",
        "memory.max=100",
        "memory.low=7",
        "cpu.weight=100",
        "cpu.max=500 1000",
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "pids.max=9",
        "io.weight=default 1",
    ]


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [({"quota": 500}, "500 2000"), ({"period": 1000}, "900 1000"), ({"quota": -1}, "max 2000")],
)
def test_v2_an_update_keeps_the_other_half_of_cpu_max(cpu, expected):
    """quota and period share one file: what is not named stays."""
    assert plan_v2({"cpu": cpu}, current_cpu_max="900 2000")[0].value == expected


@pytest.mark.parametrize(
    ("limit", "swap", "expected"),
    [
        (100, 100, "0"),
        (100, 300, "200"),
        (100, -1, "max"),
        (100, None, None),
        (-1, None, "max"),
        (None, None, None),
    ],
)
def test_v2_swap_is_counted_by_itself(limit, swap, expected):
    """The specification's swap is memory plus swap, v2's is swap alone."""
    assert swap_max(limit, swap) == expected


@pytest.mark.parametrize(("limit", "swap"), [(100, 50), (None, 50), (-1, 50)])
def test_v2_impossible_swap_is_refused(limit, swap):
    """Swap below memory, or without it, is an error before anything is written."""
    with pytest.raises(Invalid, match="memory"):
        swap_max(limit, swap)


def test_weights_meet_at_their_ends_and_defaults():
    """The lowest, the default and the highest share have the lowest, the default and the highest weight."""
    assert [cpu_weight(shares) for shares in (0, 2, 1024, 262144, 10**9)] == [1, 1, 100, 10000, 10000]
    assert [io_weight(weight) for weight in (10, 500, 1000)] == [1, 4950, 10000]
    assert all(cpu_weight(n) <= cpu_weight(n + 1) for n in range(2, 5000))
