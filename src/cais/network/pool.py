"""Ready-made network namespaces: built ahead, held by descriptor only, handed out once."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

from cais.errors import Unavailable

_SETTLE_SECONDS = 0.03
"""A refill waits this long after a hit: the container that took the namespace is just starting and needs the CPUs."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """A namespace with its interface up: the descriptor ``netns`` is the only thing that keeps it alive."""

    netns: int
    address: IPv4Address
    mac: str
    interface: str


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """``ready`` namespaces in store now; ``hits`` taken from it so far; ``misses`` that had to be built on demand."""

    ready: int = 0
    hits: int = 0
    misses: int = 0


class Pool:
    """Up to ``size`` namespaces in store. One is built at a time; those who wait get it before the store does."""

    def __init__(
        self, size: int, build: Callable[[], Awaitable[Ready]], discard: Callable[[Ready], None]
    ) -> None:
        self._size = size
        self._build = build
        self._discard = discard
        self._store: deque[Ready] = deque()
        self._waiting: deque[asyncio.Future[Ready]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._builder: asyncio.Task[None] | None = None
        self._closed = False
        self._hits = 0
        self._misses = 0

    async def take(self) -> Ready:
        """A namespace from the store, or the next one built. The caller owns its descriptor from now on."""
        if self._closed:
            raise Unavailable("the network is shutting down")
        if self._store:
            self._hits += 1
            ready = self._store.popleft()
            self._fill_later()
            return ready
        self._misses += 1
        waiter: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self.fill()
        return await waiter

    def fill(self) -> None:
        """Build in the background until nobody waits and the store is full."""
        self._cancel_timer()
        if self._builder is None:
            self._builder = asyncio.get_running_loop().create_task(self._run())

    def evict(self, address: IPv4Address) -> None:
        """Throw away the stored namespace with this address, if there is one: somebody asks for it by name."""
        for ready in [each for each in self._store if each.address == address]:
            self._store.remove(ready)
            self._discard(ready)

    def counts(self) -> PoolCounts:
        """How well the store serves."""
        return PoolCounts(len(self._store), self._hits, self._misses)

    async def drain(self) -> None:
        """Stop building and throw away what is in store. Idempotent; nothing can be taken afterwards."""
        self._closed = True
        self._cancel_timer()
        if self._builder is not None:
            # Not cancelled: a namespace half built on the other thread would be lost with its descriptor.
            await self._builder
        while self._store:
            self._discard(self._store.popleft())

    def _fill_later(self) -> None:
        if self._store and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SETTLE_SECONDS, self.fill)
        elif not self._store:
            self.fill()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _run(self) -> None:
        try:
            while self._waiting or (len(self._store) < self._size and not self._closed):
                try:
                    ready = await self._build()
                except Exception as error:
                    if not self._fail(error):
                        # Nobody waits: the next one who asks tries again, and is told.
                        _log.warning("no network namespace built ahead: %s", error)
                        return
                else:
                    self._hand_out(ready)
        finally:
            self._builder = None

    def _hand_out(self, ready: Ready) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(ready)
                return
        self._store.append(ready)

    def _fail(self, error: Exception) -> bool:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                return True
        return False
