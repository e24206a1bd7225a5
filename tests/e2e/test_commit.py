"""Images made of containers, by the unmodified docker command line, docker-py and our own client."""

import contextlib
import io
import json
import os
import re
import signal
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from cais import AsyncEngine, Engine
from harness.live import load_busybox

Cli = Any
Live = Any

CHANGES = """
mkdir /new && echo one > /new/file && ln /new/file /new/twin && ln -s /new/file /link
echo changed >> /etc/group && rm /etc/passwd && rm -r /root && mkdir /root && touch /root/fresh
mkfifo /tmp/pipe && chmod 4755 /bin/busybox && chown 7:8 /new
"""
"""What a container does in these tests."""


@pytest.fixture
def name(request: pytest.FixtureRequest, cli: Cli) -> Iterator[str]:
    """A name for containers and images of this test's own, removed afterwards."""
    text = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    yield text
    for container in cli.text("ps", "-aq", "--filter", f"name={text}").split():
        cli.run("rm", "-f", container, check=False)
    for image in cli.text("images", "-q", "--no-trunc", "--filter", f"reference={text}*").split():
        cli.run("rmi", "-f", image, check=False)


def layer_names(cli: Cli, image: str) -> list[str]:
    """The members of the image's newest layer."""
    archive = cli.run("save", image).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        (entry,) = json.load(opened.extractfile("manifest.json") or io.BytesIO())
        layer = opened.extractfile(entry["Layers"][-1])
        assert layer
        with tarfile.open(fileobj=layer) as inner:
            return sorted(info.name for info in inner)


def test_files(cli: Cli, name: str) -> None:
    """A container of the new image sees what the old one had made; one of the old image does not."""
    cli.run("run", "--name", name, "busybox", "sh", "-ec", CHANGES)
    image = cli.text("commit", name, f"{name}:1")
    assert re.fullmatch("sha256:[0-9a-f]{64}", image)
    look = "stat -c '%n %a %u %g %h %F' /new /new/file /link /root/fresh /tmp/pipe /bin/busybox"
    look += "; ls /etc; tail -1 /etc/group"
    seen = cli.text("run", "--rm", "--name", f"{name}-2", f"{name}:1", "sh", "-c", look)
    assert seen.splitlines() == [
        "/new 755 7 8 2 directory",
        "/new/file 644 0 0 2 regular file",
        "/link 777 0 0 1 symbolic link",
        "/root/fresh 644 0 0 1 regular empty file",
        "/tmp/pipe 644 0 0 1 fifo",
        "/bin/busybox 4755 0 0 1 regular file",
        "group",
        "hostname",
        "hosts",
        "resolv.conf",
        "changed",
    ]
    assert cli.run("run", "--rm", "busybox", "ls", "/new", check=False).returncode != 0


def test_members_are_dockers(cli: Cli, name: str) -> None:
    """The layer has the members that dockerd 28.5.2's has (recorded from it, overlay2): no targets of its own mounts,
    an empty folder where a volume was mounted, nothing of the volume's."""
    script = CHANGES + "echo secret > /data/file; touch /etc/hosts"
    cli.run("run", "--name", name, "-v", "/data", "--tmpfs", "/t", "busybox", "sh", "-ec", script)
    cli.run("commit", name, name)
    assert layer_names(cli, name) == DOCKERS_MEMBERS


DOCKERS_MEMBERS = [
    "bin",
    "bin/busybox",
    "data",
    "etc",
    "etc/.wh.passwd",
    "etc/group",
    "link",
    "new",
    "new/file",
    "new/twin",
    "root",
    "root/.wh..wh..opq",
    "root/fresh",
    "t",
    "tmp",
    "tmp/pipe",
]


def test_configuration(cli: Cli, name: str) -> None:
    """Author, message, changes and what the container had: in the image as dockerd merges them."""
    cli.run(
        "create", "--name", name, "-e", "A=b", "-l", "x=y", "-w", "/tmp", "-p", "80", "busybox", "sleep", "9"
    )
    words = [
        "-a",
        "Me <me@here>",
        "-m",
        "why",
        "-c",
        "ENV C=d",
        "-c",
        'ENTRYPOINT ["sleep"]',
        "-c",
        "EXPOSE 81",
    ]
    cli.run("commit", *words, name, f"{name}:x")
    found = cli.inspect(f"{name}:x")
    config = found["Config"]
    assert {"A=b", "C=d"} <= set(config["Env"])
    assert (config["Entrypoint"], config["Cmd"], config["WorkingDir"]) == (["sleep"], None, "/tmp")
    assert config["Labels"] == {"x": "y"} and set(config["ExposedPorts"]) == {"80/tcp", "81/tcp"}
    assert (found["Author"], found["Comment"]) == ("Me <me@here>", "why")
    assert found["Parent"] == cli.inspect("busybox")["Id"]
    history = cli.text(
        "history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Size}}|{{.Comment}}", f"{name}:x"
    )
    assert history.splitlines()[0] == "sleep 9|0B|why"


def test_an_unchanged_container_adds_no_layer(cli: Cli, name: str) -> None:
    """Only a step of the history, as with dockerd: the image has the layers of its parent."""
    cli.run("run", "--name", name, "busybox", "true")
    cli.run("commit", name, f"{name}:1")
    assert cli.inspect(f"{name}:1")["RootFS"] == cli.inspect("busybox")["RootFS"]


def test_what_is_wrong_is_refused_before_anything_happens(cli: Cli, name: str) -> None:
    """Each error names its object, and leaves the container unpaused and no image."""
    cli.run("run", "-d", "--name", name, "busybox", "sleep", "1000")
    before = cli.text("images", "-aq")
    for words, text in [
        (("no-such", "a"), "No such container: no-such"),
        ((name, "Upper"), "must be lowercase"),
        (("-c", "RUN true", name), "RUN is not a valid change command"),
        (("-c", "ENV", name), "ENV requires at least one argument"),
    ]:
        run = cli.run("commit", *words, check=False)
        assert run.returncode == 1 and text in run.stderr.decode()
    assert cli.inspect(name)["State"]["Status"] == "running"
    assert cli.text("images", "-aq") == before


