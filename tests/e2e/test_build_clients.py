"""One corpus, every client: each builds the same images, whatever it speaks to the engine."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from harness.clients import find_docker, find_old_docker, find_plugin
from harness.corpus import Case, Viewer, differences, find_cases, viewing, wait_for
from harness.debian import DebianEngine
from harness.live import SOURCES, LiveEngine

CASES = find_cases()
SMALL = [case for case in CASES if case.base == "busybox"]
LARGE = [case for case in CASES if case.base != "busybox"]


@dataclass(frozen=True)
class Wish:
    """One build of a case."""

    image: str
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    dockerfile: str = ""

    def flags(self, folder: Path) -> list[str]:
        """As docker's commands and ours have them."""
        named = {"--build-arg": self.args, "--label": self.labels}
        flags = [
            text for flag, pairs in named.items() for pair in pairs.items() for text in (flag, "=".join(pair))
        ]
        flags += ["--target", self.target] if self.target else []
        flags += ["-f", str(folder / self.dockerfile)] if self.dockerfile else []
        return ["-t", self.image, *flags]

    def fields(self, folder: Path) -> dict[str, Any]:
        """As the files of compose and bake have them."""
        found = {"context": str(folder), "args": self.args, "labels": self.labels}
        found |= {"target": self.target, "dockerfile": self.dockerfile}
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True)
class Desk:
    """Where a client works: ``folder`` the context, ``beside`` a place for files of its own, ``more`` the arguments
    without which no package can be had."""

    case: Case
    folder: Path
    beside: Path
    host: str
    docker: str
    environment: Mapping[str, str]
    more: Mapping[str, str]

    def run(self, *command: str, **environment: str) -> None:
        """A command that has to succeed."""
        done = subprocess.run(
            command, capture_output=True, env={**self.environment, **environment}, timeout=300, check=False
        )
        assert done.returncode == 0, (
            done.stdout.decode(errors="replace")[-2000:] + done.stderr.decode(errors="replace")[-4000:]
        )

    def wishes(self, image: str) -> list[Wish]:
        """Every build that the case takes, what the last one stands on first."""
        asked = self.case.asked
        parents = [Wish(name, dockerfile=file) for name, file in asked.get("before", {}).items()]
        named = {name: asked[name] for name in ("labels", "target", "dockerfile") if name in asked}
        return [*parents, Wish(image, args={**asked.get("args", {}), **self.more}, **named)]


def cais_build(desk: Desk, wish: Wish) -> None:
    """Our own command."""
    command = [sys.executable, "-m", "cais", "build", *wish.flags(desk.folder), str(desk.folder)]
    desk.run(*command, PYTHONPATH=str(SOURCES))


def classic_build(desk: Desk, wish: Wish) -> None:
    """Docker's command, told not to use BuildKit."""
    desk.run(desk.docker, "build", *wish.flags(desk.folder), str(desk.folder), DOCKER_BUILDKIT="0")


def docker_py(desk: Desk, wish: Wish) -> None:
    """The Python library."""
    with contextlib.closing(docker.DockerClient(base_url=desk.host, timeout=300)) as client:
        client.images.build(
            path=str(desk.folder),
            tag=wish.image,
            buildargs=dict(wish.args),
            labels=dict(wish.labels),
            target=wish.target,
            dockerfile=wish.dockerfile or None,
            rm=True,
        )


def docker_build(desk: Desk, wish: Wish) -> None:
    """Docker's command as it comes."""
    desk.run(desk.docker, "build", *wish.flags(desk.folder), str(desk.folder))


def old_docker_build(desk: Desk, wish: Wish) -> None:
    """That of before version 23, told to use BuildKit."""
    desk.run(find_old_docker(), "build", *wish.flags(desk.folder), str(desk.folder), DOCKER_BUILDKIT="1")


def buildx_build(desk: Desk, wish: Wish) -> None:
    """Its plugin, by name."""
    metadata = desk.beside / "metadata.json"
    flags = ["--load", "--progress=rawjson", f"--metadata-file={metadata}", *wish.flags(desk.folder)]
    desk.run(desk.docker, "buildx", "build", *flags, str(desk.folder))
    assert json.loads(metadata.read_text())["containerimage.digest"].startswith("sha256:")


