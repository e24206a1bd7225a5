"""A container is isolated as tightly as under dockerd 28: the probe gives dockerd's verdicts in every
scenario.

The verdicts were recorded by record.py. On the kernel they were recorded on, every word is compared; on
another one, whose file names and errors differ, only what would be wider than dockerd: an act that works
here and was refused there, a capability, a shared namespace, an open descriptor, a readable masked file.
"""

import json
import os
from pathlib import Path

import pytest

from harness import probe

pytestmark = [pytest.mark.e2e, pytest.mark.kernel, pytest.mark.slow]

RECORD = json.loads((Path(__file__).parent / "verdicts-docker28.json").read_text())
SAME_MACHINE = RECORD["made"]["kernel"] == os.uname().release
HIDDEN = {"ENOENT", "EACCES", "EPERM", "EROFS", "EIO", "empty", "empty folder", "null device"}
OPEN = ("privileged", "unconfined", "add_sys_admin")
CERTAIN = (
    "ns.",
    "fd.",
    "status.Cap",
    "status.NoNewPrivs",
    "status.Seccomp",
    "status.Uid",
    "status.Gid",
    "status.Groups",
)

# Where we are stricter on purpose, by dockerd's word and ours.
STRICTER = {
    (
        "act.socket_alg",
        "EAFNOSUPPORT",
        "EPERM",
    ): "AF_ALG opens the kernel's crypto code; refused as by Docker 29",
    ("act.socket_alg", "ok", "EPERM"): "the same, where the kernel has the family",
    (
        "act.socket_vsock_dirty",
        "ok",
        "EPERM",
    ): "Docker's AF_VSOCK rule is evaded by a dirty register, ours is not",
    ("cgroup", "visible path", "own root"): "always a cgroup namespace; Docker makes none on version 1",
    ("ns.cgroup", "the host's", "own"): "the same",
    (
        "mount./sys/fs/cgroup",
        "tmpfs nosuid nodev noexec",
        "tmpfs ro nosuid nodev noexec",
    ): "nothing to write there",
    ("masked./proc/1/environ", "readable", "empty"): "the --init process has no environment",
}
# Where we differ without being wider.
ELSEWHERE = {
    ("mount./sys/fs/cgroup/unified", "absent", "cgroup2 ro nosuid nodev noexec"): "our own group, read-only",
    ("mount./sys/fs/cgroup/unified", "absent", "cgroup2 nosuid nodev noexec"): "our own group, privileged",
    ("mount./sbin/docker-init", "bound ro", "absent"): "the init is not a file of the container",
    (
        "act.write_huge_pages",
        "EROFS",
        "EACCES",
    ): "refused by the file's mode before the read-only mount is looked at",
}


def recorded(scenario):
    """dockerd's words by name."""
    words = RECORD["default"] | (RECORD["differences"].get(scenario) or {})
    return {name: word for name, word in words.items() if word != "absent"}


def is_wider(name, theirs, ours, *, open_kernel=False):
    """Whether our word means more access than dockerd's, on another kernel than the recorded one. ``open_kernel``: in
    the scenario calls reach the kernel and its own rules decide, which differ from kernel to kernel."""
    if name.startswith("act."):
        return ours == "ok" != theirs and not open_kernel
    if name.startswith("masked."):
        return theirs in HIDDEN and ours not in HIDDEN and not open_kernel
    return name.startswith(CERTAIN) and not (open_kernel and name.startswith("status.Cap"))


@pytest.mark.parametrize("scenario", probe.SCENARIOS)
def test_the_probe_sees_and_may_what_it_may_under_dockerd(client, scenario):
    """Every fact and verdict is dockerd's, but for the explained ones."""
    ours, theirs = probe.observe(client, scenario), recorded(scenario)
    pairs = [
        (name, theirs.get(name, "absent"), ours.get(name, "absent")) for name in sorted({*ours, *theirs})
    ]
    different = [pair for pair in pairs if pair[1] != pair[2] and pair not in STRICTER | ELSEWHERE]
    if not SAME_MACHINE:
        different = [pair for pair in different if is_wider(*pair, open_kernel=scenario in OPEN)]
    assert different == []


def test_nothing_is_explained_that_would_be_wider():
    """The list of explained differences holds no act that works here and is refused there."""
    words = [pair for pair in STRICTER | ELSEWHERE if pair[0].startswith(("act.", "masked."))]
    assert [pair for pair in words if is_wider(*pair)] == []
