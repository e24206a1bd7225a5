"""When each image was last used: noted in memory, written down now and then."""

import asyncio
import time

from cais.spec.digest import Digest
from cais.store.metadata import Metadata

WRITE_AFTER = 30.0
"""Seconds: a kill of the engine forgets the uses of that time, and no start of a container waits for a write."""


class LastUsed:
    """Used on the event loop only. Times are nanoseconds since the epoch."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._waiting: dict[Digest, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def note(self, image: Digest) -> None:
        """It is being used now: pulled, or the image of a container that is made or started."""
        self._waiting[image] = time.time_ns()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_AFTER, self.write)

    def of(self, image: Digest, stored: int) -> int:
        """The newest note, or what was ``stored`` before."""
        return max(self._waiting.get(image, 0), stored)

    def write(self) -> None:
        """Put all notes into the database. Idempotent."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            with self._metadata.transaction():
                for image, used_ns in self._waiting.items():
                    self._metadata.touch_image(image, used_ns)
            self._waiting.clear()
