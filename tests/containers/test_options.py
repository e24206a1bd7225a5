"""Create requests that cannot be are refused with Docker's words, before anything is made."""

from typing import Any

import pytest

from cais.containers.options import check_log, check_request, parse_security, parse_size
from cais.errors import Invalid, Unsupported
from cais.spec.container import (
    ContainerConfig,
    DeviceRequest,
    Healthcheck,
    HostConfig,
    LogConfig,
    PortBinding,
    RestartPolicy,
    Ulimit,
)
from harness.engines import MACHINE


def refusal(config: dict[str, Any], host: dict[str, Any]) -> str:
    """The text of the refusal."""
    with pytest.raises(Invalid) as caught:
        check_request(ContainerConfig(**config), HostConfig(**host), MACHINE)
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "host", "message"),
    [
        (
            {"hostname": "a"},
            {"network_mode": "container:x"},
            "conflicting options: hostname and the network mode",
        ),
        (
            {},
            {"network_mode": "container:x", "dns": ("1.1.1.1",)},
            "conflicting options: dns and the network mode",
        ),
        (
            {},
            {"network_mode": "container:x", "publish_all_ports": True},
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            {"exposed_ports": {"80/tcp": {}}},
            {"network_mode": "container:x"},
            "conflicting options: port exposing and the container type network mode",
        ),
        ({"hostname": "a"}, {"uts_mode": "host"}, "conflicting options: hostname and the UTS mode"),
        (
            {"working_dir": "rel"},
            {},
            "the working directory 'rel' is invalid, it needs to be an absolute path",
        ),
        ({"stop_signal": "NOPE"}, {}, "invalid signal: NOPE"),
        ({"env": ("=x",)}, {}, "invalid environment variable: =x"),
        ({"healthcheck": Healthcheck(interval=5)}, {}, "Interval in Healthcheck cannot be less than 1ms"),
        ({}, {"memory": 5}, "Minimum memory limit allowed is 6MB"),
        (
            {},
            {"memory": 8 << 20, "memory_swap": 7 << 20},
            "Minimum memoryswap limit should be larger than memory",
        ),
        ({}, {"memory_swap": 8 << 20}, "You should always set the Memory limit when using Memoryswap limit"),
        ({}, {"memory_swappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        (
            {},
            {"nano_cpus": 5 * 10**9},
            "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available",
        ),
        ({}, {"nano_cpus": 10**9, "cpu_quota": 5000}, "Nano CPUs and CPU Quota cannot both be set"),
        ({}, {"cpu_period": 10}, "CPU cfs period can not be less than 1ms"),
        ({}, {"cpu_shares": -1}, "invalid CPU shares (-1): value must be a positive integer"),
        ({}, {"cpuset_cpus": "0-9"}, "Requested CPUs are not available - requested 0-9, available: 0-3"),
        ({}, {"cpuset_cpus": "a"}, "Invalid value a for cpuset cpus"),
        ({}, {"cap_add": ("NOPE",)}, 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
        ({}, {"cap_add": ("SYS_RESOURCE",)}, "capability not supported by your kernel or not available"),
        ({}, {"restart_policy": RestartPolicy(name="odd")}, "invalid restart policy: unknown policy 'odd'"),
        (
            {},
            {"restart_policy": RestartPolicy(name="always", maximum_retry_count=1)},
            "maximum retry count can only be used with 'on-failure'",
        ),
        (
            {},
            {"restart_policy": RestartPolicy(name="always"), "auto_remove": True},
            "can't create 'AutoRemove' container with restart policy",
        ),
        ({}, {"runtime": "odd"}, "unknown or invalid runtime name: odd"),
        ({}, {"ipc_mode": "odd"}, "invalid IPC mode: odd"),
        ({}, {"pid_mode": "odd"}, "invalid PID mode: odd"),
        ({}, {"shm_size": -1}, "SHM size can not be less than 0"),
        ({}, {"oom_score_adj": 1001}, "range for oom score adj is [-1000, 1000]"),
        ({}, {"ulimits": (Ulimit(name="odd"),)}, "invalid ulimit type: odd"),
        (
            {},
            {"ulimits": (Ulimit(name="nofile", soft=2, hard=1),)},
            "ulimit soft limit must be less than or equal",
        ),
        ({}, {"log_config": LogConfig(type="odd")}, "no log driver named 'odd' is registered"),
        ({}, {"log_config": LogConfig(config={"x": "1"})}, "unknown log opt 'x' for json-file log driver"),
        (
            {},
            {"log_config": LogConfig(type="none", config={"max-size": "1"})},
            "unknown log opt 'max-size' for none",
        ),
        ({}, {"log_config": LogConfig(config={"max-size": "x"})}, "invalid size: 'x'"),
        ({}, {"port_bindings": {"80/odd": ()}}, 'invalid port specification: "80/odd"'),
        (
            {},
            {"port_bindings": {"80/tcp": (PortBinding(host_port="99999"),)}},
            'invalid port specification: "99999"',
        ),
        ({}, {"security_opt": ("odd=1",)}, 'invalid --security-opt 2: "odd=1"'),
        ({}, {"security_opt": ("seccomp={}",)}, "seccomp profile"),
        ({}, {"extra_hosts": ("a",)}, 'bad format for add-host: "a"'),
        ({}, {"extra_hosts": ("a:b",)}, 'invalid IP address in add-host: "b"'),
        (
            {},
            {"device_requests": (DeviceRequest(capabilities=(("gpu",),)),)},
            "could not select device driver",
        ),
        ({}, {"device_cgroup_rules": ("x",)}, "invalid device cgroup rule format: 'x'"),
    ],
)
def test_refusals_in_dockers_words(config: dict[str, Any], host: dict[str, Any], message: str) -> None:
    """Unknown and contradictory options say what is wrong with them."""
    assert message in refusal(config, host)


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("kernel.core_pattern", {}),
        ("vm.swappiness", {}),
        ("kernel.shmmax", {"ipc_mode": "host"}),
        ("net.core.somaxconn", {"network_mode": "host"}),
        ("kernel.hostname", {}),
        ("net/../kernel/core_pattern", {}),
        ("net.ipv4/../../kernel/core_pattern", {}),
        ("kernel.shm_rmid_forced+kernel.core_pattern", {}),
        ("net.ipv4.conf.all.\nx", {}),
    ],
)
def test_only_sysctls_of_own_namespaces_are_taken(key: str, host: dict[str, Any]) -> None:
    """A sysctl that is the host's, or a path out of the namespaced ones, is refused (CVE-2022-0811)."""
    assert "sysctl" in refusal({}, {"sysctls": {key: "1"}, **host})


