"""Containers under AppArmor, on a kernel that has it: what the kernel says of them and what it refuses them.

``tests/kernel/v2/test_v2_vm.py`` runs these in a virtual machine that was booted with AppArmor."""

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from cais.linux import apparmor
from harness.live import LiveEngine
from harness.raw import call

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="a real engine needs root"),
    pytest.mark.skipif(bool(apparmor.why_not()), reason=apparmor.why_not()),
    pytest.mark.skipif(not apparmor.find_parser(), reason="needs the Debian package apparmor"),
]

LABEL = "cat /proc/self/attr/current"
CONFINED = "cais-default (enforce)"
BARE: dict[str, Any] = {"MaskedPaths": [], "ReadonlyPaths": []}
"""Docker's systempaths=unconfined: nothing of /proc is masked or read-only, the profile alone decides."""


@pytest.fixture
def client(shared_engine: LiveEngine) -> Iterator[docker.DockerClient]:
    """docker-py, connected to an engine of the tests'."""
    with contextlib.closing(shared_engine.client()) as client:
        yield client


def create(client: docker.DockerClient, *command: str, **host: Any) -> Any:
    """A container with an open host configuration, as the API takes it."""
    config = client.api.create_host_config() | host
    made = client.api.create_container("busybox", list(command), host_config=config)
    return client.containers.get(made["Id"])


def run(client: docker.DockerClient, text: str, **host: Any) -> tuple[int, str]:
    """Exit code and output of a shell command in a container of its own."""
    container = create(client, "sh", "-c", text, **host)
    try:
        container.start()
        code = container.wait()["StatusCode"]
        return code, container.logs().decode().strip("\0\n")
    finally:
        container.remove(force=True)


@pytest.fixture
def sleeper(client: docker.DockerClient) -> Iterator[Any]:
    """A running container that may trace, so that its execs take the longer way too."""
    container = create(client, "sleep", "1000", CapAdd=["SYS_PTRACE"])
    container.start()
    yield container
    container.remove(force=True)


@pytest.fixture
def profile() -> Iterator[str]:
    """A loaded profile that lets nothing be written below /tmp."""
    name = f"cais-test-{uuid.uuid4().hex[:8]}"
    text = (
        f"profile {name} flags=(attach_disconnected) {{ file, network, capability, signal, deny /tmp/** w, }}"
    )
    apparmor.load(text)
    yield name
    subprocess.run([apparmor.find_parser(), "-R"], input=text.encode(), check=True)


def test_a_container_that_says_nothing_is_under_the_default_profile(client: docker.DockerClient) -> None:
    """The kernel says so."""
    assert run(client, LABEL) == (0, CONFINED)


@pytest.mark.parametrize(
    "host",
    [
        {"Init": True},
        {"SecurityOpt": ["no-new-privileges"]},
        {"CapDrop": ["ALL"]},
        {"SecurityOpt": ["apparmor=cais-default"], "Privileged": True},
        {"SecurityOpt": ["seccomp=unconfined"], "PidMode": "host"},
        {"ReadonlyRootfs": True, "NetworkMode": "host"},
    ],
)
def test_the_profile_holds_whatever_else_is_asked_for(
    client: docker.DockerClient, host: dict[str, Any]
) -> None:
    """With an init, without new privileges, in the host's namespaces."""
    assert run(client, LABEL, **host) == (0, CONFINED)


def test_under_init_process_1_has_the_profile_too(client: docker.DockerClient) -> None:
    """Not its child alone."""
    assert run(client, "cat /proc/1/attr/current", Init=True) == (0, CONFINED)


@pytest.mark.parametrize("host", [{"SecurityOpt": ["apparmor=unconfined"]}, {"Privileged": True}])
def test_unconfined_is_without(client: docker.DockerClient, host: dict[str, Any]) -> None:
    """By name and by privilege."""
    assert run(client, LABEL, **host) == (0, "unconfined")


ADMIN: dict[str, Any] = {"CapAdd": ["SYS_ADMIN"]}
SYS: dict[str, Any] = {"Binds": ["/sys/kernel:/sys/kernel"]}
DENIED = [
    (
        BARE,
        [
            "echo x >/proc/sys/kernel/domainname",
            ": >>/proc/sys/kernel/core_pattern",
            ": >>/proc/sysrq-trigger",
        ],
    ),
    (SYS, [": >>/sys/kernel/mm/ksm/run", "head -n 0 /sys/kernel/security/apparmor/profiles"]),
    (ADMIN, ["mount -t tmpfs none /tmp", "mount --bind /etc /tmp"]),
]
"""Of what belongs to the machine, files are opened only: nothing is written where it works."""

