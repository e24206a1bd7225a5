"""BuildKit's builds by ``POST /build?version=2`` on a real engine: by a client of our own, and by docker 20.10."""

import asyncio
import base64
import json
import os
import re
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from cais.api.buildkit.jobs import merge
from cais.api.buildkit.messages import StatusResponse
from cais.grpc.protobuf import decode
from harness.buildkit import BuildClient, connected
from harness.builds import (
    Answer,
    OpenBuild,
    cgroup_processes,
    check_clean,
    make_context,
    open_build,
    post_build,
)
from harness.clients import find_old_docker
from harness.live import LiveEngine, wait_until

Post = Callable[..., Answer]
SOON = 1.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A context."""
    made = tmp_path / "made"
    made.mkdir()
    (made / "Dockerfile").write_text("FROM busybox\nARG X\nCOPY a /a\nRUN echo $X; cat /a\n")
    (made / "a").write_text("A\n")
    return made


@pytest.fixture
async def builder(engine: LiveEngine, folder: Path) -> AsyncIterator[BuildClient]:
    """A session with the context as both of its folders."""

    def prepare(client: BuildClient) -> None:
        client.folders = {"context": folder, "dockerfile": folder}

    async with connected(engine.socket, prepare) as made:
        yield made


def asked(builder: BuildClient, **more: str) -> dict[str, str]:
    """The query of a build whose files are in the session."""
    return {"version": "2", "session": builder.session, "remote": "client-session", "nocache": "1", **more}


def traced(answer: Answer) -> StatusResponse:
    """All that was told of vertices."""
    found = [line["aux"] for line in answer.lines if line.get("id") == "moby.buildkit.trace"]
    return merge([decode(base64.b64decode(data), StatusResponse) for data in found])


def image_id(answer: Answer) -> str:
    """What the last line says was made."""
    assert not answer.error, answer.error
    assert answer.lines[-1]["id"] == "moby.image.id"
    return str(answer.lines[-1]["aux"]["ID"])


def logs(answer: Answer) -> bytes:
    """What programs wrote."""
    return b"".join(log.message for log in traced(answer).logs)


async def test_what_is_told_is_buildkits(
    engine: LiveEngine, builder: BuildClient, client: docker.DockerClient
) -> None:
    """Vertices and output as messages of the status API, and the image's id at the end."""
    query = asked(builder, t="posted/one", buildargs=json.dumps({"X": "5"}), labels=json.dumps({"l": "2"}))
    answer = await asyncio.to_thread(post_build, engine, b"", **query)
    ended = {vertex.name for vertex in traced(answer).vertexes if vertex.completed}
    assert {"[2/3] COPY a /a", "[3/3] RUN echo $X; cat /a", "exporting to image"} <= ended
    assert logs(answer) == b"5\nA\n"
    image = client.images.get("posted/one")
    assert image.id == image_id(answer) and image.labels == {"l": "2"}


async def test_a_context_comes_in_a_request_of_its_own(
    engine: LiveEngine, builder: BuildClient, folder: Path
) -> None:
    """docker build - < context.tar: whichever of the two requests is first."""
    context = make_context("FROM busybox\nCOPY b /b\nRUN cat /b\n", ("b", "file", "from the tar"))
    for upload_first in (True, False):
        id = uuid.uuid4().hex
        requests: list[tuple[bytes, Mapping[str, str]]] = [
            (context, {"version": "2", "buildid": f"upload-request:{id}"}),
            (b"", asked(builder, remote="upload-request", buildid=id)),
        ]
        posting = []
        for body, query in requests if upload_first else requests[::-1]:
            posting.append(asyncio.create_task(asyncio.to_thread(post_build, engine, body, **query)))
        answers = await asyncio.gather(*posting)
        upload, built = answers if upload_first else answers[::-1]
        assert (upload.status, upload.lines) == (200, [])
        assert image_id(built) and logs(built) == b"from the tar"


def test_a_context_in_the_body_needs_no_session(engine: LiveEngine) -> None:
    """As libraries do it that know version 2 and no sessions."""
    context = make_context("FROM busybox\nCOPY b /b\nRUN cat /b\n", ("b", "file", "B"))
    answer = post_build(engine, context, version="2", nocache="1")
    assert image_id(answer) and logs(answer) == b"B"


