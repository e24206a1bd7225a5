"""Which credentials the command line sends: to whom they belong, and to nobody else."""

import base64
import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cais.cli.credentials import erase_auth, find_auth, make_fields, read_config, store_auth
from cais.cli.failure import Failure
from cais.cli.login import parse_key
from cais.spec.registryauth import HUB_KEY, make_auth

SOURCES = Path(__file__).parents[2] / "src"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for config.json."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker"


def decode(fields: list[tuple[str, str]]) -> Any:
    """What the header says."""
    ((name, value),) = fields
    assert name == "X-Registry-Auth"
    return json.loads(base64.urlsafe_b64decode(value))


def test_credentials_go_to_their_registry_only(home: Path) -> None:
    """None to others, Docker Hub's under its key; what was kept before stays."""
    store_auth(make_auth("reg.example:5000", "me", "pw"))
    store_auth(make_auth(HUB_KEY, "hubber", "", "token"))
    assert decode(make_fields("reg.example:5000")) == {
        "username": "me",
        "password": "pw",
        "serveraddress": "reg.example:5000",
    }
    assert decode(make_fields("docker.io"))["identitytoken"] == "token"
    assert make_fields("reg.example") == [] and make_fields("ghcr.io") == []
    assert (home / "config.json").stat().st_mode & 0o777 == 0o600 and home.stat().st_mode & 0o777 == 0o700
    assert erase_auth("reg.example:5000") and not erase_auth("reg.example:5000")
    assert list(read_config()["auths"]) == [HUB_KEY]


def test_a_helper_that_cannot_be_run_sends_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CVE-2021-41092: not the credentials of another registry either."""
    home.mkdir()
    auths = {HUB_KEY: {"auth": base64.b64encode(b"hub:secret").decode()}}
    (home / "config.json").write_text(
        json.dumps({"credHelpers": {"reg.example": "none-there"}, "auths": auths})
    )
    assert make_fields("reg.example") == []
    assert "WARNING: cannot run docker-credential-none-there" in capsys.readouterr().err
    with pytest.raises(Failure, match="cannot run docker-credential-none-there"):
        store_auth(make_auth("reg.example", "me", "s3cret"))
    assert "s3cret" not in (home / "config.json").read_text()


def test_a_link_to_the_file_stays_one(home: Path, tmp_path: Path) -> None:
    """People keep it in repositories of their own."""
    home.mkdir()
    (tmp_path / "real.json").write_text('{"x":1}')
    (home / "config.json").symlink_to(tmp_path / "real.json")
    store_auth(make_auth("reg.example", "me", "pw"))
    assert (home / "config.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["x"] == 1
    assert sorted(os.listdir(tmp_path)) == ["docker", "real.json"]


@pytest.mark.parametrize("text", ["[]", "{", "\udc80"])
def test_a_broken_file_is_not_overwritten(home: Path, text: str) -> None:
    """It may hold what its owner still wants."""
    home.mkdir()
    (home / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Failure, match="cannot read"):
        store_auth(make_auth("reg.example", "me", "pw"))
    with pytest.raises(Failure, match="cannot read"):
        find_auth("reg.example")
    assert (home / "config.json").read_bytes() == text.encode("utf-8", "surrogateescape")


def test_servers_are_called_as_docker_calls_them() -> None:
    """Docker Hub under its old address."""
    assert parse_key("") == parse_key("docker.io") == HUB_KEY
    assert parse_key("https://reg.example:5000/v2/") == "reg.example:5000"


def login(engine: Any, home: Path, *words: str, typed: bytes = b"") -> tuple[int, bytes]:
    """`cais login` on a terminal of its own: exit code and what was to be seen there."""
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "PYTHONPATH": str(SOURCES),
        "CAIS_HOST": engine.host,
        "DOCKER_CONFIG": str(home),
    }
    command = [sys.executable, "-m", "cais", "login", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        for line in typed.splitlines(keepends=True):
            while not seen.endswith(b": "):
                assert select.select([ours], [], [], 20)[0], seen
                seen += os.read(ours, 1000)
            os.write(ours, line)
            seen += b"|"
        try:
            while select.select([ours], [], [], 20)[0] and (part := os.read(ours, 1000)):
                seen += part
        except OSError:
            pass  # the other end is closed
        os.close(ours)
        return process.wait(20), seen


def test_a_password_is_asked_for_and_not_shown(engine: Any, home: Path, tmp_path: Path) -> None:
    """Not on the terminal, not in arguments; it goes to the engine in the body."""
    engine.answers["POST /auth"] = type(engine.answers["GET /_ping"])(
        200, {"Status": "Login Succeeded", "IdentityToken": ""}
    )
    code, seen = login(engine, home, "reg.example", typed=b"me\ns3cret-word\n")
    assert code == 0 and b"Login Succeeded" in seen and b"s3cret" not in seen, seen
    (sent,) = engine.of("POST /auth")
    assert json.loads(sent.body) == {
        "username": "me",
        "password": "s3cret-word",
        "serveraddress": "reg.example",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--password-stdin", "reg"), "Must provide --username with --password-stdin"),
        (("-u", "me", "-p", "x", "--password-stdin"), "mutually exclusive"),
        (("-u", "me", "reg"), "Cannot perform an interactive login from a non TTY device"),
    ],
)
def test_what_login_refuses(engine: Any, home: Path, words: tuple[str, ...], said: str) -> None:
    """Before the engine is asked."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(SOURCES),
        "CAIS_HOST": engine.host,
        "DOCKER_CONFIG": str(home),
    }
    command = [sys.executable, "-m", "cais", "login", *words]
    done = subprocess.run(command, input="", capture_output=True, text=True, env=environment, timeout=20)
    assert done.returncode == 1 and said in done.stderr and not engine.of("POST /auth")
