"""Files out of containers and into them, by the unmodified docker command line and docker-py."""

import io
import os
import re
import select
import socket
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from harness.live import LiveEngine

Cli = Any

SCRIPT = """
mkdir -p /w/sub; echo hi > /w/f; chmod 4755 /w/f; ln /w/f /w/hard; echo deep > /w/sub/x
ln -s /w/sub /w/l; ln -s f /w/lf; chown 7:8 /w/sub/x; echo x >> /etc/passwd; rm /bin/vi
echo done; exec sleep 1000
"""


@pytest.fixture(params=["docker", "cais"])
def tool(request: pytest.FixtureRequest, cli: Cli) -> Cli:
    """The docker command line, and ours, which has the same words."""
    return cli if request.param == "docker" else replace(cli, path=str(Path(sys.executable).parent / "cais"))


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch, engine: LiveEngine) -> None:
    """Ours speaks to the tests' engine too: without a host it would start one of its own."""
    monkeypatch.setenv("CAIS_HOST", f"unix://{engine.socket}")


@pytest.fixture
def box(request: pytest.FixtureRequest, cli: Cli, wait: Any) -> Iterator[str]:
    """A running container with a tree below /w."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    cli.run("run", "-d", "--name", name, "busybox", "sh", "-c", SCRIPT)
    wait(lambda: cli.text("logs", name) == "done")
    yield name
    cli.run("rm", "-f", name, check=False)


@pytest.mark.parametrize("running", [True, False])
def test_copies_out(cli: Cli, tool: Cli, box: str, tmp_path: Path, running: bool) -> None:
    """A folder, what is in a folder, a file, a link, and what a link leads to; also of a container that ended."""
    if not running:
        cli.run("kill", box)
    tool.run("cp", f"{box}:/w", str(tmp_path / "new"))
    assert (tmp_path / "new/sub/x").read_text() == "deep\n" and (tmp_path / "new/l").is_symlink()
    assert (tmp_path / "new/f").stat().st_ino == (tmp_path / "new/hard").stat().st_ino
    (tmp_path / "there").mkdir()
    tool.run("cp", f"{box}:/w", str(tmp_path / "there"))
    assert (tmp_path / "there/w/f").read_text() == "hi\n"
    (tmp_path / "inner").mkdir()
    tool.run("cp", f"{box}:/w/.", str(tmp_path / "inner"))
    assert sorted(os.listdir(tmp_path / "inner")) == ["f", "hard", "l", "lf", "sub"]
    tool.run("cp", f"{box}:/w/f", str(tmp_path / "renamed"))
    assert (tmp_path / "renamed").read_text() == "hi\n"
    tool.run("cp", f"{box}:/w/lf", str(tmp_path / "link"))
    assert os.readlink(tmp_path / "link") == "f"
    tool.run("cp", "-L", f"{box}:/w/lf", str(tmp_path / "followed"))
    assert (tmp_path / "followed").read_text() == "hi\n" and not (tmp_path / "followed").is_symlink()


def test_a_tar_on_stdout(cli: Cli, tool: Cli, box: str) -> None:
    """``-`` is the engine's tar, owners and all."""
    data = tool.run("cp", f"{box}:/w/sub", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(member.name, member.uid, member.gid) for member in tar]
    assert members == [("sub", 0, 0), ("sub/x", 7, 8)]


def test_what_is_not_there(cli: Cli, tool: Cli, box: str) -> None:
    """dockerd's words."""
    run = tool.run("cp", f"{box}:/nope", "-", check=False)
    assert run.returncode == 1 and f"Could not find the file /nope in container {box}".encode() in run.stderr


def test_diff(cli: Cli, tool: Cli, box: str) -> None:
    """What the script did, in letters; a container that did nothing has no lines."""
    lines = tool.text("diff", box).split("\n")
    assert lines[:2] == ["C /bin", "D /bin/vi"] and lines[2:4] == ["C /etc", "C /etc/passwd"]
    assert lines[4:] == [f"A /w{name}" for name in ("", "/f", "/hard", "/l", "/lf", "/sub", "/sub/x")]
    cli.run("create", "--name", f"{box}-2", "busybox")
    assert tool.text("diff", f"{box}-2") == ""
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


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of the client's with a file, a folder, and a link to a file."""
    tree = tmp_path / "source"
    (tree / "d").mkdir(parents=True)
    (tree / "d/x").write_text("deep\n")
    (tree / "f").write_text("hi\n")
    (tree / "f").chmod(0o751)
    os.chown(tree / "f", 55, 66)
    (tree / "l").symlink_to("f")
    return tree


