"""Builds on a real engine, by the clients that people have."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import docker
import pytest

from harness.live import SOURCES, LiveEngine

Cli = Any

Files = dict[str, str | bytes]
"""Contents by path; text that starts with ``-> `` is a link's target, a path with a slash at its end a folder."""


def pack(files: Files, mode: int = 0o644) -> bytes:
    """A context."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = mode, 1_600_000_000
            data = content if isinstance(content, bytes) else content.encode()
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            elif isinstance(content, str) and content.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, content[3:]
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Bench:
    """Builds by raw requests, and looks at what came out."""

    def __init__(self, engine: LiveEngine, client: docker.DockerClient) -> None:
        self.engine = engine
        self.client = client

    def post(self, files: Files | bytes, **query: str) -> tuple[int, list[dict[str, Any]]]:
        """The status and the lines of the answer."""
        body = files if isinstance(files, bytes) else pack(files)
        head = f"POST /v1.48/build?{urlencode(query)} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
        head += f"Content-Type: application/x-tar\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = self.engine.request(head.encode() + body)
        top, _, rest = answer.partition(b"\r\n\r\n")
        if b"chunked" in top.lower():
            rest = unchunk(rest)
        return int(top.split()[1]), [json.loads(line) for line in rest.splitlines() if line.strip()]

    def build(self, files: Files | bytes, **query: str) -> str:
        """What a good build tells; its image is called ``t`` unless the query says otherwise."""
        status, lines = self.post(files, **{"t": "t", **query})
        assert status == 200 and "error" not in lines[-1], lines[-1]
        return "".join(line.get("stream", "") for line in lines)

    def fail(self, files: Files | bytes, **query: str) -> str:
        """The error of a bad one."""
        status, lines = self.post(files, **query)
        last = lines[-1]
        assert status >= 400 or "error" in last, lines
        return str(last.get("error") or last["message"])

    def run(self, command: str, image: str = "t", **options: Any) -> str:
        """What a shell in the image says."""
        out = self.client.containers.run(image, ["sh", "-c", command], remove=True, entrypoint=[], **options)
        return bytes(out).decode().strip()

    def inspect(self, image: str = "t") -> dict[str, Any]:
        """``inspect``."""
        found = self.client.api.inspect_image(image)
        assert isinstance(found, dict)
        return found

    def history(self, image: str = "t") -> list[str]:
        """What made it, oldest first, without the base's."""
        entries = self.client.api.history(image)
        return [entry["CreatedBy"] for entry in entries[::-1] if entry["Comment"] == "buildkit.dockerfile.v0"]


def unchunk(data: bytes) -> bytes:
    """The content of a chunked body."""
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size or b"0", 16)
        parts.append(data[:length])
        data = data[length + 2 :]
        if not length:
            break
    return b"".join(parts)


@pytest.fixture
def bench(engine: LiveEngine, client: docker.DockerClient) -> Bench:
    """On the shared engine."""
    return Bench(engine, client)


FIRST: Files = {
    "Dockerfile": """FROM busybox AS one
RUN echo built > /made; echo to-stderr >&2
WORKDIR /srv/app
COPY a.txt d ./
ENV Y=1
FROM busybox
COPY --from=one /made /srv /out/
CMD ["cat", "/out/made"]
""",
    "a.txt": "hello\n",
    "d/x": "x",
}


def test_a_build_and_the_same_build_again(bench: Bench) -> None:
    """The second time nothing runs, and the image is the very same."""
    text = bench.build(FIRST, nocache="1")
    assert "Step 1/8 : FROM busybox AS one\n" in text and "\x1b[91mto-stderr\n\x1b[0m" in text
    assert " ---> Running in " in text and "Successfully tagged t:latest\n" in text
    first = bench.inspect()["Id"]
    again = bench.build(FIRST)
    assert "Running" not in again and again.count("Using cache") == 5
    assert bench.inspect()["Id"] == first
    assert bench.run("cat /out/made /out/app/a.txt /out/app/x") == "built\nhello\nx"


