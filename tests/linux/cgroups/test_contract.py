"""What base.Cgroups promises, on whatever hierarchy the machine has (v1 and hybrid here, v2 in the
virtual machine)."""

import errno
import os
import signal
import stat
from pathlib import Path

import pytest

from cais.errors import Invalid
from cais.linux.cgroups.detect import parse_mounts, parse_own
from cais.linux.cgroups.v2 import CgroupsV2

pytestmark = pytest.mark.kernel

MIB = 1 << 20


def exit_code(pid):
    """The exit code of a child, minus the signal when killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_process_that_joins_is_listed(cgroups, root, spawn):
    """join moves the caller into the group, and into no other."""
    for name in ("a", "b"):
        cgroups.create(f"{root}/{name}", {})
    pid = spawn(f"{root}/a")
    assert cgroups.pids(f"{root}/a") == [pid]
    assert cgroups.pids(f"{root}/b") == []


def test_the_process_is_in_every_hierarchy(cgroups, root, spawn):
    """/proc/<pid>/cgroup names the group for every hierarchy that is mounted here."""
    cgroups.create(f"{root}/a", {})
    pid = spawn(f"{root}/a")
    mounted = {mount.controllers for mount in parse_mounts(Path("/proc/self/mountinfo").read_text())}
    own = parse_own(Path(f"/proc/{pid}/cgroup").read_text())
    assert {path for controllers, path in own.items() if controllers in mounted} == {f"/{root}/a"}


def test_kill_reaches_all_even_below_and_frozen(cgroups, root, spawn):
    """kill ends every process of a group and of groups below it, also while frozen."""
    cgroups.create(f"{root}/a/x", {})
    cgroups.create(f"{root}/a/y/z", {})
    pids = [spawn(f"{root}/a/x"), spawn(f"{root}/a/x"), spawn(f"{root}/a/y/z")]
    assert sorted(cgroups.pids(f"{root}/a")) == sorted(pids)
    cgroups.freeze(f"{root}/a")
    cgroups.kill(f"{root}/a")
    assert [exit_code(pid) for pid in pids] == [-signal.SIGKILL] * 3


def test_kill_leaves_the_neighbour_alone(cgroups, root, spawn):
    """kill does not touch a group beside."""
    for name in ("a", "b"):
        cgroups.create(f"{root}/{name}", {})
    victim, neighbour = spawn(f"{root}/a"), spawn(f"{root}/b")
    cgroups.kill(f"{root}/a")
    assert exit_code(victim) == -signal.SIGKILL
    assert os.waitpid(neighbour, os.WNOHANG) == (0, 0)


def test_kill_stops_a_fork_bomb(cgroups, root, spawn, until):
    """Processes that fork as fast as they can do not escape a kill."""
    cgroups.create(f"{root}/a", {"pids": {"limit": 30}})

    def bomb():
        while True:
            try:
                os.fork()
            except OSError:
                continue

    pid = spawn(f"{root}/a", bomb)
    until(lambda: len(cgroups.pids(f"{root}/a")) >= 10)
    cgroups.kill(f"{root}/a")
    assert exit_code(pid) == -signal.SIGKILL
    until(lambda: cgroups.pids(f"{root}/a") == [])


def test_kill_of_what_is_gone_does_nothing(cgroups, root):
    """kill and remove are idempotent, also for a group that never was."""
    cgroups.kill(f"{root}/never")
    cgroups.remove(f"{root}/never")


def test_freeze_stops_and_thaw_continues(cgroups, root, spawn):
    """A frozen process does not run; a thawed one does."""
    cgroups.create(f"{root}/a", {})
    reader, writer = os.pipe()

    def tick():
        while True:
            os.write(writer, b".")

    spawn(f"{root}/a", tick)
    os.read(reader, 1)
    cgroups.freeze(f"{root}/a")
    os.set_blocking(reader, False)
    try:
        while os.read(reader, 65536):
            pass
    except BlockingIOError:
        pass
    for _ in range(2000):
        os.sched_yield()
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    os.set_blocking(reader, True)
    cgroups.thaw(f"{root}/a")
    assert os.read(reader, 1) == b"."
    os.close(reader)
    os.close(writer)


def test_the_pids_limit_holds(cgroups, root, spawn):
    """With a limit of 1 the only process cannot fork."""

    def fork():
        try:
            os.fork()
        except OSError as error:
            return error.errno
        return 0

    cgroups.create(f"{root}/a", {"pids": {"limit": 1}})
    assert exit_code(spawn(f"{root}/a", fork)) == errno.EAGAIN


def test_the_memory_limit_kills_and_is_counted(cgroups, root, spawn):
    """Who needs more than its memory and swap is killed by the kernel, and oom_kills tells."""
    cgroups.create(f"{root}/a", {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
    assert cgroups.oom_kills(f"{root}/a") == 0
    pid = spawn(f"{root}/a", lambda: len(bytearray(64 * MIB)) * 0)
    assert exit_code(pid) == -signal.SIGKILL
    assert cgroups.oom_kills(f"{root}/a") >= 1


def test_memory_limits_go_up_and_down(cgroups, root):
    """Memory and memory+swap can be raised and lowered together, whatever order the kernel needs."""
    cgroups.create(f"{root}/a", {"memory": {"limit": 32 * MIB, "swap": 64 * MIB}})
    for limit in (128, 16, 256, 64):
        cgroups.update(f"{root}/a", {"memory": {"limit": limit * MIB, "swap": limit * MIB}})
        assert cgroups.stats(f"{root}/a").memory.limit == limit * MIB
    cgroups.update(f"{root}/a", {"memory": {"limit": -1}})
    assert cgroups.stats(f"{root}/a").memory.limit == 0


def test_the_cpu_quota_throttles(cgroups, root, spawn, until):
    """A busy process with a tenth of a CPU is throttled, and its time is counted."""

    def spin():
        while True:
            pass

    cgroups.create(f"{root}/a", {"cpu": {"quota": 10000, "period": 100000, "shares": 512}})
    spawn(f"{root}/a", spin)
    until(lambda: cgroups.stats(f"{root}/a").cpu.throttled_periods >= 1)
    assert cgroups.stats(f"{root}/a").cpu.total_ns > 0


def test_the_quota_survives_an_update_of_the_period(cgroups, root, spawn, until):
    """An update changes only what it names: a new period leaves the quota as it was."""
    cgroups.create(f"{root}/a", {"cpu": {"quota": 10000, "period": 100000}})
    cgroups.update(f"{root}/a", {"cpu": {"period": 200000}})

    def spin():
        while True:
            pass

    spawn(f"{root}/a", spin)
    until(lambda: cgroups.stats(f"{root}/a").cpu.throttled_periods >= 1)


def test_the_cpuset_pins(cgroups, root, spawn):
    """A process in a group with cpus 0 may run on CPU 0 only."""
    cgroups.create(f"{root}/a", {"cpu": {"cpus": "0"}})
    assert exit_code(spawn(f"{root}/a", lambda: os.sched_getaffinity(0) != {0})) == 0


def open_device(path, flags):
    """The errno of opening, 0 when it works."""
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return error.errno
    return 0


NULL = {"type": "c", "major": 1, "minor": 3}
ZERO = {"type": "c", "major": 1, "minor": 5}
MEM = {"type": "c", "major": 1}
YES, NO = {"allow": True}, {"allow": False}


@pytest.mark.parametrize(
    ("rules", "flags", "expected"),
    [
        ([NO], os.O_RDONLY, errno.EPERM),
        ([YES], os.O_RDWR, 0),
        ([NO, YES | NULL], os.O_RDWR, 0),
        ([NO, YES | ZERO], os.O_RDWR, errno.EPERM),
        ([NO, YES | MEM | {"access": "r"}], os.O_RDONLY, 0),
        ([NO, YES | MEM | {"access": "r"}], os.O_RDWR, errno.EPERM),
        ([NO, YES | NULL | {"type": "b"}], os.O_RDONLY, errno.EPERM),
        ([YES | ZERO], os.O_RDONLY, errno.EPERM),
        ([YES, NO | NULL], os.O_RDONLY, errno.EPERM),
        ([NO, YES | MEM, NO | MEM | {"access": "w"}], os.O_RDONLY, 0),
        ([NO, YES | MEM, NO | MEM | {"access": "w"}], os.O_WRONLY, errno.EPERM),
    ],
)
def test_device_rules_hold(cgroups, root, spawn, rules, flags, expected):
    """The device rules decide who may open /dev/null (c 1:3), the later rule winning."""
    cgroups.create(f"{root}/a", {"devices": rules})
    assert exit_code(spawn(f"{root}/a", lambda: open_device("/dev/null", flags))) == expected


def test_making_a_node_needs_the_m_access(cgroups, root, spawn, tmp_path):
    """mknod is allowed by m alone, which does not allow to open the node."""
    cgroups.create(f"{root}/a", {"devices": [NO, YES | {"type": "c", "access": "m"}]})

    def act():
        os.mknod(tmp_path / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        return open_device(tmp_path / "null", os.O_RDONLY)

    assert exit_code(spawn(f"{root}/a", act)) == errno.EPERM


def test_making_another_kind_of_node_is_refused(cgroups, root, spawn, tmp_path):
    """mknod of what no rule allows is EPERM."""
    cgroups.create(f"{root}/a", {"devices": [NO, YES | {"type": "c", "access": "m"}]})

    def act():
        try:
            os.mknod(tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
        except OSError as error:
            return error.errno
        return 0

    assert exit_code(spawn(f"{root}/a", act)) == errno.EPERM


def test_device_rules_can_be_replaced(cgroups, root, spawn):
    """An update's device rules take the place of the first ones."""
    cgroups.create(f"{root}/a", {"devices": [NO]})
    cgroups.update(f"{root}/a", {"devices": [NO, YES | NULL]})
    assert exit_code(spawn(f"{root}/a", lambda: open_device("/dev/null", os.O_RDONLY))) == 0
    cgroups.update(f"{root}/a", {"devices": [NO]})
    assert exit_code(spawn(f"{root}/a", lambda: open_device("/dev/null", os.O_RDONLY))) == errno.EPERM


