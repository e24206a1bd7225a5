"""Contexts that are fetched or named, through the clients that people have."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from harness.fileserver import FileServer, serving
from harness.gitserver import GitServer, git_serving
from harness.live import LiveEngine

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="a real engine needs root"),
]
PLUGINS = os.environ.get("CAIS_DOCKER_PLUGINS", "")
DOCKER = os.environ.get("CAIS_DOCKER_CLI", "").split(":")[0] or shutil.which("docker") or ""


@pytest.fixture
def client(shared_engine: LiveEngine) -> Iterator[docker.DockerClient]:
    """docker-py, connected to the shared engine."""
    with contextlib.closing(shared_engine.client()) as client:
        yield client


@pytest.fixture
async def server(shared_engine: LiveEngine) -> AsyncIterator[FileServer]:
    """Where the engine can reach it."""
    async with serving(netns=shared_engine.netns.pid) as server:
        yield server


@pytest.fixture
async def repositories(shared_engine: LiveEngine, tmp_path: Path) -> AsyncIterator[GitServer]:
    """The same for git."""
    async with git_serving(tmp_path / "served", shared_engine.netns.pid) as server:
        yield server


async def run(client: docker.DockerClient, command: str) -> str:
    """What a shell in the image ``wired`` says."""
    words = ["sh", "-c", command]
    out = await asyncio.to_thread(client.containers.run, "wired", words, remove=True, entrypoint=[])
    return bytes(out).decode().strip()


async def docker_build(engine: LiveEngine, *words: str, **environment: str) -> tuple[int, str]:
    """``docker buildx build``: its status and what it says."""
    if not DOCKER or not PLUGINS:
        pytest.skip("no docker command with its build plugin: set CAIS_DOCKER_CLI and CAIS_DOCKER_PLUGINS")
    config = engine.folder / "plugins"
    config.mkdir(exist_ok=True)
    (config / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [PLUGINS]}))
    process = await asyncio.create_subprocess_exec(
        *(DOCKER, "buildx", "build", "--progress=plain", "-t", "wired", *words),
        env={
            **os.environ,
            "DOCKER_HOST": f"unix://{engine.socket}",
            "DOCKER_CONFIG": str(config),
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.parametrize("door", ["classic", "buildx"])
async def test_contexts_that_the_engine_fetches(
    shared_engine: LiveEngine,
    client: docker.DockerClient,
    server: FileServer,
    repositories: GitServer,
    tmp_path: Path,
    door: str,
) -> None:
    """Repositories, a folder in one, archives, and a lone Dockerfile."""
    repository = repositories.make("r")
    text = "FROM busybox\nCOPY . /in\n"
    repository.commit({"Dockerfile": text, "f": "root", "app/Dockerfile": text, "app/f": "app"})
    archive = tmp_path / "c"
    archive.mkdir()
    (archive / "Dockerfile").write_text(text)
    (archive / "f").write_text("tar")
    packed = shutil.make_archive(str(tmp_path / "packed"), "gztar", archive)
    server.files["/c.tgz"] = Path(packed).read_bytes()
    server.files["/Dockerfile"] = b"FROM busybox\nRUN mkdir /in && echo alone > /in/f\n"
    for context, said in [
        (repositories.url("r"), "root"),
        (repositories.url("r") + "#main:app", "app"),
        (server.url("/c.tgz"), "tar"),
        (server.url("/Dockerfile"), "alone"),
    ]:
        if door == "classic":
            lines = await asyncio.to_thread(classic, client, context)
            assert not any("error" in line for line in lines), lines
        else:
            status, out = await docker_build(shared_engine, context)
            assert status == 0, out
        assert await run(client, "cat /in/f") == said


def classic(client: docker.DockerClient, context: str) -> list[dict[str, Any]]:
    """The lines of ``POST /build?remote=``."""
    return list(client.api.build(path=context, tag="wired", decode=True))


NAMED = """FROM nothing AS lib
RUN false
FROM alpine
COPY --from=lib / /lib/
COPY --from=repo f /f
COPY --from=arch g /g
RUN --mount=from=repo,target=/m --mount=from=lib,target=/l cat /m/f /l/one > /mounted
FROM lib AS onlib
FROM alpine
COPY --from=1 / /
COPY --from=onlib / /onlib/
"""


async def test_named_contexts(
    shared_engine: LiveEngine,
    client: docker.DockerClient,
    server: FileServer,
    repositories: GitServer,
    tmp_path: Path,
) -> None:
    """In the place of a stage, of an image, of a from; a second time all of it is a hit, and one file that changes in
    a folder is a miss for those who take it."""
    repositories.make("r").commit({"f": "git"})
    for name, files in {
        "lib": {"one": "1", "two": "2", ".dockerignore": "two\n"},
        "main": {"Dockerfile": NAMED},
        "packed": {"g": "tar"},
    }.items():
        (tmp_path / name).mkdir()
        for path, text in files.items():
            (tmp_path / name / path).write_text(text)
    packed = shutil.make_archive(str(tmp_path / "c"), "tar", tmp_path / "packed")
    server.files["/c.tar"] = Path(packed).read_bytes()
    contexts = {
        "lib": str(tmp_path / "lib"),
        "alpine": "docker-image://busybox",
        "repo": repositories.url("r"),
        "arch": server.url("/c.tar"),
    }
    flags = [f"--build-context={name}={text}" for name, text in contexts.items()]
    status, out = await docker_build(shared_engine, *flags, str(tmp_path / "main"))
    assert status == 0, out
    assert await run(client, "cat /f /g /mounted /onlib/one; ls -A /lib") == "gittargit11.dockerignore\none"
    status, out = await docker_build(shared_engine, *flags, str(tmp_path / "main"))
    assert out.count("CACHED") == 6, out
    (tmp_path / "lib" / "one").write_text("changed")
    status, out = await docker_build(shared_engine, *flags, str(tmp_path / "main"))
    assert status == 0, out
    assert await run(client, "cat /mounted /onlib/one /lib/one") == "gitchangedchangedchanged"


async def test_a_token_of_the_client(
    shared_engine: LiveEngine, client: docker.DockerClient, repositories: GitServer, tmp_path: Path
) -> None:
    """It opens the repository, and is nowhere afterwards: not in the image, its history, or the engine's folders."""
    repositories.make("private").commit({"f": "x"})
    repositories.authorization = "Bearer s3cret-token"
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nADD {repositories.url('private')} /src\n")
    secret = "--secret=id=GIT_AUTH_HEADER,env=HEADER"
    status, out = await docker_build(shared_engine, str(tmp_path))
    assert status and "--secret id=GIT_AUTH_TOKEN" in out
    status, out = await docker_build(shared_engine, secret, str(tmp_path), HEADER="Bearer s3cret-token")
    assert status == 0 and "s3cret" not in out, out
    assert await run(client, "cat /src/f") == "x" and "s3cret" not in str(client.api.history("wired"))
    words = ["grep", "-rlaF", "s3cret-token", f"{shared_engine.folder}/root"]
    found = await asyncio.to_thread(subprocess.run, words, capture_output=True)
    assert not found.stdout, found.stdout
