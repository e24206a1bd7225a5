"""A process in a container with its streams, synchronous."""

import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from cais.client.channel import PIECE
from cais.client.models import Completed
from cais.errors import Unavailable
from cais.spec.multiplex import STDOUT, Demultiplexer


class Reader:
    """One output stream, like a binary file. Reading it collects what comes on the other one in memory."""

    def __init__(self, pump: Callable[[], bool]) -> None:
        self._pump = pump
        self._buffer = bytearray()

    def put(self, data: bytes) -> None:
        """Add what has come (for the process's own use)."""
        self._buffer += data

    def read(self, size: int = -1) -> bytes:
        """``size`` bytes, fewer only at the end; all there is to come for -1."""
        while (size < 0 or len(self._buffer) < size) and self._pump():
            pass
        return self._take(len(self._buffer) if size < 0 else size)

    def read1(self) -> bytes:
        """What is there, waiting only if there is nothing; empty at the end."""
        while not self._buffer and self._pump():
            pass
        return self._take(len(self._buffer))

    def readline(self) -> bytes:
        """One line with its end; empty at the end of the stream."""
        start = 0
        while (at := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            if not self._pump():
                return self._take(len(self._buffer))
        return self._take(at + 1)

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


class Writer:
    """Stdin of a process."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.closed = False

    def write(self, data: bytes) -> None:
        """Send all of ``data``. BrokenPipeError when the process no longer reads."""
        if self.closed:
            raise ValueError("write to closed stdin")
        self._sock.sendall(data)

    def close(self) -> None:
        """End of input; output can still be read."""
        if not self.closed:
            self.closed = True
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                return  # the process is gone, and its stdin with it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Process:
    """A running process: ``stdin`` (None unless asked for), ``stdout``, ``stderr``, ``exit_code``.

    With a terminal everything it writes comes on ``stdout``. Leaving the ``with`` block closes the streams;
    the process itself goes on until it ends or somebody ends it.
    """

    def __init__(
        self,
        identity: str,
        stream: tuple[socket.socket, bytes],
        wait: Callable[[float | None], int],
        *,
        stdin: bool,
        tty: bool,
        drained: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """``drained``: the exit code is known only after the streams have ended."""
        self.id = identity
        """Of the container, or of the exec."""
        self._sock, first = stream
        self._wait = wait
        self._demultiplexer = None if tty else Demultiplexer()
        self._drained = drained
        self._on_close = on_close
        self._ended = False
        self.stdin = Writer(self._sock) if stdin else None
        self.stdout = Reader(self._pump)
        self.stderr = Reader(self._pump)
        self.exit_code: int | None = None
        self._put(first)

    def _pump(self) -> bool:
        """Receive once; False at the end of the streams."""
        if self._ended:
            return False
        try:
            data = self._sock.recv(PIECE)
        except ConnectionResetError:
            data = b""
        if not data:
            self._ended = True
            self._sock.close()
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

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended (``timeout`` in seconds, else TimeoutError).

        Read or close the streams of a process that writes much: it waits while nobody reads.
        """
        if self.exit_code is None:
            if self._drained and not self._ended:
                self._sock.settimeout(timeout)
                while self._pump():
                    pass
            self.exit_code = self._wait(timeout)
        return self.exit_code

    def communicate(self, input: bytes = b"", timeout: float | None = None) -> Completed:
        """Write ``input``, close stdin, read all output, wait. TimeoutError if output stops for ``timeout`` seconds."""
        writer = threading.Thread(target=self._write, args=(input,), daemon=True) if self.stdin else None
        if writer:
            writer.start()
        if not self._ended:
            self._sock.settimeout(timeout)
        try:
            out, err = self.stdout.read(), self.stderr.read()
        except TimeoutError:
            self.close()  # also ends a writer that nobody reads from
            raise
        if writer:
            writer.join()
        code = self.wait(timeout)
        self.close()
        return Completed(code, out, err)

    def _write(self, data: bytes) -> None:
        assert self.stdin is not None
        try:
            self.stdin.write(data)
        except (OSError, ValueError):
            return  # it ended without reading all of it; its exit code tells
        finally:
            self.stdin.close()

    def close(self) -> None:
        """Close the streams."""
        self._ended = True
        self._sock.close()
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
