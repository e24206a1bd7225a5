"""A stream of the event loop, read by a thread."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future


class Pulled:
    """``read`` is for one thread, and waits for what the loop has not yet; ``stop`` is for any, and ends that."""

    def __init__(self, stream: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop
        self._rest = b""
        self._ended = False
        self._stopped = False
        self._waiting: Future[bytes] | None = None
        self._turn = asyncio.Lock()

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, empty at the end. Raises what the stream raises, and concurrent.futures'
        CancelledError once it is stopped."""
        if not self._rest and not self._ended:
            self._waiting = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            if self._stopped:  # in between: nobody would cancel this one
                self._waiting.cancel()
            self._rest = self._waiting.result()
            self._ended = not self._rest
        size = len(self._rest) if size < 0 else size
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    async def _next(self) -> bytes:
        async with self._turn:
            async for part in self._stream:
                if part:
                    return part
        return b""

    def stop(self) -> None:
        """Nobody reads any more. Idempotent."""
        self._stopped = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def settle(self) -> None:
        """Once nobody reads any more: the stream is free for others to read on."""
        async with self._turn:
            return
