"""The keeper's records of what it started: tasks, execs, and how each comes to run and to end."""

import array
import errno
import fcntl
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any

from cais.linux import pidfd as pidfds
from cais.runtime.init import NAMESPACE_FLAGS
from cais.runtime.streams import StandardStreams

now_ns = time.time_ns
CONTROL_SIZE = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4)
MAX_EARLY = 8
STARTING, RUNNING, ENDED, REPORTED = range(4)


class Failure(Exception):
    """A request that cannot be done; ``kind`` is the name of the error class on the other side."""

    def __init__(self, kind: str, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.kind, self.text, self.code = kind, text, code


class Process:
    """A task's first process, or an exec of it.

    ``record`` is plain data that survives this keeper: what a successor needs to go on (``adopt``), beside
    the descriptors. ``sync``: the socket to the child until its execve."""

    __slots__ = (
        "cgroup",
        "changes_pid",
        "code",
        "early",
        "exec_id",
        "exit",
        "going",
        "id",
        "io",
        "master",
        "mounts",
        "oom",
        "paused",
        "pid",
        "pidfd",
        "record",
        "reply",
        "started_ns",
        "state",
        "sync",
        "terminal",
    )  # fmt: skip

    def __init__(self, id: str, exec_id: str, cgroup: str) -> None:
        self.id, self.exec_id, self.cgroup = id, exec_id, cgroup
        self.pid = self.pidfd = self.master = self.mounts = -1
        self.sync: socket.socket | None = None
        self.io: StandardStreams | None = None
        self.state = STARTING
        self.started_ns = 0
        self.code: int | None = None
        self.exit: dict[str, Any] | None = None
        self.oom = False
        self.paused = False
        self.terminal = self.going = False
        self.record: dict[str, Any] = {}
        self.reply: Callable[..., None] | None = None
        self.changes_pid = False
        self.early: list[tuple[int, bytes, list[int]]] = []

    @property
    def key(self) -> tuple[str, str]:
        """What the engine calls it."""
        return self.id, self.exec_id

    def describe(self) -> dict[str, Any]:
        """The wire form of ``runtime.base.TaskState``."""
        state = {"id": self.id, "exec_id": self.exec_id, "pid": self.pid, "started_ns": self.started_ns}
        return {**state, "paused": self.paused, "exit": self.exit}

    def receive(self) -> tuple[bytes, list[int]]:
        """The next report of the process that is meant; one of its successor in a pid namespace waits until that is
        known to us. What a tracer sends in somebody else's place is none: the kernel says who sent it (unix(7),
        SCM_CREDENTIALS). BlockingIOError when there is nothing yet."""
        while True:
            sender, data, fds = self._take()
            if not data or sender == self.pid:
                return data, fds
            if self.changes_pid and len(self.early) < MAX_EARLY:
                self.early.append((sender, data, fds))
            else:
                close_all(fds)

    def _take(self) -> tuple[int, bytes, list[int]]:
        if self.early and not self.changes_pid:
            return self.early.pop(0)
        assert self.sync is not None
        data, extra, _, _ = self.sync.recvmsg(65536, CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC)
        fds, sender = array.array("i"), self.pid
        for _, kind, content in extra:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
            elif kind == socket.SCM_CREDENTIALS:
                sender = struct.unpack_from("=i", content)[0]
        return sender, data, fds.tolist()

    def hand_over(self, io: StandardStreams) -> tuple[dict[str, Any], list[int]]:
        """What a successor of this keeper needs to go on: a record, and the descriptors that its ``names`` name."""
        names, fds = ["pidfd"], [self.pidfd]
        for fd, stream in io.outputs.items():
            names.append("master" if io.terminal else stream)
            fds.append(fd)
        if io.stdin >= 0 and not io.terminal:
            names.append("stdin")
            fds.append(io.stdin)
        record = {**self.record, "id": self.id, "exec_id": self.exec_id, "pid": self.pid, "names": names}
        state = {"cgroup": self.cgroup, "started_ns": self.started_ns, "paused": self.paused}
        return record | state, fds

    def collect(self, *, last: bool) -> bool:
        """Fetch the exit code; False when it cannot be had yet. ``last``: give up and call it 255."""
        code = pidfds.reap(self.pidfd)
        if code is None:
            code = pidfds.exit_code(self.pidfd)
        if code is None and not last:
            return False
        self.code = 255 if code is None else code
        return True

    def signal(self, number: int) -> None:
        """Signal it; ProcessLookupError when it has ended."""
        if self.pidfd < 0 or self.state >= ENDED:
            raise ProcessLookupError(errno.ESRCH, "no such process")
        pidfds.send_signal(self.pidfd, number)

    def kill(self) -> None:
        """SIGKILL, whatever its state."""
        try:
            if self.pidfd >= 0:
                pidfds.send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

    def hold_mounts(self) -> None:
        """Keep the mount namespace until ``drop_mounts``. With its last process the kernel would take forty mounts
        apart and wait for a grace period before it says that the process has ended (namespace_unlock in
        fs/namespace.c)."""
        try:
            self.mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has ended already
            self.mounts = -1

    def drop_mounts(self) -> None:
        """Let the kernel take them apart, now. Idempotent."""
        if self.mounts >= 0:
            os.close(self.mounts)
        self.mounts = -1

    def end(self, oom: bool) -> None:
        """Note the exit; ``collect`` has fetched the code."""
        self.state = ENDED
        self.oom = oom
        self.exit = {
            "id": self.id,
            "exec_id": self.exec_id,
            "code": self.code,
            "time_ns": now_ns(),
            "oom": oom,
        }


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that nobody wanted."""
    for fd in fds:
        os.close(fd)


def take_over(record: dict[str, Any], fds: list[int]) -> tuple[Process, dict[int, str], int]:
    """The process that ``hand_over`` described, its outputs, and the descriptor of its input (-1: none)."""
    process = Process(record["id"], record["exec_id"], record["cgroup"])
    process.pid, process.started_ns, process.paused = record["pid"], record["started_ns"], record["paused"]
    kept = ("log", "stdin_once", "own_pid_namespace", "traces")
    process.record = {name: record[name] for name in kept if name in record}
    outputs: dict[int, str] = {}
    feed = -1
    for name, fd in zip(record["names"], fds, strict=True):
        if name == "pidfd":
            process.pidfd = fd
        elif name == "stdin":
            feed = fd
        else:
            outputs[fd] = "stdout" if name == "master" else name
            feed = fd if name == "master" else feed
    process.terminal = "master" in record["names"]
    return process, outputs, feed


def make_stdio(
    process: dict[str, Any], open_stdin: bool, attach: bool
) -> tuple[tuple[int, int, int], dict[int, str], int]:
    """The child's three descriptors, our ends of the outputs, and our end of the input (-1: none)."""
    opened = [null := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)]
    if process.get("terminal"):
        return (null, null, null), {}, -1
    try:
        stdin, feed = os.pipe() if open_stdin else (null, -1)
        opened += [stdin, feed]
        if not attach:
            return (stdin, null, null), {}, feed
        out, out_write = os.pipe()
        opened += [out, out_write]
        err, err_write = os.pipe()
    except OSError:  # too many open files
        close_all(set(opened) - {-1})
        raise
    for fd in (out, err):
        grow_pipe(fd)
    if open_stdin:
        os.close(null)
    return (stdin, out_write, err_write), {out: "stdout", err: "stderr"}, feed


