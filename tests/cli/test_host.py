"""Where the engine is looked for."""

import pytest

from cais.cli.failure import Failure
from cais.cli.host import DEFAULT_HOST, parse_host
from cais.cli.main import run
from cais.config import DEFAULT_HOST as CONFIGURED


def test_default_is_the_engines_own() -> None:
    """The constant that saves an import has not drifted from the configuration's."""
    assert DEFAULT_HOST == CONFIGURED
    assert not parse_host("").given


@pytest.mark.parametrize(
    ("text", "kind", "address"),
    [
        ("unix:///run/x.sock", "unix", "/run/x.sock"),
        ("/run/x.sock", "unix", "/run/x.sock"),
        ("tcp://10.0.0.1", "tcp", "10.0.0.1:2375"),
        ("tcp://[::1]:99", "tcp", "[::1]:99"),
        ("tcp://[::1]", "tcp", "[::1]:2375"),
        ("https://h", "tcp", "h:2376"),
    ],
)
def test_parse_host(text: str, kind: str, address: str) -> None:
    """Docker's forms, with Docker's default ports."""
    host = parse_host(text)
    assert (host.kind, host.address) == (kind, address)


@pytest.mark.parametrize("text", ["unix://", "tcp://", "ssh://x", "npipe://x"])
def test_not_a_host(text: str) -> None:
    """Everything else is refused."""
    with pytest.raises(Failure, match="unable to parse"):
        parse_host(text)


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A named host where nobody listens is an error; no engine is started in its place."""
    assert run(["-H", "unix:///nonexistent/x.sock", "ps"]) == 1
    assert "Cannot connect to the Cais engine at unix:///nonexistent/x.sock" in capsys.readouterr().err


def test_host_after_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """--host works in both places, the later one wins."""
    run(["-H", "unix:///a", "ps", "--host", "unix:///b"])
    assert "unix:///b" in capsys.readouterr().err


def test_env(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`cais env` points docker at the engine cais talks to, quoted for the shell."""
    monkeypatch.setenv("CAIS_HOST", "unix:///run/a b.sock")
    assert run(["env"]) == 0
    assert capsys.readouterr().out == "export DOCKER_HOST='unix:///run/a b.sock'\n"
