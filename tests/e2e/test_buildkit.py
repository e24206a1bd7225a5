"""BuildKit's door on a real engine, by a client that can also misbehave."""

import asyncio
import io
import signal
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest

from cais.api.buildkit.control import CONTROL
from cais.api.buildkit.historywire import HistoryEvent, HistoryRequest
from cais.api.buildkit.messages import (
    Option,
    SolveRequest,
    SolveResponse,
    StatusRequest,
    StatusResponse,
)
from cais.api.buildkit.sessionwire import Stat
from cais.grpc.status import RpcError
from harness.buildkit import BuildClient, connected, direct, upgrade
from harness.live import LiveEngine, wait_until

FOLDER = 1 << 31 | 0o755
SOON = 1.0
"""Seconds in which steps end whose client has gone."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A context."""
    made = tmp_path / "made"
    made.mkdir()
    (made / "Dockerfile").write_text("FROM busybox\nCOPY a sub /x/\nRUN echo one; cat /x/a\n")
    (made / "a").write_text("A")
    (made / "sub").mkdir()
    (made / "sub" / "b").write_text("B" * 100_000)
    (made / "other").write_text("not named by any COPY")
    return made


@pytest.fixture
async def builder(engine: LiveEngine, folder: Path) -> AsyncIterator[BuildClient]:
    """With the context as both of its folders."""

    def prepare(client: BuildClient) -> None:
        client.folders = {"context": folder, "dockerfile": folder}
        client.shared_key = str(folder)

    async with connected(engine.socket, prepare) as made:
        yield made


def names(told: list[StatusResponse]) -> dict[str, Any]:
    """The last word on every vertex, by name."""
    return {vertex.name: vertex for message in told for vertex in message.vertexes}


async def test_a_build_is_told_and_named(builder: BuildClient, client: docker.DockerClient) -> None:
    """Every step is a vertex with times; output belongs to its step; the image is there."""
    answer, told = await builder.build({"no-cache": ""}, Option(type="moby", attrs={"name": "t/one"}))
    found = names(told)
    assert {"[1/3] FROM docker.io/library/busybox:latest", "[2/3] COPY a sub /x/"} <= found.keys()
    run = found["[3/3] RUN echo one; cat /x/a"]
    assert run.completed is not None and not run.error and not run.cached
    logs = b"".join(log.message for message in told for log in message.logs if log.vertex == run.digest)
    assert logs == b"one\nA"
    image = client.images.get("t/one")
    assert image.id == answer["containerimage.digest"] and answer["image.name"] == "docker.io/t/one:latest"


async def test_only_what_is_named_and_has_changed_is_sent(builder: BuildClient, folder: Path) -> None:
    """The first time all that COPYs name, then what is new; what is ignored or not named never."""
    await builder.build({})
    assert sorted(builder.sent) == ["Dockerfile", "a", "sub/b"]
    builder.sent.clear()
    _, told = await builder.build({})
    assert builder.sent == [] and names(told)["[3/3] RUN echo one; cat /x/a"].cached
    (folder / "a").write_text("changed")
    _, told = await builder.build({})
    assert builder.sent == ["a"] and not names(told)["[2/3] COPY a sub /x/"].cached
    (folder / ".dockerignore").write_text("sub\n")
    builder.asked.clear()
    with pytest.raises(RpcError, match="not found"):
        await builder.build({})
    assert ("sub",) in [each.get("exclude-patterns") for each in builder.asked]


async def test_a_mistake_comes_with_its_place(builder: BuildClient, folder: Path) -> None:
    """The message, and beside it the file with the line for clients to show."""
    (folder / "Dockerfile").write_text("FROM busybox\nRUN echo\nRUN exit 3\n")
    with pytest.raises(RpcError, match="did not complete successfully: exit code: 3") as caught:
        await builder.build({})
    kinds = {detail.type_url.rpartition(".")[2]: detail.value for detail in caught.value.details}
    assert b'"line":3' in kinds["Source+json"] and "Vertex+json" in kinds
    (folder / "Dockerfile").write_text("FROM busybox\nRUM echo\n")
    with pytest.raises(RpcError, match=r"line 2: unknown instruction: RUM \(did you mean RUN") as caught:
        await builder.build({})
    assert b'"line":2' in caught.value.details[0].value


