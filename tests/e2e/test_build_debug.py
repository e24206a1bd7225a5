"""`cais build --debug` against a real engine: the step as it failed, and nothing of it afterwards."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.builds import cgroup_processes, check_clean
from harness.live import SOURCES, LiveEngine, wait_until

DOCKERFILE = """FROM busybox
ARG TOLD=yes
ENV KEPT=1
RUN echo nobody > /made
WORKDIR /work
COPY given .
USER 65534
RUN --mount=type=secret,id=s,mode=0444 --mount=type=cache,target=/c,uid=65534 --mount=type=tmpfs,target=/t \\
    echo half > /tmp/half && touch /c/cached && cat /run/secrets/s && exit 7
"""


class Shell:
    """Builds one folder."""

    def __init__(self, engine: LiveEngine, context: Path) -> None:
        self.engine = engine
        self.context = context

    def command(self, *words: str) -> list[str]:
        """With a secret."""
        secret = f"id=s,src={self.context}/../secret"
        return [sys.executable, "-m", "cais", "build", "--secret", secret, *words, str(self.context)]

    @property
    def environment(self) -> dict[str, str]:
        """Of this process, and where the engine is."""
        return {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": f"unix://{self.engine.socket}"}

    def run(self, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """However it ends."""
        environment = {**self.environment, **more}
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            env=environment,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )


@pytest.fixture
def shell(engine: LiveEngine, tmp_path: Path) -> Iterator[Shell]:
    """With a project whose last step fails; at the end nothing may be left in the engine."""
    context = tmp_path / "project"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "given").write_text(f"{tmp_path}")
    (tmp_path / "secret").write_text("hush-hush")
    yield Shell(engine, context)
    check_clean(engine)


def test_a_command_sees_the_step_as_it_failed(shell: Shell) -> None:
    """Its files and those below, mounts, secrets, variables, folder and user; the build's exit code is the step's."""
    script = (
        "pwd; id -u; cat /tmp/half /made; cat /run/secrets/s; echo; echo $KEPT $TOLD; ls /c; cat given; echo; "
        "grep -c ' /t tmpfs' /proc/mounts; hostname; echo bad >&2; exit 3"
    )
    done = shell.run(f"--debug={script}")
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines() == [
        "/work",
        "65534",
        "half",
        "nobody",
        "hush-hush",
        "1 yes",
        "cached",
        (shell.context / "given").read_text(),
        "1",
        "buildkitsandbox",
    ]
    assert "\nbad\n" in done.stderr
    assert done.stderr.rstrip().endswith("exit code: 7") or "returned a non-zero code: 7" in done.stderr


def test_a_build_that_succeeds_opens_nothing(shell: Shell) -> None:
    """And one that fails elsewhere does not either."""
    good = DOCKERFILE.replace("exit 7", "true")
    (shell.context / "Dockerfile").write_text(good)
    done = shell.run("--debug=echo here")
    assert done.returncode == 0 and "here" not in done.stdout
    (shell.context / "Dockerfile").write_text("FROM busybox\nCOPY nothing /\n")
    done = shell.run("--debug=echo here")
    assert done.returncode == 1 and "here" not in done.stdout


def test_a_shell_for_people_needs_a_terminal(shell: Shell) -> None:
    """Refused before anything is built."""
    done = shell.run("--debug")
    assert done.returncode == 125 and "--debug=COMMAND" in done.stderr and "RUN" not in done.stderr


def test_a_step_without_a_shell_says_so(shell: Shell) -> None:
    """The build fails with its own error all the same."""
    (shell.context / "Dockerfile").write_text(
        'FROM busybox AS b\nFROM scratch\nCOPY --from=b /bin/busybox /busybox\nRUN ["/busybox", "false"]\n'
    )
    done = shell.run("--debug=echo here")
    assert done.returncode == 1 and "no shell: " in done.stderr and "/bin/sh" in done.stderr


@contextlib.contextmanager
def terminal(shell: Shell) -> Iterator["Terminal"]:
    """`cais build --debug` on a terminal of its own; killed at the end if it still runs."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(sys.executable, shell.command("--debug", "--progress", "plain"), shell.environment)
    found = Terminal(pid, fd)
    try:
        yield found
    finally:
        found.kill()
        os.close(fd)