def test_history_and_configuration_are_buildkits(bench: Bench) -> None:
    """Every instruction leaves what docker build leaves."""
    dockerfile = """ARG BASE=busybox
FROM $BASE
LABEL a=b
ENV A=1 B="x y"
ARG X=5
RUN ["true"]
USER 1000:1000
WORKDIR /w
EXPOSE 80
VOLUME /v
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s CMD true
SHELL ["/bin/ash", "-c"]
ONBUILD RUN echo later
ENTRYPOINT ["sleep"]
CMD ["1"]
"""
    bench.build({"Dockerfile": dockerfile}, labels='{"from": "request"}', buildargs='{"X": "6"}')
    found = bench.inspect()
    config = found["Config"]
    assert config["Labels"] == {"a": "b", "from": "request"} and config["Env"][1:] == ["A=1", "B=x y"]
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("1000:1000", "/w", "SIGQUIT")
    assert config["ExposedPorts"] == {"80/tcp": {}} and config["Volumes"] == {"/v": {}}
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000}
    assert (config["Shell"], config["OnBuild"]) == (["/bin/ash", "-c"], ["RUN echo later"])
    assert (config["Entrypoint"], config["Cmd"]) == (["sleep"], ["1"])
    assert bench.history() == [
        "LABEL a=b",
        "ENV A=1 B=x y",
        "ARG X=6",
        "RUN |1 X=6 true # buildkit",
        "USER 1000:1000",
        "WORKDIR /w",
        "EXPOSE [80/tcp]",
        "VOLUME [/v]",
        "STOPSIGNAL SIGQUIT",
        'HEALTHCHECK &{["CMD-SHELL" "true"] "5s" "0s" "0s" "0s" \'\\x00\'}',
        "SHELL [/bin/ash -c]",
        'ENTRYPOINT ["sleep"]',
        'CMD ["1"]',
    ]
    assert bench.run("stat -c %u:%g:%a /w") == "1000:1000:755"


def test_a_run_sees_what_it_should_and_leaves_only_what_it_made(bench: Bench) -> None:
    """Environment, user, folder; and of the engine's own mounts nothing is in the layer."""
    dockerfile = """FROM busybox
ENV A=env
ARG B=arg
USER nobody
WORKDIR /tmp
RUN echo $A $B $(id -un) $(pwd) $HOSTNAME > /tmp/seen
"""
    bench.build({"Dockerfile": dockerfile})
    assert bench.run("cat /tmp/seen") == "env arg nobody /tmp buildkitsandbox"
    layer = bench.inspect()["RootFS"]["Layers"][-1]
    names = layer_names(bench, layer)
    assert names == ["tmp/", "tmp/seen"]


def layer_names(bench: Bench, diff_id: str, image: str = "t") -> list[str]:
    """What one layer of an image lists."""
    data = b"".join(bench.client.api.get_image(image))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        manifest = json.loads(archive.extractfile("manifest.json").read())[0]  # type: ignore[union-attr]
        layers = bench.inspect(image)["RootFS"]["Layers"]
        member = archive.extractfile(manifest["Layers"][layers.index(diff_id)])
        assert member is not None
        with tarfile.open(fileobj=io.BytesIO(member.read())) as layer:
            return [f"{each.name}/" if each.isdir() else each.name for each in layer]


@pytest.mark.parametrize(
    ("change", "hits"),
    [({}, 3), ({"b": "other"}, 2), ({"a": "other"}, 1), ({"unused": "other"}, 3)],
)
def test_the_cache_goes_by_content(bench: Bench, change: Files, hits: int) -> None:
    """What changed and all behind it is made again, and nothing else; times do not count."""
    files: Files = {
        "Dockerfile": "FROM busybox\nRUN true\nCOPY a /\nCOPY b /\n",
        "a": "a",
        "b": "b",
        "unused": "x",
    }
    bench.build(files)
    assert bench.build({**files, **change}).count("Using cache") == hits


def test_modes_and_names_are_content_too(bench: Bench) -> None:
    """A file that may be executed is another one."""
    files: Files = {"Dockerfile": "FROM busybox\nCOPY s /\nRUN stat -c %a /f\n", "s/f": "x"}
    bench.build(files)
    assert "755\n" in bench.build(pack(files, 0o755)) and "Using cache" in bench.build(pack(files, 0o755))


