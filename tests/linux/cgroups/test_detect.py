"""The hierarchies are found in mountinfo texts of real machines."""

import pytest

from cais.linux.cgroups.detect import Mount, find_base, parse_mounts, parse_own

SYSTEMD_V1 = """\
30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
36 30 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
37 30 0:33 / /sys/fs/cgroup/net\\040cls rw - cgroup cgroup rw,net_cls,net_prio
"""


def test_hybrid_with_comounted_controllers():
    """Co-mounted controllers are one hierarchy, mount options are no controllers, escapes are undone."""
    assert parse_mounts(SYSTEMD_V1) == [
        Mount("/sys/fs/cgroup/unified", "/", ()),
        Mount("/sys/fs/cgroup/systemd", "/", ("name=systemd",)),
        Mount("/sys/fs/cgroup/cpu,cpuacct", "/", ("cpu", "cpuacct")),
        Mount("/sys/fs/cgroup/net cls", "/", ("net_cls", "net_prio")),
    ]


def test_v2_only():
    """A lone cgroup2 mount is the v2 tree."""
    line = (
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot"
    )
    assert parse_mounts(line) == [Mount("/sys/fs/cgroup", "/", ())]


def test_a_mount_of_the_whole_hierarchy_is_preferred():
    """Of two mounts of one hierarchy the one of its root is used."""
    text = "1 1 0:1 /docker/x /a rw - cgroup cgroup rw,pids\n2 1 0:1 / /b rw - cgroup cgroup rw,pids\n"
    assert parse_mounts(text) == [Mount("/b", "/", ("pids",))]


@pytest.mark.parametrize("text", ["", "1 1 0:1 / / rw - ext4 /dev/sda rw", "garbage", " - cgroup"])
def test_nothing_is_found_in_nothing(text):
    """Other mounts and broken lines are no hierarchies."""
    assert parse_mounts(text) == []


def test_own_groups_are_keyed_like_mounts():
    """/proc/self/cgroup lines are found by the controllers of the mount."""
    text = "5:cpu,cpuacct:/a\n1:name=systemd:/b:c\n0::/d\n"
    assert parse_own(text) == {("cpu", "cpuacct"): "/a", ("name=systemd",): "/b:c", (): "/d"}


def test_the_base_is_the_root_where_that_is_writable(tmp_path):
    """Like dockerd's cgroupfs driver, groups start at the root, whatever group we are in."""
    (tmp_path / "own").mkdir()
    assert find_base(Mount(str(tmp_path), "/", ("pids",)), "/own") == str(tmp_path)
    assert find_base(Mount(str(tmp_path / "absent"), "/", ("pids",)), "/own") == ""
