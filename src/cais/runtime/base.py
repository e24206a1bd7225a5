"""The contract between containers and whatever runs their processes: the Driver protocol and its values."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cais.spec.runtimespec import Process, Resources, RootMount, Spec


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Where a task's output goes. ``driver`` json-file, local or none; ``path`` the file; ``max_size`` bytes
    of one file (0: no limit); ``max_files`` files kept, the current one included."""

    driver: str = "json-file"
    path: str = ""
    max_size: int = 0
    max_files: int = 1


@dataclass(frozen=True, slots=True)
class TaskStart:
    """All that is needed to run a container's first process.

    ``netns``: descriptor of a network namespace to enter, -1 when the runtime spec says (new, host or a
    path). ``seccomp``: a compiled BPF program (array of struct sock_filter), empty for unconfined.
    ``open_stdin``: the process gets a pipe (or the terminal); else /dev/null. ``stdin_once``: end of the
    first attached client closes it."""

    id: str
    spec: Spec
    rootfs: RootMount
    netns: int = -1
    seccomp: bytes = b""
    open_stdin: bool = False
    stdin_once: bool = False
    log: LogOptions = LogOptions()


@dataclass(frozen=True, slots=True)
class ExecStart:
    """One more process in a running task; namespaces, root and cgroup are the task's own."""

    id: str
    exec_id: str
    process: Process
    seccomp: bytes = b""
    open_stdin: bool = False
    attach: bool = True
    """False: output goes to /dev/null (``exec -d``)."""


@dataclass(frozen=True, slots=True)
class TaskExit:
    """The end of a task (``exec_id`` empty) or of an exec. ``code`` is 0-255 (128+signal when killed),
    ``time_ns`` since the epoch, ``oom``: the kernel killed something of this cgroup for memory."""

    id: str
    exec_id: str
    code: int
    time_ns: int
    oom: bool = False


@dataclass(frozen=True, slots=True)
class TaskState:
    """A live or just-ended task as the keeper knows it; ``exit`` is set once it has ended."""

    id: str
    exec_id: str
    pid: int
    started_ns: int
    paused: bool = False
    exit: TaskExit | None = None


class Driver(Protocol):
    """Runs processes. One task a container; ids are full container ids.

    Errors: ``NotFound`` no such task; ``Conflict`` wrong state; ``TaskFailed`` the init could not start the
    program (exit code 126 not executable, 127 not found, 128 anything else), after which nothing of the task
    is left."""

    async def start(self, start: TaskStart) -> TaskState:
        """Create and start the task; returns after its ``execve`` succeeded. Not idempotent: ``Conflict`` if
        it runs."""
        ...

    async def exec(self, start: ExecStart) -> TaskState:
        """Start one more process in the task."""
        ...

    async def kill(self, id: str, signal: int, exec_id: str = "") -> None:
        """Send ``signal`` to the first process of the task, or to the exec. ``NotFound`` when it has
        ended."""
        ...

    async def kill_all(self, id: str) -> None:
        """SIGKILL to every process of the task's cgroup. Idempotent."""
        ...

    async def resize(self, id: str, exec_id: str, height: int, width: int) -> None:
        """Set the terminal's size in characters; ``Conflict`` if it has no terminal."""
        ...

    async def attach(
        self, id: str, exec_id: str, *, stdin: bool, stdout: bool, stderr: bool
    ) -> socket.socket:
        """A connected stream socket: what is read from it is the output from now on, in Docker's multiplexed
        frames (8-byte header) or raw for a terminal; what is written to it is standard input; shutting down
        its write side is end of input. End of file: the process has ended and all its output was delivered.
        The caller closes it. Works between ``prepare`` and ``start`` too: then it gets the output from the
        first byte."""
        ...

    async def pause(self, id: str) -> None:
        """Freeze every process. ``Conflict`` if paused."""
        ...

    async def resume(self, id: str) -> None:
        """Thaw. ``Conflict`` if not paused."""
        ...

    async def update(self, id: str, resources: Resources) -> None:
        """Change the limits of the running task; absent fields stay as they are."""
        ...

    async def list(self) -> Sequence[TaskState]:
        """Every task and exec that is running or whose exit was not acknowledged: the truth after an engine's
        restart."""
        ...

    async def sweep(self, ids: Sequence[str]) -> None:
        """Once, after an engine's start, for the containers on record: what runs in their groups without a
        task (keeper and engine died at once) has nobody to read its output or collect its code; it is killed,
        the group removed."""
        ...

    async def acknowledge(self, id: str, exec_id: str = "") -> None:
        """The exit is on record: the keeper may forget it. Idempotent."""
        ...

    async def forget(self, id: str) -> None:
        """There will be no task ``id`` any more: who attached before a start that did not come sees the end
        of the streams. Idempotent."""
        ...

    async def pids(self, id: str) -> Sequence[int]:
        """Host pids of all processes of the task's cgroup."""
        ...

    def count_descriptors(self) -> int:
        """Open descriptors of whatever process starts the tasks: grows with tasks, and only with them."""
        ...

    def count_held(self) -> int:
        """Descriptors the engine keeps for tasks."""
        ...

    def subscribe(self, on_exit: Callable[[TaskExit], None]) -> None:
        """Call ``on_exit`` for each end of a task or exec, on the event loop, at least once until
        acknowledged."""
        ...