class Terminal:
    """What a person sees and types."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd
        self.seen = ""
        self.status: int | None = None

    def type(self, text: str) -> None:
        """Keys."""
        os.write(self.fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Until it is on the screen."""

        def there() -> bool:
            self._read()
            return text in self.seen

        wait_until(there)

    def _read(self) -> None:
        while select.select((self.fd,), (), (), 0)[0]:
            try:
                data = os.read(self.fd, 1 << 16)
            except OSError:  # nobody has the other end any more
                return
            self.seen += data.decode(errors="replace")

    def end(self) -> int:
        """The exit code."""

        def has_ended() -> bool:
            self._read()  # or it would wait for us
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            return bool(pid)

        if self.status is None:
            wait_until(has_ended)
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        """At once."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.end()


def test_people_get_a_shell(shell: Shell) -> None:
    """A terminal with their input; when they leave, the build says how it ended."""
    with terminal(shell) as screen:
        screen.wait_for("This is the failed step")
        screen.type("tty; echo $((6 * 7)) $PWD; cat /run/secrets/s; echo; stty size\n")
        screen.wait_for("42 /work")
        screen.wait_for("hush-hush")
        assert "/dev/" in screen.seen
        screen.type("exit 5\n")
        screen.wait_for("ERROR: ")
        assert screen.end() == 7


def test_nobody_else_waits_for_the_one_who_looks(shell: Shell) -> None:
    """Another build of the same makes the step itself, and fails at once."""
    # Without the secret: steps that were given one are nobody else's anyway.
    (shell.context / "Dockerfile").write_text(f"FROM busybox\nRUN echo {shell.context} && exit 7\n")
    with terminal(shell) as screen:
        screen.wait_for("This is the failed step")
        assert shell.run().returncode == 7
        screen.type("echo st''ill\n")
        screen.wait_for("still")
        screen.type("exit\n")
        assert screen.end() == 7


@pytest.mark.parametrize("whose", ["client", "shell"])
def test_nothing_stays_when_the_client_goes(shell: Shell, whose: str) -> None:
    """Neither the shell and what was started in it, nor the step: with the client, or with the shell alone."""
    with terminal(shell) as screen:
        screen.wait_for("This is the failed step")
        screen.type("sleep 1000 & trap '' TERM HUP INT; echo st''arted\n")
        screen.wait_for("started")
        assert len(cgroup_processes(shell.engine)) >= 2
        if whose == "client":
            screen.kill()
        else:
            screen.type("exit 1\n")
            screen.wait_for("ERROR: ")
            assert screen.end() == 7
        wait_until(lambda: not cgroup_processes(shell.engine), 5)


def test_nothing_stays_when_the_engine_is_killed(own_engine: LiveEngine, tmp_path: Path) -> None:
    """The next one clears it all away."""
    context = tmp_path / "killed"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "given").touch()
    (tmp_path / "secret").write_text("hush-hush")
    with terminal(Shell(own_engine, context)) as screen:
        screen.wait_for("This is the failed step")
        screen.type("sleep 1000 & echo st''arted\n")
        screen.wait_for("started")
        own_engine.stop(signal.SIGKILL)
        own_engine.start()
        check_clean(own_engine)
        assert screen.end() != 0


def test_tokens_are_needed_and_are_good_once(shell: Shell) -> None:
    """Whoever does not know one gets nothing."""
    body = b"{}"
    head = (
        b"POST /cais/build/%s/attach HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    answer = shell.engine.request(head % (b"0" * 32, len(body)) + body)
    assert b" 404 " in answer.partition(b"\r\n")[0] and b"its build is over" in answer
