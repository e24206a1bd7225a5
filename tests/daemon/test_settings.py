"""From flags and ``daemon.json`` to the configuration."""

from pathlib import Path

import pytest

from cais.config import BuildBudget, Config, Registry
from cais.daemon.settings import load_config
from cais.errors import Invalid


def write(path: Path, text: str) -> list[str]:
    """A configuration file, as the flag that names it."""
    path.write_text(text)
    return ["--config-file", str(path)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where it lies."""
    return tmp_path / "daemon.json"


def test_defaults(file: Path) -> None:
    """An empty file and no flags are the default configuration."""
    assert load_config(write(file, "{}")) == (Config(), False)


def test_file_and_flags(file: Path) -> None:
    """Both are read; sizes and lists may be written as dockerd allows."""
    text = """{"data-root": "/r", "default-shm-size": "1m", "log-opts": {"max-file": "2"}, "dns": ["1.1.1.1"],
        "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}, "live-restore": false}"""
    config, check = load_config([*write(file, text), "--validate", "--run", "/q", "--iptables=false"])
    assert check and (config.root, config.run) == (Path("/r"), Path("/q"))
    assert config.hosts == ("unix:///q/cais.sock",) and config.default_shm_size == 1 << 20
    assert config.default_ulimits == {"nofile": (1, 2)} and config.log_options == {"max-file": "2"}
    assert config.dns == ("1.1.1.1",) and not config.live_restore and not config.firewall


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"nope": 1, "x": 2}', "the following directives don't match any configuration option: nope, x"),
        ('{"debug": "a"}', "invalid JSON: Expected `bool`, got `str` - at `$.debug`"),
        ('{"labels": ["a=b", 1]}', "invalid JSON: Expected `str`, got `int` - at `$.labels[1]`"),
        ('{"debug": true,', "invalid JSON: Input data was truncated"),
        ("[]", "invalid JSON: expected an object"),
        (
            '{"hosts": ["foo://x"]}',
            "invalid value for hosts: invalid bind address (foo://x): unsupported proto 'foo'",
        ),
    ],
)
def test_wrong_file(file: Path, text: str, message: str) -> None:
    """A wrong file is refused with its name and the wrong key."""
    with pytest.raises(Invalid) as caught:
        load_config(write(file, text))
    assert str(caught.value) == f"unable to configure the Docker daemon with file {file}: {message}"


def test_file_that_is_not_there() -> None:
    """A named file must exist; the default one need not."""
    with pytest.raises(Invalid, match=r"open /nope: no such file or directory"):
        load_config(["--config-file", "/nope"])


def test_contradictions(file: Path) -> None:
    """The same thing in both is refused, in dockerd's words."""
    text = '{"debug": true, "labels": ["a=b"], "mtu": 1400}'
    with pytest.raises(Invalid) as caught:
        load_config([*write(file, text), "-D", "--label", "c=d", "--mtu", "1200", "--init"])
    assert str(caught.value).endswith(
        "the following directives are specified both as a flag and in the configuration file: "
        "debug: (from flag: true, from file: true), labels: (from flag: [c=d], from file: [a=b]), "
        "mtu: (from flag: 1200, from file: 1400)"
    )


@pytest.mark.parametrize(
    "words", [["-H", "tcp://0.0.0.0:2375"], ["-H", "tcp://0.0.0.0:2375", "--insecure-tcp"], ["-H", ":2375"]]
)
def test_open_tcp_is_refused(words: list[str]) -> None:
    """TCP without client certificates is for loopback addresses, and only when asked for."""
    with pytest.raises(Invalid, match="would let in everyone"):
        load_config(words)


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:2375", "tcp://localhost:1", "tcp://[::1]:2375"])
def test_loopback_tcp(host: str) -> None:
    """With the flag, loopback is fine."""
    assert load_config(["-H", host, "--insecure-tcp"])[0].hosts == (host,)


def test_tls_needs_client_certificates() -> None:
    """Encryption alone keeps nobody out."""
    with pytest.raises(Invalid, match="use --tlsverify"):
        load_config(["--tls", "--tlscert", "/c", "--tlskey", "/k"])
    with pytest.raises(Invalid, match="needs --tlscacert"):
        load_config(["--tlsverify", "--tlscert", "/c", "--tlskey", "/k"])


