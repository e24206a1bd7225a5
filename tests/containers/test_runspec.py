"""The runtime specification: golden for whole cases, and what isolates, point by point."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from cais.config import Config
from cais.containers import runspec
from cais.containers.adapt import fill_host, fill_hostname, merge_config
from cais.containers.mountspec import plan_mounts
from cais.containers.record import Record
from cais.containers.runspec import HostDevice, Surroundings, make_resources, make_spec
from cais.spec.container import HostConfig, Mount, ResourceUpdate, Ulimit, parse_create
from cais.spec.image import ContainerDefaults
from cais.spec.runtimespec import Device, Spec
from harness.engines import MACHINE

GOLDEN = Path(__file__).parents[1] / "golden" / "runspec"
REFRESH = os.environ.get("CAIS_GOLDEN") == "write"
"""Set to write the expected files anew instead of comparing."""

ID = "0123456789abcdef" * 4
IMAGE = ContainerDefaults(cmd=("sh",), env=("PATH=/usr/bin:/bin",), volumes={"/data": {}})


def make_record(body: bytes, image: ContainerDefaults = IMAGE) -> Record:
    """The record of a create request."""
    request = parse_create(body)
    host = fill_host(request.host_config, Config(), MACHINE)
    config = fill_hostname(merge_config(request.config, image), host, ID, MACHINE)
    return Record(
        id=ID,
        name="box",
        created_ns=1,
        config=config,
        host=host,
        mounts=plan_mounts(host, (), config.volumes),
    )


def spec_of(host: HostConfig | None = None, *, devices: tuple[HostDevice, ...] = (), **changes: Any) -> Spec:
    """The specification of a plain container with ``host``."""
    record = make_record(
        msgspec.json.encode({"HostConfig": host or HostConfig()}), ContainerDefaults(cmd=("sh",))
    )
    around = Surroundings(Config(), MACHINE, "/root/c", {"d" * 64: 4242}, devices)
    return make_spec(replace(record, **changes), around)


@pytest.mark.parametrize("case", sorted(path.name for path in GOLDEN.iterdir()))
def test_golden(case: str) -> None:
    """The request of each case gives exactly the specification beside it."""
    record = make_record((GOLDEN / case / "request.json").read_bytes())
    around = Surroundings(Config(), MACHINE, f"/var/lib/cais/containers/{ID}")
    made = json.loads(msgspec.json.encode(make_spec(record, around)))
    path = GOLDEN / case / "spec.json"
    if REFRESH:
        path.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    assert made == json.loads(path.read_text())


def test_nothing_is_inheritable_or_ambient() -> None:
    """A non-root user gets no capability back through file capabilities (CVE-2022-24769)."""
    for host in (HostConfig(), HostConfig(privileged=True), HostConfig(cap_add=("ALL",))):
        sets = spec_of(host).process.capabilities
        assert sets.inheritable == sets.ambient == ()


def test_every_namespace_is_its_own_by_default() -> None:
    """Six of them, none joined."""
    found = spec_of().linux.namespaces
    assert {space.type for space in found} == {"mount", "network", "ipc", "pid", "uts", "cgroup"}
    assert all(space.path == "" for space in found)


def test_shared_namespaces() -> None:
    """host: not listed; container: its path, and its shared memory with its IPC."""
    host = HostConfig(
        network_mode="host",
        pid_mode="host",
        uts_mode="host",
        ipc_mode=f"container:{'d' * 64}",
        cgroupns_mode="host",
    )
    spec = spec_of(host)
    assert [(space.type, space.path) for space in spec.linux.namespaces] == [
        ("mount", ""),
        ("ipc", "/proc/4242/ns/ipc"),
    ]
    assert spec.hostname == ""
    assert [m.source for m in spec.mounts if m.destination == "/dev/shm"] == ["/proc/4242/root/dev/shm"]


def test_devices_are_denied_unless_named() -> None:
    """The first rule denies all; only the nodes of the default list are opened; --device adds its own."""
    device = HostDevice(Device(type="c", path="/dev/x", major=10, minor=200), "rw")
    rules = spec_of(devices=(device,)).linux.resources.devices
    assert (rules[0].allow, rules[0].type, rules[0].access) == (False, "a", "rwm")
    opened = {(rule.type, rule.major, rule.minor) for rule in rules if rule.allow and rule.access != "m"}
    assert ("c", 10, 200) in opened
    assert not {("c", 10, 229), ("b", None, None), ("a", None, None)} & opened


def test_privileged_means_privileged() -> None:
    """All the engine has; no masks; /sys and cgroups writable; all devices."""
    spec = spec_of(HostConfig(privileged=True))
    assert spec.process.capabilities.bounding == MACHINE.capabilities
    assert (spec.linux.masked_paths, spec.linux.readonly_paths) == ((), ())
    assert not any("ro" in m.options for m in spec.mounts if m.type in ("sysfs", "cgroup"))
    assert [rule.allow for rule in spec.linux.resources.devices] == [True]


def test_an_unprivileged_container_is_masked() -> None:
    """Docker's lists, unless systempaths=unconfined empties them."""
    assert "/proc/kcore" in spec_of().linux.masked_paths
    assert "/proc/sys" in spec_of().linux.readonly_paths
    assert spec_of(HostConfig(masked_paths=())).linux.masked_paths == ()


