"""Load for registries, as cheap as Python can make it: a client that costs more than the server would measure itself.

Requests are bytes made beforehand, connections are kept, the kernel throws blobs away (MSG_TRUNC), and files go out by
sendfile(2). Answers are counted by their length, which is read from the first answer of each connection.
"""

import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from multiprocessing import get_context
from typing import BinaryIO, Self

Address = tuple[str, int]
Body = bytes | BinaryIO
PIECE = 32 << 10
"""Bytes of one chunk of a body, as docker's client sends them."""
ROOM = 4 << 20
PATIENCE = 20.0
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_LOCATION = re.compile(rb"(?i)\r\nlocation: *([^\r]+)")


def connect(address: Address) -> socket.socket:
    """A connection that sends at once."""
    made = socket.create_connection(address, timeout=60)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def get(path: str, accept: str = "*/*") -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: {accept}\r\n\r\n".encode()


@dataclass(frozen=True)
class Answer:
    """Status, the path of ``Location`` (if any) and the body."""

    status: int
    location: str
    body: bytes


class Line:
    """One kept connection, one request after another."""

    def __init__(self, address: Address) -> None:
        self._socket = connect(address)
        self._view = memoryview(bytearray(ROOM))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, head: bytes, body: Body = b"") -> Answer:
        """Send a request, read the whole answer. RuntimeError for a status of 300 or more."""
        self._socket.sendall(head, socket.MSG_MORE if body else 0)
        if isinstance(body, bytes):
            self._socket.sendall(body)
        else:
            self._socket.sendfile(body)
        return self.read()

    def read(self) -> Answer:
        """The next answer."""
        have, whole, start = 0, -1, 0
        while have != whole:
            got = self._socket.recv_into(self._view[have:])
            if not got:
                raise RuntimeError("the registry closed the connection")
            have += got
            if whole < 0 and (start := bytes(self._view[:have]).find(b"\r\n\r\n") + 4) >= 4:
                length = _LENGTH.search(self._view[:start])
                whole = start + (int(length[1]) if length else 0)
        head = bytes(self._view[:start])
        status = int(head[9:12])
        place = _LOCATION.search(head)
        path = re.sub(r"^https?://[^/]+", "", place[1].decode()) if place else ""
        answer = Answer(status, path, bytes(self._view[start:have]))
        if status >= 300:
            raise RuntimeError(f"{head.decode()}{answer.body.decode(errors='replace')[:500]}")
        return answer


@dataclass(frozen=True)
class Blob:
    """Bytes to push: ``framed`` is the body of a PATCH of unknown length, ``plain`` that of a PUT."""

    digest: str
    plain: bytes
    framed: bytes


def frame(data: bytes) -> bytes:
    """``data`` in chunks (RFC 9112, section 7.1)."""
    parts = []
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        parts += [b"%x\r\n" % len(piece), piece, b"\r\n"]
    return b"".join([*parts, b"0\r\n\r\n"])


def head(method: str, path: str, *fields: str) -> bytes:
    """A request without its body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "User-Agent: bench", *fields, "", ""]
    return "\r\n".join(lines).encode()


def push_chunked(line: Line, repository: str, digest: str, framed: Body) -> None:
    """POST, PATCH without a length, PUT: what `docker push` does for each blob."""
    place = _start(line, repository)
    place = line.ask(head("PATCH", place, "Transfer-Encoding: chunked"), framed).location
    line.ask(head("PUT", _with_digest(place, digest), "Content-Length: 0"))


def push_whole(line: Line, repository: str, digest: str, plain: Body) -> None:
    """POST, PUT with everything: containerd's way."""
    place = _start(line, repository)
    size = len(plain) if isinstance(plain, bytes) else os.fstat(plain.fileno()).st_size
    line.ask(head("PUT", _with_digest(place, digest), f"Content-Length: {size}"), plain)


