"""The containers of an engine: the one door to this room."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cais.config import Config
from cais.containers import top
from cais.containers.ahead import Ahead
from cais.containers.archive import Archives
from cais.containers.archivepath import PathStat
from cais.containers.archivewrite import CopyWish
from cais.containers.changes import Change
from cais.containers.check import Checker, Leaky
from cais.containers.commit import CommitImages, Commits, CommitWish
from cais.containers.create import Creator, Wish
from cais.containers.exec import Exec, Execs
from cais.containers.explain import Explainer
from cais.containers.fleet import Ended, Fleet, Live
from cais.containers.labels import Profiles
from cais.containers.lifecycle import Lifecycle
from cais.containers.limits import Machine
from cais.containers.logs import LogsWanted
from cais.containers.logstream import LogStream
from cais.containers.names import check_name
from cais.containers.options import shared_with
from cais.containers.psfilter import Filters, check_filters, is_wanted
from cais.containers.record import RESTARTING, Record
from cais.containers.restore import Restorer
from cais.containers.seccomp import SeccompFilters
from cais.containers.services import Images, Networks, Rooms
from cais.containers.start import Starter, log_path
from cais.containers.update import Updater
from cais.errors import CaisError, Conflict, Invalid, NotFound, NotModified, Unsupported
from cais.events import Bus
from cais.images.check import Damage, Standing
from cais.images.image import Image
from cais.linux.cgroups.base import Cgroups
from cais.runtime.base import Driver, TaskExit
from cais.spec.container import CreateRequest, ExecConfig, ResourceUpdate
from cais.spec.platform import Platform
from cais.store.metadata import Metadata
from cais.store.snapshots.base import Snapshots
from cais.store.snapshots.tree import measure
from cais.volumes.local import Volumes


class Container(msgspec.Struct, frozen=True):
    """One container as inspect shows it. ``etc_directory`` holds hosts, hostname and resolv.conf (another container's
    when the network is shared); ``size_rw`` and ``size_root`` bytes, ``None`` unless asked for."""

    record: Record
    directory: Path
    etc_directory: Path
    log_path: str
    exec_ids: tuple[str, ...] = ()
    size_rw: int | None = None
    size_root: int | None = None


Records = list[Record]
Ids = list[str]
Warnings = list[str]
Table = tuple[list[str], list[list[str]]]
"""Titles and rows."""


class Containers:
    """Everything that can be done with containers. ``text`` is an id, the unique beginning of one, or a name.

    All methods raise NotFound for a container that is not there; texts are Docker's.
    """

    def __init__(
        self,
        config: Config,
        machine: Machine,
        metadata: Metadata,
        snapshots: Snapshots,
        images: Images,
        networks: Networks,
        volumes: Volumes,
        driver: Driver,
        bus: Bus,
    ) -> None:
        """``machine``: ``machine.read_machine()``."""
        filters = SeccompFilters(config.root / "seccomp", config.seccomp_profile)
        self._rooms = Rooms(
            config, machine, metadata, snapshots, images, networks, volumes, driver, bus, filters, Profiles()
        )
        self._fleet = Fleet(metadata, bus)
        self._starter = Starter(self._rooms, self._fleet)
        self._life = Lifecycle(self._rooms, self._fleet, self._starter)
        self._ahead = Ahead(snapshots, config.netns_pool)
        self._creator = Creator(self._rooms, self._fleet, self._ahead)
        self._execs = Execs(self._rooms, self._fleet)
        self._commits = Commits(self._rooms, self._fleet, self._life)
        self._updater = Updater(self._rooms, self._fleet)
        self._archives = Archives(self._rooms, self._fleet, self._life)

    async def restore(self) -> None:
        """Once, after ``driver`` is open and the networks are started: adopt what runs, put on record what ended
        meanwhile, remove what is half-made, start what the restart policies say. Nothing else may be called before."""
        self._fleet.load()
        self._rooms.driver.subscribe(self._on_exit)
        await Restorer(self._rooms, self._fleet, self._life, self._execs).restore()
        self._ahead.fill_later()

    async def shutdown(self) -> None:
        """Stop acting; containers live on with ``live_restore``, else they are stopped, as dockerd does."""
        for live in self._fleet:
            if live.restart:
                live.restart.cancel()
        if not self._rooms.config.live_restore:
            running = [live for live in self._fleet if live.state.live]
            await asyncio.gather(*(self._stop_for_shutdown(live) for live in running))
        await self._ahead.close()
        await self._fleet.settle()

    async def _stop_for_shutdown(self, live: Live) -> None:
        """Without noting that somebody asked for it: the next engine starts it again by its policy."""
        try:
            await self._life.stop(live, grace=self._rooms.config.shutdown_timeout, by_hand=False)
        except (NotModified, Conflict, NotFound):
            return

    def _on_exit(self, exit: TaskExit) -> None:
        if exit.exec_id:
            self._execs.on_exit(exit)
        elif self._fleet.get(exit.id) is None:
            # On no record: a build's, or what a killed engine was building. Nobody else may be there to acknowledge it.
            self._fleet.spawn(self._rooms.driver.acknowledge(exit.id), f"acknowledging {exit.id}")
        else:
            self._life.on_exit(exit)
            live = self._fleet.get(exit.id)
            if live:
                self._execs.on_container_end(live)

    # Make and look

    async def create(
        self, name: str, request: CreateRequest, platform: Platform | None = None
    ) -> tuple[str, list[str]]:
        """Make a container; id and warnings. Raises Invalid, NotFound (image, network), AlreadyExists (name)."""
        live, warnings = await self._creator.create(Wish(name, request, platform))
        return live.id, warnings

    def record(self, text: str) -> Record:
        """The record alone."""
        return self._fleet.find(text).record

    def records(self) -> Records:
        """Every record, newest first."""
        return sorted((live.record for live in self._fleet), key=lambda record: -record.created_ns)

    async def inspect(self, text: str, *, size: bool = False) -> Container:
        """Everything about one."""
        return await self._show(self._fleet.find(text), size)

    async def list(
        self, *, all: bool = False, limit: int = 0, filters: Filters | None = None, size: bool = False
    ) -> list[Container]:
        """Running ones, or ``all``, newest first. Raises Invalid for unknown filters."""
        wanted = dict(filters or {})
        check_filters(wanted)
        images = await self._ancestors(wanted)
        found = [record for record in self._between(wanted) if is_wanted(record, wanted, images)]
        if not (all or limit > 0 or "status" in wanted or "exited" in wanted):
            found = [record for record in found if record.state.running]
        if limit > 0:
            found = found[:limit]
        lives = [live for record in found if (live := self._fleet.get(record.id))]
        return [await self._show(live, size) for live in lives]

    async def _ancestors(self, filters: Filters) -> frozenset[str]:
        ids: set[str] = set()
        for name in filters.get("ancestor", ()):
            try:
                ids.add(str((await self._rooms.images.resolve(name)).id))
            except CaisError:
                continue
        return frozenset(ids)

    def _between(self, filters: Filters) -> Records:
        """Newest first, bounded by ``before`` and ``since``."""
        records = self.records()
        before = [self.record(text).created_ns for text in filters.get("before", ())]
        since = [self.record(text).created_ns for text in filters.get("since", ())]
        low, high = max(since, default=0), min(before, default=1 << 63)
        return [record for record in records if low < record.created_ns < high]

    async def _show(self, live: Live, size: bool) -> Container:
        record = live.record
        directory = self._starter.directory(live.id)
        donor = shared_with(record.host.network_mode)
        logs = record.host.log_config.type != "none"
        writable = total = None
        if size:
            writable = await asyncio.to_thread(self._rooms.snapshots.usage, live.id)
            lowers = await asyncio.to_thread(lambda: sum(map(measure, record.lowers)))
            total = writable + lowers
        return Container(
            record=record,
            directory=directory,
            etc_directory=self._starter.directory(donor) if donor else directory,
            log_path=str(log_path(record, directory)) if logs else "",
            exec_ids=tuple(sorted(live.execs)),
            size_rw=writable,
            size_root=total,
        )

    def volume_users(self, volume: str) -> Ids:
        """Ids of the containers that mount the volume."""
        return self._fleet.volume_users(volume)

    def image_users(self, image_id: str) -> Ids:
        """Ids of the containers made from the image."""
        return [record.id for record in self._fleet.image_users(lambda id: id == image_id)]

    def is_running(self, text: str) -> bool:
        """It runs, is paused or is being restarted."""
        return self.record(text).state.running

    # Life

    async def start(self, text: str) -> None:
        """Raises NotModified when it runs, Conflict, TaskFailed."""
        await self._life.start(self._fleet.find(text))

    async def stop(self, text: str, signal: str = "", grace: int | None = None) -> None:
        """``grace`` seconds until SIGKILL, -1: never, ``None``: the container's own. Raises NotModified."""
        await self._life.stop(self._fleet.find(text), signal, grace)

    async def restart(self, text: str, signal: str = "", grace: int | None = None) -> None:
        """Stop and start."""
        await self._life.restart(self._fleet.find(text), signal, grace)

    async def kill(self, text: str, signal: str = "KILL") -> None:
        """Raises Conflict when it does not run, Invalid."""
        await self._life.kill(self._fleet.find(text), text, signal)

    def wait(self, text: str, condition: str = "") -> "asyncio.Future[Ended]":
        """Exit code and error text, once the condition is met: ``not-running``, ``next-exit``, ``removed``. The call
        itself begins the waiting and raises; nothing can be missed between it and the await."""
        return self._life.wait(self._fleet.find(text), condition)

    async def remove(
        self, text: str, *, force: bool = False, volumes: bool = False, link: bool = False
    ) -> None:
        """Raises Conflict when it runs, unless ``force``."""
        live = self._fleet.find(text)
        if link:
            raise Invalid("Conflict, cannot remove the default link name of the container")
        await self._life.remove(live, force=force, volumes=volumes, name=text)

    async def rename(self, text: str, name: str) -> None:
        """Raises Invalid, AlreadyExists."""
        live = self._fleet.find(text)
        if not name.strip().strip("/"):
            raise Invalid("Neither old nor new names may be empty")
        await self._life.rename(live, check_name(name.strip()))

    async def explain(self, text: str, cgroups: Cgroups) -> dict[str, Any]:
        """What isolates it, part by part."""
        return await Explainer(self._rooms, self._fleet, cgroups).explain(self._fleet.find(text))

    async def check(self, cgroups: Cgroups, network: Leaky, guests: Callable[[], set[str]]) -> dict[str, Any]:
        """What was left behind anywhere, and how much is there. ``guests``: ids of containers that builds run."""
        return await Checker(self._rooms, self._fleet, cgroups, network, guests).check_patiently()

    async def repair(
        self, cgroups: Cgroups, network: Leaky, guests: Callable[[], set[str]]
    ) -> Sequence[Damage]:
        """Remove the folders that were left behind, and tell of each."""
        return await Checker(self._rooms, self._fleet, cgroups, network, guests).repair()

    def standing(self) -> Sequence[Standing]:
        """On which layers each container stands."""
        return [Standing(live.record.name, live.record.lowers, live.state.running) for live in self._fleet]

    async def commit(self, text: str, wish: CommitWish, images: CommitImages) -> Image:
        """Make an image of it. Raises Invalid, Conflict."""
        return await self._commits.commit(self._fleet.find(text), text, wish, images)

    async def pause(self, text: str) -> None:
        """Raises Conflict."""
        await self._life.pause(self._fleet.find(text))

    async def unpause(self, text: str) -> None:
        """Raises Conflict."""
        await self._life.unpause(self._fleet.find(text))

    async def update(self, text: str, update: ResourceUpdate) -> Warnings:
        """Other limits, another restart policy. Raises Invalid, Conflict."""
        return await self._updater.update(self._fleet.find(text), update)

    # Files

    async def stat_path(self, text: str, path: str) -> PathStat:
        """What stands at a path of it. Raises NotFound, Invalid."""
        return await self._archives.stat(self._fleet.find(text), text, path)

    async def read_path(self, text: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        """The same, and a tar of it. Raises NotFound, Invalid, Conflict."""
        return await self._archives.read(self._fleet.find(text), text, path)

    async def write_path(self, text: str, wish: CopyWish, body: AsyncIterator[bytes]) -> None:
        """Unpack a tar in it. Raises NotFound, Invalid, Conflict, Unavailable."""
        await self._archives.write(self._fleet.find(text), text, wish, body)

    async def changes(self, text: str) -> Sequence[Change]:
        """What it changed of its image's files. Raises Conflict."""
        return await self._archives.changes(self._fleet.find(text), text)

    # Streams

    async def logs(self, text: str, wanted: LogsWanted) -> AsyncGenerator[bytes, None]:
        """What it wrote, framed for the client unless it has a terminal. Raises Unsupported for a container without a
        log, Invalid when neither stream is asked for: before the first piece."""
        live = self._fleet.find(text)
        record = live.record
        if record.host.log_config.type == "none":
            raise Unsupported("configured logging driver does not support reading")
        if not (wanted.stdout or wanted.stderr):
            raise Invalid("Bad parameters: you must choose at least one stream")
        wanted = LogsWanted(
            stdout=wanted.stdout or record.config.tty,
            stderr=wanted.stderr,
            follow=wanted.follow,
            timestamps=wanted.timestamps,
            details=wanted.details,
            since_ns=wanted.since_ns,
            until_ns=wanted.until_ns,
            tail=wanted.tail,
            raw=record.config.tty,
        )
        path = log_path(record, self._starter.directory(live.id))
        return self._read_log(live, LogStream(path, record.host.log_config.type, wanted), wanted.follow)

    async def _read_log(self, live: Live, stream: LogStream, follow: bool) -> AsyncGenerator[bytes, None]:
        ended = self._life.wait_stopped(live)
        if not live.state.live:
            ended.set_result((live.state.exit_code, live.state.error))
        try:
            async for data in stream.read(ended if follow else None):
                yield data
        finally:
            ended.cancel()

    async def attach(
        self, text: str, *, stdin: bool = False, stdout: bool = False, stderr: bool = False
    ) -> socket.socket:
        """A connection to its streams from now on, see ``Driver.attach``; before the start it gets everything. The
        caller closes it. Raises Conflict when it is paused or being restarted."""
        live = self._fleet.find(text)
        if live.state.status == "paused":
            raise Conflict(f"container {text} is paused, unpause the container before attach")
        if live.state.status == RESTARTING:
            raise Conflict(f"container {text} is restarting, wait until the container is running")
        self._fleet.publish(live, "attach")
        return await self._rooms.driver.attach(
            live.id, "", stdin=stdin and live.record.config.open_stdin, stdout=stdout, stderr=stderr
        )

    def note_detach(self, text: str) -> None:
        """A client has left with the detach keys."""
        self._fleet.publish(self._fleet.find(text), "detach")

    async def resize(self, text: str, height: int, width: int) -> None:
        """Set the terminal's size. Raises Conflict when it does not run."""
        live = self._fleet.find(text)
        if not live.state.live:
            raise Conflict(f"container {live.id} is not running")
        await self._rooms.driver.resize(live.id, "", height, width)
        self._fleet.publish(live, "resize", height=str(height), width=str(width))

    async def top(self, text: str, arguments: str = "") -> Table:
        """Titles and rows as ``ps`` with ``arguments`` (empty: ``-ef``). Raises Conflict, Invalid."""
        columns = top.parse_arguments(arguments)
        live = self._fleet.find(text)
        if live.state.status == RESTARTING:
            raise Conflict(f"Container {live.id} is restarting, wait until the container is running")
        if not live.state.live:
            raise Conflict(f"container {live.id} is not running")
        processes = top.read_processes(await self._rooms.driver.pids(live.id))
        self._fleet.publish(live, "top")
        return top.make_table(columns, processes, top.read_moment())

    # Exec

    def exec_create(self, text: str, config: ExecConfig) -> str:
        """Prepare an exec; its id. Raises Conflict, Invalid."""
        return self._execs.create(self._fleet.find(text), text, config)

    def exec_check(self, id: str) -> Exec:
        """The exec, if it can be started now. Raises NotFound, Conflict."""
        return self._execs.check(id)

    async def exec_start(
        self, id: str, *, detach: bool = False, console_size: tuple[int, int] | None = None
    ) -> socket.socket | None:
        """Run it; the connection to its streams, which the caller closes. Raises Conflict, TaskFailed."""
        return await self._execs.start(id, detach=detach, console_size=console_size)

    def exec_inspect(self, id: str) -> Exec:
        """Raises NotFound."""
        return self._execs.inspect(id)

    async def exec_resize(self, id: str, height: int, width: int) -> None:
        """Set the size of its terminal. Raises Conflict."""
        await self._execs.resize(id, height, width)
