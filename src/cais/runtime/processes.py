"""The keeper's records of what it started: tasks, execs, and how each comes to run and to end."""

import errno
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from cais.linux import pidfd as pidfds
from cais.runtime.init import NAMESPACE_FLAGS
from cais.runtime.streams import StandardStreams

now_ns = time.time_ns
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
        "exec_id",
        "exit",
        "going",
        "id",
        "io",
        "master",
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
        self.pid = self.pidfd = self.master = -1
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

    @property
    def key(self) -> tuple[str, str]:
        """What the engine calls it."""
        return self.id, self.exec_id

    def describe(self) -> dict[str, Any]:
        """The wire form of ``runtime.base.TaskState``."""
        state = {"id": self.id, "exec_id": self.exec_id, "pid": self.pid, "started_ns": self.started_ns}
        return {**state, "paused": self.paused, "exit": self.exit}

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


def make_stdio(
    process: dict[str, Any], open_stdin: bool, attach: bool
) -> tuple[tuple[int, int, int], dict[int, str], int]:
    """The child's three descriptors, our ends of the outputs, and our end of the input (-1: none)."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    if process.get("terminal"):
        return (null, null, null), {}, -1
    stdin, feed = os.pipe() if open_stdin else (null, -1)
    if not attach:
        return (stdin, null, null), {}, feed
    out, out_write = os.pipe()
    err, err_write = os.pipe()
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


def describe_failure(text: str, report: bytes, status: int) -> Failure:
    """The init's report, or its silence, as Docker words it: 127 not found, 126 not executable, 128 the
    rest."""
    if report:
        values = json.loads(report)
        program = values["step"] in ("find_program", "execute")
        if program and values["errno"] in (errno.ENOENT, errno.ENOTDIR):
            return Failure("TaskFailed", values["text"], 127)
        if program:
            return Failure("TaskFailed", values["text"], 126)
        return Failure("TaskFailed", f"{values['step'].replace('_', ' ')}: {values['text']}", 128)
    if not text:
        code = pidfds.decode_status(status)
        text = (
            "container init was OOM-killed (memory limit too low?)"
            if code == 137
            else f"container init ended with {code}"
        )
    return Failure("TaskFailed", text, 128)
