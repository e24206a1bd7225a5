"""Whether the wall clock can be believed. Generations, uploads and pauses go by the monotonic one and need not ask."""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)
TOLERANCE = 60.0
"""Seconds by which it may have moved since it was last looked at: more is no drift, it was set."""
STEADY = 3600.0
"""Seconds for which it must have gone evenly: who set it wrongly has as long to set it right."""


class WallClock:
    """Compared with the monotonic one, which nobody sets."""

    def __init__(
        self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._set_at = float("-inf")

    def is_steady(self) -> bool:
        """Whether what is removed for its age may be removed now. What it said at the start is believed."""
        now = self._monotonic()
        offset = self._wall() - now
        if abs(offset - self._offset) > TOLERANCE:
            log.warning(
                "the clock was set by %+.0f seconds: nothing is removed for its age", offset - self._offset
            )
            self._set_at = now
        self._offset = offset
        return now - self._set_at >= STEADY
