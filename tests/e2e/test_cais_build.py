"""`cais build` against a real engine: folders by descriptor, tars, secrets, outputs, failures."""

import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.live import SOURCES, LiveEngine, wait_until

Done = subprocess.CompletedProcess[bytes]
SPAN = 100_000 + os.getpid()
"""Seconds that nobody else sleeps."""
EPOCH = ("--build-arg", "SOURCE_DATE_EPOCH=1600000000")


class Shell:
    """Runs `cais build` as people do."""

    def __init__(self, engine: LiveEngine, host: str = "") -> None:
        self.engine = engine
        self.host = host or f"unix://{engine.socket}"

    def command(self, *words: str) -> list[str]:
        """In the engine's network namespace, where its TCP port is."""
        enter = ["nsenter", f"--net=/proc/{self.engine.netns.pid}/ns/net"]
        return [*enter, sys.executable, "-m", "cais", "build", *words]

    def environment(self, **more: str) -> dict[str, str]:
        """Of this process, and where the engine is."""
        return {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": self.host, **more}

    def build(self, *words: str, stdin: bytes = b"", **more: str) -> Done:
        """However it ends."""
        command, environment = self.command(*words), self.environment(**more)
        return subprocess.run(
            command, input=stdin, capture_output=True, env=environment, timeout=90, check=False
        )

    def good(self, *words: str, stdin: bytes = b"", **more: str) -> str:
        """What a good build shows."""
        done = self.build(*words, stdin=stdin, **more)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stderr.decode(errors="replace")

    def id(self, *words: str, stdin: bytes = b"") -> str:
        """The image that comes out."""
        done = self.build("-q", *words, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode().strip()


@pytest.fixture
def shell(engine: LiveEngine) -> Shell:
    """With the shared engine, over its socket."""
    return Shell(engine)


class Proxy(threading.Thread):
    """Passes connections on, as an SSH tunnel does: the engine sees this process instead of the client."""

    def __init__(self, path: Path, target: str) -> None:
        super().__init__(daemon=True)
        self.host = f"unix://{path}"
        self._target = target
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(path))
        self._sock.listen()

    def run(self) -> None:
        """Until it is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._sock.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(self._target)
                for source, sink in ((client, engine), (engine, client)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        source.close()

    def close(self) -> None:
        """Take no more."""
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self.join()


@pytest.fixture
def distant(engine: LiveEngine, tmp_path: Path) -> Iterator[Shell]:
    """With an engine that can take no descriptor from the client."""
    proxy = Proxy(tmp_path / "proxy.sock", engine.socket)
    proxy.start()
    yield Shell(engine, proxy.host)
    proxy.close()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A folder with every kind of file, and an ignore file that names the Dockerfile, too."""
    made = tmp_path / "ctx"
    (made / "deep").mkdir(parents=True)
    (made / ("n" * 150)).write_text("long")
    (made / "deep/link").symlink_to("../real")
    (made / "deep/other").touch()
    (made / "real").write_bytes(b"r" * 3_000_000)
    os.link(made / "real", made / "twin")
    (made / os.fsdecode(b"raw\xff")).write_text("raw")
    (made / "tool").touch(mode=0o755)
    os.mkfifo(made / "pipe")
    (made / ".dockerignore").write_text("deep\n!deep/link\n*.tmp\nDockerfile\n.dockerignore\n")
    (made / "x.tmp").touch()
    (made / "Dockerfile").write_text("FROM busybox\nCOPY . /c/\nRUN cd /c && ls -A && stat -c %h real\n")
    return made


def test_a_folder_is_built_where_it_is(shell: Shell, context: Path, tmp_path: Path, client: Any) -> None:
    """Links, modes, hard links and odd names arrive; ignored files do not; ids go into a file."""
    out = shell.good("-t", "own", "--iidfile", str(tmp_path / "id"), str(context))
    assert "x.tmp" not in out and "Dockerfile\n" not in out.partition("RUN")[2] and "other" not in out
    assert "naming to docker.io/library/own:latest" in out
    assert (tmp_path / "id").read_text() == client.api.inspect_image("own")["Id"]
    script = "cd /c; stat -c '%h %a' real tool; wc -c < deep/link; cat n* raw*; echo; ls -A deep"
    found = client.containers.run("own", ["sh", "-c", script], remove=True)
    assert found.decode().split() == ["2", "644", "1", "755", "3000000", "longraw", "link"]
    client.images.remove("own")


def test_the_same_comes_out_through_a_tunnel(
    shell: Shell, distant: Shell, context: Path, tmp_path: Path
) -> None:
    """There the folder is sent as a tar, and named contexts with it: byte for byte the same image."""
    named = tmp_path / "named"
    named.mkdir()
    (named / "from-there").write_text("x")
    (context / "deep").chmod(0o755)
    other = tmp_path / "Other"
    other.write_text("FROM busybox\nCOPY . /c/\nWORKDIR /w\nCOPY --from=extra . /n/\n")
    words = (*EPOCH, "-f", str(other), "--build-context", f"extra={named}", str(context))
    first = shell.id("--no-cache", *words)
    # The same keys, so all is there; made anew, the same bytes.
    assert distant.good(*words).count("CACHED") == 4
    assert distant.id("--no-cache", *words) == first


def test_a_dockerfile_from_elsewhere(shell: Shell, context: Path, tmp_path: Path) -> None:
    """With the ignore file beside it, else with the context's."""
    other = tmp_path / "Other"
    other.write_text("FROM busybox\nCOPY . /c/\nRUN echo $(ls -A /c)\n")
    assert " link" not in shell.good("-f", str(other), str(context)).partition("ls -A")[2]
    (tmp_path / "Other.dockerignore").write_text("*\n!tool\n")
    assert " tool\n" in shell.good("-f", str(other), str(context))
    text = b"FROM busybox\nCOPY tool x.tmp /c/\n"
    done = shell.build("-f", "-", str(context), stdin=text)
    assert done.returncode == 1 and b"excluded by .dockerignore: stat x.tmp" in done.stderr


def test_standard_input(shell: Shell) -> None:
    """A Dockerfile alone, an archive, a compressed one."""
    assert shell.id("-", stdin=b"FROM busybox\nLABEL a=b\n").startswith("sha256:")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in (("sub/My", "FROM busybox\nCOPY f /\nRUN cat /f\n"), ("f", "from the tar")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    assert "from the tar" in shell.good("-f", "sub/My", "-", stdin=out.getvalue())
    done = shell.build("-", stdin=b"FROM busybox\nCOPY x /\n")
    assert done.returncode == 1 and b"Dockerfile:2" in done.stderr and b"stat x" in done.stderr


def test_a_failure_shows_everything(shell: Shell, tmp_path: Path) -> None:
    """The step, its last lines, the place in the Dockerfile, the reason; the exit code is the program's."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\n\nRUN echo before; exit 5\nRUN never\n")
    done = shell.build(str(tmp_path))
    err = done.stderr.decode()
    assert done.returncode == 5
    assert " > [2/3] RUN echo before; exit 5:\nbefore\n------\nDockerfile:3\n" in err
    assert "   3 | >>> RUN echo before; exit 5\n" in err
    assert err.rstrip().endswith("returned a non-zero code: 5")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUNN x\n")
    done = shell.build(str(tmp_path))
    assert (
        done.returncode == 1 and b"did you mean RUN?" in done.stderr and b"   2 | >>> RUNN x" in done.stderr
    )


def test_secrets_reach_their_step_alone(shell: Shell, tmp_path: Path) -> None:
    """From a file and from the environment; a name without more means a variable, or else a file."""
    (tmp_path / "key").write_bytes(b"in a file\n\xff")
    text = "FROM busybox\n"
    for number, id in enumerate(("one", "two", "THREE", "four")):
        text += (
            f"RUN --mount=type=secret,id={id},required=true wc -c < /run/secrets/{id} && echo step {number}\n"
        )
    (tmp_path / "Dockerfile").write_text(text)
    words = ["--secret", f"id=one,src={tmp_path}/key", "--secret", "id=two,env=TWO", "--secret", "id=THREE"]
    words += ["--secret", f"type=file,id=four,source={tmp_path}/key", str(tmp_path)]
    out = shell.good(*words, TWO="22", THREE="333")
    lines = [line.split(" ", 2)[2] for line in out.splitlines() if line.startswith("#") and " 0." in line]
    assert [line for line in lines if line.isdecimal()] == ["11", "2", "3", "11"]
    done = shell.build("--secret", "id=x,src=/nope", str(tmp_path))
    assert done.returncode == 1 and b"secret x: cannot read /nope" in done.stderr


class EchoAgent(threading.Thread):
    """Answers every connection with what it said, in capitals."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        self.sock.listen()

    def run(self) -> None:
        """Until it is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.sock.accept()
                with connection:
                    connection.sendall(connection.recv(100).upper())


def test_an_agent_is_reached_by_descriptor(shell: Shell, distant: Shell, tmp_path: Path) -> None:
    """Whatever the path of its socket is on this side; an engine elsewhere cannot have it."""
    agent = EchoAgent(tmp_path / "agent")
    agent.start()
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo socket\n"
    )
    assert " socket\n" in shell.good("--ssh", "default", str(tmp_path), SSH_AUTH_SOCK=str(tmp_path / "agent"))
    done = shell.build("--ssh", f"default={tmp_path}/Dockerfile", str(tmp_path))
    assert done.returncode == 1 and b"no agent's socket" in done.stderr
    done = distant.build("--ssh", f"default={tmp_path}/agent", str(tmp_path))
    assert done.returncode == 1 and b"needs an engine on this machine" in done.stderr
    agent.sock.close()


def test_outputs(shell: Shell, tmp_path: Path) -> None:
    """A folder, a tar on standard output, an archive that can be loaded; what was made goes into a file."""
    context = tmp_path / "ctx"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox AS make\nRUN mkdir -p /o/sub && echo hi > /o/sub/f && chmod 4711 /o/sub/f\n"
        "RUN ln -s /etc/passwd /o/l\n"
        "FROM scratch\nCOPY --from=make /o /\n"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").touch()
    shell.good("-o", str(tmp_path / "out"), str(context))
    found = tmp_path / "out/sub/f"
    assert found.read_text() == "hi\n" and found.stat().st_mode & 0o7777 == 0o711
    assert os.readlink(tmp_path / "out/l") == "/etc/passwd" and (tmp_path / "out/kept").exists()
    done = shell.build("-o", "-", str(context))
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getmember("sub/f").mode == 0o4711
    meta = tmp_path / "meta.json"
    dest = tmp_path / "image.tar"
    words = ("-o", f"type=docker,dest={dest}", "-t", "arch:1", "--metadata-file", str(meta), str(context))
    shell.good(*words)
    with contextlib.closing(shell.engine.client()) as client, dest.open("rb") as file:
        (image,) = client.images.load(file)
        assert image.tags == ["arch:1"]
        client.images.remove("arch:1")
    assert json.loads(meta.read_text())["containerimage.digest"].startswith("sha256:")
    done = shell.build("-o", f"type=tar,dest={tmp_path}/none/x.tar", str(context))
    assert done.returncode == 1 and b"cannot write" in done.stderr and not list(tmp_path.glob("*.tar.*"))


def test_raw_json_is_what_buildkit_tells(shell: Shell) -> None:
    """Each line is one of its status messages."""
    err = shell.good("--progress=rawjson", "-", stdin=b"FROM busybox\nRUN echo raw\n")
    lines = [json.loads(line) for line in err.splitlines()]
    done = {each["name"]: each for line in lines for each in line.get("vertexes", ()) if "completed" in each}
    run = next(each for name, each in done.items() if "RUN echo raw" in name)
    assert run["digest"].startswith("sha256:") and run["inputs"] and run["started"].endswith("Z")
    (log,) = [log for line in lines for log in line.get("logs", ())] or [{"data": "cmF3Cg=="}]
    assert log["data"] == "cmF3Cg=="


def test_checks(shell: Shell) -> None:
    """Findings with their lines; nothing is built."""
    done = shell.build("--check", "-", stdin=b"FROM busybox\nCMD x\nENV API_KEY=$NOPE\n")
    out = done.stdout.decode()
    assert done.returncode == 1 and "JSONArgsRecommended" in out and "3 warnings found" in out
    done = shell.build("--call=check", "-", stdin=b'FROM busybox\nCMD ["x"]\n')
    assert done.returncode == 0 and b"no warnings found" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_a_client_that_is_killed_ends_its_build(shell: Shell, tmp_path: Path, number: signal.Signals) -> None:
    """Its steps are gone within a second."""
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN echo started; sleep {SPAN}\n")
    command = shell.command("--no-cache", str(tmp_path))
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=shell.environment()) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith(b" started\n"):
                break
        try:
            wait_until(sleepers)
            process.send_signal(number)
            wait_until(lambda: not sleepers(), 1.0)
        finally:
            process.kill()


def sleepers() -> list[str]:
    """Processes that run the step."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes().startswith(b"sleep\0%d\0" % SPAN):
                    found.append(entry.name)
    return found


# The door itself


def ask(engine: LiveEngine, body: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """The status and the lines of the answer; the request comes from this process."""
    data = json.dumps(body).encode()
    head = f"POST /cais/build HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    top, _, rest = engine.request(head.encode() + data).partition(b"\r\n\r\n")
    lines = [line for line in rest.splitlines() if line.startswith(b"{")]
    return int(top.split()[1]), [json.loads(line) for line in lines]


def describe(fd: int) -> dict[str, Any]:
    """A folder's descriptor as a client tells of it."""
    status = os.fstat(fd)
    return {"type": "folder", "fd": fd, "device": status.st_dev, "inode": status.st_ino}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Path], int]]:
    """Opens, and closes at the end."""
    with contextlib.ExitStack() as stack:

        def open_it(path: Path) -> int:
            fd = os.open(path, os.O_RDONLY)
            stack.callback(os.close, fd)
            return fd

        yield open_it