def test_what_only_a_session_has_is_missed(engine: LiveEngine) -> None:
    """Files of a client that offers none, a secret, a session that there is not."""
    answer = post_build(engine, b"", version="2", remote="client-session")
    assert "the client offers no folder" in answer.error
    secret = make_context("FROM busybox\nRUN --mount=type=secret,id=x,required true\n")
    assert "secret" in post_build(engine, secret, version="2").error
    check_clean(engine)


def test_what_else_the_query_says_is_done(engine: LiveEngine) -> None:
    """The network, caches to read, an inline cache, a context that the engine fetches."""
    context = make_context("FROM busybox\nRUN cat /proc/net/dev\n")
    more = {"networkmode": "host", "cachefrom": '["localhost:1/none"]', "t": "posted/inline"}
    answer = post_build(engine, context, version="2", nocache="1", **more)
    assert image_id(answer) and b"caistest0:" in logs(answer)
    assert "importing cache" in {vertex.name for vertex in traced(answer).vertexes}
    inline = post_build(engine, context, version="2", buildargs='{"BUILDKIT_INLINE_CACHE": "1"}', **more)
    assert image_id(inline) != image_id(answer)
    assert "localhost:1" in post_build(engine, b"", version="2", remote="http://localhost:1/x.tar").error


async def test_a_failure_is_the_last_line(engine: LiveEngine, builder: BuildClient, folder: Path) -> None:
    """In BuildKit's words, and on the vertex that failed, too."""
    (folder / "Dockerfile").write_text("FROM busybox\nRUN echo so far; exit 7\n")
    answer = await asyncio.to_thread(post_build, engine, b"", **asked(builder))
    assert "did not complete successfully: exit code: 7" in answer.error
    assert [vertex for vertex in traced(answer).vertexes if vertex.error] and logs(answer) == b"so far\n"


async def test_a_quiet_build_says_the_id_alone(
    engine: LiveEngine, builder: BuildClient, folder: Path, client: docker.DockerClient
) -> None:
    """And everything, if it fails."""
    query = asked(builder, q="1", t="posted/quiet")
    answer = await asyncio.to_thread(post_build, engine, b"", **query)
    assert answer.lines == [{"stream": f"{client.images.get('posted/quiet').id}\n"}]
    (folder / "Dockerfile").write_text("FROM busybox\nRUN echo so far; exit 7\n")
    answer = await asyncio.to_thread(post_build, engine, b"", **query)
    assert "exit code: 7" in answer.error and logs(answer) == b"so far\n"


async def test_outputs_go_to_the_session(engine: LiveEngine, builder: BuildClient) -> None:
    """A tar of files; there is no image, and no id."""
    outputs = json.dumps([{"Type": "tar", "Attrs": {}}])
    answer = await asyncio.to_thread(post_build, engine, b"", **asked(builder, outputs=outputs))
    assert not answer.error and not [line for line in answer.lines if line.get("id") == "moby.image.id"]
    assert b"ustar" in builder.received


@pytest.mark.parametrize("way", ["cancel", "hang up", "end the session"])
async def test_a_build_that_is_given_up_ends_its_steps(
    engine: LiveEngine, builder: BuildClient, folder: Path, way: str
) -> None:
    """By a request that names it, or because its client goes away."""
    (folder / "Dockerfile").write_text("FROM busybox\nRUN (trap '' TERM; sleep 1000) & sleep 1000\n")
    id = uuid.uuid4().hex

    def until_it_runs(build: OpenBuild) -> None:
        wait_until(lambda: len(cgroup_processes(engine)) >= 2)

    def rest(build: OpenBuild) -> Answer:
        wait_until(lambda: not cgroup_processes(engine), SOON)
        return build.read_rest()

    with open_build(engine, b"", **asked(builder, buildid=id)) as build:
        await asyncio.to_thread(until_it_runs, build)
        if way == "cancel":
            cancelled = await asyncio.to_thread(post_build, engine, b"", "/build/cancel", id=id)
            assert cancelled.status == 200
            assert (await asyncio.to_thread(rest, build)).error == "the build was canceled"
        elif way == "end the session":
            assert builder.serving is not None
            builder.serving.close()
            assert "the client went away" in (await asyncio.to_thread(rest, build)).error
    await asyncio.to_thread(wait_until, lambda: not cgroup_processes(engine), SOON)
    await asyncio.to_thread(check_clean, engine)


