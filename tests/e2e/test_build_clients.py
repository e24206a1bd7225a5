"""One corpus, every client: each builds the same images, whatever it speaks to the engine."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from harness.corpus import Case, Viewer, differences, find_cases, viewing
from harness.live import SOURCES, LiveEngine

CHOSEN = (
    "arg-scopes",
    "config-everything",
    "copy-from-keeps-owners",
    "copy-link",
    "health-stop-shell",
    "heredocs-many",
    "ignore-file",
    "names-odd-but-utf-8",
    "node-like-with-a-cache",
    "scratch-with-one-binary",
    "symlinks-puzzle",
    "target-dev-of-many",
    "web-site",
)
CASES = [case for case in find_cases() if case.name in CHOSEN]
PLUGINS = (
    "/usr/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
)


@dataclass(frozen=True)
class Desk:
    """Where a client works: ``folder`` the context, ``beside`` a place for files of its own."""

    case: Case
    folder: Path
    beside: Path
    host: str
    docker: str
    environment: Mapping[str, str]

    def run(self, *command: str, **environment: str) -> None:
        """A command that has to succeed."""
        done = subprocess.run(
            command, capture_output=True, env={**self.environment, **environment}, timeout=120, check=False
        )
        assert done.returncode == 0, (
            done.stdout.decode(errors="replace")[-2000:] + done.stderr.decode(errors="replace")[-4000:]
        )

    def named(self, name: str) -> dict[str, Any]:
        """What the case asks for under a name, as a mapping."""
        found: dict[str, Any] = self.case.asked.get(name, {})
        return found

    def wanted(self, image: str, **names: str) -> dict[str, Any]:
        """The build as compose and bake write it; ``names`` of theirs for what is not called the same."""
        found: dict[str, Any] = {
            "context": str(self.folder),
            "args": self.named("args"),
            "labels": self.named("labels"),
        }
        if "target" in self.case.asked:
            found["target"] = self.case.asked["target"]
        return {names.get(key, key): value for key, value in found.items() if value}


def cais_build(desk: Desk, image: str) -> None:
    """Our own command."""
    command = [
        sys.executable,
        "-m",
        "cais",
        "build",
        "-t",
        image,
        *desk.case.flags(desk.folder),
        str(desk.folder),
    ]
    desk.run(*command, PYTHONPATH=str(SOURCES))


def classic_build(desk: Desk, image: str) -> None:
    """Docker's command, told not to use BuildKit."""
    desk.run(
        desk.docker,
        "build",
        "-t",
        image,
        *desk.case.flags(desk.folder),
        str(desk.folder),
        DOCKER_BUILDKIT="0",
    )


def docker_py(desk: Desk, image: str) -> None:
    """The Python library."""
    with contextlib.closing(docker.DockerClient(base_url=desk.host, timeout=120)) as client:
        client.images.build(
            path=str(desk.folder),
            tag=image,
            buildargs=desk.named("args"),
            labels=desk.named("labels"),
            target=desk.case.asked.get("target", ""),
            rm=True,
        )


def docker_build(desk: Desk, image: str) -> None:
    """Docker's command as it comes."""
    desk.run(desk.docker, "build", "-t", image, *desk.case.flags(desk.folder), str(desk.folder))


def buildx_build(desk: Desk, image: str) -> None:
    """Its plugin, by name."""
    flags = [
        *desk.case.flags(desk.folder),
        "--progress=rawjson",
        f"--metadata-file={desk.beside / 'metadata.json'}",
    ]
    desk.run(desk.docker, "buildx", "build", "--load", "-t", image, *flags, str(desk.folder))
    assert json.loads((desk.beside / "metadata.json").read_text())["containerimage.digest"].startswith(
        "sha256:"
    )


def bake(desk: Desk, image: str) -> None:
    """By a file of targets."""
    path = desk.beside / "docker-bake.json"
    path.write_text(json.dumps({"target": {"default": {**desk.wanted(image), "tags": [image]}}}))
    desk.run(desk.docker, "buildx", "bake", "--load", "--allow=fs.read=*", "-f", str(path))


def compose(desk: Desk, image: str) -> None:
    """By a file of services."""
    path = desk.beside / "compose.yaml"  # JSON is YAML
    service = {"image": image, "build": desk.wanted(image)}
    path.write_text(json.dumps({"name": "corpus", "services": {"it": service}}))
    desk.run(desk.docker, "compose", "-f", str(path), "build", "it")


