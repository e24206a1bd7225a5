"""A process in a container with its streams, asynchronous."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from cais.client.aiochannel import Wire
from cais.client.models import Completed
from cais.errors import Unavailable, Unsupported
from cais.spec.multiplex import STDOUT, Demultiplexer


class AsyncReader:
    """One output stream. Reading it collects what comes on the other one in memory."""

    def __init__(self, pump: Callable[[], Awaitable[bool]]) -> None:
        self._pump = pump
        self._buffer = bytearray()

    def put(self, data: bytes) -> None:
        """Add what has come (for the process's own use)."""
        self._buffer += data

    async def read(self, size: int = -1) -> bytes:
        """``size`` bytes, fewer only at the end; all there is to come for -1."""
        while (size < 0 or len(self._buffer) < size) and await self._pump():
            pass
        return self._take(len(self._buffer) if size < 0 else size)

    async def read1(self) -> bytes:
        """What is there, waiting only if there is nothing; empty at the end."""
        while not self._buffer and await self._pump():
            pass
        return self._take(len(self._buffer))

    async def readline(self) -> bytes:
        """One line with its end; empty at the end of the stream."""
        while (at := self._buffer.find(b"\n")) < 0:
            if not await self._pump():
                return self._take(len(self._buffer))
        return self._take(at + 1)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while line := await self.readline():
            yield line

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


class AsyncWriter:
    """Stdin of a process."""

    def __init__(self, wire: Wire) -> None:
        self._writer = wire.writer
        self.closed = False

    async def write(self, data: bytes) -> None:
        """Send ``data``. BrokenPipeError or ConnectionResetError when the process no longer reads."""
        if self.closed:
            raise ValueError("write to closed stdin")
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        """End of input; output can still be read. Unsupported over TLS, where asyncio has no half close."""
        if self.closed:
            return
        if not self._writer.can_write_eof():
            raise Unsupported("stdin of a process cannot be closed alone over TLS")
        self.closed = True
        try:
            self._writer.write_eof()
        except OSError:
            return  # the process is gone, and its stdin with it


class AsyncProcess:
    """A running process; as ``Process``, with coroutines."""

    def __init__(
        self,
        identity: str,
        stream: tuple[Wire, bytes],
        wait: Callable[[], Awaitable[int]],
        *,
        stdin: bool,
        tty: bool,
        drained: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """``drained``: the exit code is known only after the streams have ended."""
        self.id = identity
        self._wire, first = stream
        self._wait = wait
        self._demultiplexer = None if tty else Demultiplexer()
        self._drained = drained
        self._on_close = on_close
        self._ended = False
        self._receiving = asyncio.Lock()
        self.stdin = AsyncWriter(self._wire) if stdin else None
        self.stdout = AsyncReader(self._pump)
        self.stderr = AsyncReader(self._pump)
        self.exit_code: int | None = None
        self._put(first)

    async def _pump(self) -> bool:
        """Receive once; False at the end. One of several waiting readers receives, the others look again."""
        if self._receiving.locked():
            async with self._receiving:
                return not self._ended
        async with self._receiving:
            data = b"" if self._ended else await self._wire.read()
            if not data:
                self._ended = True
                self._wire.close()
                return False
            self._put(data)
            return True

    def _put(self, data: bytes) -> None:
        if self._demultiplexer is None:
            self.stdout.put(data)
            return
        try:
            for stream, piece in self._demultiplexer.feed(data):
                (self.stdout if stream == STDOUT else self.stderr).put(piece)
        except ValueError as error:
            raise Unavailable(str(error)) from error

    async def wait(self) -> int:
        """Its exit code, once it has ended. For a time limit use ``asyncio.timeout``."""
        if self.exit_code is None:
            while self._drained and await self._pump():
                pass
            self.exit_code = await self._wait()
        return self.exit_code

    async def communicate(self, input: bytes = b"") -> Completed:
        """Write ``input``, close stdin, read all output, wait. For a time limit use ``asyncio.timeout``."""
        async with asyncio.TaskGroup() as group:
            if self.stdin:
                group.create_task(self._write(self.stdin, input))
            out, err = await self.stdout.read(), await self.stderr.read()
            code = await self.wait()
        await self.close()
        return Completed(code, out, err)

    async def _write(self, stdin: AsyncWriter, data: bytes) -> None:
        try:
            await stdin.write(data)
            await stdin.close()
        except (ConnectionError, ValueError):
            return  # it ended without reading all of it; its exit code tells

    async def close(self) -> None:
        """Close the streams."""
        self._ended = True
        self._on_close()
        await self._wire.closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
