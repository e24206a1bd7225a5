"""Images kept: listed, saved, pruned and accounted for; the unmodified docker command line, and ours."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from harness.live import SOURCES, LiveEngine, load_busybox

Cli = Any


@pytest.fixture
def kept(start_engine: Any, tmp_path: Path) -> Iterator[LiveEngine]:
    """An engine of the test's own with busybox, and app:1 and app:2 that were committed on it."""
    with start_engine() as engine:
        load_busybox(engine, tmp_path)
        with contextlib.closing(engine.client()) as client:
            for number in (1, 2):
                make_image(client, f"app:{number}", f"dd if=/dev/urandom of=/data{number} bs=100k count=1")
        yield engine


def make_image(client: docker.DockerClient, name: str, script: str, **options: Any) -> str:
    """An image of busybox after ``script``; its ID."""
    container = client.containers.create("busybox", ["sh", "-c", script], **options)
    container.start()
    container.wait()
    repository, _, tag = name.partition(":")
    image = container.commit(repository, tag)
    container.remove()
    assert image.id
    return str(image.id)


def cais(engine: LiveEngine, *words: str, stdin: str = "") -> str:
    """Our command line's output."""
    command = [sys.executable, "-m", "cais", *words]
    environment = {**os.environ, "CAIS_HOST": f"unix://{engine.socket}", "PYTHONPATH": str(SOURCES)}
    run = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout


def docker_of(engine: LiveEngine, cli: Cli) -> Callable[..., str]:
    """The docker command line, for another engine than the shared one."""

    def run(*words: str) -> str:
        environment = {**cli.environment(), "DOCKER_HOST": f"unix://{engine.socket}"}
        done = subprocess.run([cli.path, *words], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_lists(kept: LiveEngine, cli: Cli) -> None:
    """docker images: every filter, --tree, -a; SIZE and shared sizes fit each other."""
    run = docker_of(kept, cli)
    names = ["images", "--format", "{{.Repository}}:{{.Tag}}"]
    assert run(*names).split() == ["app:2", "app:1", "busybox:latest"]
    assert run(*names, "--filter", "before=app:2").split() == ["app:1", "busybox:latest"]
    assert run(*names, "--filter", "since=app:1").split() == ["app:2"]
    assert run(*names, "--filter", "reference=app:*").split() == ["app:2", "app:1"]
    assert run(*names, "--filter", "until=1h") == ""
    assert run(*names, "--filter", "dangling=true") == ""
    assert run(*names, "--filter", "label=none") == ""
    # Clients before 27 know no trees; what they are made of is asked of all.
    knows = "--tree" in run("images", "--help")
    tree = run("images", "--tree") if knows else cais(kept, "images", "--tree")
    assert "app:1" in tree and "linux/amd64" in tree
    with contextlib.closing(kept.client()) as client:
        listed = client.api._get(client.api._url("/images/json"), params={"shared-size": 1}).json()
    shared = {image["RepoTags"][0]: (image["SharedSize"], image["Size"]) for image in listed}
    base = shared["busybox:latest"][1]
    assert [shared[name][0] for name in ("app:1", "app:2", "busybox:latest")] == [base] * 3
    assert shared["app:1"][1] == base + 102_400


def still_accounts(engine: LiveEngine) -> tuple[int, Any]:
    """What du says and what the engine says, taken while du's answer did not change: the engine works on in the
    background, and a log of the database grows."""
    command = ["du", "-s", "--block-size=1", engine.folder / "root"]
    for _ in range(20):
        before = subprocess.check_output(command, text=True)
        accounts = json.loads(cais(engine, "system", "df", "-v", "--format", "json"))
        if before == subprocess.check_output(command, text=True):
            return int(before.split()[0]), accounts
    raise AssertionError("the root folder never stood still")


def test_the_accounts_are_dus(kept: LiveEngine) -> None:
    """system df -v adds up to what du says of the root, to the block, while containers run and others have ended."""
    with contextlib.closing(kept.client()) as client:
        running = client.containers.run(
            "app:1",
            ["sh", "-c", "echo log; dd if=/dev/zero of=/w bs=1M count=3; exec sleep 1000"],
            detach=True,
        )
        client.containers.run(
            "busybox", ["sh", "-c", "seq 9999 > /v/f; seq 50000"], volumes=["v1:/v"], name="ended"
        )
        while running.exec_run(["sh", "-c", "test $(stat -c %s /w) = 3145728"]).exit_code:
            pass
        client.images.remove("app:2", force=True)
        du, accounts = still_accounts(kept)
        assert accounts["Total"] == du
        containers = {each["Name"]: each for each in accounts["Containers"]}
        parts = sum(each[key] for each in accounts["Containers"] for key in ("Writable", "Logs", "Other"))
        assert du == (
            sum(image["Unique"] for image in accounts["Images"])
            + sum(accounts[key] for key in ("ImagesShared", "ImagesLoose", "BuildCache"))
            + parts
            + sum(volume["Size"] for volume in accounts["Volumes"])
            + sum(accounts["Other"].values())
        )
        assert 3 << 20 <= containers[running.name]["Writable"] < (3 << 20) + 100_000
        assert containers["ended"]["Logs"] > 288_894 and containers["ended"]["Writable"] < 100_000
        assert [volume["Name"] for volume in accounts["Volumes"]] == ["v1"]
        by_name = {image["Names"][0]: image for image in accounts["Images"]}
        # Its layer twice: as a blob, and unpacked.
        assert 204_800 < by_name["app:1"]["Unique"] < 300_000
        assert by_name["busybox:latest"]["Shared"] > 1_900_000
        text = cais(kept, "system", "df", "-v")
        assert "Needed by no image" in text and "ended" in text
        for container in (running, client.containers.get("ended")):
            container.remove(force=True)


def test_last_used(kept: LiveEngine) -> None:
    """A container that is made or started from an image makes it the last used one; looking at it does not."""
    with contextlib.closing(kept.client()) as client:

        def used() -> dict[str, str]:
            names = ("busybox:latest", "app:1", "app:2")
            return {
                name: client.api.inspect_image(name)["Metadata"].get("LastUsedTime", "") for name in names
            }

        before = used()
        container = client.containers.create("app:1", "true")
        made = used()
        assert made["app:1"] > before["app:1"] and made["app:2"] == before["app:2"]
        container.start()
        assert used()["app:1"] > made["app:1"]
        container.wait()
        last = used()
        assert last == used() and max(last, key=last.__getitem__) == "app:1"
        kept.stop()
        kept.start()
        assert used() == last
        container.remove()
    lines = cais(kept, "images", "--format", "{{.Repository}} {{.LastUsed}}").splitlines()
    assert all("ago" in line for line in lines)


def test_prune(kept: LiveEngine, cli: Cli) -> None:
    """Dry runs tell what the real run then does; what is in use or needed by others stays."""
    run = docker_of(kept, cli)
    with contextlib.closing(kept.client()) as client:
        client.containers.run("busybox", "true", name="done", volumes=["named:/v"])
        client.containers.create("busybox", "true", name="waits", labels={"keep": "1"})
        client.volumes.create("unused")
        dry = cais(kept, "container", "prune", "--dry-run", "--filter", "label!=keep")
        done = client.containers.get("done").id
        assert (
            dry.splitlines()[:2] == ["Would delete containers:", done]
            and len(client.containers.list(all=True)) == 2
        )
        assert done in run("container", "prune", "-f", "--filter", "label!=keep")
        assert [each.name for each in client.containers.list(all=True)] == ["waits"]
        dry = cais(kept, "volume", "prune", "-a", "--dry-run")
        assert "unused" in dry and {each.name for each in client.volumes.list()} == {"named", "unused"}
        dry = cais(kept, "image", "prune", "-a", "--dry-run")
        assert "untagged: app:1" in dry and "busybox" not in dry and "app" in run("images", "app")
        real = cais(kept, "image", "prune", "-a", "-f")
        assert set(dry.splitlines()[1:5]) <= set(real.splitlines())
        assert dry.splitlines()[-1].rpartition(": ")[2] == real.splitlines()[-1].rpartition(": ")[2]
        assert run("images", "--format", "{{.Repository}}") == "busybox"
        assert "Total reclaimed space" in run("system", "prune", "-f", "--volumes")
        assert client.containers.list(all=True) == []
        assert cais(kept, "network", "prune", "--dry-run") == "Total space that would be reclaimed: 0B\n"


def test_a_budget(start_engine: Any, tmp_path: Path) -> None:
    """With --gc the engine itself removes the longest unused images that no container needs, and tells which. The two
    newest are what was committed last and what its container was made from."""
    flags = ("--gc", "keep-newest=2", "--gc", "grace=0s")
    with start_engine(*flags) as engine, contextlib.closing(engine.client()) as client:
        load_busybox(engine, tmp_path)
        stay = client.containers.create("busybox", "true")
        gone: list[str] = []
        with contextlib.closing(client.events(decode=True, filters={"event": "prune"})) as events:
            for number in range(3):
                make_image(client, f"app:{number}", f"echo {number} > /file")
            while len(gone) < 2:
                attributes = next(events)["Actor"]["Attributes"]
                assert attributes["reason"] == "budget" and int(attributes["reclaimed"]) > 0
                gone += attributes["images"].split(",")
        assert gone == ["app:0", "app:1"]
        assert {name for image in client.images.list() for name in image.tags} == {"app:2", "busybox:latest"}
        assert "Total space that would be reclaimed: 0B" in cais(
            engine, "system", "prune", "--budget", "--dry-run"
        )
        stay.remove()


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ('{"gc": {"max-size": "much"}}', "invalid size: 'much'"),
        ('{"gc": {"unused-for": "30 days"}}', "invalid time 30 days"),
        ('{"gc": {"newest": 3}}', "unknown field"),
        ('{"gc": {"keep-newest": -1}}', "must not be negative"),
    ],
)
def test_wrong_budgets(tmp_path: Path, setting: str, text: str) -> None:
    """A setting that cannot be is refused, and the error says what and why."""
    path = tmp_path / "daemon.json"
    path.write_text(setting)
    command = [sys.executable, "-m", "cais.daemon.main", "--validate", "--config-file", str(path)]
    run = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)}
    )
    assert run.returncode == 1 and text in run.stderr and "gc" in run.stderr


def test_formats(kept: LiveEngine, tmp_path: Path) -> None:
    """cais save --format oci is a plain layout; two engines' archives of one image are the same bytes."""
    cais(kept, "save", "--format", "oci", "-o", str(tmp_path / "oci.tar"), "app:1")
    with tarfile.open(tmp_path / "oci.tar") as opened:
        names = opened.getnames()
        assert "manifest.json" not in names and "oci-layout" in names
    with contextlib.closing(kept.client()) as client:
        whole = b"".join(client.api.get_image("app:1"))
        client.images.remove("app:1")
        client.images.load(whole)
        assert b"".join(client.api.get_image("app:1")) == whole
        with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
            assert "manifest.json" in opened.getnames()