def test_paused_meanwhile(client: docker.DockerClient, engine: Live) -> None:
    """A running container is frozen for the time of the commit and runs on; one that was paused stays paused; with
    pause=False nothing is frozen. The events say so."""
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    try:
        seen = client.events(decode=True, filters={"container": container.id})
        container.commit("frozen", tag="1", message="m")
        container.commit("moving", pause=False)
        container.pause()
        container.commit("still")
        container.reload()
        assert container.status == "paused"
        container.unpause()
        actions = []
        for event in seen:
            actions.append(event["Action"])
            if actions.count("unpause") == 2:
                break
        assert actions == ["pause", "unpause", "commit", "commit", "pause", "commit", "unpause"]
    finally:
        container.remove(force=True)
        for name in ("frozen:1", "moving", "still"):
            client.images.remove(name)


def test_commit_event_says_what_was_made(client: docker.DockerClient) -> None:
    """The container's event has comment, image id and name; the image's event is its tag."""
    container = client.containers.create("busybox", "true")
    try:
        since = int(time.time()) - 1
        image = container.commit("told", tag="2", message="why")
        found = []
        for event in client.events(decode=True, since=since):
            if event["Actor"]["ID"] in (container.id, image.id):
                found.append(event)
            if event["Action"] == "commit" and event["Actor"]["ID"] == container.id:
                break
        commit = found[-1]
        attributes = commit["Actor"]["Attributes"]
        assert attributes["comment"] == "why" and attributes["imageID"] == image.id
        assert attributes["imageRef"] == "told:2"
        assert [e["Action"] for e in found if e["Type"] == "image"] == ["tag"]
    finally:
        container.remove()
        client.images.remove("told:2")


def test_our_own_client(engine: Live) -> None:
    """`Container.commit` gives the id; commits build on each other and share what they have."""
    with Engine(f"unix://{engine.socket}") as own:
        first = own.create("busybox", ["touch", "/one"])
        try:
            first.start()
            first.wait()
            assert first.commit("step:1") == own.image("step:1").id
            second = own.create("step:1", ["rm", "/one"])
            second.start()
            second.wait()
            second.commit("step:2", changes=["LABEL a=b"])
            second.remove()
            done = own.run("step:2", ["ls", "-d", "/one"], remove=True).communicate()
            assert done.exit_code == 1 and own.image("step:2").config["Labels"] == {"a": "b"}
        finally:
            first.remove()
            for name in ("step:2", "step:1"):
                own.remove_image(name)


async def test_our_own_client_async(engine: Live) -> None:
    """The asynchronous face commits, too."""
    async with AsyncEngine(f"unix://{engine.socket}") as own:
        container = await own.create("busybox", ["true"])
        try:
            made = await container.commit("async:1", message="why", pause=False)
            assert (await own.image("async:1")).id == made
        finally:
            await container.remove()
            await own.remove_image("async:1")


def test_a_removed_image_is_still_there_for_its_container(own_engine: Live) -> None:
    """The container keeps what its image was made of: it can be committed when the image's names are gone."""
    with contextlib.closing(own_engine.client()) as client:
        container = client.containers.create("busybox", ["touch", "/made"])
        container.start()
        container.wait()
        client.images.remove("busybox", force=True)
        container.commit("again")
        assert client.containers.run("again", ["ls", "/made"], remove=True) == b"/made\n"
        container.remove()


def test_an_engine_killed_in_the_middle_leaves_no_frozen_container(own_engine: Live, wait: Any) -> None:
    """kill -9 while a paused container is read: the next engine thaws it, and there is no half-made image."""
    with contextlib.closing(own_engine.client()) as client:
        container = client.containers.run(
            "busybox",
            ["sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=300; touch /ok; exec sleep 1000"],
            detach=True,
        )
        wait(lambda: container.exec_run(["ls", "/ok"]).exit_code == 0)
        failed = threading.Event()

        def commit() -> None:
            try:
                container.commit("half")
            except Exception:
                failed.set()

        thread = threading.Thread(target=commit)
        thread.start()
        wait(lambda: container.reload() or container.status == "paused")
        os.kill(own_engine.pid, signal.SIGKILL)
        thread.join()
        assert failed.is_set()
        own_engine.start()
        container.reload()
        assert container.status == "running"
        assert container.exec_run(["echo", "alive"]).output == b"alive\n"
        assert [image.tags for image in client.images.list()] == [["busybox:latest"]]
        assert not list(Path(own_engine.folder, "root/content").glob(".tmp-*"))
        container.remove(force=True)


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_compression_is_a_setting(start_engine: Any, tmp_path: Path, codec: str) -> None:
    """The new layer is zstd or a plain tar if the engine is told so, and its media type says which."""
    with start_engine("--commit-compression", codec) as engine, contextlib.closing(engine.client()) as client:
        load_busybox(engine, tmp_path)
        container = client.containers.create("busybox", ["touch", "/made"])
        container.start()
        container.wait()
        image = container.commit("made")
        blobs = engine.folder / "root/content/blobs/sha256"
        manifest = json.loads((blobs / image.id.removeprefix("sha256:")).read_bytes())
        want = "application/vnd.oci.image.layer.v1.tar" + ("+zstd" if codec == "zstd" else "")
        assert manifest["layers"][-1]["mediaType"] == want
        assert client.containers.run("made", ["ls", "/made"], remove=True) == b"/made\n"
