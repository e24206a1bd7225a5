"""The unmodified docker command line, verb by verb."""

import contextlib
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

Cli = Any


@pytest.fixture
def name(request: pytest.FixtureRequest, cli: Cli) -> Iterator[str]:
    """A container name of this test's own; the container is removed afterwards."""
    text = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    yield text
    cli.run("rm", "-f", text, check=False)


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 7", 7), ("sh -c 'kill -9 $$'; exit $?", 137)]
)
def test_exit_codes(cli: Cli, command: str, code: int) -> None:
    """The program's exit status is docker's."""
    assert cli.run("run", "--rm", "busybox", "sh", "-c", command, check=False).returncode == code


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/etc", 126), ("/etc/passwd", 126)])
def test_programs_that_cannot_start(cli: Cli, program: str, code: int) -> None:
    """127 not found, 126 not executable, and the reason once."""
    run = cli.run("run", "--rm", "busybox", program, check=False)
    assert run.returncode == code and run.stderr.count(program.encode()) == 1


def test_unknown_image(cli: Cli) -> None:
    """125, and dockerd's words for a missing image."""
    run = cli.run("create", "--pull", "never", "no-such-image", check=False)
    assert run.returncode == 1 and b"No such image: no-such-image:latest" in run.stderr


def test_streams_apart(cli: Cli) -> None:
    """Standard output and error arrive each in its own."""
    run = cli.run("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (run.stdout, run.stderr) == (b"out\n", b"err\n")


def test_stdin_is_closed(cli: Cli) -> None:
    """The end of standard input reaches the program, which then answers."""
    assert cli.text("run", "-i", "--rm", "busybox", "wc", "-c", stdin=b"x" * 3_000_000) == "3000000"


def test_output_is_whole(cli: Cli) -> None:
    """Nothing is cut off at the end, however fast the program ends."""
    for _ in range(5):
        run = cli.run("run", "--rm", "busybox", "sh", "-c", "seq 20000")
        assert run.stdout.endswith(b"19999\n20000\n") and run.stdout.count(b"\n") == 20000


def test_detached_life(cli: Cli, name: str) -> None:
    """run -d, ps, logs, stop, start, restart, kill, rm."""
    cli.run(
        "run",
        "-d",
        "--name",
        name,
        "--stop-signal",
        "KILL",
        "busybox",
        "sh",
        "-c",
        "echo up; exec sleep 1000",
    )
    assert (
        cli.text("ps", "--filter", f"name={name}", "--format", "{{.Names}} {{.State}}") == f"{name} running"
    )
    assert cli.text("logs", name) == "up"
    cli.run("stop", name)
    assert cli.text("wait", name) == "137"
    cli.run("start", name)
    cli.run("restart", "-t", "0", name)
    cli.run("kill", name)
    assert cli.text("ps", "-a", "--filter", f"name={name}", "--format", "{{.State}}") == "exited"
    cli.run("rm", name)
    assert cli.run("inspect", name, check=False).returncode == 1


def test_exec(cli: Cli, name: str) -> None:
    """Input, output, user, folder, environment and exit status of an exec."""
    cli.run("run", "-d", "--name", name, "busybox", "sleep", "1000")
    assert cli.text("exec", "-i", name, "cat", stdin=b"through") == "through"
    words = ("exec", "-u", "nobody", "-w", "/tmp", "-e", "A=b", name, "sh", "-c", "id -u; pwd; echo $A")
    assert cli.text(*words).split() == ["65534", "/tmp", "b"]
    assert cli.run("exec", name, "sh", "-c", "exit 9", check=False).returncode == 9
    assert cli.run("exec", name, "no-such-program", check=False).returncode == 127


def test_exec_detached(cli: Cli, name: str) -> None:
    """exec -d returns at once and the program runs."""
    cli.run(
        "run",
        "-d",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "until [ -e /tmp/flag ]; do sleep 0.02; done; echo seen",
    )
    cli.run("exec", "-d", name, "touch", "/tmp/flag")
    cli.run("wait", name)
    assert cli.text("logs", name) == "seen"


def test_pause_rename_top_update(cli: Cli, name: str) -> None:
    """The verbs about a running container."""
    cli.run("run", "-d", "--name", f"{name}-old", "busybox", "sleep", "1000")
    cli.run("rename", f"{name}-old", name)
    assert "sleep 1000" in cli.text("top", name)
    cli.run("pause", name)
    assert cli.text("inspect", "-f", "{{.State.Status}}", name) == "paused"
    cli.run("unpause", name)
    cli.run("update", "--memory", "64m", "--memory-swap", "64m", name)
    assert cli.text("inspect", "-f", "{{.HostConfig.Memory}}", name) == str(64 << 20)


def test_logs_follow(cli: Cli, name: str) -> None:
    """logs -f ends with the container and has everything."""
    cli.run(
        "run", "-d", "--name", name, "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.05; done"
    )
    assert cli.text("logs", "-f", name).split() == ["1", "2", "3"]
    assert cli.text("logs", "--tail", "1", name) == "3"


def test_attach_from_the_start(cli: Cli, name: str) -> None:
    """start -a shows the output from the first byte and ends with the program's status."""
    cli.run("create", "--name", name, "busybox", "sh", "-c", "echo first; exit 3")
    run = cli.run("start", "-a", name, check=False)
    assert (run.stdout, run.returncode) == (b"first\n", 3)


def test_volumes(cli: Cli, name: str) -> None:
    """A named volume keeps its files, and cannot be removed while a container mounts it."""
    cli.run("run", "--rm", "-v", f"{name}:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    cli.run("run", "--name", name, "-v", f"{name}:/data:ro", "busybox", "cat", "/data/file")
    assert cli.text("logs", name) == "kept"
    refused = cli.run("volume", "rm", name, check=False)
    assert b"volume is in use" in refused.stderr
    cli.run("rm", name)
    cli.run("volume", "rm", name)


def test_images(cli: Cli, name: str) -> None:
    """tag, images, history, inspect, save, rmi, load."""
    cli.run("tag", "busybox", f"{name}:one")
    assert cli.text("images", "--format", "{{.Repository}}:{{.Tag}}", name) == f"{name}:one"
    assert cli.text("image", "inspect", "-f", "{{.Os}}", f"{name}:one") == "linux"
    assert "IMAGE" in cli.text("history", f"{name}:one")
    archive = cli.run("save", f"{name}:one").stdout
    cli.run("rmi", f"{name}:one")
    assert cli.text("load", stdin=archive) == f"Loaded image: {name}:one"
    cli.run("rmi", f"{name}:one")


def test_export_and_import(cli: Cli, name: str) -> None:
    """A container's root, running or not, can be exported and made an image of."""
    cli.run("run", "-d", "--name", name, "busybox", "sh", "-c", "echo x > /mark; exec sleep 1000")
    running = cli.run("export", name).stdout
    cli.run("kill", name)
    stopped = cli.run("export", name).stdout
    assert len(stopped) == len(running)
    cli.run("import", "-", f"{name}:imported", stdin=running)
    assert cli.text("run", "--rm", f"{name}:imported", "cat", "/mark") == "x"
    cli.run("rmi", f"{name}:imported")


def test_events(cli: Cli, name: str) -> None:
    """Past events by name, in order."""
    since = str(int(time.time()))
    cli.run("run", "--name", name, "busybox", "true")
    words = (
        "events",
        "--since",
        since,
        "--until",
        str(int(time.time()) + 1),
        "--filter",
        f"container={name}",
    )
    lines = cli.text(*words, "--format", "{{.Action}}").split("\n")
    assert [line for line in lines if line in ("create", "start", "die")] == ["create", "start", "die"]


def test_system(cli: Cli) -> None:
    """info, version, df, stats, network ls answer."""
    assert cli.text("info", "-f", "{{.Driver}}") == "overlayfs"
    assert cli.text("version", "-f", "{{.Server.MinAPIVersion}}") == "1.24"
    assert "Images" in cli.text("system", "df")
    assert set(cli.text("network", "ls", "--format", "{{.Name}}").split()) >= {"bridge", "host", "none"}


class Terminal:
    """A docker client on a pseudo-terminal."""

    def __init__(self, cli: Cli, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(cli.path, [cli.path, *words], cli.environment())
        self.seen = b""

    def expect(self, text: bytes) -> None:
        """Read until ``text`` was seen."""
        end = time.monotonic() + 20
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.fd], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.fd, 65536)

    def type(self, text: bytes) -> None:
        """Type it."""
        os.write(self.fd, text)

    def close(self) -> int:
        """Read what is left and wait for the client's end; its exit status."""
        try:
            with contextlib.suppress(OSError):
                while data := os.read(self.fd, 65536):
                    self.seen += data
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        finally:
            os.close(self.fd)


def test_terminal(cli: Cli) -> None:
    """run -it: a terminal of the client's size, the program's status at the end."""
    terminal = Terminal(cli, "run", "-it", "--rm", "busybox", "sh", "-c", "read a; stty size; tty; exit $a")
    subprocess.run(["stty", "rows", "33", "cols", "101"], stdin=terminal.fd, check=True)
    time.sleep(0)
    terminal.type(b"5\n")
    terminal.expect(b"/dev/pts/0")
    assert terminal.close() == 5


def test_detach_keys(cli: Cli, name: str) -> None:
    """ctrl-p ctrl-q leaves the program running; attach comes back to it."""
    terminal = Terminal(cli, "run", "-it", "--name", name, "busybox", "cat")
    terminal.type(b"hello\n")
    terminal.expect(b"hello\r\nhello")
    terminal.type(b"\x10\x11")
    assert terminal.close() == 0
    assert cli.text("inspect", "-f", "{{.State.Running}}", name) == "true"
    back = Terminal(cli, "attach", "--detach-keys", "ctrl-x", name)
    back.type(b"again\n")
    back.expect(b"again\r\nagain")
    back.type(b"\x18")
    assert back.close() == 1 and b"read escape sequence" in back.seen


def test_killed_client(cli: Cli, name: str) -> None:
    """A client that is killed while attached leaves its container running and usable."""
    process = subprocess.Popen(
        [cli.path, "run", "--name", name, "busybox", "sh", "-c", "echo up; exec sleep 1000"],
        stdout=subprocess.PIPE,
        env=cli.environment(),
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        process.kill()
    assert cli.text("exec", name, "echo", "alive") == "alive"