@pytest.mark.parametrize("state", ["running", "ended", "new"])
def test_copies_in(cli: Cli, tool: Cli, box: str, source: Path, state: str) -> None:
    """A folder to a new name and into one that is there, what is in it, a file, links; whatever the container does."""
    if state == "ended":
        cli.run("kill", box)
    elif state == "new":
        cli.run("rm", "-f", box)
        cli.run("create", "--name", box, "busybox", "sleep", "1000")
    for words in (
        (f"{source}", f"{box}:/new"),
        (f"{source}", f"{box}:/tmp"),
        (f"{source}/.", f"{box}:/root"),
        (f"{source}/f", f"{box}:/renamed"),
        (f"{source}/l", f"{box}:/tmp"),
        ("-L", f"{source}/l", f"{box}:/followed"),
    ):
        tool.run("cp", *words)
    if state != "running":
        cli.run("start", box)
    script = (
        "cd /; find new tmp root | sort; cat followed renamed; stat -c '%u:%g %a' renamed; readlink tmp/l"
    )
    found = cli.text("exec", box, "sh", "-c", script).split("\n")
    inner = ["/d", "/d/x", "/f", "/l"]
    expected = ["new", *(f"new{name}" for name in inner), "root", *(f"root{name}" for name in inner)]
    expected += ["tmp", "tmp/l", "tmp/source", *(f"tmp/source{name}" for name in inner)]
    assert found == [*expected, "hi", "hi", "55:66 751", "f"]


def test_to_the_containers_user(cli: Cli, tool: Cli, box: str, source: Path) -> None:
    """With -a everything becomes the user's that the container runs as."""
    cli.run("create", "--name", f"{box}-2", "--user", "nobody", "busybox")
    tool.run("cp", "-a", str(source / "f"), f"{box}-2:/tmp/f")
    with tarfile.open(fileobj=io.BytesIO(tool.run("cp", f"{box}-2:/tmp/f", "-").stdout)) as tar:
        assert (tar.getmember("f").uid, tar.getmember("f").gid) == (65534, 65534)
    cli.run("rm", f"{box}-2")


def test_a_tar_on_stdin(cli: Cli, tool: Cli, box: str) -> None:
    """``-`` is unpacked where it is sent to; a large one passes through in pieces."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("big")
        entry.size = 30 << 20
        tar.addfile(entry, io.BytesIO(os.urandom(1 << 20) * 30))
    tool.run("cp", "-", f"{box}:/tmp", stdin=buffer.getvalue())
    assert cli.text("exec", box, "stat", "-c", "%s", "/tmp/big") == str(30 << 20)


@pytest.mark.parametrize(
    ("from_where", "to_where", "words"),
    [
        ("f", "/no/x", "Could not find the file /no in container"),
        ("d", "/etc/passwd", "cannot copy directory"),
        ("f", "/fixed/f", "mounted volume is marked read-only"),
    ],
)
def test_places_that_cannot_be(
    cli: Cli, box: str, source: Path, from_where: str, to_where: str, words: str
) -> None:
    """dockerd's words, or the client's own, which come of what the engine said of the place."""
    cli.run("create", "--name", f"{box}-2", "-v", f"{source}:/fixed:ro", "busybox")
    run = cli.run("cp", str(source / from_where), f"{box}-2:{to_where}", check=False)
    cli.run("rm", f"{box}-2")
    assert run.returncode == 1 and words in run.stderr.decode()
    assert (source / "f").read_text() == "hi\n"


def test_read_only_root(cli: Cli, tool: Cli, box: str, source: Path) -> None:
    """Refused, running or not, but for a volume."""
    cli.run("create", "--name", f"{box}-2", "--read-only", "-v", "/data", "busybox", "sleep", "1000")
    for _ in range(2):
        run = tool.run("cp", str(source / "f"), f"{box}-2:/tmp/f", check=False)
        assert b"container rootfs is marked read-only" in run.stderr
        tool.run("cp", str(source / "f"), f"{box}-2:/data/f")
        cli.run("start", f"{box}-2")
    assert cli.text("exec", f"{box}-2", "cat", "/data/f") == "hi"
    cli.run("rm", "-fv", f"{box}-2")


def test_docker_py_writes(client: docker.DockerClient) -> None:
    """put_archive unpacks; what is no tar is refused with a message."""
    container = client.containers.create("busybox", ["true"])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    assert container.put_archive("/tmp", buffer.getvalue())
    assert container.diff() == [{"Path": "/tmp", "Kind": 0}, {"Path": "/tmp/x", "Kind": 1}]
    with pytest.raises(docker.errors.APIError, match="tar header"):
        container.put_archive("/tmp", b"no tar" * 200)
    with pytest.raises(docker.errors.NotFound, match="Could not find the file /nope"):
        container.put_archive("/nope", buffer.getvalue())
    container.remove()


def test_a_refusal_while_the_client_still_sends(engine: LiveEngine, client: docker.DockerClient) -> None:
    """It comes when the client has sent all: one that is sending reads no answer, and finds the connection broken."""
    container = client.containers.create("busybox", ["true"])
    target = f"/containers/{container.id}/archive?path=/nope".encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(engine.socket))
        connection.sendall(b"PUT %b HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n" % target)
        connection.sendall(b"200\r\n" + bytes(512) + b"\r\n")
        early, _, _ = select.select([connection], [], [], 0.3)
        connection.sendall(b"0\r\n\r\n")
        answer = connection.recv(1 << 16)
    container.remove()
    assert not early and answer.startswith(b"HTTP/1.1 404 ") and b"Could not find the file /nope" in answer
