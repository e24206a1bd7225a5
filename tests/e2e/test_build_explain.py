"""`cais build --explain` against a real engine: what it says of builds that changed in one thing."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from cais import BuildError, Engine
from harness.clients import find_plugin
from harness.exporting import pack
from harness.fileserver import serving
from harness.live import SOURCES, LiveEngine

DOCKERFILE = """FROM busybox
ARG VERSION=1
COPY src/c.py /first
WORKDIR /own
COPY src src
RUN echo $VERSION > v
RUN --mount=type=bind,source=src,target=/s cat /s/a.py
"""


class Shell:
    """Builds one folder, or what is at a URL, and reads what is said of it."""

    def __init__(self, engine: LiveEngine, context: Path, url: str = "") -> None:
        self.engine = engine
        self.context = context
        self.url = url

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """However it ends."""
        environment = {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": f"unix://{self.engine.socket}"}
        command = [sys.executable, "-m", "cais", "build", *words, self.url or str(self.context)]
        return subprocess.run(command, capture_output=True, env=environment, text=True, timeout=90)

    def explain(self, *words: str, code: int = 0) -> dict[str, tuple[bool, str]]:
        """For each step its number of the stage: whether it was there, and all reasons."""
        done = self.run("--explain=json", "-q", *words)
        assert done.returncode == code, done.stderr
        text = done.stdout[: done.stdout.rindex("]") + 1]
        return {
            step["name"].partition("] ")[2].partition(" ")[0] + step["name"][1:2]: (
                step["hit"],
                "; ".join(reason["text"] for reason in step["reasons"]),
            )
            for step in json.loads(text)
        }

    def misses(self, *words: str, code: int = 0) -> dict[str, str]:
        """Reasons of those that were not there."""
        return {name: text for name, (hit, text) in self.explain(*words, code=code).items() if not hit}


@pytest.fixture
def shell(engine: LiveEngine, tmp_path: Path) -> Shell:
    """With a small project."""
    context = tmp_path / "project"
    (context / "src").mkdir(parents=True)
    for name in "abc":
        (context / f"src/{name}.py").write_text(f"{tmp_path} {name}")
    (context / "Dockerfile").write_text(DOCKERFILE)
    return Shell(engine, context)


@pytest.fixture
def engine_client(engine: LiveEngine) -> Iterator[Engine]:
    """Cais's own client."""
    with Engine(f"unix://{engine.socket}") as client:
        yield client


def test_the_first_build_says_so_and_the_second_hits(shell: Shell) -> None:
    """And in the second nothing is missed."""
    first = shell.misses()
    assert set(first) == {"COPY2", "WORKDIR3", "COPY4", "RUN5", "RUN6"} and set(first.values()) == {
        "first build here"
    }
    notes = {path: path.stat() for path in (shell.engine.folder / "root/build/explain").iterdir()}
    assert set(shell.explain().values()) <= {(True, ""), (True, "what stands on it is there already")}
    # Nothing is written for that: the time alone is put forward.
    assert {path: path.stat().st_ino for path in notes} == {path: was.st_ino for path, was in notes.items()}
    assert any(path.stat().st_mtime_ns > was.st_mtime_ns for path, was in notes.items())


def test_a_file_is_named_and_what_stands_on_it(shell: Shell) -> None:
    """The step that takes it, the mount that shows it, and the steps above."""
    shell.misses()
    (shell.context / "src/b.py").write_text("other")
    (shell.context / "src/c.py").chmod(0o755)
    (shell.context / "src/d.py").touch()
    (shell.context / "src/a.py").unlink()
    (shell.context / "src/a.py").symlink_to("b.py")
    done = shell.run("--explain", "--progress", "plain")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "COPY src src" in line)
    assert "MISS  src/a.py was a file, is a link since the build of " in line
    assert "(4 files: src/a.py, src/b.py, src/c.py, src/d.py); its parent was made again" in line
    assert f"{line.partition(' ')[0]} [4/6] COPY src src" in done.stderr
    mount = next(line for line in done.stdout.splitlines() if "RUN --mount" in line)
    assert "src/a.py was a file, is a link" in mount and mount.endswith("its parent was made again")


