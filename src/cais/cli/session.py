"""What a command works with: the engine's host, connections to it, and the output."""

from __future__ import annotations

import sys

from cais.cli.host import open_socket
from cais.cli.http import Connection, format_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cais.cli.host import Host
    from cais.cli.http import Response


class Session:
    """One run of the program; leaving the block closes its connections."""

    __slots__ = ("_idle", "_opened", "host", "verb")

    def __init__(self, host: Host, verb: str) -> None:
        self.host = host
        self.verb = verb
        self._idle: Connection | None = None
        self._opened: list[Connection] = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        for connection in self._opened:
            connection.close()

    def connect(self) -> Connection:
        """A new connection, closed with the session. Raises Unreachable."""
        connection = Connection(open_socket(self.host))
        self._opened.append(connection)
        return connection

    def send(
        self,
        method: str,
        path: str,
        query: Iterable[tuple[str, object]] = (),
        body: Any = None,
        fields: Iterable[tuple[str, str]] = (),
    ) -> Response:
        """One request over the connection kept for that; its content must be read before the next."""
        if self._idle is None or not self._idle.idle:
            self._idle = self.connect()
        return self._idle.send(method, format_target(path, query), body, fields)

    def call(self, method: str, path: str, query: Iterable[tuple[str, object]] = (), body: Any = None) -> Any:
        """One request, and its answer's JSON value (None if it has no content). Raises Refused, Unreachable."""
        return self.send(method, path, query, body).json()


def is_terminal(number: int) -> bool:
    """Whether descriptor ``number`` (0, 1, 2) is a terminal."""
    stream = (sys.__stdin__, sys.__stdout__, sys.__stderr__)[number]
    return stream is not None and stream.isatty()


def warn(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(text + "\n")
