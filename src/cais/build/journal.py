"""What one step tells, kept until somebody reads it: steps run side by side, and are told one after the other."""

import asyncio
from collections.abc import AsyncIterator

from cais.build.request import BuildEvent, StepOutput

LIMIT = 16 << 20
"""Bytes of output of one step that are kept; what comes later is dropped, with a note."""
_CLIPPED = b"\n[output clipped: more than %d bytes]\n" % LIMIT


class Journal:
    """One writer, any number of readers; each gets everything."""

    def __init__(self) -> None:
        self._events: list[BuildEvent] = []
        self._size = 0
        self._changed = asyncio.Event()
        self.is_done = False

    def add(self, event: BuildEvent) -> None:
        """One more."""
        if isinstance(event, StepOutput):
            if self._size > LIMIT:
                return
            self._size += len(event.data)
            if self._size > LIMIT:
                event = StepOutput(2, _CLIPPED)
        self._events.append(event)
        self._wake()

    def finish(self) -> None:
        """No more will come. Idempotent."""
        self.is_done = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncIterator[BuildEvent]:
        """Everything, until it is finished."""
        at = 0
        while True:
            changed = self._changed
            while at < len(self._events):
                yield self._events[at]
                at += 1
            if self.is_done:
                return
            await changed.wait()