def put_manifest(line: Line, repository: str, tag: str, media_type: str, data: bytes) -> None:
    """The image's last request."""
    fields = (f"Content-Type: {media_type}", f"Content-Length: {len(data)}")
    line.ask(head("PUT", f"/v2/{repository}/manifests/{tag}", *fields), data)


def _start(line: Line, repository: str) -> str:
    return line.ask(head("POST", f"/v2/{repository}/blobs/uploads/", "Content-Length: 0")).location


def _with_digest(place: str, digest: str) -> str:
    return f"{place}{'&' if '?' in place else '?'}digest={digest}"


def pull(
    address: Address, requests: Sequence[bytes], clients: int, seconds: float, *, keep: bool = False
) -> tuple[int, int, float]:
    """GETs by ``clients`` connections, each its next one as soon as it has the last one's answer; after ``seconds``
    no new ones. All answers on a connection must be as long as its first. ``keep``: copy the bytes into memory as a
    client with a use for them would, where else the kernel drops them. Answers, bytes, seconds."""
    room = bytearray(ROOM)
    flags = 0 if keep else socket.MSG_TRUNC
    following = cycle(requests)
    lines: dict[int, socket.socket] = {}
    whole: dict[int, int] = {}
    left: dict[int, int] = {}
    answers = total = 0
    with select.epoll() as poll:
        start = time.perf_counter()
        for _ in range(clients):
            line = connect(address)
            lines[fd := line.fileno()] = line
            line.sendall(next(following))
            whole[fd] = left[fd] = _measure(line)
            line.setblocking(False)
            poll.register(fd, select.EPOLLIN)
        end = start + seconds
        open_lines = len(lines)
        while open_lines:
            if not (ready := poll.poll(PATIENCE)):
                raise RuntimeError(
                    "the registry has stopped answering, or an answer was shorter than its first"
                )
            for fd, _ in ready:
                try:
                    got = lines[fd].recv_into(room, min(left[fd], ROOM), flags)
                except BlockingIOError:
                    continue
                if not got:
                    raise RuntimeError("the registry closed the connection")
                total += got
                if got < left[fd]:
                    left[fd] -= got
                    continue
                answers += 1
                if time.perf_counter() < end:
                    left[fd] = whole[fd]
                    lines[fd].send(next(following))
                else:
                    poll.unregister(fd)
                    open_lines -= 1
        taken = time.perf_counter() - start
    for line in lines.values():
        _check_end(line)
        line.close()
    return answers, total, taken


def _measure(line: socket.socket) -> int:
    """The length of the answer that begins to arrive; it is left there."""
    while True:
        head = line.recv(4096, socket.MSG_PEEK)
        end = head.find(b"\r\n\r\n")
        if end >= 0:
            break
    length = _LENGTH.search(head[: end + 2])
    if not head.startswith(b"HTTP/1.1 200") or length is None:
        raise RuntimeError(f"not what was asked for: {head!r}")
    return end + 4 + int(length[1])


def _check_end(line: socket.socket) -> None:
    """Answers were not longer than counted."""
    try:
        rest = line.recv(4096)
    except BlockingIOError:
        return
    raise RuntimeError(f"more than an answer: {rest[:200]!r}")


class Beside:
    """An act in a process of its own, over and over for as long as the block lasts."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def __enter__(self) -> Self:
        context = get_context("fork")
        self._end = context.Event()
        self._process = context.Process(target=self._run, daemon=True)
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._process.join()
        if self._process.exitcode:
            raise RuntimeError("a client failed")

    def _run(self) -> None:
        while not self._end.is_set():
            self._act()


def push_many(address: Address, repository: str, blob: Blob, clients: int, seconds: float) -> None:
    """``clients`` that push the same blob again and again."""
    end = time.perf_counter() + seconds

    def push() -> None:
        with Line(address) as line:
            while time.perf_counter() < end:
                push_chunked(line, repository, blob.digest, blob.framed)

    threads = [threading.Thread(target=push) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
