"""What a container that may trace processes learns from those that the keeper starts in its sight."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cais.errors import TaskFailed, Unavailable
from cais.linux.seccomp_compile import compile_profile
from cais.runtime.base import ExecStart
from cais.runtime.processes import Process as Tracked
from cais.runtime.processes import close_all, describe_failure
from cais.spec.runtimespec import Box as Size
from cais.spec.runtimespec import Capabilities, Linux, Mount, Namespace, Process
from cais.spec.seccomp_default import DEFAULT_PROFILE
from harness.boxes import CAPABILITIES, DEADLINE, Box, frames, read_all

pytestmark = pytest.mark.kernel

HALVES = ("a-secret-of-", "another-container")
TRACING = (*CAPABILITIES, "CAP_SYS_PTRACE")
MANY = 5


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the program that searches others' memory; skips without a C compiler."""
    folder = tmp_path_factory.mktemp("reader")
    if not shutil.which("gcc"):
        pytest.skip("the reader needs a C compiler: install gcc and libc6-dev")
    source = Path(__file__).with_name("reader.c")
    subprocess.run(["gcc", "-O1", "-static", "-o", folder / "reader", source], check=True)
    return folder


def holding(names: tuple[str, ...]) -> Capabilities:
    """All three sets that a container's root has."""
    return Capabilities(bounding=names, effective=names, permitted=names)


class Lines:
    """The lines a task prints."""

    def __init__(self, sock) -> None:
        self.sock, self.data = sock, b""

    async def next(self, seconds: float = DEADLINE) -> str:
        """One more line, without its end; TimeoutError."""
        while b"\n" not in (text := b"".join(data for _, data in frames(self.data))):
            more = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 65536), seconds)
            assert more, "the task has ended"
            self.data += more
        line, _, rest = text.partition(b"\n")
        self.data = b"\x01\0\0\0" + len(rest).to_bytes(4, "big") + rest if rest else b""
        return line.decode()


async def pid_of(box: Box, id: str) -> int:
    """The task's first process."""
    return next(task.pid for task in await box.driver.list() if task.id == id)


@contextlib.asynccontextmanager
async def watching(
    box: Box, reader: Path, *words: str, names: tuple[str, ...] = TRACING
) -> AsyncIterator[Lines]:
    """A container "run" that searches the memory of whatever appears in it, beside one with a secret."""
    # Many copies: what is freed is overwritten by and by, and one that is left is enough.
    secrets = tuple(f"PASSWORD{number}={''.join(HALVES)}" for number in range(1000))
    await box.start("other", "sleep", "100", env=("PATH=/bin", *secrets))
    mounts = (Mount("/reader", str(reader), "bind", ("rbind", "ro")),)
    spec = box.spec("run", "/reader/reader", *HALVES, *words, capabilities=holding(names), mounts=mounts)
    with await box.driver.attach("run", "", stdin=False, stdout=True, stderr=True) as sock:
        await box.driver.start(box.request("run", spec))
        lines = Lines(sock)
        assert await lines.next() == "ready"
        yield lines


def make_exec(number: int, *args: str, seccomp: bytes = b"", **process: object) -> ExecStart:
    """An exec in the watching container."""
    values = {"env": ("PATH=/bin",), "capabilities": holding(TRACING), **process}
    return ExecStart("run", f"e{number}", Process(args=args, **values), seccomp=seccomp)  # type: ignore[arg-type]


async def watch_execs(box: Box, lines: Lines, **options: object) -> list[list[str]]:
    """What was seen of each of a few execs: capabilities, seccomp mode, descriptors, verdict, program."""
    seen = []
    for number in range(10 * MANY):
        await box.driver.exec(make_exec(number, "sleep", "0.1", **options))  # type: ignore[arg-type]
        assert (await box.ended()).code == 0
        seen.append((await lines.next()).split()[1:6])
        if number >= MANY and any("busybox" not in program for *_, program in seen):
            return seen
    raise AssertionError(f"never caught one before its execve: {seen}")