def test_what_cannot_be_cancelled_is_told(engine: LiveEngine) -> None:
    """A build without a name; one that is over is no mistake."""
    assert "build ID not provided" in post_build(engine, b"", "/build/cancel").error
    assert post_build(engine, b"", "/build/cancel", id="over").status == 200


# Docker's own command


@pytest.fixture
def old(engine: LiveEngine, folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Docker's command of before version 23, in the context's folder."""
    command = find_old_docker()
    if not command:
        pytest.skip("no docker client of before version 23: set CAIS_DOCKER_OLD")
    environment = {"DOCKER_HOST": f"unix://{engine.socket}", "DOCKER_CONFIG": str(tmp_path / "config")}

    def run(*words: str, stdin: bytes = b"", fails: bool = False) -> str:
        done = subprocess.run(
            [command, *words],
            env={**os.environ, **environment, "DOCKER_BUILDKIT": "1"},
            cwd=folder,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stderr.decode()
        return done.stdout.decode() + done.stderr.decode()

    return run


def test_docker_20_is_not_asked_for_what_it_gets_wrong(
    old: Callable[..., str], folder: Path, client: docker.DockerClient
) -> None:
    """Exceptions with wildcards in excluded folders hold all the same, and for each Dockerfile its own."""
    for name in ("x/no", "x/y/a.md", "x/y/no", "z/b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    expected = {"*\n!x/**/*.md\n": ". ./x ./x/y ./x/y/a.md", "*\n!x/*/n*\n": ". ./x ./x/y ./x/y/no"}
    for number, ignore in enumerate(expected):
        (folder / f"{number}").write_text("FROM busybox\nCOPY . /c/\nRUN cd /c && find . | sort | xargs\n")
        (folder / f"{number}.dockerignore").write_text(ignore)
    for number, found in enumerate(expected.values()):
        assert f" {found}\n" in old("build", "--progress=plain", f"-f{number}", "-t", "posted/news", ".")


def test_docker_20_gives_files_with_any_name(old: Callable[..., str], folder: Path) -> None:
    """It knows no names in headers but in ASCII."""
    (folder / "ü").write_text("u")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY ü /\n")
    old("build", "-o", "out", ".")
    (folder / ".dockerignore").write_text("ü\n")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    old("build", "-o", "out2", ".")
    assert (folder / "out" / "ü").exists() and not (folder / "out2" / "ü").exists()


def test_docker_20_builds(old: Callable[..., str], folder: Path, client: docker.DockerClient) -> None:
    """With a secret, an id file, progress; quietly; from standard input; into a folder; and what fails says so."""
    (folder / "Dockerfile").write_text(
        "FROM busybox\nCOPY a /\nRUN --mount=type=secret,id=s cat /run/secrets/s\n"
    )
    (folder / "s").write_text("hidden\n")
    shown = old("build", "--progress=plain", "--secret=id=s,src=s", "--iidfile=id", "-t", "posted/old", ".")
    assert re.search(r"#\d+ \[3/3\] RUN.*\n.*\n#\d+ [\d.]+ hidden\n", shown)
    id = client.images.get("posted/old").id
    assert (folder / "id").read_text() == id
    assert old("build", "-q", "--secret=id=s,src=s", ".") == f"{id}\n"
    old("build", "-t", "posted/tar", "-", stdin=make_context("FROM busybox\nCOPY b /\n", ("b", "file", "B")))
    assert client.images.get("posted/tar").id != id
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY a /\n")
    old("build", "-o", "out", ".")
    assert (folder / "out" / "a").read_text() == "A\n"
    assert "unknown instruction: RN" in old("build", "-", stdin=b"FROM busybox\nRN x\n", fails=True)
