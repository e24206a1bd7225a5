"""Finding everything again after the engine was restarted or killed."""

import logging

from msgspec.structs import replace

from cais.containers import restart as policy
from cais.containers.exec import Execs
from cais.containers.fleet import Fleet, Live
from cais.containers.lifecycle import Lifecycle
from cais.containers.record import EXITED, PAUSED, REMOVING, RUNNING
from cais.containers.services import Rooms
from cais.runtime.base import TaskExit, TaskState

log = logging.getLogger(__name__)

LOST = 137
"""Exit code of a container whose end nobody saw: the machine went down, or keeper and engine at once."""


class Restorer:
    """Compares records with what the driver runs, once."""

    def __init__(self, rooms: Rooms, fleet: Fleet, life: Lifecycle, execs: Execs) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._life = life
        self._execs = execs

    async def restore(self) -> None:
        """Adopt, record, remove, start."""
        await self._rooms.driver.sweep([live.id for live in self._fleet])
        tasks = {(task.id, task.exec_id): task for task in await self._rooms.driver.list()}
        for live in self._fleet:
            self._compare(live, tasks.get((live.id, "")))
        for live in self._fleet:
            await self._life.thaw_brief(live)
        live_endpoints = [
            endpoint for live in self._fleet if live.state.live for endpoint in live.record.endpoints
        ]
        await self._rooms.networks.restore(live_endpoints)
        for task in tasks.values():
            await self._place(task)
        self._sweep()
        self._rooms.volumes.sweep(lambda id: self._fleet.get(id) is not None)
        for live in self._fleet:
            self._start_by_policy(live)

    def _compare(self, live: Live, task: TaskState | None) -> None:
        """One record against the truth."""
        if task and not task.exit:
            self._adopt(live, task)
        elif live.state.live and not (task and task.exit):
            self._lose(live)
        elif live.state.status == "restarting":
            # The wait for the next run ended with the engine; the policy decides anew.
            self._fleet.save(live, replace(live.record, state=replace(live.state, status=EXITED)))

    def _adopt(self, live: Live, task: TaskState) -> None:
        state = replace(
            live.state,
            status=PAUSED if task.paused else RUNNING,
            pid=task.pid,
            started_ns=task.started_ns,
        )
        self._fleet.save(live, replace(live.record, state=state))

    def _lose(self, live: Live) -> None:
        """On record as running, but nobody runs it. Without a pid on record the old engine was killed around the start,
        before it or after its answer (``Fleet.save_soon``): as an answer may have gone out, it counts as run."""
        state = replace(live.state, status=EXITED, pid=0, exit_code=LOST, finished_ns=live.state.started_ns)
        self._fleet.save(live, replace(live.record, state=state, endpoints=()))

    async def _place(self, task: TaskState) -> None:
        """Ends that nobody put on record yet, execs, and what belongs to no record."""
        live = self._fleet.get(task.id)
        if live is None:
            await self._rooms.driver.kill_all(task.id)
            await self._rooms.driver.acknowledge(task.id, task.exec_id)
        elif task.exec_id:
            if task.exit:
                await self._rooms.driver.acknowledge(task.id, task.exec_id)
            else:
                self._execs.adopt(task)
        elif task.exit:
            self._end(live, task, task.exit)

    def _end(self, live: Live, task: TaskState, exit: TaskExit) -> None:
        if live.state.live:
            live.record = replace(live.record, state=replace(live.state, started_ns=task.started_ns))
        self._life.on_exit(exit)

    def _sweep(self) -> None:
        """Folders without a record: containers half made or half removed."""
        folder = self._rooms.config.root / "containers"
        if not folder.is_dir():
            return
        for entry in list(folder.iterdir()):
            if self._fleet.get(entry.name) is None:
                log.info("removing what is left of container %s", entry.name)
                self._rooms.snapshots.remove(entry.name)

    def _start_by_policy(self, live: Live) -> None:
        state, host = live.state, live.record.host
        if state.running:
            return
        if state.status == REMOVING:
            self._fleet.spawn(self._life.remove(live, volumes=True), f"removal of {live.id}")
            return
        if not state.started_ns:
            return
        ran = max(state.finished_ns - state.started_ns, 0) / 1e9
        ended = policy.Ended(state.exit_code, ran, live.record.manually_stopped, 0)
        if host.auto_remove:
            self._fleet.spawn(self._life.remove(live, volumes=True), f"removal of {live.id}")
        elif policy.should_start_with_engine(host.restart_policy, ended):
            self._life.schedule_restart(live, 0)