async def test_what_a_client_should_have_left_out_is_not_there(
    builder: BuildClient, folder: Path, client: docker.DockerClient
) -> None:
    """Patterns go out as clients know them; what comes in spite of them, as from buildx 0.29, counts for nothing."""
    for name in ("d/sub/b", "d/sub/c", "d/gone/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (folder / ".dockerignore").write_text("/Dockerfile\n./d/sub/\n ! d/sub/b \n/\n//a\n.dockerignore\nd/gone")
    await builder.build({}, Option(type="moby", attrs={"name": "t/left-out"}))
    (patterns,) = {found["exclude-patterns"] for found in builder.asked if "exclude-patterns" in found}
    assert patterns == ("Dockerfile", "d/sub", "!d/sub/b", "a", ".dockerignore", "d/gone")
    assert "d/sub/b" in builder.sent and "d/sub/c" not in builder.sent
    container = client.containers.create("t/left-out", ["x"])
    try:
        data = b"".join(container.export())
    finally:
        container.remove()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {"d", "d/sub", "d/sub/b", "other"} <= {*tar.getnames()}
        assert not {"a", "d/sub/c", "d/gone", "d/gone/x"} & {*tar.getnames()}


async def test_secrets_are_asked_for_when_they_are_needed(builder: BuildClient, folder: Path) -> None:
    """And a required one that the client has not is named."""
    (folder / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=secret,id=s,required cat /run/secrets/s | tr a-z A-Z\n"
    )
    with pytest.raises(RpcError, match="secret s: not found"):
        await builder.build({})
    builder.secrets["s"] = b"hidden"
    _, told = await builder.build({})
    assert b"".join(log.message for message in told for log in message.logs) == b"HIDDEN"


async def test_outputs_go_to_the_client(builder: BuildClient, folder: Path) -> None:
    """A tar of the result's files."""
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY a /only\n")
    await builder.build({}, Option(type="tar"))
    assert bytes(builder.received[:4]) == b"only" and b"A" in builder.received


def processes(engine: LiveEngine) -> set[str]:
    """Of all its containers."""
    found: set[str] = set()
    for path in Path("/sys/fs/cgroup").glob(f"*/{engine.cgroup}/*/cgroup.procs"):
        try:
            found.update(path.read_text().split())
        except OSError:
            continue  # it has just gone
    return found


async def test_a_client_that_goes_away_ends_its_steps(engine: LiveEngine, folder: Path) -> None:
    """Whichever of its connections is cut."""
    (folder / "Dockerfile").write_text("FROM busybox\nRUN echo ready; sleep 1000\n")

    def prepare(client: BuildClient) -> None:
        client.folders = {"context": folder, "dockerfile": folder}

    for cut in ("session", "control"):
        async with connected(engine.socket, prepare) as client:
            building = asyncio.create_task(client.build({}, ref=f"gone-{cut}"))
            call = client.channel.call(f"{CONTROL}Status")
            await call.send(StatusRequest(ref=f"gone-{cut}"), end=True)
            async for message in call.messages(StatusResponse):
                if any(log.message == b"ready\n" for log in message.logs):
                    break
            assert processes(engine)
            lost = client.serving if cut == "session" else client.channel.connection
            assert lost is not None
            lost.close()
            await asyncio.to_thread(wait_until, lambda: not processes(engine), SOON)
            with pytest.raises(RpcError):
                await building


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ([Stat(path="../x", mode=0o644, size=1)], "outside the build context"),
        ([Stat(path="a/b", mode=0o644, size=1)], "wrong order"),
        ([Stat(path="l", mode=0o644, link="../../etc/passwd")], "outside|leads nowhere"),
        ([Stat(path="l", mode=0o644, link="missing")], "leads nowhere"),
        ([Stat(path="n", mode=0o644, size=-5)], "-5 bytes"),
        ([Stat(path="/".join(["d"] * 5000), mode=FOLDER)], "too long|wrong order"),
    ],
)
async def test_a_hostile_walk_is_refused(
    engine: LiveEngine, folder: Path, stats: list[Stat], message: str
) -> None:
    """Nothing of it is ever a path on this machine."""
    (folder / "Dockerfile").write_text("FROM busybox\nCOPY . /x\n")

    def prepare(client: BuildClient) -> None:
        client.folders = {"dockerfile": folder}
        client.walks = {"context": stats}

    async with connected(engine.socket, prepare) as client:
        with pytest.raises(RpcError, match=message):
            await client.build({})


async def test_history_survives_the_engine(own_engine: LiveEngine, folder: Path) -> None:
    """Records, errors and what was told, once they are on disk: a moment after the build."""

    def prepare(client: BuildClient) -> None:
        client.folders = {"context": folder, "dockerfile": folder}

    async with connected(own_engine.socket, prepare) as client:
        await client.build({}, ref="good")
        (folder / "Dockerfile").write_text("FROM busybox\nRUN echo why; exit 9\n")
        with pytest.raises(RpcError):
            await client.build({}, ref="bad")
    kept = own_engine.folder / "root/build/history"
    await asyncio.to_thread(wait_until, lambda: (kept / "bad/record").exists())
    own_engine.stop(signal.SIGKILL)
    own_engine.start()
    async with connected(own_engine.socket) as again:
        call = again.channel.call(f"{CONTROL}ListenBuildHistory")
        await call.send(HistoryRequest(early_exit=True), end=True)
        events = [event async for event in call.messages(HistoryEvent)]
        records = {event.record.ref: event.record for event in events if event.record}
        assert records["good"].error is None and records["good"].total_steps > 3
        error = records["bad"].error
        assert error is not None and "exit code: 9" in error.message
        call = again.channel.call(f"{CONTROL}Status")
        await call.send(StatusRequest(ref="bad"), end=True)
        logs = [log.message async for each in call.messages(StatusResponse) for log in each.logs]
        assert b"".join(logs) == b"why\n"


async def test_what_is_no_upgrade_is_refused(engine: LiveEngine) -> None:
    """With a word, and the engine goes on."""
    with pytest.raises(RuntimeError, match="400"):
        await upgrade(engine.socket, "/grpc", {}, protocol="websocket")


async def test_a_frontend_of_others_is_refused(builder: BuildClient) -> None:
    """This engine builds Dockerfiles."""
    request = SolveRequest(
        ref="other",
        session=builder.session,
        frontend="gateway.v0",
        frontend_attrs={"source": "evil/frontend:1"},
    )
    with pytest.raises(RpcError, match=r"frontend evil/frontend:1 is not supported"):
        await builder.channel.unary(f"{CONTROL}Solve", request, SolveResponse)


async def test_a_build_inside_calls_alone(engine: LiveEngine, folder: Path) -> None:
    """A client without the session's connection: it goes through ``Control.Session``, and HTTP/2 from the first
    byte."""
    async with direct(engine.socket) as client:
        client.folders = {"context": folder, "dockerfile": folder}
        _, told = await client.build({})
        assert "[2/3] COPY a sub /x/" in names(told)
