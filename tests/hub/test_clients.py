"""Other people's clients against the hub: Docker's command and docker-py through our engine; skopeo, podman, oras and
cosign where CAIS_RIVALS names a root that has them. What ``tests/e2e/test_push.py`` does with both registries is not
repeated here."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.clients import find_docker
from harness.hub import LiveHub
from harness.hub import running_hub as running_here
from harness.live import LiveEngine
from harness.registry import Registry, running_hub
from harness.wire import INDEX, Repository, Wire, format_index, sha256

RIVALS = os.environ.get("CAIS_RIVALS", "")
TOOL = os.environ.get("CAIS_RIVALS_TOOL", "rivals")
pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.kernel]
needs_rivals = pytest.mark.skipif(not RIVALS, reason="needs CAIS_RIVALS")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a real engine needs root")
Docker = Callable[..., str]


@pytest.fixture
def hub(shared_engine: LiveEngine, tmp_path: Path) -> Iterator[Registry]:
    """One in the engine's network namespace; its names are removed from the engine at the end."""
    with running_hub(tmp_path / "hub", netns=shared_engine.netns.pid) as hub:
        yield hub
    with contextlib.closing(shared_engine.client()) as client:
        for image in client.images.list():
            for tag in image.tags:
                if tag.startswith(hub.address):
                    client.images.remove(tag, force=True)