def test_user_mounts_replace_default_ones() -> None:
    """A mount over /dev takes everything below it out; parents come first."""
    spec = spec_of(HostConfig(binds=("/a:/dev", "/b:/x/y", "/c:/x")))
    places = [mount.destination for mount in spec.mounts]
    assert not [place for place in places if place.startswith("/dev/")]
    assert places.index("/x") < places.index("/x/y")


def test_read_only_mounts_are_recursive() -> None:
    """rro, unless the client asked for the old way; the same for volumes."""
    mount = Mount(type="bind", source="/a", target="/b", read_only=True)
    options = {
        m.destination: m.options for m in spec_of(HostConfig(mounts=(mount,), binds=("/c:/d:ro",))).mounts
    }
    assert options["/b"] == options["/d"] == ("rbind", "rro", "rprivate")


def test_a_read_only_root_leaves_docker_its_writable_places() -> None:
    """/proc and /dev stay, the etc files do not."""
    spec = spec_of(HostConfig(readonly_rootfs=True))
    assert spec.root.readonly
    options = {m.destination: m.options for m in spec.mounts}
    assert "rro" in options["/etc/hosts"] and "ro" not in options["/dev/shm"]


def test_propagation_needs_a_root_that_propagates() -> None:
    """shared and slave binds set the root's propagation as Docker does."""
    assert spec_of().linux.rootfs_propagation == ""
    assert spec_of(HostConfig(binds=("/a:/b:rslave",))).linux.rootfs_propagation == "rslave"
    assert spec_of(HostConfig(binds=("/a:/b:shared", "/c:/d:slave"))).linux.rootfs_propagation == "shared"


@pytest.mark.parametrize(
    ("parent", "path"), [("", f"cais/{ID}"), ("/", ID), ("../../x", f"x/{ID}"), ("/a/../../b", f"b/{ID}")]
)
def test_the_cgroup_stays_inside_the_hierarchy(parent: str, path: str) -> None:
    """Whatever --cgroup-parent says."""
    assert spec_of(HostConfig(cgroup_parent=parent)).linux.cgroups_path == path


def test_limits_are_converted() -> None:
    """CPUs become quota over 100 ms; -1 and 0 pids mean no limit; swap is memory plus swap."""
    resources = make_resources(
        HostConfig(memory=100, memory_swap=200, nano_cpus=1_500_000_000, cpu_shares=512, cpuset_cpus="0"),
        MACHINE,
    )
    assert (resources.memory.limit, resources.memory.swap) == (100, 200)
    assert (resources.cpu.quota, resources.cpu.period, resources.cpu.shares) == (150_000, 100_000, 512)
    assert resources.pids is None
    unlimited = make_resources(ResourceUpdate(pids_limit=-1), MACHINE).pids
    assert unlimited is not None and unlimited.limit == -1


def test_rlimits_only_as_asked_or_configured() -> None:
    """The user's win over the engine's defaults."""
    record = make_record(
        msgspec.json.encode({"HostConfig": HostConfig(ulimits=(Ulimit(name="nofile", soft=1, hard=2),))})
    )
    config = Config(default_ulimits={"nofile": (9, 9), "core": (0, -1)})
    limits = [(limit.type, limit.soft, limit.hard) for limit in runspec.rlimits(record, config)]
    assert limits == [("RLIMIT_CORE", 0, -1), ("RLIMIT_NOFILE", 1, 2)]
    assert runspec.rlimits(record, Config())[0].type == "RLIMIT_NOFILE"


def test_init_is_a_wish_to_the_runtime() -> None:
    """--init, or the engine's default; not where process 1 is another container's."""
    assert spec_of(HostConfig(init=True)).annotations == {"cais.init": "true"}
    assert spec_of(HostConfig(init=True, pid_mode="host")).annotations == {}
    assert spec_of().annotations == {}


def test_sysctls_of_the_network_only_in_a_network_of_its_own() -> None:
    """Docker's two defaults do not touch the host."""
    assert "net.ipv4.ping_group_range" in spec_of(HostConfig(network_mode="none")).linux.sysctl
    assert spec_of(HostConfig(network_mode="host")).linux.sysctl == {}
    assert spec_of(HostConfig(network_mode="bridge")).linux.sysctl == {}  # network/wiring.py has set them
    spec = spec_of(HostConfig(network_mode="host", sysctls={"kernel/shmmax": "1"}))
    assert spec.linux.sysctl == {"kernel.shmmax": "1"}


def test_environment_rules() -> None:
    """Defaults, TERM for a terminal, a bare name takes a variable out."""
    record = make_record(b'{"Env":["A=1","PATH"],"Tty":true}')
    assert set(runspec.environment(record, tty=True)) == {"HOSTNAME=0123456789ab", "TERM=xterm", "A=1"}
