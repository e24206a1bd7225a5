"""Pulling with unmodified clients from a real registry beside a real engine."""

import contextlib
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from harness.registry import PASSWORD, USER, Registry, running_registry, sha256

OCI = "application/vnd.oci.image."
SOURCES = Path(__file__).parents[2] / "src"


def make_layer() -> bytes:
    """The tar of a root with the machine's static busybox."""
    path = shutil.which("busybox") or "/bin/busybox"
    if not Path(path).exists():
        pytest.skip("needs /bin/busybox: install busybox-static")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "tmp"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add(path, "bin/busybox")
        for name in ("sh", "echo"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return out.getvalue()


def fill(registry: Registry, *repositories: str) -> str:
    """One image under ``:1`` and ``:latest`` in each repository; its digest."""
    layer = make_layer()
    packed = gzip.compress(layer, 1, mtime=0)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["echo", "pulled and run"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]},
    }
    data = json.dumps(config).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": {"mediaType": OCI + "config.v1+json", "digest": sha256(data), "size": len(data)},
        "layers": [{"mediaType": OCI + "layer.v1.tar+gzip", "digest": sha256(packed), "size": len(packed)}],
    }
    digest = ""
    for repository in repositories:
        registry.put_blob(repository, packed)
        registry.put_blob(repository, data)
        for tag in ("1", "latest"):
            digest = registry.put_manifest(repository, tag, json.dumps(document).encode())
    return digest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A registry's folder, filled, and the image's digest."""
    folder = tmp_path_factory.mktemp("registry") / "r"
    with running_registry(folder) as registry:
        return folder, fill(registry, "app", "team/app")


@pytest.fixture
def registry(engine: Any, data: tuple[Path, str]) -> Iterator[str]:
    """The address of a registry in the engine's network namespace; what was pulled is removed at the end."""
    with running_registry(data[0], netns=engine.netns.pid) as registry:
        yield registry.address
    with contextlib.closing(engine.client()) as client:
        for image in client.images.list():
            if any(registry.address in tag for tag in image.tags + image.attrs["RepoDigests"]):
                client.images.remove(image.id, force=True)


def test_docker_pull(cli: Any, registry: str, data: tuple[Path, str]) -> None:
    """The CLI shows the digest and the name; the image's ID and repository digest are the registry's."""
    name = f"{registry}/team/app"
    text = cli.text("pull", name)
    assert text.splitlines()[0] == "Using default tag: latest"
    assert f"Digest: {data[1]}\nStatus: Downloaded newer image for {name}:latest\n{name}:latest" in text
    found = cli.inspect(f"{name}:latest")
    assert found["Id"] == data[1] and found["RepoDigests"] == [f"{name}@{data[1]}"]
    assert "Image is up to date" in cli.text("pull", name)
    assert cli.text("pull", "-q", f"{name}@{data[1]}") == f"{name}@{data[1]}"


def test_docker_run_pulls_a_missing_image(cli: Any, registry: str) -> None:
    """As it does with dockerd; --pull never does not."""
    name = f"{registry}/app:1"
    never = cli.run("run", "--rm", "--pull", "never", name, check=False)
    assert never.returncode == 125 and b"No such image" in never.stderr
    run = cli.run("run", "--rm", name)
    assert run.stdout == b"pulled and run\n"
    assert f"Unable to find image '{name}' locally".encode() in run.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{}/app:none", "manifest for {}/app:none not found: manifest unknown: manifest unknown"),
        ("{}/none", "manifest for {}/none:latest not found: manifest unknown"),
        ("127.0.0.1:1/x", "dial tcp 127.0.0.1:1: connect: connection refused"),
        ("x/Y", "invalid reference format"),
    ],
)
def test_docker_pull_fails(cli: Any, registry: str, name: str, words: str) -> None:
    """In dockerd's words, with its exit code."""
    run = cli.run("pull", name.format(registry), check=False)
    assert run.returncode == 1 and words.format(registry) in run.stderr.decode()


def test_docker_py_pulls(client: docker.DockerClient, registry: str, data: tuple[Path, str]) -> None:
    """By tag; what is not there is ImageNotFound or NotFound."""
    image = client.images.pull(f"{registry}/app", tag="1")
    assert image.id == data[1] and image.tags == [f"{registry}/app:1"]
    with pytest.raises(docker.errors.NotFound):
        client.images.pull(f"{registry}/none", tag="1")


def test_the_stream_is_dockers(engine: Any, registry: str) -> None:
    """Lines of JSON: status, id, progressDetail for layers; the end tells digest and status."""
    with contextlib.closing(engine.client()) as client:
        lines = [*client.api.pull(f"{registry}/team/app", tag="1", stream=True, decode=True)]
    assert lines[0] == {"status": "Pulling from team/app", "id": "1"}
    assert all("progressDetail" in line for line in lines[1:-2])
    assert {"Pulling fs layer", "Pull complete"} <= {line["status"] for line in lines}
    assert [line["status"].split(":")[0] for line in lines[-2:]] == ["Digest", "Status"]


def test_credentials_of_the_client_are_used(engine: Any, tmp_path: Path) -> None:
    """X-Registry-Auth opens a registry with a password; without it docker's words come, and no secret anywhere."""
    folder = tmp_path / "locked"
    with running_registry(folder) as registry:
        digest = fill(registry, "app")
    with contextlib.closing(engine.client()) as client:
        with running_registry(folder, password=True, netns=engine.netns.pid) as registry:
            name = f"{registry.address}/app"
            with pytest.raises(docker.errors.APIError, match="no basic auth credentials"):
                client.images.pull(name, tag="1")
            wrong = {"username": USER, "password": "wr0ng-word"}
            with pytest.raises(docker.errors.ImageNotFound, match="pull access denied") as refused:
                client.images.pull(name, tag="1", auth_config=wrong)
            assert "wr0ng" not in str(refused.value)
            right = {"username": USER, "password": PASSWORD}
            assert client.images.pull(name, tag="1", auth_config=right).id == digest
        client.images.remove(digest, force=True)
    log = (engine.folder / "engine.log").read_text()
    assert "wr0ng" not in log and PASSWORD not in log


def cais(engine: Any, *words: str) -> "subprocess.CompletedProcess[str]":
    """Our own command line."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": f"unix://{engine.socket}"}
    command = [sys.executable, "-m", "cais", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_cais_pull_prints_plain_lines(engine: Any, registry: str) -> None:
    """In a pipe: no bar, no cursor; quietly just the name."""
    run = cais(engine, "pull", f"{registry}/app")
    assert run.returncode == 0 and "\x1b" not in run.stdout
    lines = run.stdout.splitlines()
    assert lines[:2] == ["Using default tag: latest", "latest: Pulling from app"]
    assert lines[-1] == f"{registry}/app:latest" and any(line.endswith(": Pull complete") for line in lines)
    assert cais(engine, "image", "pull", "-q", f"{registry}/app").stdout == f"{registry}/app:latest\n"


def test_cais_run_pulls(engine: Any, registry: str) -> None:
    """A missing image, or always; never means never. The output of the container is alone on stdout."""
    name = f"{registry}/app:1"
    never = cais(engine, "run", "--rm", "--pull", "never", name)
    assert never.returncode == 125 and "No such image" in never.stderr
    run = cais(engine, "run", "--rm", name)
    assert run.stdout == "pulled and run\n" and "Unable to find image" in run.stderr
    again = cais(engine, "run", "--rm", "--pull", "always", name)
    assert again.stdout == "pulled and run\n" and "Image is up to date" in again.stderr
    assert cais(engine, "run", "--rm", name).stderr == ""