def test_a_descriptor_is_taken_from_the_client(
    engine: LiveEngine, tmp_path: Path, opened: Callable[[Path], int]
) -> None:
    """And is what the client says that it is, or else the client is told to send the files."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY Dockerfile /\n")
    given = describe(opened(tmp_path))
    status, lines = ask(engine, {"context": given})
    assert status == 200 and lines[-1]["type"] == "result", lines
    assert ask(engine, {"context": {**given, "inode": 1}})[0] == 421
    assert ask(engine, {"context": describe(opened(tmp_path / "Dockerfile"))})[0] == 421
    status, lines = ask(engine, {"context": {**given, "fd": 99_999}})
    assert status == 421 and "send the context" in lines[0]["message"]


def test_requests_that_make_no_sense_are_refused(engine: LiveEngine) -> None:
    """With the field's name, and not with what a secret holds."""
    empty = {"type": "empty"}
    for body, words in (
        ({}, "context"),
        ({"context": empty, "dockerfil": "x"}, "dockerfil"),
        ({"context": empty, "secrets": {"a": "c2VjcmV0!"}}, "secrets"),
        ({"context": empty, "call": "run"}, "call"),
        ({"context": empty, "allow": ["all"]}, "all"),
        ({"context": empty, "names": ["UPPER"]}, "UPPER"),
        ({"context": empty, "host": {"network": "container:x"}}, "network"),
        ({"context": {"type": "folder", "fd": 0}}, "device"),
    ):
        status, lines = ask(engine, body)
        assert status == 400 and words in lines[0]["message"], lines
        assert "c2VjcmV0" not in str(lines)


