"""The small pure parts: names, signals, capabilities, ports, restart policies, etc files, merging."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.config import Config
from cais.containers import capabilities, restart
from cais.containers.adapt import fill_host, merge_config
from cais.containers.limits import format_set, parse_set
from cais.containers.names import check_name, new_id, random_name
from cais.containers.netfiles import DnsWishes, make_hosts, make_resolv
from cais.containers.ports import plan_ports
from cais.containers.signals import parse_signal
from cais.errors import Invalid
from cais.network.base import PortMapping
from cais.spec.container import ContainerConfig, HostConfig, PortBinding, RestartPolicy
from cais.spec.image import ContainerDefaults
from harness.engines import MACHINE


@pytest.mark.parametrize("name", ["a", "-ab", "a/b", "a b", "ab\n", "ä1", "..", ""])
def test_names_outside_the_grammar_are_refused(name: str) -> None:
    """In Docker's words."""
    with pytest.raises(Invalid) as caught:
        check_name(name)
    assert str(caught.value) == f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


def test_random_names_and_ids_are_wellformed() -> None:
    """What we choose, we would take."""
    assert all(check_name(random_name(attempt)) for attempt in range(4) for _ in range(50))
    assert all(len(new_id()) == 64 and not new_id()[:12].isdecimal() for _ in range(50))


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("SIGKILL", 9), ("sigint", 2), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-14", 50)],
)
def test_signals(text: str, number: int) -> None:
    """Names with and without SIG, numbers, real-time signals as libc counts them."""
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["0", "65", "NOPE", "-1", "", "RTMIN+16", "²"])
def test_wrong_signals_are_refused(text: str) -> None:
    """Zero would only ask whether the process is there."""
    with pytest.raises(Invalid, match="invalid signal"):
        parse_signal(text)


@pytest.mark.parametrize(
    ("add", "drop", "some", "others"),
    [
        ((), (), ("CAP_CHOWN",), ("CAP_SYS_ADMIN",)),
        (("SYS_ADMIN",), ("chown",), ("CAP_SYS_ADMIN", "CAP_KILL"), ("CAP_CHOWN",)),
        (("ALL",), ("CAP_KILL",), ("CAP_SYS_ADMIN",), ("CAP_KILL", "CAP_SYS_RESOURCE")),
        (("NET_ADMIN",), ("ALL",), ("CAP_NET_ADMIN",), ("CAP_CHOWN",)),
        ((), ("all",), (), capabilities.DEFAULT),
    ],
)
def test_capability_rules(
    add: tuple[str, ...], drop: tuple[str, ...], some: tuple[str, ...], others: tuple[str, ...]
) -> None:
    """add ALL minus drops; drop ALL plus adds; never more than the engine has."""
    chosen = capabilities.choose(add, drop, MACHINE.capabilities)
    assert set(some) <= set(chosen)
    assert not set(others) & set(chosen)


def test_docker_gives_fourteen() -> None:
    """No more, no less."""
    assert len(capabilities.choose((), (), capabilities.KNOWN)) == 14


def test_a_port_without_bindings_gets_a_free_one() -> None:
    """As dockerd reads an empty list; publish-all covers what is exposed and not named."""
    mapped = plan_ports({"80/tcp": ()}, {"80/tcp", "53/udp"}, publish_all=True)
    assert mapped == (PortMapping("tcp", 80, "", 0), PortMapping("udp", 53, "", 0))


def test_a_range_of_exposed_ports_is_one_mapping_a_port() -> None:
    """The network room knows no ranges."""
    mapped = plan_ports({"8000-8001": (PortBinding(host_ip="127.0.0.1"),)}, (), publish_all=False)
    assert [(port.container_port, port.host_ip) for port in mapped] == [
        (8000, "127.0.0.1"),
        (8001, "127.0.0.1"),
    ]


@given(st.frozensets(st.integers(0, 200), max_size=30))
def test_cpu_sets_are_read_back(numbers: frozenset[int]) -> None:
    """Ranges and all."""
    assert parse_set(format_set(numbers)) == numbers


@pytest.mark.parametrize(
    ("policy", "ended", "again"),
    [
        (RestartPolicy(name="no"), restart.Ended(1, 1, False, 0), False),
        (RestartPolicy(name="always"), restart.Ended(0, 1, False, 99), True),
        (RestartPolicy(name="always"), restart.Ended(0, 1, True, 0), False),
        (RestartPolicy(name="unless-stopped"), restart.Ended(0, 1, True, 0), False),
        (RestartPolicy(name="on-failure"), restart.Ended(0, 1, False, 0), False),
        (RestartPolicy(name="on-failure"), restart.Ended(3, 1, False, 500), True),
        (RestartPolicy(name="on-failure", maximum_retry_count=2), restart.Ended(3, 1, False, 1), True),
        (RestartPolicy(name="on-failure", maximum_retry_count=2), restart.Ended(3, 1, False, 2), False),
    ],
)
def test_restart_policies(policy: RestartPolicy, ended: restart.Ended, again: bool) -> None:
    """Each does what Docker's manual says."""
    assert restart.should_restart(policy, ended) is again


