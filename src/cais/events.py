"""The event record and the in-process bus that carries it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

HISTORY = 1024
"""Events kept in memory for ``since``; dockerd keeps 256."""

QUEUE = 4096
"""Events that wait for one slow subscriber before the oldest are dropped for it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: ``kind`` container, image, volume, network or daemon; ``action`` Docker's
    verb."""

    kind: str
    action: str
    id: str
    time_ns: int
    attributes: Mapping[str, str] = field(default_factory=dict)


class Bus:
    """Publishes events to all subscribers of this process; never blocks the publisher."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._queues: set[asyncio.Queue[Event]] = set()

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are."""
        return len(self._queues)

    def publish(self, event: Event) -> None:
        """Hand ``event`` to every subscriber; a full queue loses its oldest event, never the newest."""
        self._history.append(event)
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    def history(self, since_ns: int) -> list[Event]:
        """Remembered events at or after ``since_ns`` (nanoseconds since the epoch), oldest first."""
        return [event for event in self._history if event.time_ns >= since_ns]

    @contextmanager
    def subscribe(self) -> Iterator[AsyncIterator[Event]]:
        """An endless iterator of events published from now on; leaving the block ends the subscription."""
        queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE)
        self._queues.add(queue)

        async def stream() -> AsyncIterator[Event]:
            while True:
                yield await queue.get()

        try:
            yield stream()
        finally:
            self._queues.discard(queue)