@pytest.mark.parametrize("text", ["a\n127.0.0.1 registry", "a b", "x/y", "a\0b"])
def test_a_hostname_cannot_add_lines_to_etc_hosts(text: str) -> None:
    """It becomes part of two files of the container."""
    assert "invalid hostname" in refusal({"hostname": text}, {})


def test_a_search_domain_cannot_add_lines_to_resolv_conf() -> None:
    """Nor can a name server or an option."""
    assert "valid domain" in refusal({}, {"dns_search": ("a\nnameserver 6.6.6.6",)})
    assert "not an ip address" in refusal({}, {"dns": ("6.6.6.6\n",)})


def test_the_cgroup_parent_stays_inside() -> None:
    """No way up out of the hierarchy."""
    assert "invalid cgroup parent" in refusal({}, {"cgroup_parent": "../../x"})


def test_host_network_drops_published_ports_with_a_warning() -> None:
    """As Docker does."""
    host = HostConfig(network_mode="host", port_bindings={"80/tcp": ()})
    assert check_request(ContainerConfig(), host, MACHINE) == [
        "Published ports are discarded when using host network mode"
    ]


def test_security_options() -> None:
    """Both separators, both spellings of the flag."""
    found = parse_security(("no-new-privileges", "seccomp=unconfined", "apparmor:mine", "label=type:x_t"))
    assert (found.no_new_privileges, found.seccomp, found.apparmor) == (True, "unconfined", "mine")
    assert found.selinux == "system_u:system_r:x_t:s0"
    assert parse_security(("no-new-privileges:false",)).no_new_privileges is False
    assert parse_security(()).no_new_privileges is None


@pytest.mark.parametrize(
    ("text", "size"), [("10m", 10 << 20), ("1.5k", 1536), ("7", 7), ("2GB", 2 << 30), ("-1", -1)]
)
def test_sizes(text: str, size: int) -> None:
    """Binary units, as everywhere in Docker."""
    assert parse_size(text) == size


def test_log_options_without_effect_are_refused() -> None:
    """What Docker has and we have not is not passed over in silence; what is so anyway may be said."""
    with pytest.raises(Unsupported, match="log opt 'compress' is not supported"):
        check_log("json-file", {"compress": "true"})
    check_log("json-file", {"compress": "false", "mode": "blocking", "max-size": "1m", "max-file": "2"})
