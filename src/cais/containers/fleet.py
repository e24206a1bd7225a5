"""All containers of the engine in memory: by id, by name, with their locks and waiters; and their records on disk."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from cais.containers.record import Record, State, format_record, parse_record
from cais.errors import AlreadyExists, Invalid, NotFound
from cais.events import Bus, Event
from cais.store.metadata import Metadata

log = logging.getLogger(__name__)

Ended = tuple[int, str]
"""Exit code and error text, what ``wait`` answers."""


class Live:
    """One container in memory. ``lock`` guards its state; nobody keeps it while waiting for the container to end."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.stop_waiters: set[asyncio.Future[Ended]] = set()
        self.remove_waiters: set[asyncio.Future[Ended]] = set()
        self.removing = False
        self.stopping = False
        """Somebody asked for the end: no restart by policy."""
        self.keep = False
        """A restart by hand is under way: ``--rm`` waits."""
        self.delay = 0.0
        self.policy_restarts = 0
        self.restart: asyncio.Task[None] | None = None
        self.teardown: asyncio.Task[None] | None = None
        self.execs: set[str] = set()
        self.copies: set[asyncio.Task[None]] = set()
        """What writes into its root while it runs: has to be over before the next start mounts that anew."""
        self.committing = asyncio.Lock()

    @property
    def id(self) -> str:
        """The full id."""
        return self.record.id

    @property
    def state(self) -> State:
        """The record's."""
        return self.record.state

    def wake_stopped(self, ended: Ended) -> None:
        """Tell those who wait for the end."""
        _wake(self.stop_waiters, ended)

    def wake_removed(self, ended: Ended) -> None:
        """Tell those who wait for the removal, and those who would wait for an end that cannot come any more."""
        _wake(self.remove_waiters, ended)
        _wake(self.stop_waiters, ended)


def _wake(waiters: set[asyncio.Future[Ended]], ended: Ended) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(ended)
    waiters.clear()


class Fleet:
    """Finds containers and keeps records; used on the event loop only."""

    def __init__(self, metadata: Metadata, bus: Bus) -> None:
        self._metadata = metadata
        self._bus = bus
        self._by_id: dict[str, Live] = {}
        self._names: dict[str, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._by_id.values()))

    def load(self) -> None:
        """Read every record of an earlier engine. An unreadable one stays on disk and is not shown."""
        for id, name, data in self._metadata.list_containers():
            try:
                record = replace(parse_record(data), id=id, name=name)
            except msgspec.DecodeError:
                log.exception("record of container %s cannot be read", id)
                continue
            self._by_id[id] = Live(record)
            self._names[name] = id

    def get(self, id: str) -> Live | None:
        """By full id."""
        return self._by_id.get(id)

    def find(self, text: str) -> Live:
        """By full id, name (with or without slash) or unique beginning of an id, in this order as Docker. Raises
        NotFound and Invalid in Docker's words."""
        if not text:
            raise Invalid("No container name or ID supplied")
        live = self._by_id.get(text) or self._by_id.get(self._names.get(text.removeprefix("/"), ""))
        if live:
            return live
        found = [live for id, live in self._by_id.items() if id.startswith(text)]
        if len(found) > 1:
            raise Invalid(f"multiple IDs found with provided prefix: {text}")
        if not found:
            raise NotFound(f"No such container: {text}")
        return found[0]

    def reserve(self, name: str, id: str) -> None:
        """Take the name before anything is made. Raises AlreadyExists in Docker's words."""
        owner = self._names.get(name)
        if owner is not None and owner != id:
            raise AlreadyExists(
                f'Conflict. The container name "/{name}" is already in use by container "{owner}". You have to '
                "remove (or rename) that container to be able to reuse that name."
            )
        self._names[name] = id

    def has_name(self, name: str) -> bool:
        """The name is taken."""
        return name in self._names

    def release(self, name: str, id: str) -> None:
        """Give a reserved name back. Idempotent."""
        if self._names.get(name) == id:
            del self._names[name]

    def add(self, record: Record) -> Live:
        """Write the record: from now on the container exists."""
        self._metadata.put_container(record.id, record.name, format_record(record))
        live = Live(record)
        self._by_id[record.id] = live
        self._names[record.name] = record.id
        return live

    def save(self, live: Live, record: Record) -> None:
        """Replace the record, on disk first."""
        self._metadata.put_container(record.id, record.name, format_record(record))
        live.record = record

    def save_soon(self, live: Live) -> None:
        """Write the record as it is, once those who wait have been answered; it says nothing that a new engine could
        not find out."""
        asyncio.get_running_loop().call_soon(self._save_again, live, live.record)

    def _save_again(self, live: Live, record: Record) -> None:
        if live.record is record and self._by_id.get(live.id) is live:
            self.save(live, record)

    def forget(self, live: Live) -> None:
        """The container does not exist any more; its name is free."""
        self._metadata.delete_container(live.id)
        self._by_id.pop(live.id, None)
        self.release(live.record.name, live.id)

    def publish(self, live: Live, action: str, **extra: str) -> None:
        """An event of the container, with Docker's attributes."""
        config = live.record.config
        attributes = dict(config.labels) | {"image": config.image, "name": live.record.name} | extra
        self._bus.publish(Event("container", action, live.id, time.time_ns(), attributes))

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Run ``work`` beside everything else; ``settle`` waits for it, a failure is logged as ``what``."""
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        return task

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error:
            # The one place where background work can say that it failed.
            log.error("%s failed", task.get_name(), exc_info=error)

    async def settle(self) -> None:
        """Wait until no background work is left, the writes of ``save_soon`` included."""
        await asyncio.sleep(0)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def volume_users(self, volume: str) -> list[str]:
        """Ids of the containers that mount the volume."""
        return [id for id, live in self._by_id.items() if mounts_volume(live.record, volume)]

    def image_users(self, wanted: Callable[[str], bool]) -> list[Record]:
        """Records of the containers whose image id is ``wanted``."""
        return [live.record for live in self._by_id.values() if wanted(live.record.image_id)]


def mounts_volume(record: Record, volume: str) -> bool:
    """Whether the container mounts it."""
    return any(point.type == "volume" and point.name == volume for point in record.mounts)
