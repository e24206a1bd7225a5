"""More processes in running containers: ``exec`` from create to inspect."""

import asyncio
import secrets
import socket
from pathlib import Path

import msgspec
from msgspec.structs import replace

from cais.containers import runspec
from cais.containers.fleet import Fleet, Live
from cais.containers.record import PAUSED, RESTARTING
from cais.containers.services import Rooms
from cais.errors import Conflict, Invalid, NotFound, TaskFailed
from cais.runtime.base import ExecStart, TaskExit, TaskState
from cais.spec.container import ExecConfig
from cais.spec.runtimespec import Box, Process, User

KEEP = 300.0
"""Seconds an ended exec can be inspected; dockerd's is 5 to 10 minutes."""


class Exec(msgspec.Struct):
    """One exec. ``exit_code`` is ``None`` until it has ended."""

    id: str
    container_id: str
    config: ExecConfig
    pid: int = 0
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    over: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set with the exit code."""

    @property
    def ended(self) -> bool:
        """It has run."""
        return self.exit_code is not None


class Execs:
    """All execs of the engine, in memory: one that was only created does not outlive the engine."""

    def __init__(self, rooms: Rooms, fleet: Fleet) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._execs: dict[str, Exec] = {}
        self._exits: dict[str, TaskExit] = {}

    def create(self, live: Live, name: str, config: ExecConfig) -> str:
        """Prepare an exec; its id. Raises Conflict when the container does not run, Invalid."""
        self._check_active(live, name)
        if not config.cmd:
            raise Invalid("No exec command specified")
        if any("\0" in word for word in (*config.cmd, *config.env, config.user, config.working_dir)):
            raise Invalid("invalid exec request: a text holds a null byte")
        found = Exec(secrets.token_hex(32), live.id, config)
        self._execs[found.id] = found
        live.execs.add(found.id)
        self._publish(live, "exec_create", found)
        return found.id

    def inspect(self, id: str) -> Exec:
        """Raises NotFound in Docker's words."""
        found = self._execs.get(id)
        if found is None:
            raise NotFound(f"No such exec instance: {id}")
        return found

    def check(self, id: str) -> Exec:
        """The exec, if it can be started now. Raises NotFound; Conflict when it ran already or its container does
        not."""
        found = self.inspect(id)
        live = self._fleet.find(found.container_id)
        self._check_active(live, live.id)
        if found.started:
            state = "is already running" if found.running else "has already run"
            raise Conflict(f"exec command {id} {state}")
        return found

    async def start(
        self, id: str, *, detach: bool = False, console_size: tuple[int, int] | None = None
    ) -> socket.socket | None:
        """Run it. Returns the connection to its streams, which the caller closes; ``None`` when detached. Raises
        Conflict when it ran already or the container does not, TaskFailed."""
        found = self.check(id)
        live = self._fleet.find(found.container_id)
        found.started = found.running = True
        self._publish(live, "exec_start", found)
        config = found.config
        stream = None
        try:
            if not detach:
                stream = await self._rooms.driver.attach(
                    live.id,
                    id,
                    stdin=config.attach_stdin,
                    stdout=config.attach_stdout,
                    stderr=config.attach_stderr,
                )
            await self._rooms.profiles.ensure(live.record.apparmor)
            state = await self._rooms.driver.exec(self._make_start(live, found, detach, console_size))
        except BaseException as error:
            self._note_failure(found, live, error)
            if stream:
                stream.close()
            raise
        found.pid = state.pid
        early = self._exits.pop(id, None)
        if early:
            self.on_exit(early)
        return stream

    def _note_failure(self, found: Exec, live: Live, error: BaseException) -> None:
        found.running = False
        found.exit_code = error.exit_code if isinstance(error, TaskFailed) else 126
        found.over.set()
        live.execs.discard(found.id)
        self._forget_later(found.id)

    async def resize(self, id: str, height: int, width: int) -> None:
        """Set the size of its terminal. Raises NotFound, Conflict."""
        found = self.inspect(id)
        if not found.running:
            raise Conflict(f"exec {id} is not running")
        await self._rooms.driver.resize(found.container_id, id, height, width)

    def on_exit(self, exit: TaskExit) -> None:
        """An exec has ended, says the driver."""
        found = self._execs.get(exit.exec_id)
        if found is not None and found.running and not found.pid:
            # The answer to its start is still on the way.
            self._exits[exit.exec_id] = exit
            return
        self._fleet.spawn(
            self._rooms.driver.acknowledge(exit.id, exit.exec_id), f"acknowledging {exit.exec_id}"
        )
        if found is None or not found.running:
            return
        found.running, found.exit_code = False, exit.code
        found.over.set()
        live = self._fleet.get(exit.id)
        if live:
            live.execs.discard(found.id)
            self._fleet.publish(live, "exec_die", execID=found.id, exitCode=str(exit.code))
        self._forget_later(found.id)

    def on_container_end(self, live: Live) -> None:
        """Its execs went with it; those that were never started can never be."""
        for id in live.execs:
            self._forget_later(id)
        live.execs.clear()

    def adopt(self, task: TaskState) -> None:
        """An exec of an earlier engine: nothing is known of it but that it runs."""
        self._execs[task.exec_id] = Exec(
            task.exec_id, task.id, ExecConfig(), pid=task.pid, running=True, started=True
        )
        live = self._fleet.get(task.id)
        if live:
            live.execs.add(task.exec_id)

    def _forget_later(self, id: str) -> None:
        asyncio.get_running_loop().call_later(KEEP, self._execs.pop, id, None)

    def _check_active(self, live: Live, name: str) -> None:
        if live.state.status == PAUSED:
            raise Conflict(f"Container {name} is paused, unpause the container before exec")
        if live.state.status == RESTARTING:
            raise Conflict(f"Container {live.id} is restarting, wait until the container is running")
        if not live.state.live:
            raise Conflict(f"container {live.id} is not running")

    def _publish(self, live: Live, action: str, found: Exec) -> None:
        self._fleet.publish(live, f"{action}: {' '.join(found.config.cmd)}", execID=found.id)

    def _make_start(self, live: Live, found: Exec, detach: bool, size: tuple[int, int] | None) -> ExecStart:
        process = make_exec_process(live, found.config, size or found.config.console_size, self._rooms)
        return ExecStart(
            id=live.id,
            exec_id=found.id,
            process=process,
            seccomp=self._rooms.filters.program(
                live.record.seccomp, runspec.capability_sets(live.record, self._rooms.machine).bounding
            ),
            open_stdin=found.config.attach_stdin and not detach,
            attach=not detach,
        )


def make_exec_process(live: Live, config: ExecConfig, size: tuple[int, int] | None, rooms: Rooms) -> Process:
    """The container's own process with what the exec changes: user, folder, environment, terminal, privilege. Its
    labels stay, with privilege too: only a privileged container is without (as in dockerd)."""
    record = live.record
    around = runspec.Surroundings(config=rooms.config, machine=rooms.machine, directory=str(Path("/")))
    base = runspec.make_process(record, around)
    return replace(
        base,
        args=config.cmd,
        cwd=config.working_dir or base.cwd,
        env=runspec.merge_env(runspec.environment(record, config.tty), config.env),
        terminal=config.tty,
        console_size=Box(height=size[0], width=size[1]) if config.tty and size and any(size) else None,
        user=User(username=config.user or record.config.user, group_add=record.host.group_add),
        capabilities=runspec.capability_sets(record, rooms.machine, privileged=config.privileged),
    )
