"""Another registry for the hub to fetch from: small, obedient, and dishonest on demand."""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_PATH = re.compile(r"/v2/(.+)/(manifests|blobs)/([^/]+)")


def sha256(data: bytes) -> str:
    """A digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Origin:
    """What it has, by repository, and what it does with it."""

    port: int = 0
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """By repository and tag or digest."""
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    """"METHOD repository kind reference" of every request."""
    tell: Callable[[bytes, str], bytes] = lambda data, kind: data
    """Bodies go through this: what is sent in the place of what was asked for."""
    status: int = 0
    """What it answers instead of working."""
    login: str = ""
    """``user:password`` that it wants by HTTP's basic authorization."""
    half: threading.Event | None = None
    """Blobs stop in the middle until it is set."""

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def count(self, pattern: str) -> int:
        """Requests that match."""
        return sum(bool(re.search(pattern, line)) for line in self.seen)

    def add(self, repository: str, tag: str, *layers: bytes, **more: object) -> str:
        """An image; its digest."""
        parts = []
        for media_type, data in ((CONFIG, b'{"os":"linux"}'), *((LAYER, layer) for layer in layers)):
            self.blobs[repository, sha256(data)] = data
            parts.append({"mediaType": media_type, "digest": sha256(data), "size": len(data)})
        raw = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:], **more}
        return self.put(repository, tag, json.dumps(raw).encode())

    def put(self, repository: str, tag: str, data: bytes) -> str:
        """A manifest as it is; its digest."""
        self.manifests[repository, tag] = self.manifests[repository, sha256(data)] = data
        return sha256(data)


class _Door(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    origin: Origin

    def do_GET(self) -> None:
        origin = self.origin
        match = _PATH.fullmatch(self.path)
        if match is None:
            return self._answer(404, b"")
        repository, kind, ref = match.groups()
        origin.seen.append(f"{self.command} {repository} {kind} {ref}")
        wanted = "Basic " + base64.b64encode(origin.login.encode()).decode()
        if origin.login and self.headers.get("Authorization") != wanted:
            return self._answer(401, _error("UNAUTHORIZED"), {"WWW-Authenticate": 'Basic realm="x"'})
        if origin.status:
            return self._answer(origin.status, _error("SOMETHING"))
        data = (origin.manifests if kind == "manifests" else origin.blobs).get((repository, ref))
        if data is None:
            return self._answer(404, _error("MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN"))
        headers = {"Docker-Content-Digest": sha256(data)}
        if kind == "manifests":
            headers["Content-Type"] = json.loads(data)["mediaType"]
        self._answer(200, origin.tell(data, kind), headers)

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        gate = self.origin.half if "/blobs/" in self.path and status == 200 else None
        middle = len(body) // 2 if gate else 0
        self.wfile.write(body[:middle])
        self.wfile.flush()
        if gate:
            assert gate.wait(20)
        self.wfile.write(body[middle:])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: ``seen`` says it."""


@contextmanager
def running_origin() -> Iterator[Origin]:
    """One that listens on loopback."""
    origin = Origin()
    door = type("Door", (_Door,), {"origin": origin})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), door)
    server.daemon_threads = True
    origin.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield origin
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _error(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": "no"}]}).encode()
