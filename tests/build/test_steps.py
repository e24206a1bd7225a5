"""Steps on a real engine: agents, secrets, rights, limits, times. What is asserted stands in ``scenarios.py``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.live import SOURCES

SCENARIOS = Path(__file__).parent / "scenarios.py"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="a real engine needs root"),
]


def play(name: str, folder: Path, before: str = "") -> str:
    """Run one scenario in namespaces of its own, after the shell commands ``before``; what it printed."""
    if not shutil.which("busybox"):
        pytest.skip("needs busybox: install busybox-static")
    folder.mkdir(parents=True, exist_ok=True)
    command = f"ip link set lo up; {before} exec {sys.executable} {SCENARIOS} {name} {folder}"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", command],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stdout.decode()


def test_an_agent_is_reached_and_leaves_nothing(tmp_path: Path) -> None:
    """SSH_AUTH_SOCK leads to the client's agent, for root and for another user."""
    if not shutil.which("gcc"):
        pytest.skip("the program in the step needs a C compiler: install gcc and libc6-dev")
    play("agents", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "secrets",
        "mounts",
        "rights",
        "hostile",
        "processes",
        "memory",
        "disk",
        "flood",
        "linked",
        "fresh_stages",
    ],
)
def test_a_scenario(name: str, tmp_path: Path) -> None:
    """See there."""
    play(name, tmp_path)


@pytest.mark.parametrize("name", ["full_disk", "full_disk_noticed"])
def test_who_fills_the_disk_is_named(name: str, tmp_path: Path) -> None:
    """On a file system of 400 MB."""
    root = tmp_path / "root"
    root.mkdir()
    play(name, tmp_path, f"mount -t tmpfs -o size=400m x {root} &&")


def test_a_dated_build_is_the_same_everywhere(tmp_path: Path) -> None:
    """Two engines with other folders, one after the other: times have passed."""
    first = play("dated", tmp_path / "first")
    assert first.startswith("sha256:") and play("dated", tmp_path / "somewhere/else") == first