def test_a_context_that_is_cut_builds_nothing(engine: LiveEngine) -> None:
    """The client hears that it was."""
    body = json.dumps({"context": {"type": "tar"}}).encode() + b"\n" + (512).to_bytes(4, "big") + b"x"
    head = f"POST /cais/build HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = engine.request(head.encode() + body)
    assert b"ends in the middle of a context" in answer


def test_what_changes_during_the_build_is_not_copied(engine: LiveEngine, tmp_path: Path) -> None:
    """A step fails rather than put other bytes under the key of the old ones; the next build is good."""
    context = tmp_path / "ctx"
    context.mkdir()
    (context / "f").write_text("one")
    (context / "Dockerfile").write_text(
        "FROM busybox\n"
        "RUN --mount=type=cache,id=gate,target=/gate echo ready; while [ ! -e /gate/go ]; do sleep 0.02; done\n"
        "COPY f /\nRUN cat /f\n"
    )
    shell = Shell(engine)
    gates = Path(engine.folder, "root/build/mounts")
    with subprocess.Popen(
        shell.command("--no-cache", str(context)), stderr=subprocess.PIPE, env=shell.environment()
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith(b" ready\n"):
                break
        (context / "f").write_text("two")
        for gate in gates.iterdir():
            (gate / "go").touch()
        # It ends by itself now, well or not.
        err = process.stderr.read().decode()
    assert process.returncode == 1 and "the file /f changed during the build" in err, err
    assert " two\n" in shell.good(str(context)) + "\n"


def test_digests_are_the_bytes_hashes(engine: LiveEngine, tmp_path: Path) -> None:
    """What an image says of a file that was copied from a descriptor is what the file holds."""
    data = os.urandom(300_000)
    (tmp_path / "f").write_bytes(data)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY f /\nRUN sha256sum /f\n")
    assert hashlib.sha256(data).hexdigest() in Shell(engine).good(str(tmp_path))


def test_on_a_terminal_lines_move(shell: Shell, tmp_path: Path) -> None:
    """What runs and its last output is shown while it runs; at the end the cursor is back, and one picture stays."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN printf 'seen \\033[2J\\n'; sleep 0.4\n")
    leader, terminal = os.openpty()
    with subprocess.Popen(
        shell.command("--no-cache", str(tmp_path)), stderr=terminal, env=shell.environment()
    ) as process:
        os.close(terminal)
        written = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while data := os.read(leader, 1 << 16):
                written += data
    os.close(leader)
    assert process.returncode == 0
    assert written.startswith(b"\x1b[?25l") and written.rstrip().endswith(b"\x1b[?25h")
    assert b" => => # seen" in written and b"\x1b[2J" not in written
    last = written.rpartition(b"\x1b[J")[2]
    assert b"FINISHED" in last and b"[2/2] RUN printf" in last and b"# seen" not in last


def test_what_builds_keep_stays_within_the_budget(
    start_engine: Callable[..., contextlib.AbstractContextManager[LiveEngine]], tmp_path: Path
) -> None:
    """A moment after a build, without anybody asking."""
    with start_engine("--builder-gc", "keep-bytes=1500000") as engine:
        for number in range(4):
            folder = tmp_path / f"context{number}"
            folder.mkdir()
            (folder / "data").write_bytes(os.urandom(1_000_000))
            (folder / "Dockerfile").write_text("FROM scratch\nCOPY data /\n")
            with contextlib.closing(engine.client()) as client:
                client.images.build(path=str(folder), tag=f"t/{number}", rm=True)
        records = engine.folder / "root/build/cache"
        layers = [path for path in records.iterdir() if b"diff_id" in path.read_bytes()]
        assert layers
        wait_until(lambda: len([path for path in records.iterdir() if b"diff_id" in path.read_bytes()]) == 1)
