"""Passwords as ``cais hub`` is told them: by pipes, and by people who do not see what they type."""

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
