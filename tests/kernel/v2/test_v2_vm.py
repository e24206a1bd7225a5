"""What differs on a machine with cgroup version 2 only, tried in a small virtual machine."""

import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
UNAVAILABLE = 77

pytestmark = [pytest.mark.slow, pytest.mark.kernel]


def run_in_machine(*command):
    """Run a command there (none: the cgroup contract tests) and fail with its output unless it succeeds."""
    result = subprocess.run(
        [PROJECT / "scripts/v2vm", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode == UNAVAILABLE:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_the_cgroup_contract_holds_on_version_2():
    """Every contract test passes on a pure version 2 machine."""
    assert " passed" in run_in_machine()


def test_a_failure_inside_is_a_failure_outside():
    """The exit code of the command is the script's: a broken machine cannot look like a passed test."""
    result = subprocess.run([PROJECT / "scripts/v2vm", "sh", "-c", "exit 3"], capture_output=True, text=True)
    if result.returncode == UNAVAILABLE:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 3