def test_a_cached_image_survives_its_name_and_the_engine(own_engine: LiveEngine) -> None:
    """Records and layers are there after the image is gone and the engine was killed."""
    with contextlib.closing(own_engine.client()) as client:
        bench = Bench(own_engine, client)
        files: Files = {"Dockerfile": "FROM busybox\nRUN echo x > /x\nCOPY a /\n", "a": "a"}
        bench.build(files)
        first = bench.inspect()["Id"]
        client.images.remove("t")
        own_engine.stop(9)
        own_engine.start()
        assert bench.build(files).count("Using cache") == 2
        assert bench.inspect()["Id"] == first and bench.run("cat /x /a") == "x\na"
        assert bench.client.api.prune_builds()["SpaceReclaimed"] > 0
        assert bench.client.df()["BuildCache"] == []
        assert bench.build(files).count("Using cache") == 0


def test_a_record_whose_layer_is_gone_is_no_hit(bench: Bench) -> None:
    """The step is made again, and the image is whole."""
    files: Files = {"Dockerfile": "FROM busybox\nRUN echo x > /lost\n"}
    bench.build(files, t="lost")
    layer = bench.inspect("lost")["Descriptor"]["digest"]
    blobs = Path(bench.engine.folder, "root/content/blobs/sha256")
    manifest = json.loads((blobs / layer.removeprefix("sha256:")).read_text())
    (blobs / manifest["layers"][-1]["digest"].removeprefix("sha256:")).unlink()
    assert "Using cache" not in bench.build(files, t="lost") and bench.run("cat /lost", "lost") == "x"
    assert bench.build(files, t="lost").count("Using cache") == 1
    bench.client.images.remove("lost")


def test_independent_stages_run_side_by_side(bench: Bench) -> None:
    """Two stages that wait for each other both come to their end: neither waits for the other to be done."""
    dockerfile = """FROM busybox AS {0}
RUN --mount=type=cache,target=/meet touch /meet/{0}; until [ -e /meet/{1} ]; do usleep 20000; done; echo {0} > /{0}
"""
    whole = dockerfile.format("one", "two") + dockerfile.format("two", "one")
    whole += "FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\n"
    bench.build({"Dockerfile": whole}, nocache="1")
    assert bench.run("cat /one /two") == "one\ntwo"


def test_stages_that_nothing_needs_do_not_run(bench: Bench) -> None:
    """Even if they could not."""
    text = "FROM busybox AS bad\nRUN false\nFROM busybox AS good\nRUN echo ok\nFROM busybox\nRUN false\n"
    assert "Step 2/2 : RUN echo ok" in bench.build({"Dockerfile": text}, target="good")


MOUNTS = """FROM busybox AS other
RUN mkdir /o && echo from-stage > /o/f
FROM busybox
RUN --mount=type=bind,source=d,target=/in --mount=type=bind,from=other,source=/o/f,target=/mnt/file \\
    cat /in/x /mnt/file > /bound && ! touch /in/y
RUN --mount=type=cache,id=c,target=/cache,uid=7,mode=0700 stat -c %u:%a /cache > /cached; date > /cache/kept
RUN --mount=type=cache,id=c,target=/deep/er/cache test -s /deep/er/cache/kept
RUN --mount=type=tmpfs,target=/t,size=4m df /t | grep -q 4096 && touch /t/x
RUN --mount=type=secret,id=none --mount=type=secret,id=none,env=NONE test ! -e /run/secrets/none -a -z "$NONE"
RUN --network=none ! ip addr | grep -q eth0
"""


