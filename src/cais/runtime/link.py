"""The keeper's end of the connection to whichever engine lives now."""

import os
import select
import socket
import sys
from collections.abc import Callable
from typing import Any

from cais.runtime.streams import Watch
from cais.runtime.wire import Connection

Serve = Callable[[dict[str, Any], list[int]], None]


class Link:
    """Takes one engine at a time; a new one takes the place of the old. Requests go to ``serve``."""

    def __init__(self, listener: socket.socket, watch: Watch, serve: Serve) -> None:
        self._listener, self._watch, self._serve = listener, watch, serve
        self._engine: Connection | None = None
        watch(listener.fileno(), select.EPOLLIN, self._on_connect)

    @property
    def connected(self) -> bool:
        """Whether there is an engine."""
        return self._engine is not None

    def _on_connect(self, _: int) -> None:
        sock, _address = self._listener.accept()
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if int.from_bytes(credentials[4:8], sys.byteorder) != os.geteuid():
            sock.close()
            return
        self._lose()
        self._engine = Connection(sock)
        self._watch(sock.fileno(), select.EPOLLIN, self._on_event)

    def _lose(self) -> None:
        if self._engine is not None:
            self._watch(self._engine.fileno(), 0, None)
            self._engine.close()
            self._engine = None

    def _on_event(self, events: int) -> None:
        engine = self._engine
        if engine is None:
            return
        try:
            if events & select.EPOLLOUT:
                engine.flush()
            messages = engine.receive() if events & ~select.EPOLLOUT else []
        except (EOFError, OSError, ValueError):
            self._lose()
            return
        messages.reverse()
        while (
            messages
        ):  # one leaves before it is served: the next one's child is not to hold it in its memory
            self._serve(*messages.pop())
        self._rewatch()

    def _rewatch(self) -> None:
        """Ask for room while something waits to be sent."""
        if self._engine is not None:
            events = select.EPOLLIN | (select.EPOLLOUT if self._engine.waiting else 0)
            self._watch(self._engine.fileno(), events, self._on_event)

    def tell(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send to the engine, if there is one."""
        if self._engine is None:
            return
        try:
            self._engine.send(message, fds)
            self._rewatch()
        except OSError:
            self._lose()
