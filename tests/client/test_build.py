"""Builds from Python: requests, answers, and both faces against a real engine."""

import json
import tarfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cais import AsyncEngine, Engine
from cais.client.build import Build
from cais.client.buildmodels import BuildError, BuildWarning, StepDone, StepOutput, StepProgress, StepStarted
from cais.client.buildreader import BuildReader
from cais.client.buildrequest import BuildOptions, BuildOutput, prepare
from cais.client.foldertar import pack_folder
from cais.client.models import RegistryAuth
from cais.errors import Corrupt, Invalid, Unavailable

SECOND = 1_000_000_000


def lines(*values: dict[str, Any] | bytes) -> bytes:
    """An answer."""
    return b"".join(
        value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n" for value in values
    )


STARTED = {"type": "started", "id": "a", "name": "[1/1] RUN x", "at": 0, "inputs": ["b"]}
WRITTEN = {"type": "output", "id": "a", "stream": 2, "data": b64encode(b"out\xff").decode(), "at": 1}
WARNED = {
    "type": "warning",
    "id": "a",
    "level": 1,
    "text": "careful",
    "file": "f",
    "lines": [1, 2],
    "excerpt": [],
}
PROGRESS = {
    "type": "progress",
    "id": "a",
    "item": "l",
    "current": 1,
    "total": 2,
    "started": 0,
    "at": 1,
    "done": True,
}
DONE = {"type": "done", "id": "a", "at": 2 * SECOND, "cached": False, "error": ""}
RESULT = {"type": "result", "digest": "sha256:1", "names": ["n:1"], "response": {"k": "v"}}


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_answer_is_read_however_it_is_cut(size: int, tmp_path: Path) -> None:
    """Typed events, outputs in their files, the result with times."""
    raw = b"{\n}" * 5
    data = lines(STARTED, WRITTEN, WARNED, PROGRESS, {"type": "data", "output": 0, "size": len(raw)}, raw)
    data += lines({"type": "data_end", "output": 0}, DONE, RESULT)
    reader = BuildReader([str(tmp_path / "o")])
    events = [event for at in range(0, len(data), size) for event in reader.feed(data[at : at + size])]
    assert events == [
        StepStarted(id="a", name="[1/1] RUN x", at_ns=0, inputs=("b",)),
        StepOutput(id="a", stream=2, data=b"out\xff", at_ns=1),
        BuildWarning(text="careful", file="f", lines=(1, 2)),
        StepProgress(id="a", item="l", current=1, total=2, at_ns=1, is_done=True),
        StepDone(id="a", at_ns=2 * SECOND),
    ]
    result = reader.end()
    assert (result.digest, result.names, result.response) == ("sha256:1", ("n:1",), {"k": "v"})
    assert [(step.name, step.seconds, step.is_cached) for step in result.steps] == [
        ("[1/1] RUN x", 2.0, False)
    ]
    assert (tmp_path / "o").read_bytes() == raw and len(list(tmp_path.iterdir())) == 1


def test_a_failure_has_everything_that_is_known() -> None:
    """The step, the place, the last of its output, the exit code."""
    error = {
        "type": "error",
        "message": "it broke",
        "kind": "Invalid",
        "id": "a",
        "file": "D",
        "lines": [2, 2],
    }
    error |= {"excerpt": [[1, "FROM x", False], [2, "RUN x", True]], "exit_code": 7}
    reader = BuildReader([])
    list(reader.feed(lines(STARTED, WRITTEN, {**DONE, "error": "it broke"}, error)))
    with pytest.raises(BuildError) as caught:
        reader.end()
    found = caught.value
    assert (found.step, found.file, found.lines, found.exit_code) == ("[1/1] RUN x", "D", (2, 2), 7)
    assert found.output == b"out\xff" and found.kind == "Invalid"
    assert str(found) == "it broke\nD:2\n   1     FROM x\n   2 >>> RUN x"