@pytest.mark.parametrize(
    "words",
    [
        ["--userns-remap", "default"],
        ["--selinux-enabled"],
        ["--icc=false"],
        ["--authorization-plugin", "x"],
        ["--storage-driver", "btrfs"],
        ["--exec-opt", "native.cgroupdriver=systemd"],
        ["--mtu", "-3"],
        ["--bip", "1.2.3"],
        ["--root", "relative"],
        ["--default-address-pool", "base=10.0.0.0/8,size=4"],
    ],
)
def test_what_cannot_be_had(words: list[str]) -> None:
    """A setting that would be silently without effect, or makes no sense, is refused."""
    with pytest.raises(Invalid):
        load_config(words)


def test_address_pools() -> None:
    """Pools are cut into networks of their size."""
    config, _ = load_config(["--default-address-pool", "base=10.0.0.0/23,size=24"])
    assert config.address_pools == ("10.0.0.0/24", "10.0.1.0/24")


def test_registries(file: Path) -> None:
    """Mirrors in order with their paths, and whether a bad certificate will do; by flag the mirrors only."""
    text = """{"registries": {"ghcr.io": {"mirrors": ["https://one.example/ghcr", "http://two.example:5000"]},
        "reg.example:5000": {"insecure": true}}, "max-concurrent-uploads": 2, "push-compression": "zstd"}"""
    config, _ = load_config(write(file, text))
    assert config.registries == {
        "ghcr.io": Registry(("https://one.example/ghcr", "http://two.example:5000")),
        "reg.example:5000": Registry(insecure=True),
    }
    assert config.max_concurrent_uploads == 2 and config.push_compression == "zstd"
    flags = [
        "--registry",
        "ghcr.io=https://a.example,https://b.example/x",
        "--registry=quay.io=https://c.example",
    ]
    config, _ = load_config([*write(file, "{}"), *flags])
    assert config.registries == {
        "ghcr.io": Registry(("https://a.example", "https://b.example/x")),
        "quay.io": Registry(("https://c.example",)),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"registries": {"ghcr.io": {"mirror": []}}}', "unknown field `mirror`"),
        ('{"registries": {"ghcr.io": {"mirrors": "https://a.b"}}}', "Expected `array`, got `str`"),
        ('{"registries": {"ghcr.io": {"mirrors": ["a.b"]}}}', "invalid mirror"),
        ('{"registries": {"https://ghcr.io": {}}}', "invalid registry name 'https://ghcr.io'"),
        ('{"push-compression": "lzma"}', "invalid push compression lzma"),
        ('{"max-concurrent-uploads": -1}', "invalid max concurrent uploads: -1"),
    ],
)
def test_wrong_registries(file: Path, text: str, message: str) -> None:
    """Refused before the engine starts, naming what is wrong."""
    with pytest.raises(Invalid, match=message):
        load_config(write(file, text))


def test_what_builds_may_keep(file: Path) -> None:
    """Docker's own form in the file, flags of ours; of several rules the strictest."""
    text = """{"builder": {"gc": {"enabled": true, "defaultKeepStorage": "20GB", "policy": [
        {"keepStorage": "10GB", "filter": ["unused-for=48h"]}, {"keepStorage": "50GB", "all": true}]}}}"""
    config, _ = load_config(write(file, text))
    assert config.build_budget == BuildBudget(10 << 30, 48 * 3600 * 10**9)
    config, _ = load_config(
        write(file, '{"builder": {"gc": {"enabled": false, "defaultKeepStorage": "1GB"}}}')
    )
    assert config.build_budget == BuildBudget()
    flags = ["--builder-gc", "keep-bytes=1GB", "--builder-gc", "unused-for=30d"]
    config, _ = load_config([*write(file, "{}"), *flags])
    assert config.build_budget == BuildBudget(1 << 30, 30 * 86400 * 10**9)
    with pytest.raises(Invalid, match="builder-gc"):
        load_config([*write(file, "{}"), "--builder-gc", "what=1"])
    with pytest.raises(Invalid, match="builder"):
        load_config(write(file, '{"builder": {"gc": {"defaultKeepStorage": "lots"}}}'))
