"""A container's life after it was made: start, stop, kill, pause, its end, restarts by policy, removal.

The lock of a container is held while its state changes and never while waiting for its end. An end is put on
record, told to those who wait and acknowledged, in this order; network and disk are cleared away afterwards.
"""

import asyncio
from contextlib import suppress

from msgspec.structs import replace

from cais.containers import restart as policy
from cais.containers.fleet import Ended, Fleet, Live
from cais.containers.record import EXITED, PAUSED, REMOVING, RESTARTING, RUNNING, Record
from cais.containers.services import Rooms
from cais.containers.signals import parse_signal
from cais.containers.start import Starter
from cais.errors import CaisError, Conflict, Invalid, NotFound, NotModified, Unavailable
from cais.network.base import Endpoint
from cais.runtime.base import TaskExit

SIGKILL, SIGTERM = 9, 15
DEFAULT_GRACE = 10
KILL_WAIT = 10.0
"""Seconds for a killed container to end before every process of its cgroup is killed."""


class Lifecycle:
    """Acts on one container at a time; texts in errors are Docker's."""

    def __init__(self, rooms: Rooms, fleet: Fleet, starter: Starter) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._starter = starter

    # Start and end

    async def start(self, live: Live) -> None:
        """Start a container that does not run. Raises NotModified if it does, Conflict, TaskFailed."""
        async with live.lock:
            if live.removing:
                raise Conflict("container is marked for removal and cannot be started")
            if live.state.status == PAUSED:
                raise Conflict("cannot start a paused container, try unpause instead")
            if live.state.status == RUNNING:
                raise NotModified("container is already running")
            self._cancel_restart(live)
            live.stopping = False
            live.policy_restarts, live.delay = 0, 0.0
            await self._start(live)

    async def _start(self, live: Live) -> None:
        try:
            await self._starter.start(live)
        except Exception:
            live.wake_stopped((live.state.exit_code, live.state.error))
            if live.record.host.auto_remove:
                self._fleet.spawn(self.remove(live, volumes=True), f"removal of {live.id}")
            raise

    def on_exit(self, exit: TaskExit) -> None:
        """A task has ended, says the driver; at once if nothing else is under way with the container."""
        live = self._fleet.get(exit.id)
        if live is None:
            return
        if live.lock.locked():
            self._fleet.spawn(self._end_later(live, exit), f"end of {exit.id}")
        else:
            self.end(live, exit)

    async def _end_later(self, live: Live, exit: TaskExit) -> None:
        async with live.lock:
            self.end(live, exit)

    def end(self, live: Live, exit: TaskExit) -> None:
        """Put the end on record and tell. Does not wait for anything: the caller holds the lock, or nobody does."""
        if not live.state.live or self._fleet.get(live.id) is not live:
            self._fleet.spawn(self._rooms.driver.acknowledge(exit.id), f"acknowledging {exit.id}")
            return
        record = live.record
        if exit.oom:
            self._fleet.publish(live, "oom")
        ran = max(exit.time_ns - record.state.started_ns, 0) / 1e9
        ended = policy.Ended(exit.code, ran, live.stopping, live.policy_restarts)
        again = not live.removing and policy.should_restart(record.host.restart_policy, ended)
        state = replace(
            record.state,
            status=RESTARTING if again else EXITED,
            pid=0,
            exit_code=exit.code,
            oom_killed=exit.oom,
            error="",
            finished_ns=exit.time_ns,
        )
        count = record.restart_count + 1 if again else record.restart_count
        self._fleet.save(live, replace(record, state=state, endpoints=(), restart_count=count))
        self._fleet.publish(live, "die", exitCode=str(exit.code), execDuration=str(int(ran)))
        # Nobody waits for the keeper to have heard it: the next request it gets from us comes after this one.
        self._fleet.spawn(self._rooms.driver.acknowledge(exit.id), f"acknowledging {exit.id}")
        live.teardown = self._fleet.spawn(self._tear_down(record.endpoints), f"clearing away {live.id}")
        live.wake_stopped((exit.code, ""))
        if again:
            live.delay = policy.next_delay(live.delay, ran)
            live.policy_restarts += 1
            self.schedule_restart(live, live.delay)
        elif record.host.auto_remove and not live.keep and not live.removing:
            self._fleet.spawn(self.remove(live, volumes=True), f"removal of {live.id}")

    async def _tear_down(self, endpoints: tuple[Endpoint, ...]) -> None:
        await asyncio.gather(*(self._rooms.networks.detach(endpoint) for endpoint in endpoints))

    # Restart by policy

    def schedule_restart(self, live: Live, delay: float) -> None:
        """Start the container again after ``delay`` seconds, unless somebody stops or removes it before."""
        live.restart = self._fleet.spawn(self._restart_later(live, delay), f"restart of {live.id}")

    async def _restart_later(self, live: Live, delay: float) -> None:
        await asyncio.sleep(delay)
        async with live.lock:
            live.restart = None
            if live.stopping or live.removing or live.state.live:
                return
            # A failure is in the record; the policy counts runs, and this was none.
            with suppress(CaisError, OSError):
                await self._starter.start(live)

    def _cancel_restart(self, live: Live) -> None:
        if live.restart:
            live.restart.cancel()
            live.restart = None

    def _stop_restarting(self, live: Live) -> None:
        """Between two runs: no process to stop, only the next run to call off."""
        self._cancel_restart(live)
        live.stopping = True
        record = replace(live.record, state=replace(live.state, status=EXITED), manually_stopped=True)
        self._fleet.save(live, record)

    # Stop and kill

    async def stop(
        self, live: Live, signal: str = "", grace: int | None = None, *, by_hand: bool = True
    ) -> None:
        """Ask, wait ``grace`` seconds (-1: for ever; ``None``: the container's own or 10), force. Raises NotModified
        if it does not run. Not ``by_hand``: the next engine starts it again by its policy."""
        number = parse_signal(signal) if signal else self._stop_signal(live.record)
        own = live.record.config.stop_timeout
        seconds = grace if grace is not None else DEFAULT_GRACE if own is None else own
        # The lock: a start under way is finished first, or there would be no process to take the signal.
        async with live.lock:
            if not live.state.running:
                raise NotModified("container is already stopped")
            if live.state.status == RESTARTING:
                self._stop_restarting(live)
                ended = None
            else:
                ended = self.wait_stopped(live)
                self._mark_stopped(live, by_hand)
        if ended:
            await self._stop(live, ended, number, seconds)
        self._fleet.publish(live, "stop")

    async def _stop(self, live: Live, ended: "asyncio.Future[Ended]", number: int, seconds: int) -> None:
        await self._signal(live, number)
        try:
            await asyncio.wait_for(asyncio.shield(ended), None if seconds < 0 else seconds)
        except TimeoutError:
            await self._force(live, ended)

    def _stop_signal(self, record: Record) -> int:
        return parse_signal(record.config.stop_signal) if record.config.stop_signal else SIGTERM

    def _mark_stopped(self, live: Live, by_hand: bool = True) -> None:
        live.stopping = True
        if by_hand and not live.record.manually_stopped:
            self._fleet.save(live, replace(live.record, manually_stopped=True))

    async def _signal(self, live: Live, number: int) -> None:
        """Send it, and thaw a paused container: a frozen process cannot act on a signal."""
        with suppress(NotFound):
            await self._rooms.driver.kill(live.id, number)
        await self._thaw(live)
        self._fleet.publish(live, "kill", signal=str(number))

    async def _thaw(self, live: Live) -> None:
        if live.state.status != PAUSED:
            return
        with suppress(NotFound, Conflict):
            await self._rooms.driver.resume(live.id)
        if live.state.status == PAUSED:
            self._fleet.save(live, replace(live.record, state=replace(live.state, status=RUNNING)))

    async def _force(self, live: Live, ended: "asyncio.Future[Ended]") -> None:
        """SIGKILL to the first process, then to every process; returns when the end is on record."""
        await self._signal(live, SIGKILL)
        try:
            await asyncio.wait_for(asyncio.shield(ended), KILL_WAIT)
        except TimeoutError:
            await self._rooms.driver.kill_all(live.id)
            try:
                await asyncio.wait_for(asyncio.shield(ended), KILL_WAIT)
            except TimeoutError:
                raise Unavailable("tried to kill container, but did not receive an exit event") from None

    async def kill(self, live: Live, name: str, signal: str = "KILL") -> None:
        """Send a signal; SIGKILL waits for the end. Raises Conflict if it does not run, Invalid."""
        number = parse_signal(signal or "KILL")
        own = live.record.config.stop_signal
        final = number in (SIGKILL, parse_signal(own)) if own else True
        async with live.lock:
            if not live.state.running:
                raise Conflict(f"cannot kill container: {name}: container {live.id} is not running")
            if live.state.status == RESTARTING:
                self._stop_restarting(live)
                return
            ended = self.wait_stopped(live)
            if final:
                self._mark_stopped(live)
        if number == SIGKILL:
            await self._force(live, ended)
            return
        ended.cancel()
        await self._rooms.driver.kill(live.id, number)
        if final:
            await self._thaw(live)
        self._fleet.publish(live, "kill", signal=str(number))

    async def restart(self, live: Live, signal: str = "", grace: int | None = None) -> None:
        """Stop if it runs, start."""
        live.keep = True
        try:
            with suppress(NotModified):
                await self.stop(live, signal, grace)
            with suppress(NotModified):
                await self.start(live)
        finally:
            live.keep = False
        self._fleet.publish(live, "restart")

    # Pause

    async def pause(self, live: Live, *, briefly: bool = False) -> None:
        """Freeze; ``briefly``: until ``thaw_brief``, or the next engine's start. Raises Conflict."""
        async with live.lock:
            if live.state.status == PAUSED:
                raise Conflict(f"container {live.id} is already paused")
            if live.state.status == RESTARTING:
                raise Conflict(f"Container {live.id} is restarting, wait until the container is running")
            if not live.state.live:
                raise Conflict(f"container {live.id} is not running")
            if briefly:
                # Noted before: an engine that is killed right after the freeze must leave no frozen container.
                self._fleet.save(live, replace(live.record, state=replace(live.state, brief=True)))
            await self._rooms.driver.pause(live.id)
            state = replace(live.state, status=PAUSED, brief=briefly)
            self._fleet.save(live, replace(live.record, state=state))
            self._fleet.publish(live, "pause")

    async def unpause(self, live: Live) -> None:
        """Thaw. Raises Conflict."""
        async with live.lock:
            if live.state.status != PAUSED:
                raise Conflict(f"Container {live.id} is not paused")
            await self._resume(live)

    async def thaw_brief(self, live: Live) -> None:
        """Thaw what was paused ``briefly``, unless somebody has thawed it, or it has ended, since. Idempotent."""
        async with live.lock:
            if live.state.status == PAUSED and live.state.brief:
                with suppress(NotFound, Conflict):
                    await self._resume(live)

    async def _resume(self, live: Live) -> None:
        await self._rooms.driver.resume(live.id)
        self._fleet.save(live, replace(live.record, state=replace(live.state, status=RUNNING, brief=False)))
        self._fleet.publish(live, "unpause")

    # Wait

    def wait_stopped(self, live: Live) -> "asyncio.Future[Ended]":
        """The next end."""
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        live.stop_waiters.add(future)
        future.add_done_callback(live.stop_waiters.discard)
        return future

    def wait(self, live: Live, condition: str = "") -> "asyncio.Future[Ended]":
        """``not-running`` (the default; at once if it does not run), ``next-exit`` or ``removed``. The waiting begins
        with this call, not with the await. Raises Invalid."""
        if condition in ("", "not-running"):
            future = self.wait_stopped(live)
            if not live.state.running:
                future.set_result((live.state.exit_code, live.state.error))
            return future
        if condition == "next-exit":
            return self.wait_stopped(live)
        if condition == "removed":
            future = asyncio.get_running_loop().create_future()
            live.remove_waiters.add(future)
            future.add_done_callback(live.remove_waiters.discard)
            return future
        raise Invalid(f'invalid condition: "{condition}"')

    # Remove

    async def remove(self, live: Live, *, force: bool = False, volumes: bool = False, name: str = "") -> None:
        """Remove the container, by ``force`` also a running one. When this returns, name, ports, address and disk
        place are free. Raises Conflict in Docker's words."""
        if live.removing:
            raise Conflict(f"removal of container {name or live.id} is already in progress")
        live.removing = True
        try:
            async with live.lock:
                if live.state.running and not force:
                    raise self._still_runs(live, name)
                self._cancel_restart(live)
                running = live.state.live
                ended = self.wait_stopped(live)
            if running:
                await self._force(live, ended)
            ended.cancel()
            async with live.lock:
                await self._remove(live, volumes)
        except BaseException:
            live.removing = False
            raise

    def _still_runs(self, live: Live, name: str) -> Conflict:
        if live.state.status == PAUSED:
            why = "container is paused and must be unpaused first"
        else:
            why = f"container is {live.state.status}: stop the container before removing or force remove"
        return Conflict(f'cannot remove container "{name or "/" + live.record.name}": {why}')

    async def _remove(self, live: Live, volumes: bool) -> None:
        if live.teardown:
            await asyncio.wait((live.teardown,))
        self._part_with_volumes(live, volumes)
        # The record first: a folder without one is swept up by the next engine, a record without one would stay.
        self._fleet.forget(live)
        self._rooms.snapshots.remove(live.id)
        self._fleet.publish(live, "destroy")
        await self._rooms.driver.forget(live.id)
        live.wake_removed((live.state.exit_code, live.state.error))

    def _part_with_volumes(self, live: Live, remove: bool) -> None:
        """Its anonymous volumes go or are nobody's from now on, unless somebody else has them (``--volumes-from``)."""
        names = [point.name for point in live.record.mounts if point.type == "volume" and point.anonymous]
        if names and remove:
            # If we are killed in the middle, the next engine goes on with it.
            self._fleet.save(live, replace(live.record, state=replace(live.state, status=REMOVING)))
        for name in names:
            if not remove:
                self._rooms.volumes.disown(name)
            elif self._fleet.volume_users(name) == [live.id]:
                self._rooms.volumes.remove(name, (), force=True)

    async def rename(self, live: Live, name: str) -> None:
        """Give it another name, already checked. Raises AlreadyExists, Invalid."""
        async with live.lock:
            old = live.record.name
            if name == old:
                raise Invalid("Renaming a container with the same name as its current name")
            self._fleet.reserve(name, live.id)
            try:
                self._fleet.save(live, replace(live.record, name=name))
            except BaseException:
                self._fleet.release(name, live.id)
                raise
            self._fleet.release(old, live.id)
            self._fleet.publish(live, "rename", oldName=f"/{old}")