@pytest.mark.parametrize("no_new_privileges", [False, True])
async def test_an_exec_shows_a_tracing_container_only_itself(
    box: Box, reader: Path, no_new_privileges: bool
) -> None:
    """From the first moment on: no memory of others, no right that the container has not (CVE-2016-9962)."""
    async with watching(box, reader) as lines:
        filter = compile_profile(DEFAULT_PROFILE, TRACING, box.base)
        seen = await watch_execs(box, lines, seccomp=filter, no_new_privileges=no_new_privileges)
        own = Path(f"/proc/{await pid_of(box, 'run')}/status").read_text().splitlines()
    for capabilities, seccomp, descriptors, verdict, _ in seen:
        assert (verdict, seccomp) == ("clean", "2")
        assert f"CapPrm:\t{capabilities}" in own
        assert int(descriptors) <= 4  # 0, 1, 2 and the way to tell the keeper


async def test_an_exec_with_more_rights_makes_the_container_a_tracing_one(box: Box, reader: Path) -> None:
    """exec --privileged: from then on its children may trace, and a keeper that takes over knows it too."""
    async with watching(box, reader, names=CAPABILITIES):
        command = ("/reader/reader", *HALVES)
        with await box.driver.attach("run", "e100", stdin=False, stdout=True, stderr=True) as sock:
            await box.driver.exec(make_exec(100, *command))
            lines = Lines(sock)
            assert await lines.next() == "ready"
            os.kill(box.driver.pid, signal.SIGKILL)
            async with asyncio.timeout(DEADLINE):
                while not await tasks_of(box):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        with await box.driver.attach("run", "e100", stdin=False, stdout=True, stderr=True) as sock:
            seen = await watch_execs(box, Lines(sock))
    assert {line[3] for line in seen} == {"clean"}


async def tasks_of(box: Box) -> bool:
    """Whether a keeper is there that knows both tasks and the exec."""
    try:
        return len(await box.driver.list()) == 3
    except Unavailable:
        return False


async def test_a_container_that_cannot_trace_sees_nothing(box: Box, reader: Path) -> None:
    """Its execs are forks of the keeper, which it may not look into; what it can look into is the program itself."""
    async with watching(box, reader, names=CAPABILITIES) as lines:
        seen = []
        for number in range(10 * MANY):
            program = make_exec(number, "sleep", "0.1", capabilities=holding(CAPABILITIES))
            await box.driver.exec(program)
            seen.append(await lines.next())
            assert (await box.ended()).code == 0
            if "refused" in seen[-1]:
                return
            assert "clean" in seen[-1] and "busybox" in seen[-1]  # it looked too late, after the execve
    raise AssertionError(f"never caught one before its execve: {seen}")


async def test_a_container_that_joins_its_pid_namespace_is_clean(box: Box, reader: Path) -> None:
    """--pid container:X: the keeper's memory is not shown to X either."""
    async with watching(box, reader) as lines:
        spec = box.spec("new", "sleep", "0.1")
        values = {name: getattr(spec.linux, name) for name in spec.linux.__struct_fields__}
        path = f"/proc/{await pid_of(box, 'run')}/ns/pid"
        joined = tuple(
            Namespace("pid", path) if space.type == "pid" else space for space in spec.linux.namespaces
        )
        fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
        spec = type(spec)(**fields | {"linux": Linux(**values | {"namespaces": joined})})
        for _ in range(MANY):
            assert (await box.run_spec(box.request("new", spec)))[0] == 0
            *_, verdict, program = (await lines.next()).split()[1:6]
            assert (verdict, "busybox" in program) == ("clean", False)