def test_mounts_of_run(bench: Bench) -> None:
    """Binds of the context and of stages, caches, tmpfs, absent secrets; and none of their places is in the image."""
    bench.build({"Dockerfile": MOUNTS, "d/x": "from-context\n"}, nocache="1")
    assert bench.run("cat /bound /cached") == "from-context\nfrom-stage\n7:700"
    assert bench.run("ls -d /in /mnt /cache /deep /t /run/secrets 2>/dev/null || true") == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "RUN --mount=type=ssh,required true",
            "SSH agent default is not forwarded: build with --ssh default",
        ),
        ("RUN --mount=type=secret,id=tok,required=true cat /run/secrets/tok", "secret tok: not found"),
        ("RUN --security=insecure true", "security.insecure is not allowed: build with --allow"),
        ("RUN --network=host true", "network.host is not allowed"),
        ("RUN exit 7", "The command '/bin/sh -c exit 7' returned a non-zero code: 7"),
        ('RUN ["/nothing"]', "/nothing"),
        (
            "COPY nope /",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat nope",
        ),
        ("COPY --chown=who a /", "unable to find user who"),
        ("COPY --from=busybox /nope /", "nope"),
        ("COPY a /etc/passwd/x", "cannot copy to non-directory: /etc/passwd"),
        ("ADD http://127.0.0.1:9/x /", "http://127.0.0.1:9/x"),
        ("RUNN x", "unknown instruction: RUNN (did you mean RUN?)"),
        ("COPY --frm=x a /", "unknown flag: --frm (did you mean --from?)"),
        ("ENV A=${", "syntax error"),
    ],
)
def test_what_goes_wrong_is_said(bench: Bench, line: str, message: str) -> None:
    """In Docker's words where it has some; and no image comes of it."""
    assert message in bench.fail({"Dockerfile": f"FROM busybox\n{line}\n", "a": "a"}, t="wrong")
    with pytest.raises(docker.errors.ImageNotFound):
        bench.client.images.get("wrong")


def test_an_error_shows_its_lines(bench: Bench) -> None:
    """File, numbers, the lines themselves."""
    found = bench.fail({"x/Dockerfile": "FROM busybox\n\nCOPY \\\n  nope /\n"}, dockerfile="x/Dockerfile")
    assert "x/Dockerfile:3" in found and "   3 >>> COPY \\\n   4 >>>   nope /" in found


def test_the_exit_code_of_a_step_is_told(bench: Bench) -> None:
    """Clients make their own of it."""
    _, lines = bench.post({"Dockerfile": "FROM busybox\nRUN exit 9\n"})
    assert lines[-1]["errorDetail"]["code"] == 9


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"remote": "what is this"}, "invalid context"),
        ({"squash": "1"}, "squash is not supported"),
        ({"t": "A:B:C"}, "invalid reference format"),
        ({"buildargs": "[1]"}, "invalid buildargs"),
        ({"target": "nope"}, "target stage 'nope' could not be found"),
        ({"networkmode": "container:x"}, "cannot share another container's network"),
        ({"dockerfile": "../Dockerfile"}, "forbidden path outside the build context"),
        ({"platform": "what/"}, "invalid platform"),
    ],
)
def test_requests_that_cannot_be_are_refused(bench: Bench, query: dict[str, str], message: str) -> None:
    """Clearly, and before anything runs."""
    assert message in bench.fail({"Dockerfile": "FROM busybox\nRUN true\n"}, **query)


@pytest.mark.parametrize("data", [b"", b"FROM busybox\n", b"\x1f\x8bnot gzip", bytes(1024)])
def test_bodies_that_are_no_context_are_refused(bench: Bench, data: bytes) -> None:
    """No trace, no hang."""
    assert bench.fail(data)


HOSTILE: list[tuple[str, Files]] = [
    ("COPY ../../etc/shadow /", {}),
    ("COPY link /got", {"link": "-> /etc/shadow"}),
    ("COPY link/shadow /got", {"link": "-> /etc"}),
    ("COPY up/shadow /got", {"up": "-> ../../../../../../etc"}),
    ("RUN --mount=type=bind,source=link,target=/m cat /m/shadow", {"link": "-> /etc"}),
    ("RUN --mount=type=bind,source=../../../../etc,target=/m cat /m/shadow", {}),
]


@pytest.mark.parametrize(("line", "files"), HOSTILE, ids=[line for line, _ in HOSTILE])
def test_nothing_of_the_machine_can_be_had_through_a_context(bench: Bench, line: str, files: Files) -> None:
    """Links and dots stay inside it: /etc of the context is not the machine's (CVE-2024-23652 and its kind)."""
    assert "not" in bench.fail({"Dockerfile": f"FROM busybox\n{line}\n", **files})


