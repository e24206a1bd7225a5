"""A minimal client for the Docker API over a unix socket: the same, cheap way to both engines."""

import json
import socket
from pathlib import Path
from typing import Any


class Api:
    """One connection, kept alive."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request, read the whole answer; RuntimeError for a status of 400 or more."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} /v1.41{path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        answer = self._body(headers) if status not in (204, 304) else b""
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        return json.loads(answer) if answer.strip() else None

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self._file.read(int(headers.get("content-length", 0)))
        parts = []
        while size := int(self._file.readline(), 16):
            parts.append(self._file.read(size))
            self._file.readline()
        self._file.readline()
        return b"".join(parts)

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()
