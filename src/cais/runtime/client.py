"""The engine's side of the keeper: requests over one socket, copies of what it holds, and a new keeper when
it dies."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cais import errors
from cais.linux import pidfd as pidfds
from cais.linux.syscalls import PR_SET_CHILD_SUBREAPER, prctl
from cais.runtime.base import ExecStart, TaskExit, TaskStart, TaskState
from cais.runtime.keeper import EMPTY_FOLDER, PLACE_FOLDER
from cais.runtime.spawn import spawn_keeper
from cais.runtime.wire import Connection
from cais.spec.runtimespec import Resources

SOCKET_NAME = "keeper.sock"
_KINDS: dict[str, type[errors.CaisError]] = {
    kind.__name__: kind for kind in (errors.NotFound, errors.Conflict, errors.Unsupported, errors.Invalid)
}


def collect_child(pid: int) -> None:
    """Collect an ended keeper, unless an earlier engine had started it."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


class Held:
    """Our copies of one process's descriptors, by the names in ``record``."""

    def __init__(self, record: dict[str, Any], fds: list[int]) -> None:
        self.record = record
        self.fds = dict(zip(record["names"], fds, strict=True))

    def close(self, name: str = "") -> None:
        """Close one copy, or all. Idempotent."""
        for each in [name] if name else list(self.fds):
            fd = self.fds.pop(each, -1)
            if fd >= 0:
                os.close(fd)


