"""A registry by hand: requests as they stand on the wire, and one repository with short ways to fill it."""

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
TIMEOUT = 30.0


def sha256(data: bytes) -> str:
    """A digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha512(data: bytes) -> str:
    """The other kind of digest."""
    return "sha512:" + hashlib.sha512(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. ``headers``: by lower-case names; of repeated ones, all with a comma between."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The first error's code; empty: there is none."""
        try:
            return str(self.json["errors"][0]["code"])
        except (ValueError, KeyError, TypeError, IndexError):
            return ""

    @property
    def brief(self) -> tuple[int, str]:
        """Status and code: what most tests compare."""
        return self.status, self.code


class Wire:
    """One connection, made again when the server has closed it; ``close`` it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)

    def close(self) -> None:
        """Idempotent."""
        self._connection.close()

    @property
    def local_port(self) -> int:
        """Our side's, which tells one connection from the next; 0: there is none just now."""
        return int(self._connection.sock.getsockname()[1]) if self._connection.sock else 0

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """One request; a body in parts is sent with chunked encoding."""
        connection = self._connection
        connection.putrequest(method, path, skip_accept_encoding=True)
        given = {"Content-Length": str(len(body))} if isinstance(body, bytes) else {}
        chunked = body is not None and not isinstance(body, bytes)
        if chunked:
            given["Transfer-Encoding"] = "chunked"
        for name, value in {**given, **(headers or {})}.items():
            connection.putheader(name, value)
        # Refused before it was all sent: the answer is there.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.endheaders(body, encode_chunked=chunked)
        try:
            return _read(connection.getresponse())
        except BaseException:
            connection.close()
            raise


def send_raw(port: int, request: bytes, method: str = "GET") -> Reply:
    """These very bytes on a connection of their own, and the answer."""
    with dial(port) as connection:
        connection.sendall(request)
        return read_reply(connection, method)


def dial(port: int) -> socket.socket:
    """A connection; the caller closes it."""
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def read_reply(connection: socket.socket, method: str = "GET") -> Reply:
    """The next final answer on ``connection``."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    return _read(response)


def _read(response: http.client.HTTPResponse) -> Reply:
    headers: dict[str, str] = {}
    for name, value in response.getheaders():
        known = headers.get(name.lower())
        headers[name.lower()] = f"{known}, {value}" if known else value
    with response:
        return Reply(response.status, headers, response.read())


def describe(data: bytes, media_type: str = LAYER, /, **fields: Any) -> dict[str, Any]:
    """The descriptor of some bytes."""
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **fields}


def format_image(config: bytes, layers: Iterable[bytes], /, **fields: Any) -> bytes:
    """A manifest; ``fields`` are added to it, or replace what it has."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe(config, CONFIG),
        "layers": [describe(layer) for layer in layers],
        **fields,
    }
    return json.dumps(document).encode()


def format_index(manifests: Iterable[bytes], /, **fields: Any) -> bytes:
    """An index of manifests."""
    entries = [describe(data, MANIFEST) for data in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, **fields}).encode()


@dataclass(slots=True)
class Repository:
    """One repository. What its ``push_`` methods send must be accepted."""

    wire: Wire
    name: str
    images: dict[str, bytes] = field(default_factory=dict)
    """Manifests pushed with ``push_image``, by digest."""

    def ask(
        self,
        method: str,
        rest: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """A request below the repository's path."""
        return self.wire.ask(method, f"/v2/{self.name}/{rest}", body, headers)

    def start(self) -> str:
        """Begin an upload; its location."""
        reply = self.ask("POST", "blobs/uploads/", b"")
        assert reply.status == 202, reply
        return reply.headers["location"]

    def push_blob(self, data: bytes) -> str:
        """A blob; its digest."""
        reply = self.wire.ask("PUT", f"{self.start()}?digest={sha256(data)}", data)
        assert reply.status == 201, reply
        return sha256(data)

    def put_manifest(self, data: bytes, ref: str = "", media_type: str = MANIFEST) -> Reply:
        """A manifest, by its digest where there is no ``ref``."""
        return self.ask("PUT", f"manifests/{ref or sha256(data)}", data, {"Content-Type": media_type})

    def push_manifest(self, data: bytes, ref: str = "", media_type: str = MANIFEST) -> str:
        """A manifest whose parts are here; its digest."""
        reply = self.put_manifest(data, ref, media_type)
        assert reply.status == 201, reply
        self.images[sha256(data)] = data
        return sha256(data)

    def push_image(
        self, ref: str = "", layers: Iterable[bytes] = (b"layer",), config: bytes = b"{}", **fields: Any
    ) -> str:
        """An image with all its blobs; its digest."""
        layers = list(layers)
        for data in {config, *layers}:
            self.push_blob(data)
        return self.push_manifest(format_image(config, layers, **fields), ref)

    def push_referrer(self, subject: str, number: int = 0, **fields: Any) -> str:
        """An image about ``subject``, which need not be here; its digest."""
        about = {"mediaType": MANIFEST, "digest": subject, "size": 2}
        return self.push_image("", [b"about %d" % number], subject=about, **fields)

    def pages(self, path: str) -> Iterator[Reply]:
        """A list's pages, by their Link headers."""
        while path:
            reply = self.wire.ask("GET", path)
            assert reply.status == 200, reply
            yield reply
            link = reply.headers.get("link", "")
            assert not link or link.endswith('>; rel="next"'), link
            path = link.partition("<")[2].partition(">")[0]


def compress(data: bytes) -> bytes:
    """gzip, the same for the same bytes."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as file:
        file.write(data)
    return out.getvalue()
