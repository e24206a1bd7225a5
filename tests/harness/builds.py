"""Builds by raw requests, with bodies that no good client would send."""

import contextlib
import io
import json
import os
import socket
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from harness.live import LiveEngine, _cgroups, wait_until

Member = tuple[str, str, str | bytes] | tuple[str, str, str | bytes, dict[str, Any]]
"""Name, kind (those of ``_KINDS``), content or target, and other fields of TarInfo."""
_KINDS = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


def make_tar(*members: Member) -> bytes:
    """A tar that holds just this, however wrong it is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content, *more in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = (
                _KINDS[kind],
                0o755 if kind == "folder" else 0o644,
                1_600_000_000,
            )
            data = b""
            if kind == "file":
                data = content if isinstance(content, bytes) else content.encode()
                info.size = len(data)
            elif kind in ("link", "hard"):
                info.linkname = content.decode() if isinstance(content, bytes) else content
            for key, value in (more[0] if more else {}).items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_context(dockerfile: str | bytes, *members: Member) -> bytes:
    """A tar with a Dockerfile."""
    return make_tar(("Dockerfile", "file", dockerfile), *members)


@dataclass
class Answer:
    """What an engine says to a build."""

    status: int
    lines: list[dict[str, Any]]

    @property
    def error(self) -> str:
        """Why it failed; empty if it did not."""
        last = self.lines[-1] if self.lines else {}
        if "error" in last:
            return str(last["error"]) or "an error without a word"
        return str(last.get("error") or (last.get("message") if self.status >= 400 else "") or "")

    @property
    def text(self) -> str:
        """What it told on the way."""
        return "".join(line.get("stream", "") for line in self.lines)


def request_head(length: int, path: str = "/build", **query: str) -> bytes:
    """The head of a request with a tar of ``length`` bytes."""
    head = f"POST {path}?{urlencode(query)} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n".encode()


def post_build(engine: LiveEngine, body: bytes, path: str = "/build", **query: str) -> Answer:
    """A whole build. An engine may answer, and hang up, before it has read all."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(engine.socket)
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(request_head(len(body), path, **query) + body)
        return OpenBuild(connection).read_rest()


def parse_answer(data: bytes) -> Answer:
    """A whole answer of the engine."""
    top, _, rest = data.partition(b"\r\n\r\n")
    body = b"".join(_unchunk(rest)) if b"chunked" in top.lower() else rest
    found: list[dict[str, Any]] = []
    for line in body.splitlines():
        if line.strip():
            value = json.loads(line)
            found += value if isinstance(value, list) else [value]
    return Answer(int(top.split()[1]), found)


def _unchunk(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size or b"0", 16)
        yield data[:length]
        data = data[length + 2 :] if length else b""


@dataclass
class OpenBuild:
    """A build that goes on while the block lasts; leaving the block hangs up."""

    connection: socket.socket
    seen: bytes = field(default=b"")

    def wait_for(self, text: bytes) -> None:
        """Read until ``text`` was told."""
        while text not in self.seen:
            data = self.connection.recv(1 << 16)
            assert data, self.seen[-2000:]
            self.seen += data

    def read_rest(self) -> Answer:
        """To the end."""
        with contextlib.suppress(ConnectionResetError):
            while data := self.connection.recv(1 << 16):
                self.seen += data
        return parse_answer(self.seen)


@contextlib.contextmanager
def open_build(
    engine: LiveEngine, body: bytes, *, sent: int | None = None, **query: str
) -> Iterator[OpenBuild]:
    """Start a build; ``sent``: only so many bytes of the body are sent."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(engine.socket)
        connection.sendall(request_head(len(body), **query) + body[:sent])
        yield OpenBuild(connection)


def cgroup_processes(engine: LiveEngine) -> set[int]:
    """Processes in the containers of an engine."""
    found: set[int] = set()
    for base in _cgroups(engine.cgroup):
        # os.walk: groups may end while they are listed.
        for folder, _, names in os.walk(base):
            if "cgroup.procs" in names:
                with contextlib.suppress(OSError):
                    found |= {int(pid) for pid in Path(folder, "cgroup.procs").read_text().split()}
    return found


def half_made(engine: LiveEngine) -> list[str]:
    """What is under way in an engine's folders: builds' own, temporary files, containers that nobody created."""
    root = engine.folder / "root"
    found = [str(path) for name in ("build/tmp", "tmp") for path in (root / name).glob("*")]
    found += [str(path) for path in (root / "content").glob("**/.tmp-*")]
    with contextlib.closing(engine.client()) as client:
        known = {container.id for container in client.containers.list(all=True)}
    return found + [str(path) for path in (root / "containers").iterdir() if path.name not in known]


def check_clean(engine: LiveEngine) -> None:
    """Nothing runs, nothing is half-made, and the engine's own check finds nothing."""
    wait_until(lambda: not cgroup_processes(engine))
    wait_until(lambda: not half_made(engine))
    answer = engine.request(b"GET /cais/system/check HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
    found = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert not any(found["Leaks"].values()), found