@pytest.fixture
def docker(shared_engine: LiveEngine, tmp_path: Path) -> Docker:
    """Docker's command with our engine: runs to its end, gives its output."""
    program = find_docker()
    if not program:
        pytest.skip("no docker client: install docker-cli or set CAIS_DOCKER_CLI")
    environment = {
        **os.environ,
        "DOCKER_HOST": f"unix://{shared_engine.socket}",
        "DOCKER_CONFIG": str(tmp_path / "config"),
    }

    def run(*words: str) -> str:
        done = subprocess.run([program, *words], capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@needs_root
def test_docker_shares_layers_between_repositories(docker: Docker, hub: Registry) -> None:
    """The second repository's layers are mounted from the first, and each is pulled whole when the other has gone."""
    first, second = f"{hub.address}/team/first:1", f"{hub.address}/team/second:1"
    for name in (first, second):
        docker("tag", "busybox", name)
    assert ": Pushed" in docker("push", first)
    assert "Mounted from team/first" in docker("push", second)
    docker("rmi", first, second)
    docker("pull", second)
    assert docker("run", "--rm", second, "echo", "mounted") == "mounted"


@needs_root
def test_docker_builds_upon_the_hub(docker: Docker, hub: Registry) -> None:
    """An image whose base was pulled from the hub is pushed with only its own layer, and runs by its digest."""
    base, app = f"{hub.address}/base:1", f"{hub.address}/team/app:1"
    docker("tag", "busybox", base)
    docker("push", base)
    docker("rmi", base)
    docker("pull", base)
    container = f"hub-{os.getpid()}"
    docker("run", "--name", container, base, "sh", "-c", "echo new > /file")
    docker("commit", container, app)
    docker("rm", container)
    text = docker("push", app)
    assert text.count(": Pushed") == 1 and text.count(": Mounted from") + text.count("already exists") == 1, (
        text
    )
    digest = text.splitlines()[-1].split()[2]
    docker("rmi", app, base)
    assert docker("run", "--rm", f"{hub.address}/team/app@{digest}", "cat", "/file") == "new"


@needs_root
def test_docker_push_after_a_kill(docker: Docker, shared_engine: LiveEngine, tmp_path: Path) -> None:
    """A hub that was killed and started again is asked by the same engine as if nothing had been."""
    words = ("--grace", "1", "--collect-every", "0.2")
    folder = tmp_path / "again"
    for turn in ("1", "2"):
        with running_hub(folder, netns=shared_engine.netns.pid, words=words) as hub:
            name = f"{hub.address}/team/app:{turn}"
            docker("tag", "busybox", name)
            text = docker("push", name)
            assert (": Pushed" if turn == "1" else "Layer already exists") in text
            docker("rmi", name)
            docker("pull", f"{hub.address}/team/app:1")
            docker("rmi", f"{hub.address}/team/app:1")


@needs_root
def test_docker_py(shared_engine: LiveEngine, hub: Registry) -> None:
    """docker-py pushes, says the digest, looks at it in the registry, and pulls it by tag and by digest."""
    name = f"{hub.address}/team/app"
    with contextlib.closing(shared_engine.client()) as client:
        client.images.get("busybox").tag(name, "1")
        said = [
            line["aux"] for line in client.images.push(name, "1", stream=True, decode=True) if "aux" in line
        ]
        digest = said[-1]["Digest"]
        data = client.images.get_registry_data(f"{name}:1")
        assert data.id == digest
        client.images.remove(f"{name}:1")
        assert client.images.pull(name, "1").attrs["RepoDigests"] == [f"{name}@{digest}"]
        client.images.remove(f"{name}:1")
        image = client.images.pull(f"{name}@{digest}")
        assert client.containers.run(image, ["echo", "py"], remove=True) == b"py\n"
        client.images.remove(image.id, force=True)


@needs_root
def test_docker_pulls_its_platform_of_an_index(
    docker: Docker, shared_engine: LiveEngine, hub: Registry
) -> None:
    """Of an index the engine takes the manifest of its own platform."""
    name = f"{hub.address}/team/multi"
    docker("tag", "busybox", f"{name}:one")
    digest = docker("push", f"{name}:one").splitlines()[-1].split()[2]
    machine = json.loads(docker("inspect", f"{name}:one"))[0]["Architecture"]
    docker("rmi", f"{name}:one")
    script = (
        "import http.client, json, sys\n"
        "c = http.client.HTTPConnection(sys.argv[1])\n"
        "c.request('GET', '/v2/team/multi/manifests/' + sys.argv[2]); m = c.getresponse().read()\n"
        "d = lambda arch: dict(mediaType=json.loads(m)['mediaType'], digest=sys.argv[2], size=len(m),\n"
        "                      platform=dict(os='linux', architecture=arch))\n"
        f"i = json.dumps(dict(schemaVersion=2, mediaType={INDEX!r}, manifests=[d('s390x'), d(sys.argv[3])]))\n"
        f"c.request('PUT', '/v2/team/multi/manifests/all', i, {{'Content-Type': {INDEX!r}}})\n"
        "r = c.getresponse(); sys.exit(r.status != 201 and r.read().decode())\n"
    )
    enter = ["nsenter", f"--net=/proc/{shared_engine.netns.pid}/ns/net", "python3", "-c", script]
    subprocess.run([*enter, hub.address, digest, machine], check=True, timeout=30)
    docker("pull", f"{name}:all")
    assert docker("run", "--rm", f"{name}:all", "echo", "one of many") == "one of many"


# Rivals: they run in their own root, on this machine's network


@pytest.fixture
def near(tmp_path: Path) -> Iterator[LiveHub]:
    """A hub in this network namespace."""
    with running_here(tmp_path / "hub", "--open") as hub:
        yield hub


@pytest.fixture
def rival(near: LiveHub) -> Iterator[Callable[[str], str]]:
    """Runs a shell script inside the rivals' root, with the hub's address as $HUB; its output."""
    share = Path(RIVALS, "share", f"hub-{os.getpid()}")
    share.mkdir()

    def run(script: str) -> str:
        whole = f"cd /share/{share.name}; export HUB={near.address} HOME=$PWD; {script}"
        done = subprocess.run(
            [TOOL, "sh", RIVALS, "sh", "-ec", whole], capture_output=True, text=True, timeout=120
        )
        if done.returncode == 127:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield run
    shutil.rmtree(share)


@pytest.fixture
def pushed(near: LiveHub) -> Iterator[Repository]:
    """A repository with the image ``1``, and an index ``all`` of it."""
    with contextlib.closing(Wire(near.port)) as wire:
        repository = Repository(wire, "team/app")
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [sha256(EMPTY)]},
            }
        ).encode()
        digest = repository.push_image("1", [EMPTY], config)
        repository.push_manifest(format_index([repository.images[digest]]), "all", INDEX)
        yield repository


EMPTY = b"\0" * 10240
"""A tar without files."""
PLAIN = "--src-tls-verify=false --dest-tls-verify=false"


