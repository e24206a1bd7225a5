"""`run`, `exec`, `attach` and `logs` against a real engine."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "cais")
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
SECONDS = 30.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
]


@pytest.fixture(autouse=True)
def speak_to_the_engine(host: str) -> None:
    """Every command of these tests goes to the shared engine."""
    ENV["CAIS_HOST"] = host


def cais(*argv: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    given = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    return subprocess.run([*PROGRAM, *argv], env=ENV, capture_output=True, timeout=SECONDS, **given)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def box() -> Iterator[str]:
    """A running container."""
    name = f"cais-test-{os.getpid()}-{time.monotonic_ns()}"
    assert cais("run", "-d", "--name", name, "busybox", "sleep", "1000").returncode == 0
    yield name
    cais("rm", "-f", name)


class Typist:
    """The program on a terminal of its own, and somebody who types."""

    def __init__(self, *argv: str) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execve(PROGRAM[0], [*PROGRAM, *argv], ENV)
        self.seen = b""
        self.grow(30, 100)

    def grow(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def wait_for(self, text: bytes) -> None:
        end = time.monotonic() + SECONDS
        while text not in self.seen:
            assert time.monotonic() < end and self._read(), f"never saw {text!r} in {self.seen!r}"
        self.seen = self.seen.partition(text)[2]

    def exit_code(self) -> int:
        while self._read():
            pass
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self._terminal], [], [], SECONDS)[0]:
            return False
        try:
            data = os.read(self._terminal, 65536)
        except OSError:
            return False
        self.seen += data
        return bool(data)


def test_output_and_code() -> None:
    """Both streams arrive apart, the exit code is the container's."""
    done = cais("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


@pytest.mark.parametrize(("command", "code"), [("nope", 127), ("/etc", 126)])
def test_cannot_run(command: str, code: int) -> None:
    """A program that is missing or no program has the shell's codes."""
    done = cais("run", "--rm", "busybox", command)
    assert done.returncode == code and done.stderr.startswith(b"cais: Error response from daemon: ")


def test_killed() -> None:
    """A container that dies of SIGKILL exits 137."""
    name = f"cais-killed-{os.getpid()}"
    run = [*PROGRAM, "run", "--rm", "--name", name, "busybox", "sh", "-c", "echo up; sleep 1000"]
    with subprocess.Popen(run, env=ENV, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        assert cais("kill", name).stdout == f"{name}\n".encode()
        assert process.wait(SECONDS) == 137


def test_much_data_both_ways() -> None:
    """Input larger than any buffer comes back whole while nothing deadlocks, and ends with stdin."""
    data = bytes(range(256)) * 40_000
    done = cais("run", "-i", "--rm", "busybox", "cat", input=data)
    assert done.returncode == 0 and done.stdout == data


def test_process_that_does_not_read() -> None:
    """Input nobody reads does not keep the program from ending."""
    assert cais("run", "-i", "--rm", "busybox", "true", input=b"x" * 10_000_000).returncode == 0


def test_reader_that_goes_away() -> None:
    """A closed pipe ends the program quietly."""
    command = f"{' '.join(PROGRAM)} run --rm busybox seq 1000000 | head -n 1"
    done = subprocess.run(command, shell=True, env=ENV, capture_output=True, timeout=SECONDS)
    assert done.stdout == b"1\n" and b"Traceback" not in done.stderr


def test_signals_are_passed_on() -> None:
    """SIGTERM to the program reaches the process inside, which decides."""
    script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        [*PROGRAM, "run", "--rm", "busybox", "sh", "-c", script], env=ENV, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout and run.stdout.readline() == b"ready\n"
        run.send_signal(signal.SIGTERM)
        assert run.stdout.read() == b"got\n" and run.wait(SECONDS) == 9


def test_exec(box: str) -> None:
    """A command in a running container has its own streams, environment and exit code."""
    done = cais(
        "exec", "-i", "-e", "A=b", "-w", "/tmp", box, "sh", "-c", "cat; echo $A $PWD >&2; exit 4", input=b"in"
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"in", b"b /tmp\n", 4)


def test_logs(box: str) -> None:
    """Logs keep the streams apart; --tail counts lines."""
    name = f"{box}-logs"
    cais("run", "--name", name, "busybox", "sh", "-c", "echo a; echo b; echo c >&2")
    try:
        done = cais("logs", name)
        assert (done.stdout, done.stderr) == (b"a\nb\n", b"c\n")
        tail = cais("logs", "--tail", "1", "-t", name)
        assert len((tail.stdout + tail.stderr).splitlines()) == 1
    finally:
        cais("rm", name)


def test_terminal_size() -> None:
    """The container's terminal is as large as ours, and grows with it."""
    typist = Typist("run", "-it", "--rm", "busybox", "sh")
    typist.wait_for(b"# ")
    typist.type(b"stty size\n")
    typist.wait_for(b"30 100")
    typist.grow(40, 120)
    typist.type(b"until stty size | grep 40; do sleep 0.05; done\n")
    typist.wait_for(b"40 120")
    typist.type(b"exit 3\n")
    assert typist.exit_code() == 3


def test_detach_and_attach() -> None:
    """The detach keys leave the container running; attach comes back to it."""
    name = f"cais-tty-{os.getpid()}"
    try:
        typist = Typist("run", "-it", "--name", name, "busybox", "sh")
        typist.wait_for(b"# ")
        typist.type(b"\x10\x11")
        assert typist.exit_code() == 0
        typist = Typist("attach", "--detach-keys", "ctrl-x", name)
        typist.type(b"echo again\n")
        typist.wait_for(b"\nagain")
        typist.type(b"\x18")
        assert typist.exit_code() == 1 and b"read escape sequence" in typist.seen
        assert cais("inspect", "-f", "{{.State.Status}}", name).stdout == b"running\n"
    finally:
        cais("rm", "-f", name)


def test_exec_with_a_terminal(box: str) -> None:
    """exec -t gives a terminal, and the command's code comes back."""
    typist = Typist("exec", "-it", box, "sh", "-c", "tty; exit 5")
    typist.wait_for(b"/dev/pts/")
    assert typist.exit_code() == 5


def test_terminal_is_given_back(box: str) -> None:
    """After a run with a terminal, and after being killed by SIGTERM, the terminal's mode is as before."""
    for end in (lambda typist: typist.type(b"exit\n"), lambda typist: os.kill(typist.pid, signal.SIGTERM)):
        typist = Typist("exec", "-it", box, "sh")
        before = termios.tcgetattr(typist._terminal)
        typist.wait_for(b"# ")
        assert termios.tcgetattr(typist._terminal) != before
        wait_until_restored(typist, before, end)


def wait_until_restored(typist: Typist, before: list[object], end: Callable[[Typist], None]) -> None:
    end(typist)
    limit = time.monotonic() + SECONDS
    while termios.tcgetattr(typist._terminal) != before:
        assert time.monotonic() < limit
        os.sched_yield()
    typist.exit_code()


def test_terminal_needs_a_terminal() -> None:
    """-it without a terminal is refused before anything is made."""
    done = cais("run", "-it", "busybox", "sh")
    assert (done.returncode, done.stderr) == (1, b"the input device is not a TTY\n")


def test_start_attached(box: str) -> None:
    """start -a shows the output and gives back the code."""
    name = f"{box}-again"
    cais("create", "--name", name, "busybox", "sh", "-c", "echo hi; exit 6")
    try:
        done = cais("start", "-a", name)
        assert (done.stdout, done.returncode) == (b"hi\n", 6)
    finally:
        cais("rm", name)