def test_remove_takes_groups_below_too(cgroups, root):
    """A container's own groups inside its group go with it."""
    for name in ("a", "a/x", "a/x/y", "a/z"):
        cgroups.create(f"{root}/{name}", {})
    cgroups.remove(f"{root}/a")
    with pytest.raises(FileNotFoundError):
        cgroups.stats(f"{root}/a")
    cgroups.remove(f"{root}/a")


def test_remove_refuses_while_processes_run(cgroups, root, spawn):
    """remove of a populated group is EBUSY and hurts no process."""
    cgroups.create(f"{root}/a", {})
    pid = spawn(f"{root}/a")
    with pytest.raises(OSError, match="busy") as caught:
        cgroups.remove(f"{root}/a", timeout=0.01)
    assert caught.value.errno == errno.EBUSY
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)


def test_create_replaces_a_left_over(cgroups, root):
    """A group that a crash left behind gets its limits anew."""
    cgroups.create(f"{root}/a", {"pids": {"limit": 5}})
    cgroups.create(f"{root}/a/below", {})
    cgroups.create(f"{root}/a", {})
    assert cgroups.stats(f"{root}/a").pids_limit == 0


def test_create_refuses_a_group_in_use(cgroups, root, spawn):
    """A populated group of the same path is EBUSY and stays as it is."""
    cgroups.create(f"{root}/a", {})
    pid = spawn(f"{root}/a")
    with pytest.raises(OSError, match="in use"):
        cgroups.create(f"{root}/a", {})
    assert cgroups.pids(f"{root}/a") == [pid]