def test_always_starts_with_the_engine_even_after_a_stop() -> None:
    """That is its difference from unless-stopped."""
    ended = restart.Ended(0, 1, True, 0)
    assert restart.should_start_with_engine(RestartPolicy(name="always"), ended)
    assert not restart.should_start_with_engine(RestartPolicy(name="unless-stopped"), ended)


def test_the_delay_doubles_up_to_a_minute_and_starts_over_after_a_steady_run() -> None:
    """100 ms, 200 ms, … 60 s; ten seconds of life reset it."""
    delays = [0.1]
    for _ in range(12):
        delays.append(restart.next_delay(delays[-1], 0.1))
    assert delays[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert delays[-1] == 60
    assert restart.next_delay(60, 10) == 0.1


def test_etc_hosts_names_the_container_and_the_gateway() -> None:
    """--add-host comes before the container's own line, host-gateway is the gateway."""
    text = make_hosts(
        ["box.lan", "box"], "10.0.0.2", ["db:1.2.3.4", "up:host-gateway", "six=[::2]"], "10.0.0.1"
    )
    assert text.startswith("127.0.0.1\tlocalhost\n")
    assert text.endswith("1.2.3.4\tdb\n10.0.0.1\tup\n::2\tsix\n10.0.0.2\tbox.lan box\n")


def test_resolv_conf_leaves_out_what_cannot_be_reached() -> None:
    """The host's loopback name server is another one inside a network namespace."""
    host = "# x\nnameserver 127.0.0.53\nnameserver 10.1.1.1\nsearch lan corp\noptions edns0\n"
    assert make_resolv(host, DnsWishes(), own_network=True) == (
        "nameserver 10.1.1.1\nsearch lan corp\noptions edns0\n"
    )
    assert "127.0.0.53" in make_resolv(host, DnsWishes(), own_network=False)
    assert "8.8.8.8" in make_resolv("nameserver ::1\n", DnsWishes(), own_network=True)


def test_resolv_conf_obeys_the_command_line() -> None:
    """--dns replaces, a search domain of a dot means none."""
    wishes = DnsWishes(servers=("9.9.9.9",), search=(".",), options=("ndots:2",))
    assert make_resolv("nameserver 10.1.1.1\nsearch lan\n", wishes, own_network=True) == (
        "nameserver 9.9.9.9\noptions ndots:2\n"
    )


IMAGE = ContainerDefaults(
    entrypoint=("entry",), cmd=("arg",), env=("PATH=/x", "A=1"), working_dir="work", user="app"
)


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "command"),
    [
        (None, None, ("entry", "arg")),
        (None, ("mine",), ("entry", "mine")),
        (("own",), None, ("own",)),
        (("own",), ("mine",), ("own", "mine")),
        (("",), ("mine",), ("mine",)),
        ((), ("mine",), ("mine",)),
    ],
)
def test_entry_point_and_command(
    entrypoint: tuple[str, ...] | None, cmd: tuple[str, ...] | None, command: tuple[str, ...]
) -> None:
    """An entry point of one's own drops the image's command."""
    merged = merge_config(ContainerConfig(entrypoint=entrypoint, cmd=cmd), IMAGE)
    assert (merged.entrypoint or ()) + (merged.cmd or ()) == command


def test_nothing_to_run_is_refused() -> None:
    """No command specified."""
    with pytest.raises(Invalid, match="no command specified"):
        merge_config(ContainerConfig(), ContainerDefaults())


def test_the_users_configuration_covers_the_images() -> None:
    """Variables by name, the rest field by field."""
    merged = merge_config(ContainerConfig(env=("A=2",), labels={"x": "1"}), IMAGE)
    assert merged.env == ("A=2", "PATH=/x")
    assert (merged.user, merged.working_dir) == ("app", "/work")


def test_dockers_defaults_are_filled_in() -> None:
    """What inspect shows of a container nobody asked anything for."""
    host = fill_host(HostConfig(memory=10 << 20, pids_limit=0), Config(), MACHINE)
    assert host.memory_swap == 20 << 20
    assert host.pids_limit is None
    assert (host.network_mode, host.ipc_mode, host.cgroupns_mode) == ("bridge", "private", "private")
    assert host.log_config.type == "json-file"
    assert host.shm_size == 64 << 20
    assert "/proc/kcore" in (host.masked_paths or ())


def test_the_privileged_get_no_masks() -> None:
    """Nor read-only paths."""
    host = fill_host(HostConfig(privileged=True), Config(), MACHINE)
    assert (host.masked_paths, host.readonly_paths) == (None, None)