def test_an_answer_that_makes_no_sense_or_ends_early(tmp_path: Path) -> None:
    """Is an error of its own, and leaves no half of an output."""
    with pytest.raises(Corrupt, match="makes no sense"):
        list(BuildReader([]).feed(b'{"type": "what"}\n'))
    with pytest.raises(Corrupt, match="not asked for"):
        list(BuildReader([]).feed(lines({"type": "data", "output": 0, "size": 1}, b"x")))
    reader = BuildReader([str(tmp_path / "o")])
    list(reader.feed(lines({"type": "data", "output": 0, "size": 9}, b"x")))
    with pytest.raises(Unavailable, match="ended before"):
        reader.end()
    assert not list(tmp_path.iterdir())


def test_what_can_be_said_becomes_a_request(tmp_path: Path) -> None:
    """Every keyword, in the door's form."""
    (tmp_path / "Dockerfile").touch()
    options: BuildOptions = {
        "tag": "a:1",
        "args": {"A": "1"},
        "platforms": ["linux/amd64"],
        "no_cache": True,
        "memory": "64m",
        "ulimits": {"nofile": (1, 2), "core": 0},
        "extra_hosts": {"x": "1.2.3.4"},
        "secrets": {"t": "s", "b": b"\xff"},
        "contexts": {"here": tmp_path, "there": "docker-image://busybox"},
        "outputs": [BuildOutput("tar", dest="x.tar"), BuildOutput()],
        "cache_to": [{"type": "registry", "ref": "r"}],
        "attests": [{"type": "sbom"}],
        "auths": {"docker.io": RegistryAuth(username="u", password="p")},
    }
    with_all = prepare(tmp_path, options)
    body = json.loads(with_all.with_descriptors())
    with_all.close()
    given = body["context"]
    assert given["type"] == "folder" and given["inode"] == tmp_path.stat().st_ino
    assert body["names"] == ["a:1"] and body["dockerfile"] == "Dockerfile" and body["no_cache"] is True
    assert body["host"]["memory"] == 64 << 20 and body["host"]["extra_hosts"] == ["x:1.2.3.4"]
    assert body["host"]["ulimits"][0] == {"name": "nofile", "soft": 1, "hard": 2}
    assert body["secrets"] == {"t": "cw==", "b": "/w=="}
    assert body["contexts"] == {"there": "docker-image://busybox"} and list(body["folders"]) == ["here"]
    assert body["outputs"][0] == {"type": "tar", "attrs": {}} and with_all.dests == ("x.tar", "")
    assert body["cache_to"] == [{"type": "registry", "attrs": {"ref": "r"}}]
    assert with_all.headers[0][0] == "X-Registry-Config"
    (pieces, *_) = prepare(tmp_path, {"contexts": {"here": tmp_path}}).with_tars()
    assert json.loads(pieces)["context"] == {"type": "tar"}


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """Before anything is sent."""
    bad: list[tuple[Any, BuildOptions]] = [
        ("", {}),
        (tmp_path / "none", {}),
        (tmp_path, {"dockerfile": tmp_path.parent / "none"}),
        (tmp_path, {"outputs": [BuildOutput("local", dest="x")]}),
        (tmp_path, {"outputs": [BuildOutput("tar")]}),
        (tmp_path, {"outputs": [BuildOutput("image", dest="x")]}),
        (tmp_path, {"cache_from": [{"ref": "x"}]}),
    ]
    for path, options in bad:
        with pytest.raises(Invalid):
            prepare(path, options)
    with pytest.raises(Invalid, match="agents are reached by descriptor"):
        next(prepare(tmp_path, {"ssh": {"default": "/x"}}).with_tars())


