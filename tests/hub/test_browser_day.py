"""A day at the hub, in Debian's Chromium and with docker's own command."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.browser import Window, chromium, watched
from harness.clients import find_docker
from harness.hub import LiveHub, free_port
from harness.live import LiveEngine

pytestmark = pytest.mark.slow
PASSWORD = "long enough 123"


@pytest.fixture
def quay(shared_engine: LiveEngine, tmp_path: Path) -> Iterator[LiveHub]:
    """A new hub in the network namespace of an engine, without accounts yet; what is deleted may go at once."""
    words = ("--grace", "0")
    live = LiveHub(tmp_path / "hub", free_port(), words, netns=shared_engine.netns.pid)
    live.start()
    try:
        yield live
    finally:
        live.kill()


class Docker:
    """Docker's own command with the shared engine."""

    def __init__(self, engine: LiveEngine, folder: Path) -> None:
        self._path = find_docker()
        if not self._path:
            pytest.skip("no docker client: install docker-cli or set CAIS_DOCKER_CLI")
        self._environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{engine.socket}",
            "DOCKER_CONFIG": str(folder / "docker"),
        }

    def run(self, *words: str, stdin: str = "", check: bool = True) -> str:
        """Its output, errors too."""
        done = subprocess.run(
            [self._path, *words],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            env=self._environment,
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout


@pytest.mark.e2e
@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="a real engine needs root")
def test_a_day_with_docker(quay: LiveHub, shared_engine: LiveEngine, tmp_path: Path) -> None:
    """Sign up, push from docker, see it, search it, compare, set it private, be refused without a login, make a token
    and use it, delete a tag, reclaim the space."""
    docker = Docker(shared_engine, tmp_path)
    with (
        chromium(netns=shared_engine.netns.pid, folder=tmp_path) as browser,
        watched(browser, quay.url) as window,
    ):
        _sign_up(quay, window)
        digest = _push_two(quay, docker)
        _look(quay, window, digest)
        _set_private(window)
        with watched(browser, quay.url) as stranger:
            _is_refused(quay, docker, stranger)
        _use_token(quay, docker, window)
        _delete_and_reclaim(quay, docker, window)
    docker.run("rmi", "-f", f"{quay.address}/captain/box:1", f"{quay.address}/captain/box:2")


def _sign_up(quay: LiveHub, window: Window) -> None:
    assert quay.process and quay.process.stdout
    line = quay.process.stdout.readline()  # behind the one that says that it is ready
    window.goto(line[line.index("/signup?code=") :].strip())
    window.page.get_by_label("Name").fill("captain")
    window.page.get_by_label("Password").fill(PASSWORD)
    window.page.get_by_role("button", name="Make the account").click()
    window.page.wait_for_url("**/account")
    assert "captain administrator" in window.text()


def _push_two(quay: LiveHub, docker: Docker) -> str:
    """``box:1``, and ``box:2`` with a file more; the first one's digest."""
    name = f"{quay.address}/captain/box"
    docker.run("login", "-u", "captain", "--password-stdin", quay.address, stdin=PASSWORD)
    docker.run("tag", "busybox", f"{name}:1")
    said = docker.run("push", f"{name}:1")
    docker.run("rm", "-f", "cargo", check=False)
    docker.run("run", "--name", "cargo", "busybox", "sh", "-c", "echo fish > /hold && rm /bin/vi")
    docker.run("commit", "--change", "ENV HOLD=full", "cargo", f"{name}:2")
    docker.run("rm", "-f", "cargo")
    docker.run("push", f"{name}:2")
    found = re.search(r"1: digest: (sha256:[0-9a-f]{64})", said)
    assert found, said
    return found[1]


def _look(quay: LiveHub, window: Window, digest: str) -> None:
    window.goto("/")
    assert "captain/box" in window.text()
    window.page.fill("#q", "box")
    window.page.get_by_role("heading", name="Found for “box”").wait_for()
    window.press("ArrowDown", "Enter")
    window.page.wait_for_url("**/r/captain/box")
    assert f"docker pull {quay.address}/captain/box:2" in window.text()
    window.page.get_by_role("link", name="1", exact=True).click()
    window.page.wait_for_url("**/r/captain/box:1")
    assert digest[7:19] in window.text() and "linux/" in window.text()
    window.goto("/r/captain/box/-/compare?tag=1&tag=2")
    text = window.text()
    assert "/hold added" in text and "/bin/vi removed" in text and "variable HOLD – full" in text


def _set_private(window: Window) -> None:
    window.goto("/r/captain/box/-/settings")
    window.page.get_by_label("members only").check()
    window.page.get_by_role("button", name="Save", exact=True).click()
    window.page.get_by_text("Saved.").wait_for()
    window.goto("/r/captain/box")
    assert "Private" in window.text()


def _is_refused(quay: LiveHub, docker: Docker, stranger: Window) -> None:
    stranger.allowed.append("404")
    stranger.goto("/r/captain/box", status=404)
    stranger.goto("/search?q=box")
    assert "captain/box" not in stranger.text()
    docker.run("logout", quay.address)
    said = docker.run("pull", f"{quay.address}/captain/box:1", check=False)
    assert "denied" in said or "unauthorized" in said or "no such repository" in said, said


def _use_token(quay: LiveHub, docker: Docker, window: Window) -> None:
    window.goto("/account/tokens")
    window.page.get_by_label("Name").fill("laptop")
    window.page.get_by_label("Repositories").fill("captain/*")
    window.page.get_by_role("button", name="Make the token").click()
    window.page.get_by_role("heading", name="The token “laptop”").wait_for()
    secret = window.page.locator(".secret code").first.inner_text()
    docker.run("login", "-u", "captain", "--password-stdin", quay.address, stdin=secret)
    docker.run("rmi", f"{quay.address}/captain/box:1")
    assert "Digest: sha256:" in docker.run("pull", f"{quay.address}/captain/box:1")
    docker.run("tag", "busybox", f"{quay.address}/captain/box:3")
    said = docker.run("push", f"{quay.address}/captain/box:3", check=False)
    docker.run("rmi", f"{quay.address}/captain/box:3")
    assert ": digest: " not in said, "a token for pulling pushes"
    window.goto("/account/tokens")
    window.page.get_by_role("button", name="Remove laptop").click()
    window.page.get_by_text("There are none.").wait_for()
    said = docker.run("login", "-u", "captain", "--password-stdin", quay.address, stdin=secret, check=False)
    assert "Login Succeeded" not in said


def _delete_and_reclaim(quay: LiveHub, docker: Docker, window: Window) -> None:
    window.goto("/r/captain/box:2")
    window.page.get_by_text("Delete the tag 2").click()
    window.page.get_by_role("button", name="Delete 2").click()
    window.page.wait_for_url("**/r/captain/box")
    tags = window.page.locator("table.tags").inner_text()
    assert "1" in tags.split() and "2" not in tags.split()
    window.goto("/r/captain/box/-/settings")
    window.page.get_by_text("Delete the repository").first.click()
    window.page.locator("#confirm").fill("captain/box")
    window.page.get_by_role("button", name="Delete the repository").click()
    window.page.wait_for_url("**/n/captain")
    window.goto("/system")
    before = window.text()
    assert re.search(r"On the disk [1-9]", before), before
    for _ in range(3):  # what was asked for lately is kept until two collections have begun
        window.page.get_by_role("button", name="Collect garbage").click()
        window.page.get_by_text("freed.").wait_for()
        if "On the disk 0 B" in window.text():
            break
    assert re.search(r"[\d.]+ [kM]B freed\.", window.text()), window.text()
    assert "On the disk 0 B" in window.text()
