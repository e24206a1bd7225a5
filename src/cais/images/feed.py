"""Carrying a stream of bytes into a blocking consumer without blocking the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

BATCH = 1 << 20
"""Bytes handed over at once: enough that the hand-over costs nothing, little enough to be cheap to hold."""
PATIENCE = 0.25
"""Seconds after which less is handed over too: on a slow line somebody waits for it, and who is killed loses it."""


async def feed(stream: AsyncIterator[bytes], consume: Callable[[bytes], None]) -> AsyncIterator[int]:
    """Call ``consume`` in a thread with the stream's bytes in order; yields how many it has had so far.

    While one batch is consumed the next one is read. However this ends, ``consume`` is not running
    afterwards.
    """
    loop = asyncio.get_running_loop()
    running: asyncio.Future[None] | None = None
    total = 0
    try:
        async for batch in _batches(stream):
            if running:
                await running
                yield total
            total += len(batch)
            running = loop.run_in_executor(None, consume, batch)
        if running:
            await running
            yield total
    finally:
        if running and not running.done():
            # Cancelled: the thread cannot be, and must not write into what the caller closes now.
            await asyncio.wait([running])


async def _batches(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    waiting: list[bytes] = []
    size, last = 0, time.monotonic()
    try:
        async for chunk in stream:
            waiting.append(chunk)
            size += len(chunk)
            if size >= BATCH or time.monotonic() - last > PATIENCE:
                yield b"".join(waiting)
                waiting, size, last = [], 0, time.monotonic()
    except Exception:
        # What came before the line broke is good, and another try can go on from there.
        if waiting:
            yield b"".join(waiting)
        raise
    if waiting:
        yield b"".join(waiting)
