"""The Docker API by hand: one connection a call, closed whatever happens, so that an engine may die in the middle."""

import http.client
import json
import socket
from typing import Any

TIMEOUT = 30.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("d", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.settimeout(TIMEOUT)
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


class Refused(Exception):
    """An answer of 400 or more."""


def call(path: str, method: str, url: str, body: object = None) -> Any:
    """The decoded answer. Refused, OSError or HTTPException when there is none."""
    connection = UnixConnection(path)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, url, data, {"Content-Type": "application/json"} if data else {})
        with connection.getresponse() as response:
            answer = response.read()
        if response.status >= 400:
            raise Refused(f"{response.status} {answer.decode(errors='replace')}")
        return json.loads(answer) if answer[:1] in (b"{", b"[") else answer
    finally:
        connection.close()