@needs_rivals
@pytest.mark.rival
def test_skopeo(rival: Callable[[str], str], pushed: Repository, near: LiveHub) -> None:
    """It copies between repositories and to a folder and back, lists and deletes; digests stay."""
    skopeo = "skopeo --insecure-policy"
    rival(
        f"{skopeo} copy -q {PLAIN} --preserve-digests docker://$HUB/team/app:1 docker://$HUB/team/copy:1;"
        f"{skopeo} copy -q {PLAIN} --all docker://$HUB/team/app:all docker://$HUB/team/copy:all;"
        f"{skopeo} copy -q {PLAIN} --preserve-digests docker://$HUB/team/copy:1 oci:layout:x;"
        f"{skopeo} copy -q {PLAIN} --preserve-digests oci:layout:x docker://$HUB/team/back:1"
    )
    for name in ("team/copy", "team/back"):
        reply = pushed.wire.ask("GET", f"/v2/{name}/manifests/1")
        assert reply.body == pushed.ask("GET", "manifests/1").body
    assert json.loads(rival(f"{skopeo} list-tags --tls-verify=false docker://$HUB/team/copy"))["Tags"] == [
        "1",
        "all",
    ]
    rival(f"{skopeo} delete --tls-verify=false docker://$HUB/team/back:1")
    assert pushed.wire.ask("GET", "/v2/team/back/manifests/1").status == 404


@needs_rivals
@pytest.mark.rival
def test_podman(rival: Callable[[str], str], pushed: Repository) -> None:
    """It pulls, tags and pushes, and what it pushes is what it pulled."""
    podman = "podman --root $PWD/st --runroot $PWD/run --storage-driver vfs"
    rival(
        f"{podman} pull -q --tls-verify=false $HUB/team/app:1;"
        f"{podman} tag $HUB/team/app:1 $HUB/team/podman:1;"
        f"{podman} push -q --tls-verify=false $HUB/team/podman:1;"
        f"{podman} rmi -f -a >/dev/null; {podman} pull -q --tls-verify=false $HUB/team/podman:1"
    )
    assert pushed.wire.ask("GET", "/v2/team/podman/manifests/1").status == 200


@needs_rivals
@pytest.mark.rival
def test_oras(rival: Callable[[str], str], pushed: Repository) -> None:
    """It pushes files, attaches to an image, finds what is attached, and copies an image with all of it."""
    rival("echo some text > file.txt; oras push --plain-http $HUB/team/files:1 file.txt:text/plain")
    rival("mkdir got; oras pull --plain-http -o got $HUB/team/files:1; cmp file.txt got/file.txt")
    rival("oras attach --plain-http --artifact-type application/x $HUB/team/app:1 file.txt:text/plain")
    assert "application/x" in rival("oras discover --plain-http $HUB/team/app:1")
    rival("oras cp -r --from-plain-http --to-plain-http $HUB/team/app:1 $HUB/team/moved:1")
    assert "application/x" in rival("oras discover --plain-http $HUB/team/moved:1")


@needs_rivals
@pytest.mark.rival
def test_cosign(rival: Callable[[str], str], pushed: Repository) -> None:
    """A signature is made, found and right; one of another key is not."""
    insecure = "--allow-http-registry --allow-insecure-registry"
    digest = pushed.ask("GET", "manifests/1").headers["docker-content-digest"]
    rival(
        "export COSIGN_PASSWORD=; cosign generate-key-pair 2>&1;"
        f"cosign sign --key cosign.key --tlog-upload=false --use-signing-config=false {insecure} -y "
        f"$HUB/team/app@{digest} 2>&1"
    )
    verify = f"cosign verify --key cosign.pub --insecure-ignore-tlog {insecure} $HUB/team/app@{digest} 2>&1"
    assert digest in rival(verify)
    rival("export COSIGN_PASSWORD=; rm cosign.*; cosign generate-key-pair 2>&1; ! " + verify)


def test_the_images_are_what_they_say(pushed: Repository) -> None:
    """What the rivals are given is an image that can be pulled, without any of them."""
    document: dict[str, Any] = pushed.ask("GET", "manifests/1").json
    for part in (document["config"], *document["layers"]):
        assert sha256(pushed.ask("GET", f"blobs/{part['digest']}").body) == part["digest"]
