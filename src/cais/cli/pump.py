"""Moves bytes between this process's streams and an attached container until one side is done."""

from __future__ import annotations

import os
from _socket import MSG_DONTWAIT, SHUT_WR
from select import POLLERR, POLLHUP, POLLIN, POLLOUT, poll

from cais.cli.http import PIECE
from cais.spec.multiplex import STDOUT, Demultiplexer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cais.cli.terminal import KeyWatch, SignalPipe

_END = POLLIN | POLLHUP | POLLERR


def write_all(number: int, data: bytes) -> None:
    """Write ``data`` to a descriptor, also one that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(number, view) :]
        except BlockingIOError:
            waiting = poll()
            waiting.register(number, POLLOUT)
            waiting.poll()


class Output:
    """Writes what comes from the container to stdout and stderr; a reader that is gone ends the output."""

    __slots__ = ("_demultiplexer",)

    def __init__(self, *, multiplexed: bool) -> None:
        self._demultiplexer = Demultiplexer() if multiplexed else None

    def write(self, data: bytes) -> None:
        """Pass ``data`` on. BrokenPipeError when nobody reads; ValueError for a stream out of step."""
        if self._demultiplexer is None:
            write_all(1, data)
            return
        for stream, piece in self._demultiplexer.feed(data):
            write_all(1 if stream == STDOUT else 2, piece)


class Pump:
    """One attached stream. ``run`` returns True when the user pressed the detach keys."""

    __slots__ = ("_keys", "_on_signal", "_output", "_pending", "_reading", "_signals", "_sock", "_stdin_open")

    def __init__(
        self,
        sock: Any,
        output: Output,
        *,
        stdin: bool,
        keys: KeyWatch | None = None,
        signals: SignalPipe | None = None,
        on_signal: Callable[[int], None] | None = None,
    ) -> None:
        self._sock = sock
        self._output = output
        self._stdin_open = stdin
        self._reading = stdin
        self._keys = keys
        self._signals = signals
        self._on_signal = on_signal
        self._pending = b""

    def run(self, first: bytes) -> bool:
        """Move bytes until the engine closes the stream; ``first`` came with the answer's head."""
        if first:
            self._output.write(first)
        while True:
            ready = self._wait()
            if self._signals and self._on_signal and self._signals.number in ready:
                for number in self._signals.read():
                    self._on_signal(number)
            if ready.get(self._sock.fileno(), 0) & _END:
                data = self._receive()
                if not data:
                    return False
                self._output.write(data)
            if self._pending and ready.get(self._sock.fileno(), 0) & POLLOUT:
                self._flush()
            elif 0 in ready and self._take_input():
                return True

    def _receive(self) -> bytes:
        try:
            data: bytes = self._sock.recv(PIECE)
        except ConnectionResetError:
            # the engine closed while input of ours lay unread; all of its output has been read before this
            return b""
        return data

    def _wait(self) -> dict[int, int]:
        """What is ready, by descriptor. Input is not read while older input waits: that is back pressure."""
        pending = getattr(self._sock, "pending", None)
        if pending is not None and pending():
            return {self._sock.fileno(): POLLIN}
        watched = poll()
        watched.register(self._sock.fileno(), POLLIN | (POLLOUT if self._pending else 0))
        if self._reading and not self._pending:
            watched.register(0, POLLIN)
        if self._signals:
            watched.register(self._signals.number, POLLIN)
        return dict(watched.poll())

    def _take_input(self) -> bool:
        """Read stdin once; True if the detach keys were in it."""
        try:
            data = os.read(0, 1 << 16)
        except OSError:
            data = b""  # a terminal that hung up (EIO) is an end like any other
        detached = False
        if not data:
            self._reading = False
        elif self._keys:
            data, detached = self._keys.feed(data)
        self._pending += data
        self._flush()
        return detached

    def _flush(self) -> None:
        """Send what can be sent without waiting, and the end of stdin after the last byte of it."""
        try:
            if self._pending:
                sent = self._sock.send(self._pending, MSG_DONTWAIT)
                self._pending = self._pending[sent:]
            if not self._pending and not self._reading and self._stdin_open:
                self._stdin_open = False
                self._sock.shutdown(SHUT_WR)
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError, OSError):
            # the process has closed its stdin or is gone: what it still says is read to the end
            self._reading = self._stdin_open = False
            self._pending = b""
