"""The way out of a test's network namespace: a forward proxy, which listens inside and asks from outside.

So builds of the tests can ask the machine's own package mirror, and an engine can make its base images.
"""

import contextlib
import selectors
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cais.linux.netns import entered

_HEAD_LIMIT = 64 << 10
_IDLE = 60.0
"""Seconds without a byte after which a connection is given up."""


@contextmanager
def open_way_out(pid: int, port: int = 0) -> Iterator[int]:
    """A proxy on every address of the network namespace that ``pid`` is in; its port."""
    with contextlib.ExitStack() as stack:
        with open(f"/proc/{pid}/ns/net", "rb") as namespace, entered(namespace.fileno()):
            listener = stack.enter_context(socket.create_server(("", port), backlog=64))
        thread = threading.Thread(target=_accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client,), daemon=True).start()


def _serve(client: socket.socket) -> None:
    """Requests of one connection, one after another, until either side has enough."""
    with client, contextlib.suppress(OSError, ValueError):
        client.settimeout(_IDLE)
        head = _read_head(client)
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port)), _IDLE) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                _relay(client, server)
            return
        url = urlsplit(target)
        with socket.create_connection((url.hostname or "", url.port or 80), _IDLE) as server:
            server.sendall(_as_origin(head, target))
            _relay(client, server)


def _read_head(client: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = client.recv(1 << 16)
        if not data or len(head) > _HEAD_LIMIT:
            raise ValueError("no request")
        head += data
    return head


def _as_origin(head: bytes, target: str) -> bytes:
    """A request as its server wants it, and the connection for this one alone: the next may go elsewhere."""
    url = urlsplit(target)
    path = url.path or "/"
    first, _, rest = head.partition(b"\r\n")
    method, _, _ = first.partition(b" ")
    lines, _, body = rest.partition(b"\r\n\r\n")
    kept = [line for line in lines.split(b"\r\n") if not line.lower().startswith((b"connection:", b"proxy-"))]
    line = f"{path}?{url.query}" if url.query else path
    top = b"%b %b HTTP/1.1" % (method, line.encode("latin-1"))
    return b"\r\n".join([top, *kept, b"Connection: close", b"", body])


def _relay(client: socket.socket, server: socket.socket) -> None:
    """Bytes in both directions until the server has said all."""
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        while ready := selector.select(_IDLE):
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(1 << 18)
                if not data:
                    return
                key.data.sendall(data)


def can_reach_mirror() -> bool:
    """Whether a server of the machine's apt answers at all."""
    from_lists = [path for path in Path("/etc/apt").glob("sources.list*/*") if path.is_file()]
    texts = [
        path.read_text(errors="replace")
        for path in (*from_lists, Path("/etc/apt/sources.list"))
        if path.is_file()
    ]
    hosts = [urlsplit(word) for text in texts for word in text.split() if word.startswith("http://")]
    for url in hosts:
        with contextlib.suppress(OSError):
            socket.create_connection((url.hostname or "", url.port or 80), 5).close()
            return True
    return False


if __name__ == "__main__":
    # By hand, beside a dockerd that is to be compared: the process's id and the port.
    with open_way_out(int(sys.argv[1]), int(sys.argv[2])):
        threading.Event().wait()