async def test_an_exec_in_a_tracing_container_has_a_terminal(box: Box) -> None:
    """Its own session on it, and signals from the keyboard arrive."""
    await box.start("run", "sleep", "100", capabilities=holding(TRACING))
    with await box.driver.attach("run", "e1", stdin=True, stdout=True, stderr=True) as sock:
        script = 'trap "echo caught; exit 9" INT; tty; stty size; while true; do sleep 0.01; done'
        await box.driver.exec(make_exec(1, "sh", "-c", script, terminal=True, console_size=Size(11, 22)))
        loop, text = asyncio.get_running_loop(), b""
        while b"11 22" not in text:
            text += await asyncio.wait_for(loop.sock_recv(sock, 1000), DEADLINE)
        await loop.sock_sendall(sock, b"\x03")
        text += await read_all(sock)
    assert b"/dev/pts/0" in text and b"caught" in text
    assert (await box.ended()).code == 9


@pytest.mark.parametrize(("program", "code"), [("nosuch", 127), ("/etc/passwd", 126), ("/bin/bad", 126)])
async def test_an_exec_of_nothing_fails_there_too(box: Box, program: str, code: int) -> None:
    """With the same errors, at whichever moment, and nothing is left."""
    bad = box.base / "run/upper/bin/bad"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"\x7fELF")
    bad.chmod(0o755)
    await box.start("run", "sleep", "100", capabilities=holding(TRACING))
    with pytest.raises(TaskFailed) as caught:
        await box.driver.exec(make_exec(1, program))
    assert caught.value.exit_code == code
    assert len(await box.driver.list()) == 1
    assert len(await box.driver.pids("run")) == 1


async def test_who_keeps_the_dead_to_himself_holds_nobody_up(box: Box, reader: Path) -> None:
    """A tracer can hide a child's end from the keeper (ptrace(2)): the start fails, and others are served meanwhile."""
    bad = box.base / "run/upper/bin/bad"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"\x7fELF")
    bad.chmod(0o755)
    async with watching(box, reader, "keep") as lines:
        for number in range(20):
            failing = asyncio.ensure_future(box.driver.exec(make_exec(number, "/bin/bad")))
            for _ in range(10):
                await asyncio.wait_for(box.driver.pids("other"), 0.5)
            with pytest.raises(TaskFailed):
                await asyncio.wait_for(failing, DEADLINE)
            with contextlib.suppress(TimeoutError):
                assert await lines.next(0.2)
                break  # it was caught
        else:
            pytest.fail("never caught one")


@pytest.mark.slow
async def test_a_start_that_is_held_for_ever_is_given_up(box: Box, reader: Path) -> None:
    """When somebody asks for the truth: else the next engine would wait for it for ever."""
    async with watching(box, reader, "hold"):
        for number in range(20):
            held = asyncio.ensure_future(box.driver.exec(make_exec(number, "sleep", "0.1")))
            if not (await asyncio.wait((held,), timeout=1))[0]:
                break
        assert f"e{number}" not in {task.exec_id for task in await box.driver.list()}
        with pytest.raises(TaskFailed, match="took too long"):
            await held


def test_what_a_stranger_reports_does_not_count() -> None:
    """Only the process that is meant is heard; its successor when it is known; descriptors of others are closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    process = Tracked("id", "exec", "group")
    process.sync, process.pid, process.changes_pid = ours, os.getpid(), True
    with ours, theirs:
        stranger = os.fork()
        if not stranger:
            socket.send_fds(theirs, [b"P1"], [0])
            os._exit(0)
        os.waitpid(stranger, 0)
        theirs.send(b"P2")
        assert process.receive() == (b"P2", [])
        process.pid, process.changes_pid = stranger, False
        data, fds = process.receive()
        close_all(fds)
        theirs.send(b"P3")
        ours.setblocking(False)
        assert data == b"P1" and len(fds) == 1
        with pytest.raises(BlockingIOError):
            process.receive()


@pytest.mark.parametrize("report", [b"\0\0", b"\xff", b"execute\0x\0", b"\0" * 9, b"step\0" + b"9" * 9999])
def test_a_forged_report_is_no_accident(report: bytes) -> None:
    """The keeper survives whatever stands in a report of failure."""
    assert describe_failure("", report, 0).code in (126, 128)
