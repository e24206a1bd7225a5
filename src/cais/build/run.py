"""Running the program of a RUN in a container of its own, which is on no record: a new engine removes what is left."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace as change

from cais.build.dockerfile.evaluate import RunAct
from cais.build.guard import Guard, StepLimits
from cais.build.mounts import Mounted
from cais.containers import adapt
from cais.containers.fleet import Ended, Fleet, Live
from cais.containers.lifecycle import Lifecycle
from cais.containers.names import new_id
from cais.containers.options import shared_with
from cais.containers.record import Record
from cais.containers.runspec import cgroup_path
from cais.containers.services import Rooms
from cais.containers.start import Starter
from cais.errors import NotFound, Unsupported
from cais.events import Bus
from cais.linux.cgroups.base import Cgroups
from cais.linux.cgroups.detect import detect
from cais.runtime.base import TaskExit
from cais.spec.container import ContainerConfig, HostConfig, LogConfig
from cais.spec.runtimespec import RootMount
from cais.store.metadata import Metadata

_HOSTNAME = "buildkitsandbox"
"""What programs of a build see under BuildKit; constant, so that no layer holds a random name."""
_FRAME = struct.Struct(">BxxxI")
_KILL_WAIT = 10.0
"""Seconds for a killed program to end; what then still runs is forced when the box is removed."""

Output = Callable[[int, bytes], None]
"""Called with 1 or 2 and what the program wrote there."""


@dataclass(frozen=True, slots=True)
class Box:
    """A container that has ended: its exit code and files."""

    id: str
    code: int
    error: str
    root: RootMount


@dataclass(frozen=True, slots=True)
class Program:
    """What runs in a box that has ended; ``size`` of its terminal: rows and columns, 0: nobody knows."""

    args: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    size: tuple[int, int] = (0, 0)


class Runner:
    """The containers of all builds of an engine: the containers' room once more, with records in memory only and events
    that nobody hears."""

    def __init__(self, rooms: Rooms, limits: StepLimits | None = None) -> None:
        self._limits = limits or StepLimits()
        self._cgroups: Cgroups | None = None
        self._metadata = Metadata(Path(":memory:"))
        self._rooms = change(rooms, metadata=self._metadata, bus=Bus())
        self._fleet = Fleet(self._metadata, self._rooms.bus)
        self._life = Lifecycle(self._rooms, self._fleet, Starter(self._rooms, self._fleet))
        rooms.driver.subscribe(self._on_exit)

    def ids(self) -> set[str]:
        """The containers that there are right now."""
        return {live.id for live in self._fleet}

    async def close(self) -> None:
        """Remove all containers."""
        for live in self._fleet:
            # A build that was cancelled twice, by its client's end and by ours, has left while its container was being
            # removed: that goes on, and is waited for below.
            if not live.removing:
                await self._life.remove(live, force=True)
        await self._fleet.settle()
        self._metadata.close()

    def _on_exit(self, exit: TaskExit) -> None:
        if not exit.exec_id:
            self._life.on_exit(exit)

    @asynccontextmanager
    async def run(
        self,
        act: RunAct,
        lowers: tuple[str, ...],
        mounted: Mounted,
        host: HostConfig,
        tell: tuple[Callable[[str], None], Output],
    ) -> AsyncIterator[Box]:
        """Run to the end; in the block the files are still there. ``tell``: called with the id, and with output.

        Cancelling kills every process. Raises TaskFailed, Invalid, OSError.
        """
        record = self._plan(act, mounted, host)
        root = self._rooms.snapshots.prepare(record.id, lowers)
        try:
            live = self._fleet.add(change(record, lowers=lowers))
        except BaseException:
            self._rooms.snapshots.remove(record.id)
            raise
        try:
            started, output = tell
            started(live.id)
            code, error = await self._guarded(live, root, output)
            yield Box(live.id, code, error, root)
        finally:
            # A task of its own: also when the build is cancelled, nothing is left behind.
            removal = self._fleet.spawn(self._life.remove(live, force=True), f"removal of {live.id}")
            await asyncio.shield(removal)

    @asynccontextmanager
    async def resume(self, box: Box, program: Program) -> AsyncIterator[socket.socket]:
        """Have another program in a box, within its own block, with everything else as it was; ``start`` starts it, and
        the end of the block ends it. The socket is its streams' (see ``Driver.attach``), the caller's to close. Raises
        NotFound if the box is gone."""
        live = self._fleet.get(box.id)
        if live is None:
            raise NotFound("the step is gone")
        record = live.record
        config = change(
            record.config,
            cmd=program.args,
            tty=program.tty,
            open_stdin=program.stdin,
            stdin_once=program.stdin,
        )
        host = change(record.host, console_size=program.size)
        self._fleet.save(live, change(record, config=config, host=host))
        ended = self._life.wait(live, "next-exit")
        try:
            yield await self._rooms.driver.attach(live.id, "", stdin=True, stdout=True, stderr=True)
        finally:
            if live.state.live and not ended.done():
                await self._rooms.driver.kill_all(live.id)
                await asyncio.wait((ended,), timeout=_KILL_WAIT)
            ended.cancel()

    async def start(self, box: Box) -> None:
        """Start the program of ``resume``; it is stopped at the limits of every step. Raises NotFound, NotModified,
        TaskFailed, Invalid."""
        live = self._fleet.get(box.id)
        if live is None:
            raise NotFound("the step is gone")
        ended = self._life.wait(live, "next-exit")
        try:
            await self._life.start(live)
        except BaseException:
            ended.cancel()
            raise
        self._fleet.spawn(self._stop_at_limit(live, box.root, ended), f"limits of {live.id}")

    async def resize(self, box: Box, height: int, width: int) -> None:
        """Set the size of the terminal of what runs in it. Raises Conflict, NotFound."""
        await self._rooms.driver.resize(box.id, "", height, width)

    async def _stop_at_limit(self, live: Live, root: RootMount, ended: "asyncio.Future[Ended]") -> None:
        watching = asyncio.create_task(self._guard(live, root).watch(str(self._rooms.config.root)))
        await asyncio.wait((watching, ended), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await self._rooms.driver.kill_all(live.id)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    def _guard(self, live: Live, root: RootMount) -> Guard:
        self._cgroups = self._cgroups or detect()
        group = cgroup_path(live.record, self._rooms.config)
        pids = live.record.host.pids_limit or 0
        return Guard(self._limits, self._cgroups, group, pids, root.upper)

    async def _guarded(self, live: Live, root: RootMount, output: Output) -> tuple[int, str]:
        """Run, and be stopped at the first limit that is passed."""
        config = self._rooms.config
        guard = self._guard(live, root)
        running = asyncio.create_task(self._run(live, output))
        watching = asyncio.create_task(guard.watch(str(config.root)))
        try:
            await asyncio.wait((running, watching), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                code, error = running.result()
                if code and not error:
                    error = _memory_reason(live) or guard.explain(str(config.root))
                return code, error
            reason = watching.result()
            await self._rooms.driver.kill_all(live.id)
            code, _ = await running
            return code, reason
        finally:
            running.cancel()
            watching.cancel()
            await asyncio.gather(running, watching, return_exceptions=True)

    async def _run(self, live: Live, output: Output) -> tuple[int, str]:
        loop = asyncio.get_running_loop()
        driver = self._rooms.driver
        sock = await driver.attach(live.id, "", stdin=False, stdout=True, stderr=True)
        try:
            ended = self._life.wait(live, "next-exit")
            # A start that is cancelled half-way would run for nobody: it comes to its end, and is removed then.
            await asyncio.shield(self._fleet.spawn(self._life.start(live), f"start of {live.id}"))
            waiting = bytearray()
            while data := await loop.sock_recv(sock, 1 << 18):
                waiting += data
                while len(waiting) >= _FRAME.size:
                    stream, size = _FRAME.unpack_from(waiting)
                    if len(waiting) < _FRAME.size + size:
                        break
                    output(stream, bytes(waiting[_FRAME.size : _FRAME.size + size]))
                    del waiting[: _FRAME.size + size]
            return await ended
        finally:
            sock.close()

    def _plan(self, act: RunAct, mounted: Mounted, host: HostConfig) -> Record:
        rooms = self._rooms
        id = new_id()
        if shared_with(host.network_mode):
            raise Unsupported("a build cannot share another container's network: use bridge, host or none")
        if act.network in ("none", "host"):
            host = change(host, network_mode=act.network)
        insecure = act.security == "insecure"
        if insecure:
            host = change(host, privileged=True)
        if host.pids_limit is None:
            host = change(host, pids_limit=self._limits.pids)
        host = adapt.fill_host(change(host, tmpfs=dict(mounted.tmpfs)), rooms.config, rooms.machine)
        host = change(
            host,
            log_config=LogConfig(type="none"),
            network_mode=rooms.networks.inspect(host.network_mode).name,
        )
        config = ContainerConfig(
            hostname=rooms.machine.hostname if host.network_mode == "host" else _HOSTNAME,
            user=act.user,
            env=(*act.env, *act.hidden_env, *mounted.env),
            entrypoint=(),
            cmd=act.args,
            working_dir=act.cwd,
        )
        return Record(
            id=id,
            name=f"build-{id[:12]}",
            created_ns=0,
            config=config,
            host=host,
            mounts=mounted.points,
            no_new_privileges=rooms.config.no_new_privileges and not insecure,
            seccomp="unconfined" if insecure else "",
        )


def _memory_reason(live: Live) -> str:
    if not live.state.oom_killed:
        return ""
    limit = live.record.host.memory
    return f"out of memory: the limit for a step is {limit >> 20} MiB" if limit else "out of memory"
