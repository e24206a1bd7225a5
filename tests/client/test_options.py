"""Keywords to the API's bodies."""

import pytest

from cais.client.options import format_port, make_create, make_exec, parse_size
from cais.client.target import Tls, parse_target
from cais.config import DEFAULT_HOST
from cais.errors import Invalid
from cais.spec.container import CreateRequest, parse_create


def create(**options: object) -> CreateRequest:
    return parse_create(make_create("busybox", ["true"], options, attach=True))  # type: ignore[arg-type]


def test_ports() -> None:
    """Ports are exposed and bound in every form."""
    made = create(ports={80: 8080, "53/udp": ("127.0.0.1", 5353), 90: None})
    bound = {k: (v[0].host_ip, v[0].host_port) for k, v in made.host_config.port_bindings.items()}
    assert bound == {"80/tcp": ("", "8080"), "53/udp": ("127.0.0.1", "5353"), "90/tcp": ("", "")}
    assert set(made.exposed_ports) == set(bound)


def test_limits() -> None:
    """Sizes are bytes, CPUs billionths, limits pairs."""
    made = create(
        memory="64m", memory_swap=-1, cpus=1.5, ulimits={"nofile": 5, "core": (0, 9)}, shm_size=10
    ).host_config
    assert (made.memory, made.memory_swap, made.nano_cpus, made.shm_size) == (64 << 20, -1, 1_500_000_000, 10)
    assert [(u.name, u.soft, u.hard) for u in made.ulimits] == [("nofile", 5, 5), ("core", 0, 9)]


def test_streams() -> None:
    """A process object attaches its output; stdin only if asked for, and then it ends with the connection."""
    made = create(stdin=True)
    assert (
        made.attach_stdout
        and made.attach_stderr
        and made.attach_stdin
        and made.open_stdin
        and made.stdin_once
    )
    assert not create().attach_stdin
    assert not parse_create(make_create("busybox", [], {}, attach=False)).attach_stdout


def test_network() -> None:
    """Wishes for an endpoint are sent only if there are any."""
    assert create().networking_config.endpoints_config == {}
    wished = create(network="n", ip="1.2.3.4", network_aliases=["a"])
    endpoint = wished.networking_config.endpoints_config["n"]
    assert wished.host_config.network_mode == "n" and endpoint.aliases == ("a",)
    assert endpoint.ipam_config is not None and endpoint.ipam_config.ipv4_address == "1.2.3.4"


def test_rest() -> None:
    """The plain ones arrive under their names."""
    made = create(
        env={"A": "b"},
        entrypoint="sh",
        labels={"k": "v"},
        devices=["/dev/a:/dev/b:r"],
        restart="on-failure:3",
    )
    assert made.env == ("A=b",) and made.entrypoint == ("sh",) and made.labels == {"k": "v"}
    assert made.host_config.devices[0].cgroup_permissions == "r"
    assert made.host_config.restart_policy.maximum_retry_count == 3


@pytest.mark.parametrize("size", ["", "x", "1x", "-1", "nan", "1e400"])
def test_not_a_size(size: str) -> None:
    """Anything else is Invalid."""
    with pytest.raises(Invalid):
        parse_size(size)


@pytest.mark.parametrize(
    ("size", "value"), [(5, 5), ("5", 5), ("1k", 1024), ("1.5 GiB", 3 << 29), ("2MB", 2 << 20)]
)
def test_parse_size(size: int | str, value: int) -> None:
    """Suffixes in powers of 1024."""
    assert parse_size(size) == value


@pytest.mark.parametrize("port", [0, 65536, "x", "80/", "-1", "8０"])
def test_not_a_port(port: int | str) -> None:
    """A port is 1 to 65535."""
    if port == "80/":
        assert format_port(port) == "80/tcp"
        return
    with pytest.raises(Invalid):
        format_port(port)


def test_command_is_words() -> None:
    """A text instead of a list of words is a mistake that would run h, e, l, l, o."""
    with pytest.raises(Invalid, match="list of words"):
        make_create("busybox", "hello", {}, attach=False)
    with pytest.raises(Invalid, match="list of words"):
        make_exec([], {})


def test_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host given wins over CAIS_HOST, which wins over the default."""
    monkeypatch.delenv("CAIS_HOST", raising=False)
    assert parse_target("").text == DEFAULT_HOST
    monkeypatch.setenv("CAIS_HOST", "tcp://[::1]:5")
    assert (parse_target("").name, parse_target("").port) == ("::1", 5)
    assert parse_target("unix:///x").path == "/x" and parse_target("https://a:1").tls == Tls()


@pytest.mark.parametrize("host", ["unix://", "tcp://a", "ssh://a:1", "x"])
def test_not_a_target(host: str) -> None:
    """Anything else is Invalid."""
    with pytest.raises(Invalid):
        parse_target(host)
