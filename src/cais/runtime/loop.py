"""The keeper's event loop: epoll, timers, and errors that do not spread."""

import heapq
import select
import sys
import time
from collections.abc import Callable

MAX_FAILURES = 100
"""So often a descriptor's callback may fail in a row; then nobody listens to it any more. What it did not take in is
told again at once: the same error for ever would take the processor and fill the disk with its report."""


class Loop:
    """Calls back on descriptors and at times, one thing after the other. (asyncio would cost 10 MB and 40
    ms.)"""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._failures: dict[int, int] = {}
        self._timer_number = 0
        self._batch = 0
        self._stopped = False

    def watch(self, fd: int, events: int, callback: Callable[[int], None] | None) -> None:
        """See ``streams.Watch``."""
        known = self._callbacks.get(fd)
        self._failures.pop(fd, None)
        if callback is None:
            if known:
                del self._callbacks[fd]
                self._epoll.unregister(fd)
        elif known:
            self._callbacks[fd] = known[0], callback
            self._epoll.modify(fd, events)
        else:
            self._callbacks[fd] = self._batch, callback
            self._epoll.register(fd, events)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call ``act`` once, later."""
        self._timer_number += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timer_number, act))

    def run(self) -> None:
        """Serve until ``stop``; an error in one act is reported on stderr and does not end the others."""
        while not self._stopped:
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                self._guard(heapq.heappop(self._timers)[2])
            timeout = max(0.0, self._timers[0][0] - now) if self._timers else -1
            batch = self._epoll.poll(timeout)
            self._batch += 1
            for fd, events in batch:
                since, callback = self._callbacks.get(fd, (self._batch, None))
                # A descriptor that was closed and opened again during this batch must not get its
                # predecessor's event; one of its own comes again with the next.
                if callback is not None and since != self._batch:
                    self._call(fd, callback, events)

    def stop(self) -> None:
        """Return from ``run`` after the present act."""
        self._stopped = True

    def _call(self, fd: int, callback: Callable[[int], None], events: int) -> None:
        if self._guard(callback, events):
            self._failures.pop(fd, None)
        elif self._callbacks.get(fd, (0, None))[1] is callback:
            self._failures[fd] = self._failures.get(fd, 0) + 1
            if self._failures[fd] == MAX_FAILURES:
                self.watch(fd, 0, None)

    def _guard(self, act: Callable[..., None], *values: int) -> bool:
        try:
            act(*values)
        except Exception as error:
            sys.__excepthook__(type(error), error, error.__traceback__)
            sys.stderr.flush()
            return False
        return True