def test_a_failed_create_leaves_nothing(cgroups, root):
    """When the kernel refuses a value, the error names it and no group stays."""
    with pytest.raises(OSError, match="4095"):
        cgroups.create(f"{root}/a", {"cpu": {"cpus": "4095"}})
    with pytest.raises(FileNotFoundError):
        cgroups.stats(f"{root}/a")


@pytest.mark.parametrize("path", ["", "/abs", "a//b", "../up", "a/../../b", "."])
def test_a_path_cannot_leave_the_base(cgroups, path):
    """``--cgroup-parent ../..`` is refused before anything is made."""
    with pytest.raises(Invalid, match="invalid cgroup path"):
        cgroups.create(path, {})


def test_stats_count_processes_and_memory(cgroups, root, spawn):
    """The numbers of docker stats are there."""
    cgroups.create(f"{root}/a", {"pids": {"limit": 7}, "memory": {"limit": 64 * MIB}})
    reader, writer = os.pipe()
    held = []

    def hold():
        held.append(bytearray(os.urandom(MIB) * 8))
        os.write(writer, b"x")
        signal.pause()

    spawn(f"{root}/a", hold)
    os.read(reader, 1)
    stats = cgroups.stats(f"{root}/a")
    assert (stats.pids, stats.pids_limit, stats.memory.limit) == (1, 7, 64 * MIB)
    assert stats.memory.usage > 4 * MIB
    os.close(reader)
    os.close(writer)


def test_the_unified_descriptor_is_the_groups_folder(cgroups, root):
    """unified_fd opens the v2 folder where there is one."""
    cgroups.create(f"{root}/a", {})
    fd = cgroups.unified_fd(f"{root}/a")
    assert (fd is None) == (cgroups.kind == "v1")
    if fd is not None:
        assert str(Path(f"/proc/self/fd/{fd}").readlink()).endswith(f"{root}/a")
        os.close(fd)


def test_a_group_with_an_engine_inside_is_entered_where_its_oldest_process_is(cgroups, root, spawn):
    """A v2 group that gave its controllers away takes no process: exec goes where the first process went."""
    cgroups.create(f"{root}/a", {})
    cgroups.create(f"{root}/a/inner", {})
    cgroups.create(f"{root}/a/other", {})
    spawn(f"{root}/a/inner")
    spawn(f"{root}/a/other")
    fd = cgroups.unified_fd(f"{root}/a")
    if fd is None:
        pytest.skip("no version 2 tree here")
    expected = "a/inner" if cgroups.kind == "v2" else "a"
    assert str(Path(f"/proc/self/fd/{fd}").readlink()).endswith(f"{root}/{expected}")
    os.close(fd)


def test_an_engine_in_a_container_makes_room_for_its_containers(cgroups, root, spawn):
    """Where the base is not the machine's root, what runs in it moves aside: else nothing could be limited."""
    if cgroups.kind != "v2":
        pytest.skip("only version 2 knows this constraint (see scripts/v2vm)")
    cgroups.create(f"{root}/box", {})
    pid = spawn(f"{root}/box")
    inner = CgroupsV2(f"/sys/fs/cgroup/{root}/box")
    inner.create("cais/c", {"pids": {"limit": 5}})
    assert inner.stats("cais/c").pids_limit == 5
    assert inner.pids("init") == [pid]