def test_a_folder_becomes_a_tar(tmp_path: Path) -> None:
    """Without what is ignored, but with the Dockerfile and the ignore file themselves."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"x" * 3_000_000)
    (tmp_path / "d/g").hardlink_to(tmp_path / "d/f")
    (tmp_path / "Dockerfile").touch()
    (tmp_path / ".dockerignore").write_text("*\n!d\n")
    (tmp_path / "skipped").touch()
    whole = tmp_path.parent / "whole.tar"
    whole.write_bytes(b"".join(pack_folder(str(tmp_path), "Dockerfile", None)))
    with tarfile.open(whole) as tar:
        assert tar.getnames() == [".dockerignore", "Dockerfile", "d", "d/f", "d/g"]
        assert tar.getmember("d/g").islnk() and tar.getmember("d/f").size == 3_000_000
    assert b"skipped" in b"".join(pack_folder(str(tmp_path), "", b""))


# With an engine


@pytest.fixture
def engine(host: str) -> Iterator[Engine]:
    """The tests' engine."""
    with Engine(host) as engine:
        yield engine


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A small one."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nARG WHAT\nCOPY f /\nRUN echo $WHAT; cat /f\n")
    (tmp_path / "f").write_text("from the file\n")
    return tmp_path


@pytest.mark.kernel
def test_build(engine: Engine, context: Path) -> None:
    """Events as they happen, then the result; the second time all is there."""
    with engine.build(context, tag="python/made:1", args={"WHAT": str(context)}) as build:
        events = list(build)
    written = b"".join(event.data for event in events if isinstance(event, StepOutput))
    assert written == f"{context}\nfrom the file\n".encode()
    result = build.result
    assert result.names == ("python/made:1",) and result.digest == engine.image("python/made:1").id
    run = next(step for step in result.steps if "RUN echo" in step.name)
    assert run.seconds > 0 and not run.is_cached
    again = engine.build(context, args={"WHAT": str(context)}).result
    assert again.digest == result.digest
    assert next(step for step in again.steps if "RUN echo" in step.name).is_cached
    engine.remove_image("python/made:1")


@pytest.mark.kernel
def test_build_outputs(engine: Engine, context: Path) -> None:
    """An archive in a file."""
    dest = context.parent / "root.tar"
    engine.build(context, outputs=[BuildOutput("tar", dest=str(dest))]).result  # noqa: B018
    with tarfile.open(dest) as tar:
        file = tar.extractfile("f")
        assert file is not None and file.read() == b"from the file\n"


@pytest.mark.kernel
def test_build_errors(engine: Engine) -> None:
    """The step, its lines and code; what is wrong with the request; what is not there."""
    with pytest.raises(BuildError) as caught:
        engine.build(text="FROM busybox\n\nRUN echo said; exit 9\n").result  # noqa: B018
    error = caught.value
    assert error.exit_code == 9 and error.lines == (3, 3) and error.output == b"said\n"
    assert error.step.endswith("RUN echo said; exit 9") and ">>> RUN echo said" in str(error)
    with pytest.raises(Invalid, match="invalid reference"):
        engine.build(text="FROM busybox", tag="UPPER")
    with pytest.raises(BuildError, match="did you mean RUN"):
        engine.build(text="FROM busybox\nRUNN x\n").result  # noqa: B018


@pytest.mark.kernel
def test_a_build_that_is_closed_ends(engine: Engine) -> None:
    """Leaving the block is enough; the result is not there."""
    with engine.build(text="FROM busybox\nRUN echo go; sleep 1000\n", no_cache=True) as build:
        for event in build:
            if isinstance(event, StepOutput):
                break
    assert isinstance(build, Build)
    with pytest.raises(Unavailable, match="closed before"):
        build.result  # noqa: B018


@pytest.mark.kernel
async def test_build_async(host: str, context: Path) -> None:
    """The same with coroutines."""
    async with AsyncEngine(host) as engine:
        async with engine.build(context, args={"WHAT": f"async {context}"}) as build:
            events = [event async for event in build]
            result = await build
        assert any(isinstance(event, StepOutput) and b"async" in event.data for event in events)
        assert (await engine.build(context, args={"WHAT": f"async {context}"})).digest == result.digest
        with pytest.raises(BuildError, match="non-zero code: 4"):
            await engine.build(text="FROM busybox\nRUN exit 4\n")
