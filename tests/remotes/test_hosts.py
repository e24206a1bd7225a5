"""Which servers stand for a name, and whom they are trusted by."""

import ssl
from pathlib import Path

import pytest

from cais.config import Registry
from cais.errors import Invalid
from cais.remotes.hosts import Host, Hosts, check_domain, check_mirror, find_proxy, is_insecure
from cais.spec.reference import parse_reference
from harness.registry import make_certificate


def bases(name: str, **options: tuple[str, ...]) -> list[str]:
    """Every base that is tried for a reference, in order."""
    return [base for host in Hosts(**options).find(parse_reference(name)) for base in host.bases]


def test_docker_hub_is_elsewhere() -> None:
    """docker.io's registry has another name than its images."""
    assert bases("busybox") == ["https://registry-1.docker.io"]
    assert bases("quay.io/a/b:1") == ["https://quay.io"]
    assert bases("reg.example:5000/a") == ["https://reg.example:5000"]


@pytest.mark.parametrize("name", ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"])
def test_loopback_is_insecure_by_itself(name: str) -> None:
    """It is tried with TLS, unchecked, then without; nothing else is."""
    (host,) = Hosts().find(parse_reference(f"{name}/a"))
    assert host.bases == (f"https://{name}", f"http://{name}") and not host.is_verified


def test_insecure_registries_are_names_or_networks() -> None:
    """As daemon.json lists them; a port belongs to the name."""
    listed = ("reg.example:5000", "10.0.0.0/8", "fd00::/8", "not/a/network")
    assert is_insecure("reg.example:5000", listed) and is_insecure("10.2.3.4:443", listed)
    assert is_insecure("[fd00::5]:80", listed)
    assert not any(is_insecure(name, listed) for name in ("reg.example", "11.2.3.4", "localhost.example"))


def test_mirrors_are_for_docker_hub_and_go_first() -> None:
    """In their order; other registries know nothing of them."""
    mirrors = ("https://one.example/", "http://two.example:5000")
    found = Hosts(mirrors=mirrors).find(parse_reference("a/b"))
    assert [host.bases[0] for host in found] == [
        "https://one.example",
        "http://two.example:5000",
        "https://registry-1.docker.io",
    ]
    assert [host.is_mirror for host in found] == [True, True, False]
    assert bases("quay.io/a/b", mirrors=mirrors) == ["https://quay.io"]


@pytest.mark.parametrize(
    "url",
    [
        "one.example",
        "ftp://one.example",
        "https://",
        "https://u:p@one.example",
        "https://a.b/x",
        "https://[x",
    ],
)
def test_a_wrong_mirror_is_refused(url: str) -> None:
    """Before the engine starts."""
    with pytest.raises(Invalid, match="invalid mirror"):
        check_mirror(url)


def test_proxies_come_from_the_environment() -> None:
    """By scheme, but not for what NO_PROXY names and never for loopback."""
    environ = {
        "HTTPS_PROXY": "proxy.example:3128",
        "http_proxy": "http://p2",
        "NO_PROXY": "a.b, .c.d,10.0.0.0/8",
    }
    assert find_proxy("https://x.y/v2/", environ) == "http://proxy.example:3128"
    assert find_proxy("http://x.y:5000/v2/", environ) == "http://p2"
    for host in ("a.b", "x.a.b", "e.c.d", "10.1.2.3", "localhost", "127.0.0.1", "[::1]:5000"):
        assert find_proxy(f"https://{host}/v2/", environ) is None, host
    assert find_proxy("https://xa.b/", environ) and not find_proxy("https://x.y/", {})


def test_certs_d_is_read_as_docker_does(tmp_path: Path) -> None:
    """*.crt is trusted, *.cert and *.key are shown, the first folder that has the host counts."""
    folder = tmp_path / "two" / "reg.example:5000"
    folder.mkdir(parents=True)
    certificate, _ = make_certificate(folder)
    (folder / "ca.crt").write_bytes(certificate.read_bytes())
    hosts = Hosts(certs=(tmp_path / "one", tmp_path / "two"))
    before = ssl.create_default_context().cert_store_stats()["x509"]
    context = hosts.make_tls(Host("reg.example:5000", ()))
    assert context.cert_store_stats()["x509"] == before + 1
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.cert", "missing key a.key"),
        ("a.key", "missing client certificate a.cert"),
        ("a.crt", "cannot use"),
    ],
)
def test_half_of_a_pair_is_refused(tmp_path: Path, name: str, words: str) -> None:
    """Docker's words; a broken authority names the folder."""
    folder = tmp_path / "h"
    folder.mkdir()
    (folder / name).write_text("x")
    with pytest.raises(Invalid, match=words):
        Hosts(certs=(tmp_path,)).make_tls(Host("h", ()))


def test_any_registry_may_have_mirrors() -> None:
    """In their order before the registry itself; the path of a mirror is where its copies are."""
    rules = {
        "ghcr.io": Registry(("https://one.example/ghcr", "https://two.example")),
        "docker.io": Registry(("https://hub",)),
    }
    hosts = Hosts(mirrors=("https://old.example",), registries=rules)
    found = hosts.find(parse_reference("ghcr.io/a/b"))
    assert [(host.name, host.prefix, host.is_mirror) for host in found] == [
        ("one.example", "ghcr/", True),
        ("two.example", "", True),
        ("ghcr.io", "", False),
    ]
    names = [host.name for host in hosts.find(parse_reference("busybox"))]
    assert names == ["hub", "old.example", "registry-1.docker.io"]
    assert [host.name for host in hosts.find(parse_reference("quay.io/a"))] == ["quay.io"]
    assert hosts.origin("ghcr.io").bases == ("https://ghcr.io",)


def test_a_registry_may_be_insecure() -> None:
    """As if it were among the insecure registries."""
    hosts = Hosts(registries={"reg.example": Registry(insecure=True)})
    assert hosts.origin("reg.example").bases == ("https://reg.example", "http://reg.example")
    assert hosts.origin("other.example").bases == ("https://other.example",)


@pytest.mark.parametrize("name", ["", "a/b", "ghcr.io/", "https://ghcr.io", "a b", "x"])
def test_a_registry_is_called_as_in_references(name: str) -> None:
    """What could never stand before a name is refused."""
    with pytest.raises(Invalid, match="invalid registry name"):
        check_domain(name)


def test_a_mirror_of_a_registry_may_have_a_path() -> None:
    """One that names can have; Docker Hub's older list may not."""
    url = "https://harbor.example/proxy/ghcr"
    assert check_mirror(url, may_have_path=True) == url
    for wrong in (url + "?x=1", "https://a.b/X", "https://a.b/../c"):
        with pytest.raises(Invalid, match="invalid mirror"):
            check_mirror(wrong, may_have_path=True)