def bake(desk: Desk, wish: Wish) -> None:
    """By a file of targets."""
    path = desk.beside / "docker-bake.json"
    path.write_text(json.dumps({"target": {"default": {**wish.fields(desk.folder), "tags": [wish.image]}}}))
    desk.run(desk.docker, "buildx", "bake", "--load", "--allow=fs.read=*", "-f", str(path))


def compose(desk: Desk, wish: Wish) -> None:
    """By a file of services."""
    path = desk.beside / "compose.yaml"  # JSON is YAML
    service = {"image": wish.image, "build": wish.fields(desk.folder)}
    path.write_text(json.dumps({"name": "corpus", "services": {"it": service}}))
    desk.run(desk.docker, "compose", "-f", str(path), "build", "it")


Client = Callable[[Desk, Wish], None]
CLIENTS: dict[str, tuple[Client, tuple[str, ...]]] = {
    "cais build": (cais_build, ()),
    "docker-py": (docker_py, ()),
    "classic docker build": (classic_build, ("docker",)),
    "docker 20 build": (old_docker_build, ("docker-20",)),
    "docker build": (docker_build, ("docker", "docker-buildx", "BuildKit")),
    "docker buildx build": (buildx_build, ("docker", "docker-buildx", "BuildKit")),
    "docker buildx bake": (bake, ("docker", "docker-buildx", "BuildKit")),
    "docker compose build": (compose, ("docker", "docker-buildx", "docker-compose", "BuildKit")),
}
"""Each with what it needs."""


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
        if need == "docker-20" and not find_old_docker():
            return "no docker client of before version 23: set CAIS_DOCKER_OLD"
        if need == "docker" and not find_docker():
            return "no docker client: install docker-cli or set CAIS_DOCKER_CLI"
        if need in ("docker-buildx", "docker-compose") and not find_plugin(need):
            return f"no {need}: install it or set CAIS_DOCKER_PLUGINS"
        if need == "BuildKit" and not speaks_buildkit(engine):
            return "this engine does not speak BuildKit's protocol"
    return ""


@dataclass(frozen=True)
class Excuse:
    """A case that a client cannot express: ``why``, and the files in which its image differs for that."""

    why: str
    clients: frozenset[str]
    files: frozenset[str]


DOCKER_PY, CLASSIC = frozenset(["docker-py"]), frozenset(["classic docker build"])
PACKS = "it packs the context itself, before the engine sees it, and "
EXCUSES = {
    "ignore-again-after-an-exception": Excuse(
        PACKS + "an exception that reaches into a folder brings back all of it (docker 28; 20.10 does not)",
        CLASSIC,
        frozenset(["all/docs/private/p.md"]),
    ),
    "ignore-all-but": Excuse(
        PACKS + "does not look for what an exception with wildcards means in an excluded folder",
        DOCKER_PY | CLASSIC,
        frozenset(["all/docs/b", "all/docs/b/c.md"]),
    ),
    "ignore-odd-patterns": Excuse(
        PACKS + "does not look for what an exception with wildcards means in an excluded folder",
        DOCKER_PY | CLASSIC,
        frozenset(["c/p/deep", "c/p/deep/yes"]),
    ),
    "ignore-bom-crlf-and-spaces": Excuse(
        PACKS + "takes a byte order mark and backslashes in patterns for names",
        DOCKER_PY,
        frozenset(["c/#c", "c/a.txt", "c/h*"]),
    ),
    "ignore-file-of-another-dockerfile": Excuse(
        PACKS + "knows no other ignore file than .dockerignore",
        DOCKER_PY | CLASSIC,
        frozenset(["c/ci", "c/ci/other", "c/ci/web.Dockerfile.dockerignore", "c/secret.key", "c/wanted"]),
    ),
}
"""By case. Everything else, every client can."""