Client = Callable[[Desk, str], None]
CLIENTS: dict[str, tuple[Client, tuple[str, ...]]] = {
    "cais build": (cais_build, ()),
    "docker-py": (docker_py, ()),
    "classic docker build": (classic_build, ("docker",)),
    "docker build": (docker_build, ("docker", "docker-buildx", "BuildKit")),
    "docker buildx build": (buildx_build, ("docker", "docker-buildx", "BuildKit")),
    "docker buildx bake": (bake, ("docker", "docker-buildx", "BuildKit")),
    "docker compose build": (compose, ("docker", "docker-buildx", "docker-compose", "BuildKit")),
}
"""Each with what it needs."""


def find_docker() -> str:
    """Docker's command: of CAIS_DOCKER_CLI, or the one in PATH; empty if there is none."""
    named = os.environ.get("CAIS_DOCKER_CLI", "").split(":")[0]
    return named or shutil.which("docker") or ""


def find_plugin(name: str) -> Path | None:
    """A plugin of it: in the folder CAIS_DOCKER_PLUGINS, or where Debian and Docker put them."""
    folders = (
        os.environ.get("CAIS_DOCKER_PLUGINS", ""),
        *PLUGINS,
        os.path.expanduser("~/.docker/cli-plugins"),
    )
    return next((Path(folder, name) for folder in folders if folder and Path(folder, name).exists()), None)


def speaks_buildkit(engine: LiveEngine) -> bool:
    """Whether the engine lets a connection go over to gRPC."""
    head = (
        b"POST /grpc HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(engine.socket)
        connection.sendall(head)
        return connection.recv(1 << 12).startswith(b"HTTP/1.1 101 ")


def missing(needs: tuple[str, ...], engine: LiveEngine) -> str:
    """What is not there; empty if all is."""
    for need in needs:
        if need == "docker" and not find_docker():
            return "no docker client: install docker-cli or set CAIS_DOCKER_CLI"
        if need.startswith("docker-") and not find_plugin(need):
            return f"no {need}: install it or set CAIS_DOCKER_PLUGINS"
        if need == "BuildKit" and not speaks_buildkit(engine):
            return "this engine does not speak BuildKit's protocol"
    return ""


@pytest.fixture(scope="module")
def viewer(shared_engine: LiveEngine) -> Iterator[Viewer]:
    """Of the shared engine."""
    with viewing(shared_engine.client()) as viewer:
        yield viewer


@pytest.fixture
def desk(request: pytest.FixtureRequest, engine: LiveEngine, tmp_path: Path) -> Desk:
    """A context, and a configuration of docker's command with its plugins."""
    folder, beside = tmp_path / "context", tmp_path / "beside"
    plugins = beside / "config" / "cli-plugins"
    folder.mkdir()
    plugins.mkdir(parents=True)
    for name in ("docker-buildx", "docker-compose"):
        if found := find_plugin(name):
            (plugins / name).symlink_to(found)
    case: Case = request.param
    case.write_context(folder)
    host = f"unix://{engine.socket}"
    environment = {
        **os.environ,
        "DOCKER_HOST": host,
        "CAIS_HOST": host,
        "DOCKER_CONFIG": str(beside / "config"),
    }
    environment["BUILDX_NO_DEFAULT_ATTESTATIONS"] = "1"
    return Desk(case, folder, beside, host, find_docker(), environment)


def without_compose(found: dict[str, Any]) -> dict[str, Any]:
    """What compose itself adds to every image is not of the Dockerfile."""
    config = dict(found["config"])
    labels = {
        key: value
        for key, value in config.get("Labels", {}).items()
        if not key.startswith("com.docker.compose.")
    }
    config.pop("Labels", None)
    return {**found, "config": {**config, "Labels": labels} if labels else config}


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("desk", CASES, ids=lambda case: case.name, indirect=True)
def test_every_client_builds_the_same(engine: LiveEngine, viewer: Viewer, desk: Desk, name: str) -> None:
    """Configuration, history and files are BuildKit's; the layers are those that ``cais build`` makes."""
    client, needs = CLIENTS[name]
    if why := missing(needs, engine):
        pytest.skip(why)
    image = "clients"
    with contextlib.suppress(docker.errors.ImageNotFound):
        viewer.client.images.remove(image)
    client(desk, image)
    found = without_compose(viewer.describe(desk.case, image))
    assert not differences(found, json.loads(desk.case.expected.read_text()))
    layers = viewer.client.api.inspect_image(image)["RootFS"].get("Layers")
    cais_build(desk, "clients-own")
    assert layers == viewer.client.api.inspect_image("clients-own")["RootFS"].get("Layers")


def test_the_chosen_are_there() -> None:
    """A case that was renamed is not forgotten."""
    assert len(CASES) == len(CHOSEN)