def grow_pipe(fd: int) -> None:
    """A larger pipe: fewer wake-ups in a storm of output. The limit per user may refuse it; the default works
    too."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 18)
    except OSError:
        return


def is_new(spec: dict[str, Any], kind: str) -> bool:
    """Whether the specification asks for a new namespace of this kind."""
    return any(ns["type"] == kind and not ns.get("path") for ns in spec["linux"].get("namespaces", []))


def open_namespaces(spec: dict[str, Any], opened: list[int]) -> list[tuple[int, int]]:
    """Descriptors and clone flags of the namespaces to join; also appended to ``opened``, for the caller to
    close."""
    joins = []
    for namespace in spec["linux"].get("namespaces", []):
        if namespace.get("path"):
            fd = os.open(namespace["path"], os.O_RDONLY | os.O_CLOEXEC)
            opened.append(fd)
            joins.append((fd, NAMESPACE_FLAGS[namespace["type"]]))
    return joins


def parse_report(report: bytes) -> tuple[str, int, str]:
    """The step, errno and text of a failure. A tracer may have written it: then it is whatever it is."""
    step, _, rest = report.decode("utf-8", "replace").partition("\0")
    number, _, text = rest.partition("\0")
    return step, int(number) if number.isascii() and number.isdigit() and len(number) < 4 else 0, text


def describe_failure(text: str, report: bytes, status: int) -> Failure:
    """The init's report, or its silence, as Docker words it: 127 not found, 126 not executable, 128 the
    rest."""
    if report:
        step, number, reason = parse_report(report)
        program = step in ("find_program", "execute")
        if program and number in (errno.ENOENT, errno.ENOTDIR):
            return Failure("TaskFailed", reason, 127)
        if program:
            return Failure("TaskFailed", reason, 126)
        return Failure("TaskFailed", f"{step.replace('_', ' ')}: {reason}", 128)
    if not text:
        code = pidfds.decode_status(status)
        text = (
            "container init was OOM-killed (memory limit too low?)"
            if code == 137
            else f"container init ended with {code}"
        )
    return Failure("TaskFailed", text, 128)
