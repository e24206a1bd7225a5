"""A real receiver of webhooks: a server on loopback that keeps what it was sent, and answers as the test wants."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

DEADLINE = 20.0


@dataclass(frozen=True)
class Sent:
    """One request. ``headers``: by lower-case names."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@dataclass
class Receiver:
    """``answer``: for the n-th request (from 0), its status, or what to do by oneself; ``silence`` ends what waits."""

    port: int = 0
    answer: Callable[[int, Sent], int] = lambda number, sent: 204
    headers: dict[str, str] = field(default_factory=dict)
    body: Iterator[bytes] | bytes = b""
    sent: list[Sent] = field(default_factory=list)
    silence: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    def keep(self, sent: Sent) -> int:
        """Its number."""
        with self._changed:
            self.sent.append(sent)
            self._changed.notify_all()
            return len(self.sent) - 1

    def wait(self, count: int) -> list[Sent]:
        """The first ``count`` requests, once they are here."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.sent) >= count, DEADLINE)
            assert came, f"{len(self.sent)} of {count} came"
            return self.sent[:count]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver, until the end."""
    receiver = Receiver()

    class Answerer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            sent = Sent(self.path, headers, body)
            status = receiver.answer(receiver.keep(sent), sent)
            with suppress(OSError):
                self.send_response(status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in [receiver.body] if isinstance(receiver.body, bytes) else receiver.body:
                    self.wfile.write(part)
                self.wfile.flush()

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answerer)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.silence.set()
        server.shutdown()
        server.server_close()
        thread.join()