class KeeperDriver:
    """``runtime.base.Driver`` over the keeper of one run folder."""

    def __init__(self, run: Path, cgroup_parent: str) -> None:
        self._run = run
        self._parent = cgroup_parent
        self._connection: Connection | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._seq = 0
        self._held: dict[tuple[str, str], Held] = {}
        self._awaited: set[str] = set()
        self._listeners: list[Callable[[TaskExit], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._writing = False
        self._reviving: asyncio.Task[None] | None = None
        self.pid = 0

    # --- connection

    async def open(self) -> None:
        """Connect to the keeper that is there, or start one. Call once, before anything else."""
        self._loop = asyncio.get_running_loop()
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of a killed keeper come to us, with their exit codes
        for name in (EMPTY_FOLDER, PLACE_FOLDER):
            (self._run / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        await self._connect()

    async def _connect(self) -> None:
        assert self._loop is not None
        path = self._run / SOCKET_NAME
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            self.pid = spawn_keeper(self._run, path)
            sock.connect(str(path))
        self._connection = Connection(sock, msgspec.json.encode)
        self._loop.add_reader(sock, self._on_readable)
        answer = await self._request({"op": "hello"})
        self.pid = answer["pid"]

    async def close(self) -> None:
        """Leave; a keeper that has tasks stays, with all it holds."""
        self._closing = True
        if self._reviving is not None:
            self._reviving.cancel()
        if self._connection is not None:
            with contextlib.suppress(errors.Unavailable, TimeoutError):  # it has gone before us
                await asyncio.wait_for(self._request({"op": "leave", "parent": self._parent}), 5)
            self._drop_connection()
        for held in self._held.values():
            self._forget_orphan(held)
            held.close()
        self._held.clear()

    def _drop_connection(self) -> None:
        assert self._loop is not None
        if self._connection is not None:
            self._loop.remove_reader(self._connection.sock)
            if self._writing:
                self._loop.remove_writer(self._connection.sock)
                self._writing = False
            self._connection.close()
            self._connection = None
        for future in self._answers.values():
            if not future.done():
                future.set_exception(errors.Unavailable("the keeper has ended; try again"))
        self._answers.clear()

    def _on_readable(self) -> None:
        assert self._connection is not None
        try:
            messages = self._connection.receive()
        except (EOFError, OSError, ValueError):
            self._drop_connection()
            if not self._closing:
                self._reviving = asyncio.ensure_future(self._revive())
            return
        for message, fds in messages:
            self._on_message(message, fds)

    async def _revive(self) -> None:
        """A new keeper takes over everything the old one held; the orphans' exit codes come to us."""
        collect_child(self.pid)
        await self._connect()
        for key, held in list(self._held.items()):
            await self._request(
                {"op": "adopt", "record": held.record | {"names": list(held.fds)}}, tuple(held.fds.values())
            )
            self._watch_orphan(key, held)

    def _watch_orphan(self, key: tuple[str, str], held: Held) -> None:
        """Collect an orphan when it ends, since its code can be had only by its parent on kernels before
        6.15."""
        assert self._loop is not None
        fd = held.fds["pidfd"]

        def on_end() -> None:
            assert self._loop is not None
            self._loop.remove_reader(fd)
            held.record.pop("orphan", None)
            code = pidfds.reap(fd)
            if code is not None:
                self._post({"op": "ended", "id": key[0], "exec_id": key[1], "code": code})

        held.record["orphan"] = True
        self._loop.add_reader(fd, on_end)

    def _forget_orphan(self, held: Held) -> None:
        if held.record.pop("orphan", None) and self._loop is not None:
            self._loop.remove_reader(held.fds["pidfd"])

    def _on_message(self, message: dict[str, Any], fds: list[int]) -> None:
        if "seq" in message:
            future = self._answers.pop(message["seq"], None)
            if future is not None and not future.done():
                future.set_result(message)
            return
        event = message["event"]
        if event == "held":
            record = message["record"]
            self._drop_held((record["id"], record["exec_id"]))
            self._held[record["id"], record["exec_id"]] = Held(record, fds)
            return
        key = message["id"], message["exec_id"]
        if event == "closed":
            held = self._held.get(key)
            if held is not None:
                held.close("stdin")
        elif event == "failed":
            self._drop_held(key)
        elif event == "exit":
            self._drop_held(key)
            self._publish(msgspec.convert({k: v for k, v in message.items() if k != "event"}, TaskExit))

    def _drop_held(self, key: tuple[str, str]) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._forget_orphan(held)
            held.close()

    def _publish(self, task_exit: TaskExit) -> None:
        for listener in self._listeners:
            listener(task_exit)

    def _post(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> asyncio.Future[dict[str, Any]]:
        assert self._loop is not None
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        if self._connection is None:
            future.set_exception(errors.Unavailable("the keeper is being replaced; try again"))
            return future
        self._seq += 1
        self._answers[self._seq] = future
        try:
            self._connection.send({**message, "seq": self._seq}, fds)
        except OSError:
            return future  # the reader notices and fails every open answer
        if self._connection.waiting and not self._writing:
            self._writing = True
            self._loop.add_writer(self._connection.sock, self._on_writable)
        return future

    def _on_writable(self) -> None:
        assert self._connection is not None and self._loop is not None
        try:
            self._connection.flush()
        except OSError:
            return
        if not self._connection.waiting:
            self._writing = False
            self._loop.remove_writer(self._connection.sock)

    async def _request(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        answer = await self._post(message, fds)
        error = answer.get("error")
        if error is None:
            return answer
        if error["kind"] == "TaskFailed":
            raise errors.TaskFailed(error["text"], error["code"])
        if error["kind"] == "OSError":
            raise OSError(error["code"], error["text"])
        raise _KINDS.get(error["kind"], errors.Invalid)(error["text"])

    # --- runtime.base.Driver

    async def start(self, start: TaskStart) -> TaskState:
        """See ``Driver.start``."""
        message = {
            "op": "start",
            "id": start.id,
            "spec": start.spec,
            "rootfs": start.rootfs,
            "seccomp": start.seccomp.hex(),
            "open_stdin": start.open_stdin,
            "stdin_once": start.stdin_once,
            "log": start.log,
        }
        answer = await self._request(message, (start.netns,) if start.netns >= 0 else ())
        self._awaited.discard(start.id)
        return msgspec.convert(answer["state"], TaskState)

    async def exec(self, start: ExecStart) -> TaskState:
        """See ``Driver.exec``."""
        message = {
            "op": "exec",
            "id": start.id,
            "exec_id": start.exec_id,
            "process": start.process,
            "seccomp": start.seccomp.hex(),
            "open_stdin": start.open_stdin,
            "attach": start.attach,
        }
        answer = await self._request(message)
        return msgspec.convert(answer["state"], TaskState)

    async def kill(self, id: str, signal: int, exec_id: str = "") -> None:
        """See ``Driver.kill``."""
        await self._request({"op": "kill", "id": id, "exec_id": exec_id, "signal": int(signal)})

    async def kill_all(self, id: str) -> None:
        """See ``Driver.kill_all``."""
        await self._request({"op": "kill_all", "id": id})

    async def resize(self, id: str, exec_id: str, height: int, width: int) -> None:
        """See ``Driver.resize``."""
        await self._request({"op": "resize", "id": id, "exec_id": exec_id, "height": height, "width": width})

    async def attach(
        self, id: str, exec_id: str, *, stdin: bool, stdout: bool, stderr: bool
    ) -> socket.socket:
        """See ``Driver.attach``."""
        ours, theirs = socket.socketpair()
        with theirs:
            request = {
                "op": "attach",
                "id": id,
                "exec_id": exec_id,
                "stdin": stdin,
                "stdout": stdout,
                "stderr": stderr,
            }
            try:
                answer = await self._request(request, (theirs.fileno(),))
            except BaseException:
                ours.close()
                raise
        if answer.get("waits"):
            self._awaited.add(id)
        ours.setblocking(False)
        return ours

    async def forget(self, id: str) -> None:
        """See ``Driver.forget``."""
        if id in self._awaited:
            self._awaited.discard(id)
            with contextlib.suppress(errors.Unavailable):  # a keeper that has gone has nobody waiting
                await self._request({"op": "forget", "id": id})

    async def pause(self, id: str) -> None:
        """See ``Driver.pause``."""
        await self._request({"op": "pause", "id": id})

    async def resume(self, id: str) -> None:
        """See ``Driver.resume``."""
        await self._request({"op": "resume", "id": id})

    async def update(self, id: str, resources: Resources) -> None:
        """See ``Driver.update``."""
        await self._request({"op": "update", "id": id, "resources": resources})

    async def list(self) -> Sequence[TaskState]:
        """See ``Driver.list``."""
        answer = await self._request({"op": "list"})
        return msgspec.convert(answer["tasks"], tuple[TaskState, ...])

    async def sweep(self, ids: Sequence[str]) -> None:
        """See ``Driver.sweep``."""
        await self._request({"op": "sweep", "paths": [f"{self._parent}/{id}" for id in ids]})

    async def acknowledge(self, id: str, exec_id: str = "") -> None:
        """See ``Driver.acknowledge``."""
        await self._request({"op": "acknowledge", "id": id, "exec_id": exec_id})

    async def pids(self, id: str) -> Sequence[int]:
        """See ``Driver.pids``."""
        answer = await self._request({"op": "pids", "id": id})
        return msgspec.convert(answer["pids"], tuple[int, ...])

    def count_descriptors(self) -> int:
        """See ``Driver.count_descriptors``."""
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except FileNotFoundError:
            return 0

    def count_held(self) -> int:
        """See ``Driver.count_held``."""
        return sum(len(held.fds) for held in self._held.values())

    def subscribe(self, on_exit: Callable[[TaskExit], None]) -> None:
        """See ``Driver.subscribe``."""
        self._listeners.append(on_exit)
