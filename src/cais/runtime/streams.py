"""Copying of a process's standard streams: pipes or terminal to log and attached clients, clients to standard
input.

Runs in the keeper's loop; every descriptor is non-blocking and every act does a bounded amount of work.
"""

import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable

from cais.runtime.logs import LogFile

CHUNK = 1 << 18
HIGH_WATER = 1 << 20
"""Bytes kept for one slow client before the container has to wait for it, as under dockerd."""

LOW_WATER = 1 << 18
FRAME = struct.Struct(">BxxxI")
STREAM_NUMBERS = {"stdout": 1, "stderr": 2}

Watch = Callable[[int, int, Callable[[int], None] | None], None]
"""``watch(fd, events, callback)``: call back on these epoll events, and on hang-up and error in any case;
without a callback the descriptor is forgotten."""


class Client:
    """One attached client: a socket of which the other end is the engine's."""

    __slots__ = ("_out", "_watch", "buffered", "framed", "io", "reads", "sock", "wants")

    def __init__(self, sock: socket.socket, wants: set[str], watch: Watch) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.wants = wants
        self.framed = True
        self.buffered = 0
        self.reads = "stdin" in wants
        self.io: StandardStreams | None = None
        self._out: deque[memoryview] = deque()
        self._watch = watch
        self.rewatch()

    def rewatch(self) -> None:
        """Ask for the events that matter now; that the other side has gone is told in any case."""
        events = select.EPOLLOUT if self._out else 0
        if self.reads and self.io is not None and not self.io.stdin_full:
            events |= select.EPOLLIN
        self._watch(self.sock.fileno(), events, self.on_event)

    def on_event(self, events: int) -> None:
        """Room to write, input to read, or the client has gone."""
        if events & select.EPOLLIN:
            self.read_input()
        if events & (select.EPOLLERR | select.EPOLLHUP):
            while self.reads and self.io is not None and not self.io.stdin_full and self.read_input():
                continue
            self.close()
        elif events & select.EPOLLOUT:
            self.flush()

    def read_input(self) -> bool:
        """Move input to the process; the end of it may be the end of the process's input. False: nothing
        there now."""
        if self.io is None:
            return False
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self.io.feed(data)
            return True
        self.reads = False
        self.rewatch()
        self.io.end_input()
        return False

    def send(self, stream: str, data: bytes) -> None:
        """Queue output for this client and write what goes."""
        if stream not in self.wants:
            return
        if self.framed:
            self._out.append(memoryview(FRAME.pack(STREAM_NUMBERS[stream], len(data)) + data))
            self.buffered += FRAME.size
        else:
            self._out.append(memoryview(data))
        self.buffered += len(data)
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes."""
        while self._out:
            try:
                sent = self.sock.send(self._out[0])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self.buffered -= sent
            if sent == len(self._out[0]):
                self._out.popleft()
            else:
                self._out[0] = self._out[0][sent:]
        if self.io is not None:
            self.io.on_drained()
        if self.sock.fileno() >= 0:
            self.rewatch()
        if not self._out and self.io is not None and self.io.finished:
            self.close()

    def finish(self) -> None:
        """No more output will come: close when what is queued has gone."""
        if not self._out:
            self.close()

    def close(self) -> None:
        """Forget the client. Idempotent."""
        if self.sock.fileno() < 0:
            return
        self._watch(self.sock.fileno(), 0, None)
        self.sock.close()
        self._out.clear()
        self.buffered = 0
        if self.io is not None:
            self.io.drop(self)


class StandardStreams:
    """The keeper's ends of one process's streams. ``outputs``: descriptor → stdout or stderr (a terminal has
    one, stdout); ``stdin``: descriptor to write to, -1 for none."""

    def __init__(self, outputs: dict[int, str], stdin: int, log: LogFile | None, watch: Watch) -> None:
        self.outputs = outputs
        self.stdin = stdin
        self.terminal = stdin in outputs
        self.stdin_once = False
        self.finished = False
        self.ended = False
        self.on_input_closed: Callable[[], None] = lambda: None
        self.on_finished: Callable[[], None] = lambda: None
        self.log = log
        self.clients: list[Client] = []
        self._input: deque[memoryview] = deque()
        self._close_input = False
        self._paused = False
        self._watch = watch
        for fd in {*outputs, stdin} - {-1}:
            os.set_blocking(fd, False)
        self._rewatch()

    @property
    def stdin_full(self) -> bool:
        """Whether input already waits for the process to read it."""
        return bool(self._input)

    def add(self, client: Client) -> None:
        """Attach a client: it gets output from now on."""
        client.io = self
        client.framed = not self.terminal
        self.clients.append(client)
        if self.finished:
            client.finish()
        else:
            client.rewatch()

    def drop(self, client: Client) -> None:
        """Detach a client that has closed."""
        if client in self.clients:
            self.clients.remove(client)
            self.on_drained()
            if client.reads:
                client.reads = False
                self.end_input()

    def _rewatch(self) -> None:
        reading = 0 if self._paused and not self.ended else select.EPOLLIN
        for fd in self.outputs:
            events = reading | (select.EPOLLOUT if fd == self.stdin and self._input else 0)
            self._watch(fd, events, self._on_output(fd))
        if self.stdin >= 0 and not self.terminal:
            self._watch(self.stdin, select.EPOLLOUT if self._input else 0, self._on_stdin)

    def _on_output(self, fd: int) -> Callable[[int], None]:
        def on_event(events: int) -> None:
            if events & select.EPOLLOUT and fd == self.stdin:
                self._write_input()
            if fd in self.outputs and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._read_output(fd)

        return on_event

    def _on_stdin(self, events: int) -> None:
        if events & select.EPOLLERR:  # the process has closed its end
            self.close_input()
        elif events & select.EPOLLOUT:
            self._write_input()

    def _read_output(self, fd: int) -> bool:
        """One chunk; False when nothing more is there now."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal says so when its last user has gone
                raise
            data = b""
        if not data:
            self._end_output(fd)
            return False
        stream = self.outputs[fd]
        if self.log is not None:
            self.log.write(stream, data, time.time_ns())
        for client in tuple(self.clients):
            client.send(stream, data)
        if not self._paused and any(client.buffered > HIGH_WATER for client in self.clients):
            self._paused = True
            self._rewatch()
        return True

    def _end_output(self, fd: int) -> None:
        stream = self.outputs[fd]
        if self.terminal and not self.ended:
            # every opener of the slave is gone for the moment, but the process lives and may open it again
            self._watch(fd, 0, None)
            return
        self._watch(fd, 0, None)
        del self.outputs[fd]
        if fd != self.stdin:
            os.close(fd)
        if self.log is not None:
            self.log.finish(stream, time.time_ns())
        if not self.outputs and self.ended:
            self.finish()

    def on_drained(self) -> None:
        """A client took some output: go on reading when all have."""
        if self._paused and all(client.buffered < LOW_WATER for client in self.clients):
            self._paused = False
            self._rewatch()

    def feed(self, data: bytes) -> None:
        """Input from a client for the process."""
        if self.stdin < 0:
            return
        self._input.append(memoryview(data))
        self._write_input()

    def _write_input(self) -> None:
        while self._input:
            try:
                written = os.write(self.stdin, self._input[0])
            except BlockingIOError:
                break
            except OSError:
                self._input.clear()
                self.close_input()
                return
            if written == len(self._input[0]):
                self._input.popleft()
            else:
                self._input[0] = self._input[0][written:]
        if self._close_input and not self._input:
            self.close_input()
        self._rewatch()
        for client in tuple(self.clients):
            if client.reads:
                client.rewatch()

    def end_input(self) -> None:
        """A client's input has ended; with ``stdin_once``, and when it was the last, so does the
        process's."""
        if self.terminal or not self.stdin_once or any(client.reads for client in self.clients):
            return
        self._close_input = True
        if not self._input:
            self.close_input()

    def close_input(self) -> None:
        """Close the process's input. Idempotent."""
        if self.stdin < 0 or self.terminal:
            return
        self._watch(self.stdin, 0, None)
        os.close(self.stdin)
        self.stdin = -1
        self._input.clear()
        self.on_input_closed()

    def end(self) -> None:
        """The process has ended: read what is left without waiting for slow clients, then finish at end of
        file."""
        self.ended = True
        for fd in tuple(self.outputs):
            for _ in range(64):  # bounded: another holder of the pipe could write for ever
                if fd not in self.outputs or not self._read_output(fd):
                    break
        if self.outputs:
            self._rewatch()
        else:
            self.finish()

    def finish(self) -> None:
        """No more output: close everything and tell. Idempotent."""
        if self.finished:
            return
        self.finished = True
        self.close_input()
        for fd, stream in tuple(self.outputs.items()):
            self._watch(fd, 0, None)
            os.close(fd)
            if self.log is not None:
                self.log.finish(stream, time.time_ns())
        if self.terminal and self.stdin >= 0 and self.stdin not in self.outputs:
            os.close(self.stdin)
        self.outputs.clear()
        self.stdin = -1
        if self.log is not None:
            self.log.close()
        # The exit is told before the clients see the end of their streams: who sees it finds the code.
        self.on_finished()
        for client in tuple(self.clients):
            client.finish()
