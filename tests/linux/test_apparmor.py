"""The default profile, and the kernel's list of profiles."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cais.linux import apparmor

LISTING = (
    "cais-default (enforce)\n/usr/bin/man (enforce)\nmy profile (odd) (complain)\nnvidia//child (kill)\n"
)


def test_the_list_is_read_whatever_names_look_like() -> None:
    """The mode is the last word; blanks and parentheses belong to the name."""
    names = ["cais-default", "/usr/bin/man", "my profile (odd)", "nvidia//child"]
    assert apparmor.parse_profiles(LISTING) == names
    assert apparmor.parse_profiles("") == []


def test_signals_of_a_confined_engine_are_let_through() -> None:
    """Otherwise it could not end its containers; a label that is no plain name adds nothing."""
    assert apparmor.make_profile("engine (enforce)").count("signal (receive) peer=engine,") == 1
    plain = apparmor.make_profile()
    for label in ("", "unconfined", 'x"y', "a b", "a,\n file"):
        assert apparmor.make_profile(label) == plain


def matches(glob: str, path: str) -> bool:
    """Whether a file rule of apparmor.d(5) covers ``path``."""
    pattern = re.escape(glob).replace(r"\*\*", ".*").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    pattern = re.sub(r"\\\[\\\^(.*?)\\\]", lambda found: f"[^{found[1].replace(chr(92), '')}]", pattern)
    pattern = re.sub(r"\\\{(.*?)\\\}", lambda found: f"(?:{found[1].replace(',', '|')})", pattern)
    return bool(re.fullmatch(pattern, path))


def denied(path: str, access: str) -> bool:
    """Whether the default profile denies it."""
    rules = re.findall(r"^  deny (/\S+) ([a-z]+),$", apparmor.make_profile(), re.MULTILINE)
    assert len(rules) > 15
    return any(matches(glob, path) and access in letters for glob, letters in rules)


@pytest.mark.parametrize(
    "path",
    """/proc/sysrq-trigger /proc/kcore /proc/mtrr /proc/acpi/ibm/led /proc/irq/1/smp_affinity /proc/bus/pci/00/01.0
    /proc/fs/xfs/x /proc/scsi/scsi /proc/sysvipc/shm /proc/sys/vm/drop_caches /proc/sys/net/ipv4/ip_forward
    /proc/sys/fs/binfmt_misc/register /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/sysrq
    /proc/sys/kernel/seccomp/actions_logged /proc/sys/kernel/hostname /proc/sys/kernel/yama/ptrace_scope
    /proc/sys/kernel/sched_rt_runtime_us /proc/sys/kernel/keys/maxkeys
    /sys/kernel/uevent_helper /sys/module/x/parameters/y /sys/fs/selinux/load /sys/fs/bpf/x /sys/fs/fuse/x
    /sys/fs/ext4/features/x /sys/power/state /sys/firmware/efi/vars/x /sys/class/net/eth0/mtu""".split(),  # noqa: SIM905
)
def test_what_belongs_to_the_machine_is_not_written(path: str) -> None:
    """Whatever a container's mounts say."""
    assert denied(path, "w")


@pytest.mark.parametrize(
    "path",
    """/proc/1/oom_score_adj /proc/42/attr/apparmor/exec /proc/7/task/8/comm /proc/sys/kernel/shmmax
    /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/sem /sys/fs/cgroup/x/cgroup.procs /sys/fs/cgroup/memory/a/tasks
    /tmp/x /dev/null /process/x /system/y /srv/proc/x /etc/passwd""".split(),  # noqa: SIM905
)
def test_what_belongs_to_the_container_is_written(path: str) -> None:
    """Its processes, its IPC limits, its groups, its files."""
    assert not denied(path, "w")


@pytest.mark.parametrize(
    "path",
    [
        "/proc/kcore",
        "/sys/firmware/acpi/tables/MSDM",
        "/sys/devices/virtual/powercap/intel-rapl/x",
        "/sys/kernel/security/apparmor/profiles",
    ],
)
def test_some_of_it_is_not_read_either(path: str) -> None:
    """Memory, firmware, energy meters (CVE-2020-8694), rules."""
    assert denied(path, "r") and not denied("/sys/kernel/mm/ksm/run", "r")


def test_without_a_parser_nothing_is_loaded() -> None:
    """The error names the program."""
    with pytest.raises(FileNotFoundError) as caught:
        apparmor.load("", "/nowhere/parser")
    assert caught.value.filename == "/nowhere/parser"


def test_a_parser_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """A start does not wait for ever."""
    parser = tmp_path / "parser"
    parser.write_text("#!/bin/sh\nexec sleep 1000\n")
    parser.chmod(0o755)
    with pytest.raises(TimeoutError, match="did not end in"):
        apparmor.load("", str(parser), seconds=0.05)


def test_an_engine_in_a_container_has_no_say() -> None:
    """As in Docker: the machine's profiles are not its own to load."""
    code = "from cais.linux import apparmor; print(apparmor.why_not())"
    environment = {**os.environ, "container": "docker", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert "apparmor" in said
