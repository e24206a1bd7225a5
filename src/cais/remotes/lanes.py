"""One blob over several connections: when that is worth it, and how its pieces come out in order."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

_PIECE_SECONDS = 0.5
_SMALLEST, _LARGEST = 1 << 20, 4 << 20
"""Bytes of a piece: a request costs a round trip, and what is behind the front waits in memory and dies with us."""


class Lanes(msgspec.Struct, frozen=True):
    """At most ``count`` connections for a blob of which ``large`` bytes or more are still to come, opened when all
    blobs of a pull together come with less than ``slow`` bytes a second for ``look`` seconds."""

    count: int = 4
    large: int = 32 << 20
    slow: float = 100e6
    look: float = 1.0


DEFAULT_LANES = Lanes()


class Pace:
    """How many bytes of blobs have come, by all connections of one repository."""

    def __init__(self) -> None:
        self.received = 0


class Watch:
    """Looks at one connection: is the line what we wait for, and is it slow?"""

    def __init__(self, lanes: Lanes, pace: Pace) -> None:
        self._lanes = lanes
        self._pace = pace
        self.rate = 0.0
        """Bytes a second when ``is_slow`` was asked last."""
        self._restart()

    def _restart(self) -> None:
        self._since = time.monotonic()
        self._had = self._pace.received
        self._waited = 0.0

    async def parts(self, parts: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """``parts``, while the time is taken that we, and not who consumes them, wait for the next one."""
        asked = time.monotonic()
        async with aclosing(parts):
            async for part in parts:
                self._waited += time.monotonic() - asked
                self._pace.received += len(part)
                yield part
                asked = time.monotonic()

    def is_slow(self) -> bool:
        """Whether more connections could bring more. False as long as it is too early to tell."""
        passed = time.monotonic() - self._since
        if passed < self._lanes.look:
            return False
        self.rate = (self._pace.received - self._had) / passed
        found = self.rate < self._lanes.slow and self._waited > passed / 2
        self._restart()
        return found


async def fetch_pieces(
    fetch: Callable[[int, int], AsyncGenerator[bytes]], start: int, stop: int, *, count: int, rate: float
) -> AsyncGenerator[bytes]:
    """The bytes from ``start`` to ``stop`` in pieces, in order, ``count`` of them fetched side by side by ``fetch``.

    ``rate``: bytes a second that one has come with. The first error ends it, when all before it has been handed out.
    """
    size = int(min(max(rate * _PIECE_SECONDS, _SMALLEST), _LARGEST))
    running: deque[asyncio.Task[bytes]] = deque()
    try:
        while running or start < stop:
            while len(running) < count and start < stop:
                end = min(start + size, stop)
                running.append(asyncio.create_task(_read(fetch(start, end))))
                start = end
            yield await running[0]
            running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _read(parts: AsyncGenerator[bytes]) -> bytes:
    async with aclosing(parts):
        return b"".join([part async for part in parts])