def check_excused(case: Case, name: str, wrong: list[str]) -> bool:
    """Whether a client's image differs from the record, and for a reason that is its own."""
    files = {line.partition(": ")[0].removeprefix("files ") for line in wrong}
    excuse = EXCUSES.get(case.name)
    if wrong and excuse and name in excuse.clients:
        assert files == excuse.files, excuse.why
        return True
    assert not wrong
    return False


@pytest.fixture(scope="module")
def viewer(shared_engine: LiveEngine) -> Iterator[Viewer]:
    """Of the shared engine."""
    with viewing(shared_engine.client()) as viewer:
        yield viewer


@pytest.fixture(scope="module")
def made() -> dict[str, list[str]]:
    """The layers that ``cais build`` makes, by case: asked for once."""
    return {}


def configure(beside: Path, host: str) -> dict[str, str]:
    """An environment for docker's command, with its plugins."""
    plugins = beside / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    for name in ("docker-buildx", "docker-compose"):
        if found := find_plugin(name):
            (plugins / name).symlink_to(found)
    own = {"DOCKER_HOST": host, "CAIS_HOST": host, "DOCKER_CONFIG": str(beside / "config")}
    return {**os.environ, **own, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


@contextlib.contextmanager
def open_desk(case: Case, engine: LiveEngine, base: Path, **more: str) -> Iterator[Desk]:
    """A case's context, and a client's own folder."""
    folder, beside = base / "context", base / "beside"
    folder.mkdir()
    case.write_context(folder)
    host = f"unix://{engine.socket}"
    yield Desk(case, folder, beside, host, find_docker(), configure(beside, host), more)
    # Ten thousand files a test would stay until three sessions later.
    shutil.rmtree(folder)


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


def layers_of(viewer: Viewer, image: str) -> list[str]:
    """The diff_ids."""
    found: list[str] = viewer.client.api.inspect_image(image)["RootFS"].get("Layers") or []
    return found


def build(name: str, desk: Desk, image: str) -> None:
    """All that the case takes, by the client ``name``."""
    for wish in desk.wishes(image):
        CLIENTS[name][0](desk, wish)


def check_build(
    engine: LiveEngine, viewer: Viewer, desk: Desk, name: str, made: dict[str, list[str]]
) -> None:
    """Build with the client ``name`` and compare with the record, and with what ``cais build`` makes: ``made``, by
    case."""
    if why := missing(CLIENTS[name][1], engine):
        pytest.skip(why)
    with contextlib.suppress(docker.errors.ImageNotFound):
        viewer.client.images.remove("clients")
    build(name, desk, "clients")
    found = without_compose(viewer.describe(desk.case, "clients"))
    wrong = differences(found, json.loads(desk.case.expected.read_text()))
    if check_excused(desk.case, name, wrong):
        return
    own = made.get(desk.case.name)
    if own is None:
        build("cais build", desk, "clients-own")
        own = made[desk.case.name] = layers_of(viewer, "clients-own")
    assert layers_of(viewer, "clients") == own


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_every_client_builds_the_same(
    engine: LiveEngine, viewer: Viewer, made: dict[str, list[str]], tmp_path: Path, case: Case, name: str
) -> None:
    """Configuration, history and files are BuildKit's; the layers are those that ``cais build`` makes."""
    with open_desk(case, engine, tmp_path) as desk:
        check_build(engine, viewer, desk, name, made)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
def test_every_client_builds_the_same_on_debian(
    debian: DebianEngine, made: dict[str, list[str]], tmp_path: Path, case: Case, name: str
) -> None:
    """The same, with packages from the mirror."""
    wait_for(case)
    with (
        open_desk(case, debian.engine, tmp_path, http_proxy=debian.proxy) as desk,
        viewing(debian.engine.client()) as viewer,
    ):
        check_build(debian.engine, viewer, desk, name, made)


def test_excuses_are_for_what_is_there() -> None:
    """A case that was renamed, or a client, has none."""
    assert EXCUSES.keys() <= {case.name for case in CASES}
    assert all(excuse.clients <= CLIENTS.keys() for excuse in EXCUSES.values())
