"""``docker login``, ``push``, ``pull`` and ``logout`` with the real client, against a hub with accounts."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.accounts import PASSWORD, open_desk
from harness.hub import free_port
from harness.registry import _wait_until_listening

pytestmark = pytest.mark.slow
WRONG = "the name or the password is wrong"


@dataclass(frozen=True)
class Town:
    """A hub in the engine's network namespace, with what its people keep."""

    address: str
    kept: str
    """Alice's token, for all that she may."""
    robot: str
    secret: str


async def _prepare(root: Path) -> tuple[str, str, str]:
    async with open_desk(root) as desk:
        alice = await desk.login("alice")
        await desk.people.namespaces.change("alice", alice, {"private": True})
        robot, secret = await desk.people.robots.add(
            "bob", "ci", ["pull", "push"], 0, await desk.login("bob")
        )
        return await desk.token("alice"), robot, secret


@pytest.fixture
def town(engine: Any, tmp_path: Path) -> Iterator[Town]:
    """Alice's namespace is private, bob's has a robot; the engine forgets what it has of it at the end."""
    kept, robot, secret = asyncio.run(_prepare(tmp_path / "hub"))
    address = f"127.0.0.1:{free_port()}"
    enter = ["nsenter", f"--net=/proc/{engine.netns.pid}/ns/net"]
    command = [sys.executable, "-m", "cais.hub.main", "--root", str(tmp_path / "hub"), "--listen", address]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*enter, *command], stdout=log, stderr=log, env=environment)
    try:
        _wait_until_listening(address, process, tmp_path / "log")
        yield Town(address, kept, robot, secret)
    finally:
        process.kill()
        process.wait()
    client = engine.client()
    for image in client.images.list():
        for tag in image.tags:
            if tag.startswith(address):
                client.images.remove(tag, force=True)
    client.close()


def log_in(cli: Any, town: Town, name: str, secret: str) -> str:
    """What it says, or the error."""
    run = cli.run("login", "-u", name, "--password-stdin", town.address, stdin=secret.encode(), check=False)
    return str((run.stdout if run.returncode == 0 else run.stderr).decode())


def fails(cli: Any, *words: str) -> str:
    """The error of a command that must fail."""
    run = cli.run(*words, check=False)
    assert run.returncode == 1, run.stdout
    return str(run.stderr.decode())


def test_a_private_repository(cli: Any, town: Town) -> None:
    """Is for who has logged in and may see it, by password or kept token, and until logout."""
    name = f"{town.address}/alice/app:1"
    cli.text("tag", "busybox", name)
    fails(cli, "push", name)
    assert WRONG in log_in(cli, town, "alice", PASSWORD + "!")
    assert WRONG in log_in(cli, town, "nobody", PASSWORD)
    assert "Login Succeeded" in log_in(cli, town, "alice", PASSWORD)
    cli.text("push", name)
    cli.text("rmi", name)
    cli.text("pull", name)
    cli.text("logout", town.address)
    cli.text("rmi", name)
    assert "no such repository" in fails(cli, "pull", name) or "denied" in fails(cli, "pull", name)
    assert "Login Succeeded" in log_in(cli, town, "bob", PASSWORD)
    assert "no such repository" in fails(cli, "pull", name) or "denied" in fails(cli, "pull", name)
    assert "Login Succeeded" in log_in(cli, town, "alice", town.kept)
    cli.text("pull", name)
    assert cli.text("run", "--rm", name, "echo", "mine") == "mine"


def test_a_robot(cli: Any, town: Town) -> None:
    """Pushes and pulls in its namespace, and nowhere else."""
    assert WRONG in log_in(cli, town, town.robot, PASSWORD)
    assert WRONG in log_in(cli, town, "bob", town.secret)
    assert "Login Succeeded" in log_in(cli, town, town.robot, town.secret)
    name = f"{town.address}/bob/app:1"
    cli.text("tag", "busybox", name)
    cli.text("push", name)
    cli.text("rmi", name)
    cli.text("pull", name)
    for foreign in ("alice/app", "carol/app", "app"):
        cli.text("tag", "busybox", f"{town.address}/{foreign}:1")
        fails(cli, "push", f"{town.address}/{foreign}:1")
    cli.text("logout", town.address)
    cli.text("rmi", name)
    cli.text("pull", name)  # it is public
