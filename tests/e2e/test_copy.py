"""Files out of containers and into them, by the unmodified docker command line and docker-py."""

import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

Cli = Any

SCRIPT = """
mkdir -p /w/sub; echo hi > /w/f; chmod 4755 /w/f; ln /w/f /w/hard; echo deep > /w/sub/x
ln -s /w/sub /w/l; ln -s f /w/lf; chown 7:8 /w/sub/x; echo x >> /etc/passwd; rm /bin/vi
echo done; exec sleep 1000
"""


@pytest.fixture
def box(request: pytest.FixtureRequest, cli: Cli, wait: Any) -> Iterator[str]:
    """A running container with a tree below /w."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    cli.run("run", "-d", "--name", name, "busybox", "sh", "-c", SCRIPT)
    wait(lambda: cli.text("logs", name) == "done")
    yield name
    cli.run("rm", "-f", name, check=False)


@pytest.mark.parametrize("running", [True, False])
def test_copies_out(cli: Cli, box: str, tmp_path: Path, running: bool) -> None:
    """A folder, what is in a folder, a file, a link, and what a link leads to; also of a container that ended."""
    if not running:
        cli.run("kill", box)
    cli.run("cp", f"{box}:/w", str(tmp_path / "new"))
    assert (tmp_path / "new/sub/x").read_text() == "deep\n" and (tmp_path / "new/l").is_symlink()
    assert (tmp_path / "new/f").stat().st_ino == (tmp_path / "new/hard").stat().st_ino
    (tmp_path / "there").mkdir()
    cli.run("cp", f"{box}:/w", str(tmp_path / "there"))
    assert (tmp_path / "there/w/f").read_text() == "hi\n"
    (tmp_path / "inner").mkdir()
    cli.run("cp", f"{box}:/w/.", str(tmp_path / "inner"))
    assert sorted(os.listdir(tmp_path / "inner")) == ["f", "hard", "l", "lf", "sub"]
    cli.run("cp", f"{box}:/w/f", str(tmp_path / "renamed"))
    assert (tmp_path / "renamed").read_text() == "hi\n"
    cli.run("cp", f"{box}:/w/lf", str(tmp_path / "link"))
    assert os.readlink(tmp_path / "link") == "f"
    cli.run("cp", "-L", f"{box}:/w/lf", str(tmp_path / "followed"))
    assert (tmp_path / "followed").read_text() == "hi\n" and not (tmp_path / "followed").is_symlink()


def test_a_tar_on_stdout(cli: Cli, box: str) -> None:
    """``-`` is the engine's tar, owners and all."""
    data = cli.run("cp", f"{box}:/w/sub", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(member.name, member.uid, member.gid) for member in tar]
    assert members == [("sub", 0, 0), ("sub/x", 7, 8)]


def test_what_is_not_there(cli: Cli, box: str) -> None:
    """dockerd's words."""
    run = cli.run("cp", f"{box}:/nope", "-", check=False)
    assert run.returncode == 1 and f"Could not find the file /nope in container {box}".encode() in run.stderr


def test_diff(cli: Cli, box: str) -> None:
    """What the script did, in letters; a container that did nothing has no lines."""
    lines = cli.text("diff", box).split("\n")
    assert lines[:2] == ["C /bin", "D /bin/vi"] and lines[2:4] == ["C /etc", "C /etc/passwd"]
    assert lines[4:] == [f"A /w{name}" for name in ("", "/f", "/hard", "/l", "/lf", "/sub", "/sub/x")]
    cli.run("create", "--name", f"{box}-2", "busybox")
    assert cli.text("diff", f"{box}-2") == ""
    cli.run("rm", f"{box}-2")


def test_docker_py_reads(client: docker.DockerClient) -> None:
    """get_archive gives the stat and the tar; diff is None when nothing has changed."""
    container = client.containers.create("busybox", ["true"])
    parts, found = container.get_archive("/etc/passwd")
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as tar:
        assert tar.getnames() == ["passwd"]
    assert (found["name"], found["linkTarget"]) == ("passwd", "") and found["size"] > 10
    assert container.diff() is None
    container.remove()
