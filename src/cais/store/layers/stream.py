"""The uncompressed byte stream of a layer: inflated and hashed in one thread, consumed in another."""

import hashlib
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread
from types import TracebackType

from cais.errors import Corrupt
from cais.spec.digest import Digest

_AHEAD = 64
"""Chunks that wait for the consumer, 16 MiB: small files are slow to write and large ones fast, so the two sides take
turns at being ahead."""

EMPTY = memoryview(b"")


class Stream:
    """Pulls chunks through a thread and hands them out as exact lengths. A context manager: leaving it ends the thread.

    isal, zstandard and hashlib work without the interpreter's lock, so inflating and hashing run on one core while
    files are written on another.
    """

    def __init__(self, chunks: Iterator[bytes], *, abandon: Callable[[], None] = lambda: None) -> None:
        """``abandon``: ends the waiting of whoever makes ``chunks``; called when nobody wants more of them."""
        self._queue: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        self._room = Semaphore(_AHEAD)
        self._abandon = abandon
        self._stopped = False
        self._hash = hashlib.sha256()
        self._view = EMPTY
        self._ended = False
        self.offset = 0
        self._thread = Thread(target=self._pump, args=(chunks,), name="layer-inflate", daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._abandon()
        self._room.release()
        self._thread.join()

    def _pump(self, chunks: Iterator[bytes]) -> None:
        update = self._hash.update
        try:
            for chunk in chunks:
                self._room.acquire()
                if self._stopped:
                    return
                self._queue.put(chunk)
                update(chunk)  # meanwhile the consumer has begun with it
            self._queue.put(None)
        except BaseException as error:  # re-raised in the consumer's thread by _refill
            self._queue.put(error)

    def _refill(self) -> bool:
        """Make the next chunk the current one; False at the end of the stream."""
        if self._ended:
            return False
        item = self._queue.get()
        self._room.release()
        if isinstance(item, bytes):
            self._view = memoryview(item)
            return True
        self._ended = True
        if item is not None:
            raise item
        return False

    def take(self, size: int) -> memoryview:
        """Exactly ``size`` bytes; fewer only if the stream ends. For headers: the rest of the file is copied when
        the bytes cross a chunk."""
        view = self._view
        if len(view) >= size:
            self._view = view[size:]
            self.offset += size
            return view[:size]
        gathered = bytearray()
        while len(gathered) < size:
            if not self._view and not self._refill():
                break
            part = self._view[: size - len(gathered)]
            gathered += part
            self._view = self._view[len(part) :]
        self.offset += len(gathered)
        return memoryview(gathered)

    def send(self, size: int, sink: Callable[[memoryview], int]) -> None:
        """Hand the next ``size`` bytes to ``sink``, which says how many of them it took. Raises Corrupt at the end."""
        left = size
        while left:
            if not self._view and not self._refill():
                raise Corrupt(f"truncated layer: {left} bytes of a file are missing")
            part = self._view[:left]
            while part:
                taken = sink(part)
                part = part[taken:]
                left -= taken
                self._view = self._view[taken:]
        self.offset += size

    def skip(self, size: int) -> None:
        """Drop ``size`` bytes. Raises Corrupt at the end."""
        self.send(size, len)

    def drain(self) -> tuple[Digest, int]:
        """Read to the end, which whatever stands behind the tar belongs to; the sha256 digest and the length."""
        self.offset += len(self._view)
        self._view = EMPTY
        while self._refill():
            self.offset += len(self._view)
            self._view = EMPTY
        return Digest("sha256:" + self._hash.hexdigest()), self.offset