def test_builds_of_the_classic_door_are_compared_with(shell: Shell, client: docker.DockerClient) -> None:
    """What is built under a name is the same thing, whoever asks: a file, an argument, and that nothing changed."""

    def build(**arguments: str) -> None:
        client.images.build(path=str(shell.context), tag="classic", rm=True, buildargs=arguments)

    build()
    assert not shell.misses("-t", "classic")
    (shell.context / "src/b.py").write_text("other")
    found = shell.misses("-t", "classic")
    assert found["COPY4"] == "src/b.py changed"
    assert found["RUN5"] == "its parent was made again"
    build(VERSION="2")
    found = shell.misses("-t", "classic", "--build-arg", "VERSION=3")
    assert found["RUN5"] == "ARG VERSION was 2, is 3"
    client.images.remove("classic")


def build_by_docker_py(engine: LiveEngine, url: str) -> None:
    """At the classic door."""
    with contextlib.closing(docker.DockerClient(base_url=f"unix://{engine.socket}")) as client:
        client.images.build(path=url)


def build_by_buildx(engine: LiveEngine, url: str) -> None:
    """At BuildKit's."""
    plugin = find_plugin("docker-buildx")
    if plugin is None:
        pytest.skip("needs Docker's build plugin: set CAIS_DOCKER_PLUGINS to its folder")
    environment = {
        **os.environ,
        "DOCKER_HOST": f"unix://{engine.socket}",
        "DOCKER_CONFIG": str(engine.folder),
    }
    subprocess.run([plugin, "build", url], env=environment, check=True, capture_output=True, timeout=90)


@pytest.mark.parametrize("build", [build_by_docker_py, build_by_buildx])
async def test_a_url_is_the_same_thing_at_every_door(
    shell: Shell, build: Callable[[LiveEngine, str], None]
) -> None:
    """Though what is built from it has no name."""
    async with serving(netns=shell.engine.netns.pid) as server:
        server.files["/c.tar"] = pack(
            {"Dockerfile": "FROM busybox\nCOPY a b /\n", "a": "1", "b": build.__name__}
        )
        await asyncio.to_thread(build, shell.engine, server.url("/c.tar"))
        server.files["/c.tar"] = pack(
            {"Dockerfile": "FROM busybox\nCOPY a b /\n", "a": "2", "b": build.__name__}
        )
        there = Shell(shell.engine, shell.context, server.url("/c.tar"))
        assert await asyncio.to_thread(there.misses) == {"COPY2": "a changed"}


def test_a_failure_at_the_classic_door_is_a_reason(shell: Shell, client: docker.DockerClient) -> None:
    """So is that it did not come to a step."""
    (shell.context / "Dockerfile").write_text(DOCKERFILE + "RUN exit 7\nRUN true\n")
    with pytest.raises(docker.errors.BuildError):
        client.images.build(path=str(shell.context), tag="failing")
    found = shell.misses("-t", "failing", code=7)
    assert found == {"RUN7": "it failed the last time", "RUN8": "the build before did not come to it"}


def test_an_argument_is_shown_with_both_values(shell: Shell) -> None:
    """Only where a program sees it; one whose name says secret is not shown, and is on no disk."""
    text = DOCKERFILE.replace("ARG VERSION=1", "ARG VERSION=1\nARG API_TOKEN=none")
    (shell.context / "Dockerfile").write_text(text)
    shell.misses("--build-arg", "API_TOKEN=hunter2-first", "--build-arg", "HTTP_PROXY=http://u:proxypass@p")
    found = shell.misses("--build-arg", "VERSION=2", "--build-arg", "API_TOKEN=hunter2-second")
    assert "COPY4" not in found
    assert found["RUN5"] == "ARG VERSION was 1, is 2; ARG API_TOKEN is another"
    notes = shell.engine.folder / "root/build/explain"
    data = b"".join(path.read_bytes() for path in notes.rglob("*") if path.is_file())
    assert b"VERSION" in data and b"hunter2" not in data and b"proxypass" not in data


def test_a_changed_instruction_and_a_new_one(shell: Shell) -> None:
    """Steps are compared with what stood in their place."""
    shell.misses()
    text = DOCKERFILE.replace("RUN echo $VERSION > v", "RUN echo v$VERSION > v\nRUN true")
    (shell.context / "Dockerfile").write_text(text)
    found = shell.misses()
    assert found["RUN5"] == "the instruction was `RUN echo $VERSION > v`"
    assert found["RUN6"] == "the step is new"
    assert found["RUN7"] == "its parent was made again"


