"""What differs on machines unlike this one, tried in small virtual ones: cgroup version 2 only, AppArmor, SELinux."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import probe

PROJECT = Path(__file__).parents[3]
UNAVAILABLE = 77

pytestmark = [pytest.mark.slow, pytest.mark.kernel]


def run_in_machine(*command):
    """Run a command there (none: the tests of cgroups and overlays) and fail with its output unless it succeeds."""
    result = subprocess.run(
        [PROJECT / "scripts/v2vm", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode == UNAVAILABLE:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_cgroups_and_overlays_on_an_older_machine():
    """Every contract test passes on a pure version 2 machine, whose kernel takes overlays' layers all at once."""
    assert " passed" in run_in_machine()


def test_the_isolation_probe_holds_on_version_2(tmp_path_factory):
    """The whole engine works there, and no container may more than the recorded dockerd's."""
    folder = PROJECT / "build" / "v2vm"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        program = probe.build(folder)
    except FileNotFoundError:
        pytest.skip("the probe needs a C compiler: install gcc and libc6-dev")
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/isolation/test_probe.py")
    output = run_in_machine(
        *("--memory", "1024", "--with", program, "env", f"CAIS_PROBE={program}", sys.executable, *command)
    )
    assert " passed" in output


def test_containers_are_confined_by_apparmor():
    """A kernel with AppArmor names the profile of every process and refuses what it denies."""
    words = (
        "--memory",
        "1024",
        "--package",
        "apparmor",
        "--boot",
        "apparmor=1",
        "--boot",
        "security=apparmor",
    )
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernel/test_apparmor.py")
    output = run_in_machine(*words, sys.executable, *command)
    assert " passed" in output and " skipped" not in output


def test_containers_get_selinux_labels():
    """A kernel with SELinux names the label that was asked for."""
    words = (
        "--memory",
        "1024",
        "--package",
        "checkpolicy",
        "--boot",
        "security=selinux",
        "--boot",
        "enforcing=0",
    )
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernel/test_selinux.py")
    output = run_in_machine(*words, "env", "CAIS_TEST_SELINUX=1", sys.executable, *command)
    assert " passed" in output and " skipped" not in output


def test_a_failure_inside_is_a_failure_outside():
    """The exit code of the command is the script's: a broken machine cannot look like a passed test."""
    result = subprocess.run([PROJECT / "scripts/v2vm", "sh", "-c", "exit 3"], capture_output=True, text=True)
    if result.returncode == UNAVAILABLE:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 3


def test_programs_of_other_machines_run_where_the_kernel_emulates_them():
    """Steps of a build and containers, by an emulator that the machine registers; the engine tells clients of it."""
    emulator = "/usr/bin/qemu-aarch64-static"
    words = ("--memory", "1024", "--package", f"qemu-user-static={emulator}")
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernel/test_binfmt.py")
    output = run_in_machine(*words, "env", f"CAIS_TEST_EMULATOR={emulator}", sys.executable, *command)
    assert " passed" in output and " skipped" not in output
