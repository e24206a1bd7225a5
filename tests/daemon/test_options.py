"""dockerd's flags in all of pflag's spellings."""

import pytest

from cais.daemon.options import BY_FLAG, OPTIONS, parse_arguments
from cais.daemon.values import Pool, Ulimit
from cais.errors import Invalid


def test_spellings() -> None:
    """Values behind a space, an equals sign, or right behind the letter; booleans with and without one."""
    words = [
        "-H",
        "unix:///a",
        "-Hunix:///b",
        "--host=unix:///c",
        "--mtu",
        "9000",
        "-D",
        "--init=false",
        "-p/x",
    ]
    assert parse_arguments(words) == {
        "hosts": ["unix:///a", "unix:///b", "unix:///c"],
        "mtu": 9000,
        "debug": True,
        "init": False,
        "pidfile": "/x",
    }


def test_aliases() -> None:
    """Our names of the two folders and dockerd's are the same settings."""
    ours = parse_arguments(["--root", "/a", "--run", "/b"])
    assert ours == parse_arguments(["--data-root", "/a", "--exec-root", "/b"])


def test_structured_values() -> None:
    """Ulimits, address pools and log options become typed values."""
    words = ["--default-ulimit", "nofile=1024:2048", "--default-ulimit=core=-1"]
    words += [
        "--default-address-pool",
        "base=10.0.0.0/8,size=24",
        "--log-opt",
        "max-size=10m",
        "--log-opt",
        "max-file=3",
    ]
    assert parse_arguments(words) == {
        "default-ulimits": {
            "nofile": Ulimit(name="nofile", soft=1024, hard=2048),
            "core": Ulimit(name="core", soft=-1, hard=-1),
        },
        "default-address-pools": [Pool(base="10.0.0.0/8", size=24)],
        "log-opts": {"max-size": "10m", "max-file": "3"},
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["--mtu"], "flag needs an argument: --mtu"),
        (
            ["--mtu=abc"],
            'invalid argument "abc" for "--mtu" flag: strconv.ParseInt: parsing "abc": invalid syntax',
        ),
        (
            ["--debug=maybe"],
            'invalid argument "maybe" for "-D, --debug" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        (["--label", "c"], 'invalid argument "c" for "--label" flag: bad attribute format: c'),
        (
            ["-H", "foo://x"],
            'invalid argument "foo://x" for "-H, --host" flag: invalid bind address (foo://x): '
            "unsupported proto 'foo'",
        ),
        (
            ["--dns", "foo"],
            'invalid argument "foo" for "--dns" flag: invalid string being converted to IP address: foo',
        ),
        (
            ["--default-shm-size", "x"],
            'invalid argument "x" for "--default-shm-size" flag: invalid size: \'x\'',
        ),
        (["serve"], '"cais daemon" accepts no arguments: serve'),
    ],
)
def test_refusals(words: list[str], message: str) -> None:
    """Wrong words are refused as dockerd 28 refuses them."""
    with pytest.raises(Invalid) as caught:
        parse_arguments(words)
    assert str(caught.value) == message


def test_every_flag_of_dockerd_is_known() -> None:
    """The table has each flag that ``dockerd --help`` of 28.5 lists."""
    flags = """add-runtime allow-direct-routing authorization-plugin bip bip6 bridge cdi-spec-dir
    cgroup-parent config-file containerd containerd-namespace containerd-plugins-namespace cpu-rt-period
    cpu-rt-runtime cri-containerd data-root debug default-address-pool default-cgroupns-mode default-gateway
    default-gateway-v6 default-ipc-mode default-network-opt default-runtime default-shm-size default-ulimit
    dns dns-opt dns-search exec-opt exec-root experimental feature fixed-cidr fixed-cidr-v6 group host
    host-gateway-ip http-proxy https-proxy icc init init-path insecure-registry ip ip-forward
    ip-forward-no-drop ip-masq ip6tables iptables ipv6 label live-restore log-driver log-format log-level
    log-opt max-concurrent-downloads max-concurrent-uploads max-download-attempts metrics-addr mtu
    network-control-plane-mtu no-new-privileges no-proxy node-generic-resource pidfile raw-logs
    registry-mirror rootless seccomp-profile selinux-enabled shutdown-timeout storage-driver storage-opt
    swarm-default-advertise-addr tls tlscacert tlscert tlskey tlsverify userland-proxy userland-proxy-path
    userns-remap validate""".split()  # noqa: SIM905
    assert not [flag for flag in flags if flag not in BY_FLAG]


def test_no_name_is_used_twice() -> None:
    """Each flag and letter means one thing."""
    flags = [name for option in OPTIONS for name in (option.flag, *option.aliases)]
    letters = [option.short for option in OPTIONS if option.short]
    assert len(set(flags)) == len(flags) and len(set(letters)) == len(letters)