def test_no_cache_and_failures_are_reasons(shell: Shell) -> None:
    """So is a record that is gone; an explanation comes with a failure, too."""
    broken = DOCKERFILE + "RUN exit 7\nRUN true\n"
    (shell.context / "Dockerfile").write_text(broken)
    found = shell.misses(code=7)
    assert found["RUN7"] == found["RUN8"] == "first build here"
    found = shell.misses(code=7)
    assert found == {"RUN7": "it failed the last time", "RUN8": "the build before did not come to it"}
    (shell.context / "Dockerfile").write_text(DOCKERFILE)
    assert set(shell.misses("--no-cache").values()) == {"--no-cache"}


def test_a_picture_is_drawn_also_of_a_failure(shell: Shell, tmp_path: Path) -> None:
    """With all steps that there were."""
    (shell.context / "Dockerfile").write_text(DOCKERFILE + "RUN false\n")
    assert shell.run("--graph", str(tmp_path / "g.svg")).returncode == 1
    titles = [
        each.text or "" for each in ET.parse(tmp_path / "g.svg").iter("{http://www.w3.org/2000/svg}title")
    ]
    assert any("[4/7] COPY src src" in each for each in titles)
    assert any("RUN false\nfailed: " in each for each in titles)


def test_python_hears_it(engine_client: Engine, shell: Shell) -> None:
    """As events, in the result, and of a build that failed."""
    result = engine_client.build(shell.context, explain=True).result
    (reason,) = next(step.reasons for step in result.explain if "COPY" in step.name)
    assert reason.kind == "first" and result.explain[0].since_ns == 0
    (shell.context / "src/a.py").write_text("other")
    with engine_client.build(shell.context, explain=True) as build:
        events: list[Any] = [event for event in build if type(event).__name__ == "StepExplained"]
    step = next(event for event in events if "COPY src src" in event.name)
    assert step.reasons[0].files == ("src/a.py",) and not step.is_hit and step.since_ns
    (shell.context / "Dockerfile").write_text(DOCKERFILE + "RUN false\n")
    with engine_client.build(shell.context, explain=True) as build, pytest.raises(BuildError):
        for _ in build:
            pass
    assert [each.is_hit for each in build.explain][-1] is False


DATED = """FROM busybox
COPY src /src
RUN mkdir /made && cp /src/a.py /made
ENV A=1
"""


def test_an_image_is_what_it_seems(shell: Shell, client: Any) -> None:
    """One that was dated is dated the same; nothing new is in the engine."""
    (shell.context / "Dockerfile").write_text(DATED)
    assert shell.run("-t", "verified", "--build-arg", "SOURCE_DATE_EPOCH=1600000000").returncode == 0
    before = {image.id for image in client.images.list(all=True)}
    done = shell.run("--verify", "verified")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "verified is what this builds: the configuration and 3 layers agree\n"
    assert "CACHED\n" not in done.stderr.partition("RUN mkdir")[2]
    assert {image.id for image in client.images.list(all=True)} == before
    client.images.remove("verified")


def test_what_differs_is_named(shell: Shell, client: Any) -> None:
    """Fields of the configuration, layers, files; and the exit code is 1."""
    (shell.context / "Dockerfile").write_text(DATED)
    assert shell.run("-t", "differs", "--build-arg", "SOURCE_DATE_EPOCH=1600000000").returncode == 0
    (shell.context / "Dockerfile").write_text(DATED.replace("A=1", "A=2"))
    (shell.context / "src/a.py").write_text("changed")
    (shell.context / "src/d.py").write_text("new")
    done = shell.run("--verify", "differs")
    assert done.returncode == 1, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "differs is not what this builds:"
    env = next(line for line in lines if line.startswith("config.Env"))
    assert '"A=1"' in env.partition(" → ")[0] and '"A=2"' in env.partition(" → ")[2]
    assert [line[:8] for line in lines if line.startswith("layer")] == ["layer 2:", "layer 3:"]
    assert any(line.startswith("/src/a.py: size") for line in lines)
    assert "/src/d.py: only in what is built now" in lines
    client.images.remove("differs")


def test_a_verification_makes_nothing(shell: Shell) -> None:
    """Flags that would are refused, by the client and by the engine; so is an image that is nowhere."""
    done = shell.run("--verify", "busybox", "-t", "x")
    assert done.returncode == 125 and "leave out --tag" in done.stderr
    body = {"context": {"type": "empty"}, "text": "", "verify": "busybox", "names": ["x"]}
    data = json.dumps(body).encode()
    head = b"POST /cais/build HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
        data
    )
    assert b"a build that verifies makes nothing" in shell.engine.request(head + data)
    done = shell.run("--verify", "localhost:1/nothing/there")
    assert done.returncode == 1 and "localhost:1" in done.stderr
