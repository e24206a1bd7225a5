"""A real hub for tests: its own process, its own folder, a free port on loopback."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass
class LiveHub:
    """A running hub. ``words``: its flags behind root and address."""

    root: Path
    port: int
    words: tuple[str, ...] = ()
    netns: int = 0
    """A process in whose network namespace it listens; 0: the test's."""
    environment: dict[str, str] = field(default_factory=dict)
    """Of its process, beside the test's."""
    lines: list[str] = field(default_factory=list)
    """What it said on standard output until it was ready."""
    process: "subprocess.Popen[str] | None" = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        """Of the hub's process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        command = ["nsenter", f"--net=/proc/{self.netns}/ns/net"] if self.netns else []
        command += [sys.executable, "-m", "cais.hub.main", "--root", str(self.root), "--listen", self.address]
        log = (self.root.parent / f"{self.root.name}.log").open("a")
        self.process = subprocess.Popen(
            [*command, "--access-log", str(self.root.parent / f"{self.root.name}.access"), *self.words],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **self.environment},
        )
        log.close()
        assert self.process.stdout
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if "ready on" in line:
                return
        self.kill()
        raise AssertionError((self.root.parent / f"{self.root.name}.log").read_text()[-3000:])

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        code = process.wait(20)
        if process.stdout:
            process.stdout.close()
        return code

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers (lower-case names), body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return reply.status, {key.lower(): value for key, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def json(self, path: str, headers: dict[str, str] | None = None) -> Any:
        """GET, and what the JSON says. Fails the test unless the status is 200."""
        status, _, body = self.ask("GET", path, None, headers)
        assert status == 200, (status, body)
        return json.loads(body)


@contextmanager
def running_hub(root: Path, *words: str, environment: dict[str, str] | None = None) -> Iterator[LiveHub]:
    """A hub on ``root``, open to everybody unless ``words`` say something about accounts; ended at the end."""
    hub = LiveHub(root, free_port(), words, environment=environment or {})
    hub.start()
    try:
        yield hub
    finally:
        hub.kill()


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def wait_until(condition: Any, what: str, seconds: float = 20.0) -> Any:
    """The first true value of ``condition()``."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)
    return value