def test_links_of_a_stage_stay_in_the_stage(bench: Bench) -> None:
    """COPY --from follows them there, cache mounts and targets of mounts too (CVE-2024-23651, CVE-2024-23653)."""
    dockerfile = """FROM busybox AS s
RUN ln -s / /up && ln -s /etc/passwd /pw && ln -s loop /loop && ln -s /nowhere /run/secrets || true
FROM busybox
COPY --from=s /up/pw /copied
RUN ln -s /etc /link
COPY f /link/new
RUN --mount=type=cache,target=/link/cache touch /link/cache/x && test ! -e /etc/../../x
"""
    bench.build({"Dockerfile": dockerfile, "f": "f"})
    assert "root:x:0:0" in bench.run("cat /copied") and bench.run(
        "cat /etc/new; ls /etc/cache 2>&1 | head -1"
    )
    assert "too many symbolic links" in bench.fail(
        {"Dockerfile": "FROM busybox AS s\nRUN ln -s loop /loop\nFROM busybox\nCOPY --from=s /loop/x /\n"}
    )


def test_add_unpacks_archives_and_copy_does_not(bench: Bench) -> None:
    """Plain and compressed, with owners, links and modes; chown is for all of it."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/f", tarfile.REGTYPE), ("d/l", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.mode, info.linkname = kind, 42, 0o750, "f" if name == "d/l" else ""
            info.size = 3 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"in\n"))
    dockerfile = "FROM busybox\nADD a.tgz /x/\nADD --chown=7 a.tgz /y\nCOPY a.tgz /z/\nADD plain /p/\n"
    bench.build({"Dockerfile": dockerfile, "a.tgz": inner.getvalue(), "plain": "text"})
    assert bench.run("stat -c %n:%u:%a /x/d /x/d/f /y/d/f; cat /x/d/l; ls /z /p") == (
        "/x/d:42:750\n/x/d/f:42:750\n/y/d/f:7:750\nin\n/p:\nplain\n\n/z:\na.tgz"
    )


def test_onbuild_triggers_of_a_base_run(bench: Bench) -> None:
    """First of all, and once."""
    bench.build({"Dockerfile": "FROM busybox\nONBUILD COPY a /a\nONBUILD RUN cat /a > /b\n"}, t="trigger")
    text = bench.build({"Dockerfile": "FROM trigger\nRUN cat /b\n", "a": "from-trigger\n"})
    assert "# Executing 2 build triggers\n" in text and "from-trigger\n" in text
    assert bench.inspect()["Config"].get("OnBuild") in (None, [])


def test_a_stage_on_scratch(bench: Bench) -> None:
    """Files and a configuration, and nothing else."""
    dockerfile = "FROM busybox AS b\nFROM scratch\nCOPY --from=b /bin/busybox /bin/sh\nCOPY f /d/f\n"
    bench.build({"Dockerfile": dockerfile + 'RUN ["/bin/sh", "-c", "echo made > /d/g"]\n', "f": "f\n"})
    config = bench.inspect()["Config"]
    assert config["WorkingDir"] == "/" and config["Env"][0].startswith("PATH=/usr/local/sbin")
    assert bench.run("cd /d; read x < f; read y < g; echo $x $y") == "f made"


def test_a_date_can_be_given(bench: Bench) -> None:
    """SOURCE_DATE_EPOCH is the time of everything, and two builds are one image."""
    files: Files = {"Dockerfile": "FROM scratch\nCOPY a /d/\nLABEL x=y\n", "a": "a"}
    args = '{"SOURCE_DATE_EPOCH": "1700000000"}'
    bench.build(files, buildargs=args, nocache="1")
    first = bench.inspect()
    bench.build(files, buildargs=args, nocache="1", t="t2")
    assert first["Created"] == "2023-11-14T22:13:20Z" and bench.inspect("t2")["Id"] == first["Id"]


def test_arguments_that_nobody_asked_for_are_told(bench: Bench) -> None:
    """Docker warns too."""
    text = bench.build({"Dockerfile": "FROM busybox\nARG A\n"}, buildargs='{"A": "1", "TYPO": "2"}')
    assert "[Warning] One or more build-args [TYPO] were not consumed" in text


def test_quiet_is_the_id_alone(bench: Bench) -> None:
    """For scripts."""
    assert bench.build({"Dockerfile": "FROM busybox\nRUN echo loud\n"}, q="1") == f"{bench.inspect()['Id']}\n"


def test_two_builds_share_a_running_step(bench: Bench) -> None:
    """It runs once, both get it."""
    files: Files = {
        "Dockerfile": "FROM busybox\nRUN --mount=type=cache,id=gate,target=/g touch /g/began; "
        "until [ -e /g/go ]; do usleep 20000; done; cat /proc/sys/kernel/random/uuid > /stamp\n"
    }
    gate: Files = {"Dockerfile": "FROM busybox\nRUN --mount=type=cache,id=gate,target=/g {0}\n"}

    def at_gate(command: str) -> None:
        bench.build({"Dockerfile": str(gate["Dockerfile"]).format(command)}, nocache="1", t="gate")

    at_gate("rm -f /g/*")
    texts: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda name=name: texts.update({name: bench.build(files, t=name)}))
        for name in ("first", "second")
    ]
    for thread in threads:
        thread.start()
    at_gate("until [ -e /g/began ]; do usleep 20000; done; touch /g/go")
    for thread in threads:
        thread.join(30)
    assert bench.run("cat /stamp", "first") == bench.run("cat /stamp", "second")
    bench.client.images.remove("first")
    bench.client.images.remove("second")


def build_containers(engine: LiveEngine) -> list[Path]:
    """Folders of containers that run for builds on the engine."""
    with contextlib.closing(engine.client()) as client:
        known = {container.id for container in client.containers.list(all=True)}
    return [path for path in Path(engine.folder, "root/containers").iterdir() if path.name not in known]


SLOW: Files = {"Dockerfile": "FROM busybox\nRUN echo begun; touch /half; sleep 1000\n"}


@contextlib.contextmanager
def slow_build(engine: LiveEngine) -> Iterator[socket.socket]:
    """A build that has begun its long step."""
    body = pack(SLOW)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(engine.socket)
        head = f"POST /build?t=slow&nocache=1 HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        seen = b""
        while b"begun" not in seen.partition(b"Running in")[2]:
            seen += connection.recv(1 << 16)
        yield connection


def test_a_client_that_goes_away_ends_its_step(
    bench: Bench, wait: Callable[[Callable[[], object]], None]
) -> None:
    """Within a second, and nothing is left."""
    with slow_build(bench.engine):
        assert build_containers(bench.engine)
    begin = time.monotonic()
    wait(lambda: not build_containers(bench.engine))
    assert time.monotonic() - begin < 1.5
    wait(lambda: not list(Path(bench.engine.folder, "root/build/tmp").iterdir()))


def test_a_build_is_no_leak_while_it_runs(bench: Bench) -> None:
    """``system check`` knows its containers."""
    with slow_build(bench.engine):
        answer = bench.engine.request(
            b"GET /cais/system/check HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
        )
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["Leaks"] == {}


def test_a_killed_engine_leaves_nothing_half_made(
    own_engine: LiveEngine, wait: Callable[[Callable[[], object]], None]
) -> None:
    """No process, no folder, no name, no record of the step that was under way."""
    with slow_build(own_engine):
        own_engine.stop(9)
    own_engine.start()
    assert not build_containers(own_engine)
    assert not list(Path(own_engine.folder, "root/build/tmp").iterdir())
    assert not list(Path(own_engine.folder, "root/build/cache").iterdir())
    with contextlib.closing(own_engine.client()) as client:
        assert [image.tags for image in client.images.list()] == [["busybox:latest"]]


# Real clients


def test_docker_build(cli: Cli, tmp_path: Path) -> None:
    """The docker command line's classic builder: context, ignore file, another Dockerfile, standard input."""
    (tmp_path / "ctx/sub").mkdir(parents=True)
    for name in ("keep", "drop.log", "sub/x"):
        (tmp_path / "ctx" / name).write_text(name)
    (tmp_path / "ctx/.dockerignore").write_text("*.log\n")
    (tmp_path / "ctx/my.Dockerfile").write_text("FROM busybox\nCOPY . /c\nRUN ls /c /c/sub\n")
    command = ("build", "-t", "cli/one:2", "-f", str(tmp_path / "ctx/my.Dockerfile"), str(tmp_path / "ctx"))
    environment = {**cli.environment(), "DOCKER_BUILDKIT": "0"}
    done = subprocess.run([cli.path, *command], capture_output=True, env=environment, timeout=60, check=False)
    out = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert "Successfully tagged cli/one:2" in out and "drop.log" not in out
    done = subprocess.run(
        [cli.path, "build", "-q", "-"],
        input=b"FROM busybox\nRUN exit 3\n",
        capture_output=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3 and b"returned a non-zero code: 3" in done.stderr
    cli.run("rmi", "cli/one:2")


def test_docker_py_builds(client: docker.DockerClient, tmp_path: Path) -> None:
    """``images.build``, with its errors."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nARG A\nRUN echo got $A\n")
    image, lines = client.images.build(path=str(tmp_path), tag="py:1", buildargs={"A": "7"}, rm=True)
    assert "py:1" in image.tags and any("got 7" in line.get("stream", "") for line in lines)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN false\n")
    with pytest.raises(docker.errors.BuildError, match="non-zero code: 1"):
        client.images.build(path=str(tmp_path))
    client.images.remove("py:1")


def cais(engine: LiveEngine, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Our own command line."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": f"unix://{engine.socket}"}
    command = [sys.executable, "-m", "cais", *words]
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=60, check=False)


def test_cais_build(bench: Bench, tmp_path: Path) -> None:
    """Context with every kind of file, Dockerfile outside of it or on standard input, ids into a file."""
    ctx = tmp_path / "ctx"
    (ctx / "deep").mkdir(parents=True)
    (ctx / ("n" * 150)).write_text("long")
    (ctx / "deep/link").symlink_to("../real")
    (ctx / "real").write_bytes(b"r" * 3_000_000)
    os.link(ctx / "real", ctx / "twin")
    (ctx / os.fsdecode(b"raw\xff")).write_text("raw")
    (ctx / ".dockerignore").write_text("deep\n!deep/link\n*.tmp\n")
    (ctx / "x.tmp").touch()
    (tmp_path / "Other").write_text("FROM busybox\nCOPY . /c/\nRUN cd /c && ls -A && stat -c %h real\n")
    done = cais(
        bench.engine,
        "build",
        "-t",
        "own",
        "-f",
        str(tmp_path / "Other"),
        "--iidfile",
        str(tmp_path / "id"),
        str(ctx),
    )
    assert done.returncode == 0, done.stderr.decode()
    out = done.stderr.decode(errors="replace")
    assert "x.tmp" not in out and "deep\n" in out and "naming to docker.io/library/own:latest" in out
    assert (tmp_path / "id").read_text() == bench.inspect("own")["Id"]
    assert (
        bench.run("cd /c; stat -c %h real; wc -c < deep/link; cat n*; cat raw*", "own")
        == "2\n3000000\nlongraw"
    )
    done = cais(bench.engine, "build", "-q", "-", stdin=b"FROM busybox\nLABEL a=b\n")
    assert done.stdout.startswith(b"sha256:"), done.stderr
    done = cais(bench.engine, "build", "-", stdin=b"FROM busybox\nRUN exit 5\n")
    assert done.returncode == 5 and b"non-zero code: 5" in done.stderr
    bench.client.images.remove("own")


def test_cais_build_check(bench: Bench) -> None:
    """Warnings with their lines, by Docker's names; nothing is built."""
    done = cais(bench.engine, "build", "--check", "-", stdin=b"FROM busybox\nCMD x\nENV API_KEY=$NOPE\n")
    out = done.stdout.decode()
    assert done.returncode == 1 and "WARNING: JSONArgsRecommended - Dockerfile:2" in out
    assert "SecretsUsedInArgOrEnv" in out and "UndefinedVar" in out and "3 warnings found" in out
    done = cais(bench.engine, "build", "--check", "-", stdin=b'FROM busybox\nCMD ["x"]\n')
    assert done.returncode == 0 and b"no warnings found" in done.stdout


def test_cais_builder_prune(own_engine: LiveEngine) -> None:
    """Says what went, and how much."""
    cais(own_engine, "build", "-", stdin=b"FROM busybox\nRUN echo x > /x\n")
    done = cais(own_engine, "builder", "prune", "-f")
    assert done.returncode == 0 and b"Total:" in done.stdout and len(done.stdout.splitlines()) == 2
