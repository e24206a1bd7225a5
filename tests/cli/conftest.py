"""An engine of scripted answers behind a real unix socket, and a runner of the real `cais` and `docker` programs."""

import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
ID = "4f2f" * 16


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it came over the socket."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine says: a JSON value, or bytes as they are."""

    status: int = 200
    value: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class ScriptedEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Remembers requests, answers from ``answers`` ("GET /path" without version), else from the defaults."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Exchange)
        self.path = path
        self.host = f"unix://{path}"
        self.requests: list[Recorded] = []
        self.answers: dict[str, Answer] = {
            "HEAD /_ping": Answer(headers={"Api-Version": "1.51", "Ostype": "linux"}),
            "GET /_ping": Answer(headers={"Api-Version": "1.51", "Ostype": "linux"}),
            "POST /containers/create": Answer(201, {"Id": ID, "Warnings": []}),
        }

    def of(self, key: str) -> list[Recorded]:
        """Requests for one "METHOD /path", version prefix left out."""
        return [r for r in self.requests if f"{r.method} {r.path}" == key]


class Exchange(BaseHTTPRequestHandler):
    """Reads one request, records it, answers."""

    protocol_version = "HTTP/1.1"
    server: ScriptedEngine

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        path = url.path
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        body = self.read_body()
        query = parse_qs(url.query, keep_blank_values=True)
        self.server.requests.append(Recorded(self.command, path, query, body))
        answer = self.server.answers.get(f"{self.command} {path}", Answer(404, {"message": "page not found"}))
        value = answer.value
        data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        self.send_response(answer.status)
        kind = {} if isinstance(value, bytes) else {"Content-Type": "application/json"}
        for name, text in {"Content-Length": str(len(data)), **kind, **answer.headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_HEAD = do_DELETE = do_PUT = handle_any

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the test's own assertions speak."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ScriptedEngine]:
    """A scripted engine on a socket of its own."""
    with ScriptedEngine(tmp_path / "engine.sock") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Runner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cais(engine: ScriptedEngine, tmp_path: Path) -> Runner:
    """Runs the real program against the scripted engine, in a folder of its own."""

    def run(*argv: str, program: tuple[str, ...] = (sys.executable, "-m", "cais")) -> Any:
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": str(tmp_path),
            "CAIS_HOST": engine.host,
            "DOCKER_HOST": engine.host,
            "FROM_OUTSIDE": "outside value",
        }
        command = [*program, *argv]
        return subprocess.run(
            command,
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )

    return run
