"""Containers under SELinux, in a virtual machine that was booted with it, permissive and without a policy.

``tests/kernel/v2/test_v2_vm.py`` runs these there; elsewhere nobody loads a policy of two types into a kernel."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from cais.containers.machine import read_machine
from cais.runtime import procfs
from harness.live import LiveEngine, living_engine, load_busybox
from harness.raw import call

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.e2e,
    pytest.mark.skipif("CAIS_TEST_SELINUX" not in os.environ, reason="runs in the virtual machine only"),
]

LABEL = "cat /proc/self/attr/current"
# The order is the number (security/selinux/include/initial_sid_to_string.h).
INITIAL = """kernel security unlabeled fs file file_labels init any_socket port netif netmsg node igmp_packet
    icmp_socket tcp_socket sysctl_modprobe sysctl sysctl_fs sysctl_kernel sysctl_net sysctl_net_unix sysctl_vm
    sysctl_dev kmod policy scmp_packet devnull""".split()  # noqa: SIM905
POLICY = "\n".join(
    [
        "class process",
        "class file",
        *(f"sid {name}" for name in INITIAL),
        "class process { fork transition dyntransition setexec }",
        "class file { read write }",
        "sensitivity s0;",
        "dominance { s0 }",
        "category c0;",
        "category c1;",
        "level s0:c0.c1;",
        "mlsconstrain file { write } ( t1 == t2 or t1 != t2 );",
        "type kernel_t;",
        "type container_t;",
        "type other_t;",
        "role system_r;",
        "role system_r types { kernel_t container_t other_t };",
        "allow kernel_t kernel_t:process { fork };",
        "user system_u roles { system_r } level s0 range s0 - s0:c0.c1;",
        *(f"sid {name} system_u:system_r:kernel_t:s0" for name in INITIAL),
        "",
    ]
)


def load_policy(folder: Path) -> None:
    """Compile and load it; what it does not know is allowed."""
    (folder / "policy.conf").write_text(POLICY)
    compiler = shutil.which("checkpolicy")
    assert compiler, "the machine has to bring checkpolicy along"
    command = [compiler, "-M", "-U", "allow", "-c", "30", "-o", folder / "policy", folder / "policy.conf"]
    subprocess.run(command, check=True)
    subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", "/sys/fs/selinux"], check=True)
    fd = os.open("/sys/fs/selinux/load", os.O_WRONLY)
    try:
        os.write(fd, (folder / "policy").read_bytes())
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, frozenset[str]]:
    """A loaded policy; and what was said of SELinux before: to containers, and by the runtime."""
    before = read_machine().no_selinux, procfs.read_modules()
    load_policy(tmp_path_factory.mktemp("policy"))
    return before


@pytest.fixture(scope="module")
def engine(policy: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEngine]:
    """An engine that was started after the policy, with the image ``busybox``."""
    with living_engine(tmp_path_factory.mktemp("engine")) as engine:
        load_busybox(engine, tmp_path_factory.mktemp("image"))
        yield engine


@pytest.fixture
def client(engine: LiveEngine) -> Iterator[docker.DockerClient]:
    """docker-py, connected to it."""
    with contextlib.closing(engine.client()) as client:
        yield client


def run(client: docker.DockerClient, *options: str, **host: Any) -> str:
    """The label of a container with these ``label=`` options."""
    said = [f"label={option}" for option in options]
    output = client.containers.run("busybox", ["sh", "-c", LABEL], security_opt=said, remove=True, **host)
    return str(output.decode().strip("\0\n"))


def test_without_a_policy_there_is_no_selinux(policy: tuple[str, frozenset[str]]) -> None:
    """The kernel would take any label then, and mean nothing by it."""
    assert policy == ("selinux has no policy loaded", frozenset())
    assert (read_machine().no_selinux, procfs.read_modules()) == ("", frozenset(("selinux",)))


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ((), "system_u:system_r:kernel_t:s0"),
        (("disable",), "system_u:system_r:kernel_t:s0"),
        (("type:other_t",), "system_u:system_r:other_t:s0"),
        (("level:s0:c0",), "system_u:system_r:container_t:s0:c0"),
    ],
)
def test_the_process_gets_the_label(
    client: docker.DockerClient, options: tuple[str, ...], label: str
) -> None:
    """The pieces that were said, and the usual ones for the rest; nothing where nothing is said."""
    assert run(client, *options) == label


def test_execs_have_it_too_and_it_is_told(client: docker.DockerClient, engine: LiveEngine) -> None:
    """By inspect, and by explain from the kernel."""
    container = client.containers.run(
        "busybox", ["sleep", "1000"], detach=True, security_opt=["label=type:other_t"]
    )
    try:
        label = "system_u:system_r:other_t:s0"
        assert container.exec_run(["sh", "-c", LABEL]).output.decode().strip("\0\n") == label
        assert container.attrs["ProcessLabel"] == label
        told = call(engine.socket, "GET", f"/cais/containers/{container.id}/explain")
        assert told["labels"]["selinux"] == label
    finally:
        container.remove(force=True)


def test_a_label_that_the_policy_does_not_know_fails_the_start(client: docker.DockerClient) -> None:
    """The kernel refuses it, and nothing runs."""
    with pytest.raises(docker.errors.APIError, match="attr/exec: Invalid argument"):
        run(client, "type:nobody_has_it_t")


def test_relabeling_is_not_passed_over(client: docker.DockerClient) -> None:
    """``:Z`` comes with a warning where it would mean something."""
    host = client.api.create_host_config(binds=["/tmp:/there:Z"])
    made = client.api.create_container("busybox", ["true"], host_config=host)
    client.containers.get(made["Id"]).remove()
    assert made["Warnings"] == ["Files are not relabeled for SELinux: 'Z' of /there is discarded."]
