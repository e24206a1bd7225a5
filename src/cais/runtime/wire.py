"""Messages between engine and keeper: length-prefixed JSON over one unix stream socket, descriptors beside
it.

    message  = length (u32, big endian) + JSON object; its ``fds`` says how many descriptors came with it
    engine → {"op": …, "seq": n, …}          keeper → {"seq": n, …} or {"seq": n, "error": {…}} or {"event": …, …}

| op | carries | answer |
|---|---|---|
| hello | | {"tasks": […]} after one ``held`` event, with descriptors, for each |
| start | id, spec, rootfs, options; fds: [netns] | {"state": …} once the program runs |
| exec | id, exec_id, process, options | {"state": …} |
| kill | id, exec_id, signal | {} |
| kill_all, pause, resume, pids | id | {} or {"pids": […]} |
| update | id, resources | {} |
| resize | id, exec_id, height, width | {} |
| attach | id, exec_id, stdin, stdout, stderr; fds: [socket] | {"waits": bool}: for a start |
| forget | id | {} |
| adopt | a ``held`` record; fds as it says | {} |
| acknowledge | id, exec_id | {} |
| sweep | paths | {}; those groups that have no task are emptied and removed |
| leave | parent | {}; a keeper without tasks then ends |

Events: ``held`` (a process is about to run; its descriptors are for the engine to keep), ``closed`` (the
engine should drop its copy of a standard input), ``exit``. Shared by both sides; imports only the standard
library."""

import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

LENGTH = struct.Struct(">I")
MAX_MESSAGE = 64 << 20
MAX_FDS = 16


Encode = Callable[[dict[str, Any]], bytes]


def encode_json(message: dict[str, Any]) -> bytes:
    """What the standard library can do; the engine has a faster way."""
    return json.dumps(message, separators=(",", ":")).encode()


class Connection:
    """One end: queues what the socket does not take at once, puts together what arrives in pieces. ``encode`` makes
    JSON of a message."""

    def __init__(self, sock: socket.socket, encode: Encode = encode_json) -> None:
        sock.setblocking(False)
        self._encode = encode
        self.sock = sock
        self._in = bytearray()
        self._in_fds: deque[int] = deque()
        self._out: deque[tuple[memoryview, list[int]]] = deque()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.sock.fileno()

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Queue ``message`` and write what goes. Descriptors are duplicated, so the caller may close its own
        at once."""
        body = self._encode({**message, "fds": len(fds)} if fds else message)
        data = memoryview(LENGTH.pack(len(body)) + body)
        self._out.append((data, [os.dup(fd) for fd in fds]))
        self.flush()

    @property
    def waiting(self) -> bool:
        """Whether something is left to write."""
        return bool(self._out)

    def flush(self) -> None:
        """Write what the socket takes; OSError when the other side has gone."""
        while self._out:
            data, fds = self._out[0]
            try:
                sent = socket.send_fds(self.sock, [data], fds) if fds else self.sock.send(data)
            except BlockingIOError:
                return
            for fd in fds:  # descriptors travel with the first byte
                os.close(fd)
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = (data[sent:], [])

    def receive(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Whole messages that have arrived; EOFError when the other side has gone, ValueError when it talks
        nonsense."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 1 << 18, MAX_FDS)
            except BlockingIOError:
                break
            except ConnectionResetError:
                raise EOFError from None
            self._in_fds.extend(fds)
            if not data:
                raise EOFError
            self._in += data
        messages = []
        while len(self._in) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._in)
            if length > MAX_MESSAGE:
                raise ValueError(f"message of {length} bytes")
            end = LENGTH.size + length
            if len(self._in) < end:
                break
            message = json.loads(bytes(self._in[LENGTH.size : end]))
            del self._in[:end]
            messages.append((message, [self._in_fds.popleft() for _ in range(message.get("fds", 0))]))
        return messages

    def close(self) -> None:
        """Close the socket and every descriptor still in flight."""
        for _, fds in self._out:
            for fd in fds:
                os.close(fd)
        for fd in self._in_fds:
            os.close(fd)
        self._out.clear()
        self._in_fds.clear()
        self.sock.close()
