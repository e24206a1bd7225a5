"""Passwords as ``cais hub`` is told them: by pipes, and by people who do not see what they type."""

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.apihub import PASSWORD, ApiHub, populate, serving_hub
from harness.hubcli import Program

pytestmark = pytest.mark.slow


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ApiHub]:
    """A hub with ``root`` and ``alice``: of each test its own, as passwords change."""
    with serving_hub(tmp_path / "hub", signup=True) as served:
        populate(served, "alice")
        yield served


@pytest.fixture
def cais(served: ApiHub, tmp_path: Path) -> Program:
    """The program."""
    return Program(served.port, tmp_path)


def log_in(cais: Program, name: str, password: str) -> int:
    """The exit code of it, in a home that nothing else uses."""
    return cais("login", "-u", name, "--password-stdin", text=password).returncode


def test_new_passwords_are_typed_twice(cais: Program) -> None:
    """Neither is shown; if they differ, nothing is made."""
    words = ("account", "add", "dora")
    code, seen = cais.on_terminal(*words, by="root", answers=(PASSWORD, PASSWORD + "!"))
    assert code == 1 and "nothing was changed" in seen
    code, seen = cais.on_terminal(*words, by="root", answers=(PASSWORD, PASSWORD))
    assert code == 0 and "Password for dora: " in seen and "horse" not in seen
    assert log_in(cais, "dora", PASSWORD) == 0


def test_an_administrator_sets_somebodys_password(cais: Program) -> None:
    """From a pipe; the one before is not asked for."""
    words = ("account", "password", "--password-stdin", "alice")
    assert cais(*words, by="root", text="another horse battery\n").stdout == "alice\n"
    assert (log_in(cais, "alice", "another horse battery"), log_in(cais, "alice", PASSWORD)) == (0, 1)
    short = cais(*words, by="root", text="x")
    assert short.returncode == 1 and "password" in short.stderr
    assert "use --password-stdin" in cais("account", "password", "alice", by="root").stderr


def test_who_may_not_set_somebodys_password(cais: Program) -> None:
    """And it stays."""
    words = ("account", "password", "--password-stdin", "root")
    denied = cais(*words, by="alice", text="another horse battery")
    assert denied.returncode == 1 and "only an administrator" in denied.stderr
    assert log_in(cais, "root", PASSWORD) == 0


def test_ones_own_password_is_changed_and_kept(cais: Program) -> None:
    """Two lines from a pipe; who was logged in with it still is."""
    words = ("password", "--password-stdin")
    done = cais(*words, by="alice", text=f"{PASSWORD}\nanother horse battery\n")
    assert (done.returncode, done.stdout) == (0, "alice\n"), done
    assert cais.lines("namespace", "ls", "--format", "{{.Name}}", by="alice") == ["alice"]
    assert (log_in(cais, "alice", "another horse battery"), log_in(cais, "alice", PASSWORD)) == (0, 1)


def test_ones_own_password_at_a_terminal(cais: Program) -> None:
    """None of the three is shown."""
    answers = (PASSWORD, "another horse battery", "another horse battery")
    code, seen = cais.on_terminal("password", by="alice", answers=answers)
    assert code == 0 and "Current password for alice: " in seen and "horse" not in seen, seen
    assert log_in(cais, "alice", "another horse battery") == 0


def test_a_token_that_is_kept_stays(cais: Program, served: ApiHub) -> None:
    """Who is logged in with one changes the password by knowing it."""
    token = served.tokens["alice"]
    assert cais("login", "-u", "alice", "--password-stdin", text=token).returncode == 0
    done = cais("password", "--password-stdin", text=f"{PASSWORD}\nanother horse battery")
    assert (done.returncode, done.stdout) == (0, "alice\n"), done
    assert cais.lines("namespace", "ls", "--format", "{{.Name}}") == ["alice"]
    config = (cais.homes / "nobody" / ".docker" / "config.json").read_text()
    assert (
        json.loads(config)["auths"][f"127.0.0.1:{cais.port}"]["auth"]
        == b64encode(f"alice:{token}".encode()).decode()
    )


def test_a_password_that_is_not_changed(cais: Program) -> None:
    """The hub's words where it was asked; what is kept stays."""
    for text, message in (
        ("wrong horse battery\nanother horse battery", "wrong"),
        (f"{PASSWORD}\nx", "password"),
        (PASSWORD, "want two lines on stdin"),
        ("a\nb\nc\n", "want two lines on stdin"),
    ):
        done = cais("password", "--password-stdin", by="alice", text=text)
        assert done.returncode == 1 and message in done.stderr and not done.stdout, (text, done)
    assert "use --password-stdin" in cais("password", by="alice").stderr
    assert "you are not logged in" in cais("password", "--password-stdin", text="a\nb").stderr
    assert cais("namespace", "ls", by="alice").returncode == 0


def test_signing_up(cais: Program) -> None:
    """From a pipe or at a terminal; one can log in afterwards, and has not."""
    done = cais("signup", "--password-stdin", "dora", text=PASSWORD)
    assert (done.returncode, done.stdout) == (0, "dora\n"), done
    assert not (cais.homes / "nobody" / ".docker").exists()
    code, seen = cais.on_terminal("signup", "eve", answers=(PASSWORD, PASSWORD))
    assert code == 0 and "horse" not in seen
    assert (log_in(cais, "dora", PASSWORD), log_in(cais, "eve", PASSWORD)) == (0, 0)
    taken = cais("signup", "--password-stdin", "alice", text=PASSWORD)
    assert taken.returncode == 1 and "the name alice is taken" in taken.stderr


def test_the_first_account_wants_the_code(tmp_path: Path) -> None:
    """Of the hub's first start; it is an administrator's."""
    with serving_hub(tmp_path / "closed") as served:
        cais = Program(served.port, tmp_path)
        wrong = cais("signup", "--code", "guessed", "--password-stdin", "root", text=PASSWORD)
        assert wrong.returncode == 1 and "accounts are made by an administrator here" in wrong.stderr
        code = served.hub.invitation
        assert code
        done = cais("signup", "--code", code, "--password-stdin", "root", text=PASSWORD)
        assert done.returncode == 0, done.stderr
        assert cais("stats", by="root").returncode == 0