ALLOWED = [
    ("cat /proc/sys/kernel/shmmni > /proc/sys/kernel/shmmni", BARE),
    ("cat /proc/sys/kernel/sem > /proc/sys/kernel/sem", BARE),
    ("echo 5 > /proc/self/oom_score_adj", {}),
    ("mkdir /sys/fs/cgroup/mine && rmdir /sys/fs/cgroup/mine", {"SecurityOpt": ["writable-cgroups=true"]}),
    ("sleep 100 & kill $! && ps && ls -l /proc/1/exe && hostname && id && nslookup -h 2>&1 | head -1", {}),
    ("umount /dev/mqueue", ADMIN),
]


@pytest.mark.parametrize(("host", "texts"), DENIED)
def test_root_may_not_what_the_profile_denies(
    client: docker.DockerClient, host: dict[str, Any], texts: list[str]
) -> None:
    """And may where it is unconfined: it is the profile that forbids it."""
    script = "; ".join(f"({text}) && echo worked" for text in texts) + "; true"
    _, output = run(client, script, **host)
    assert "worked" not in output and output.lower().count("denied") == len(texts), output
    _, output = run(client, script, SecurityOpt=["apparmor=unconfined"], **host)
    assert output.split() == ["worked"] * len(texts)


@pytest.mark.parametrize(("text", "host"), ALLOWED)
def test_what_programs_need_is_allowed(client: docker.DockerClient, text: str, host: dict[str, Any]) -> None:
    """The container's own parameters, groups, signals and processes."""
    assert run(client, text, **host)[0] == 0


@pytest.mark.parametrize("privileged", [False, True])
def test_execs_are_under_the_containers_profile(sleeper: Any, privileged: bool) -> None:
    """With privilege too, as under dockerd."""
    assert (
        sleeper.exec_run(["sh", "-c", LABEL], privileged=privileged).output.decode().strip("\0\n") == CONFINED
    )


def test_a_plain_exec_and_a_terminal_are_too(client: docker.DockerClient) -> None:
    """The short way, and one whose terminal is opened by us."""
    container = create(client, "sleep", "1000")
    container.start()
    try:
        assert CONFINED in container.exec_run(["sh", "-c", LABEL], tty=True).output.decode()
        container.kill("TERM")
        container.kill()
        assert container.wait()["StatusCode"] == 137
    finally:
        container.remove(force=True)


def test_a_profile_that_nobody_loaded_fails_the_start(client: docker.DockerClient) -> None:
    """With its name, and nothing runs."""
    container = create(client, "true", SecurityOpt=["apparmor=cais-nobody-has-it"])
    try:
        with pytest.raises(docker.errors.APIError, match="apparmor profile cais-nobody-has-it is not loaded"):
            container.start()
        container.reload()
        assert container.status == "created"
    finally:
        container.remove(force=True)


def test_a_loaded_profile_confines(client: docker.DockerClient, profile: str) -> None:
    """The kernel names it and refuses what it denies."""
    host = {"SecurityOpt": [f"apparmor={profile}"]}
    code, output = run(client, f"{LABEL}; echo x > /root/x && echo x > /tmp/x", **host)
    assert code != 0 and output.startswith(f"{profile} (enforce)") and "Permission denied" in output


def test_the_profile_is_told(shared_engine: LiveEngine, client: docker.DockerClient, sleeper: Any) -> None:
    """By inspect from the first start on, by info, by explain from the kernel."""
    assert "name=apparmor" in client.info()["SecurityOptions"]
    created = create(client, "true")
    assert created.attrs["AppArmorProfile"] == ""
    created.remove()
    sleeper.reload()
    assert sleeper.attrs["AppArmorProfile"] == "cais-default"
    told = call(shared_engine.socket, "GET", f"/cais/containers/{sleeper.id}/explain")
    assert told["labels"] == {"apparmor": CONFINED, "selinux": "this kernel has no selinux"}


def test_a_profile_that_was_taken_away_is_loaded_again(client: docker.DockerClient) -> None:
    """Upgrades of the machine's own profiles do that."""
    run(client, "true")
    subprocess.run([apparmor.find_parser(), "-R"], input=apparmor.make_profile().encode(), check=True)
    assert apparmor.NAME not in apparmor.read_profiles()
    assert run(client, LABEL) == (0, CONFINED)


def test_the_kernels_list_is_read(profile: str) -> None:
    """Names as they are used."""
    assert profile in apparmor.read_profiles()


def test_a_profile_with_an_error_is_not_loaded() -> None:
    """The parser's words are in the error."""
    with pytest.raises(OSError, match=r"apparmor_parser failed with 1: .*syntax error"):
        apparmor.load("profile x { nonsense }")
