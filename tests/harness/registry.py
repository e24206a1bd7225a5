"""A real registry on loopback, filled by hand, and a proxy before it that misbehaves on demand."""

import asyncio
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cais.linux.netns import entered

USER, PASSWORD = "quay", "s3cret-word"
_HTPASSWD = "quay:$2b$04$pbbOGm8epT6e9QKUmmBZnunfhD0/TLzVERVwCwaP70OIOJs4.gOHm\n"
DEADLINE = 20.0


def find_registry() -> str:
    """The program of Debian's package docker-registry; skips the test where there is none."""
    path = os.environ.get("CAIS_REGISTRY_BIN") or shutil.which("docker-registry")
    if not path:
        pytest.skip("no registry: install docker-registry or set CAIS_REGISTRY_BIN")
    return path


def sha256(data: bytes) -> str:
    """A digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(slots=True)
class Registry:
    """One running registry; ``address`` is its host:port."""

    address: str
    folder: Path
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with what is put in, for registries that want to know who we are."""

    def put_blob(self, repository: str, data: bytes) -> None:
        """Upload a blob in one piece."""
        location = self._send("POST", f"/v2/{repository}/blobs/uploads/", b"", 202)
        path = re.sub(r"https?://[^/]+", "", location)
        self._send("PUT", f"{path}{'&' if '?' in path else '?'}digest={sha256(data)}", data, 201)

    def put_manifest(self, repository: str, tag: str, data: bytes) -> str:
        """Upload a manifest or index under ``tag``; its digest."""
        kind = json.loads(data)["mediaType"]
        self._send("PUT", f"/v2/{repository}/manifests/{tag}", data, 201, {"Content-Type": kind})
        return sha256(data)

    def push(self, repository: str, tag: str, blobs: dict[str, bytes], target: dict[str, Any]) -> str:
        """Upload an image made by ``Archives``; its digest."""
        manifests = {}
        for digest, data in blobs.items():
            is_manifest = data[:1] == b"{" and b'"mediaType": "application/vnd.oci.image.' in data[:120]
            if is_manifest:
                manifests[digest] = data
            else:
                self.put_blob(repository, data)
        for digest, data in sorted(manifests.items(), key=lambda item: b'"manifests"' in item[1]):
            self.put_manifest(repository, tag if digest == target["digest"] else digest, data)
        return str(target["digest"])

    def _send(
        self, method: str, path: str, body: bytes, want: int, headers: dict[str, str] | None = None
    ) -> str:
        connection = http.client.HTTPConnection(self.address, timeout=DEADLINE)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            with connection.getresponse() as response:
                said = response.read()
                assert response.status == want, f"{method} {path}: {response.status} {said.decode()}"
                return response.headers.get("Location", "")
        finally:
            connection.close()


def make_certificate(folder: Path, name: str = "own") -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    certificate, key = folder / f"{name}.cert", folder / f"{name}.key"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name}"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return certificate, key


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_hub(
    folder: Path, *, password: bool = False, netns: int = 0, words: Sequence[str] = ()
) -> Iterator[Registry]:
    """Our own registry in the place of ``running_registry``'s; USER is an administrator. ``words``: more flags."""
    address = f"127.0.0.1:{free_port()}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(_HTPASSWD)
    enter = ["nsenter", f"--net=/proc/{netns}/ns/net"] if netns else []
    accounts = ["--htpasswd", str(folder / "htpasswd"), "--admin", USER, "--no-anonymous-pull"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *enter,
                sys.executable,
                "-m",
                "cais.hub.main",
                "--root",
                str(folder / "hub"),
                "--listen",
                address,
            ]
            + [*words]
            + (accounts if password else ["--open"]),
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )
    try:
        _wait_until_listening(address, process, folder / "log")
        yield Registry(address, folder)
    finally:
        process.kill()
        process.wait()


@contextmanager
def running_registry(
    folder: Path, *, password: bool = False, netns: int = 0, **more: dict[str, Any]
) -> Iterator[Registry]:
    """A registry with its data in ``folder``, which asks for USER and PASSWORD if ``password``.

    ``netns``: a process in whose network namespace it listens; ``more``: sections for its configuration.
    With CAIS_TEST_REGISTRY=hub it is our own, where no configuration is asked for that only the other knows.
    """
    plain = not set(more) - {"http"} and not set(more.get("http", {})) - {"host", "relativeurls"}
    if os.environ.get("CAIS_TEST_REGISTRY") == "hub" and plain:
        with running_hub(folder, password=password, netns=netns) as hub:
            yield hub
        return
    program = find_registry()
    address = f"127.0.0.1:{free_port()}"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(_HTPASSWD)
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address, "host": f"http://{address}"},
    }
    if password:
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    for section, values in more.items():
        config.setdefault(section, {}).update(values)
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    enter = ["nsenter", f"--net=/proc/{netns}/ns/net"] if netns else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*enter, program, "serve", str(folder / "config.yml")], stdout=log, stderr=log
        )
    try:
        _wait_until_listening(address, process, folder / "log")
        yield Registry(address, folder)
    finally:
        process.kill()
        process.wait()


def _wait_until_listening(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """By the process's own list of sockets: it may be in a namespace where we cannot connect."""
    port = f":{int(address.rpartition(':')[2]):04X} 00000000:0000 0A"
    deadline = time.monotonic() + DEADLINE
    while port not in Path(f"/proc/{process.pid}/net/tcp").read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests whose "METHOD path" matches ``where``, ``times`` times.

    ``status`` answers by itself; ``cut`` breaks the connection after so many bytes of the body; ``flip`` changes the
    byte at this place; ``shorten`` ends the body there, as if it were all; ``rate`` sends so many bytes a second.
    """

    where: str
    times: int = 1
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = -1
    flip: int = -1
    shorten: int = -1
    rate: int = 0
    gate: asyncio.Event | None = None


@dataclass(slots=True)
class Proxy:
    """A server that passes requests on to ``upstream`` and does with them what ``faults`` say."""

    upstream: str
    address: str = ""
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """"METHOD path" and headers of every request."""
    sent: int = 0
    """Bytes of all bodies."""

    def count(self, where: str) -> int:
        """Requests that match ``where``."""
        return sum(bool(re.search(where, text)) for text, _ in self.seen)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        line = f"{request.method} {request.path}"
        self.seen.append((line, dict(request.headers)))
        fault = next((one for one in self.faults if one.times and re.search(one.where, line)), None)
        if fault is None:
            fault = Fault("")
        fault.times -= 1
        if fault.gate:
            await fault.gate.wait()
        if fault.status:
            return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            url = f"http://{self.upstream}{request.path_qs}"
            async with session.request(request.method, url, headers=headers, allow_redirects=False) as reply:
                return await self._answer(request, reply, fault)

    async def _answer(
        self, request: web.Request, reply: aiohttp.ClientResponse, fault: Fault
    ) -> web.StreamResponse:
        body = bytearray(await reply.read())
        if 0 <= fault.flip < len(body):
            body[fault.flip] ^= 1
        if fault.shorten >= 0:
            del body[fault.shorten :]
        kept = {
            name: value for name, value in reply.headers.items() if name not in ("Date", "Transfer-Encoding")
        }
        if request.method != "HEAD":
            kept["Content-Length"] = str(len(body))
        response = web.StreamResponse(status=reply.status, headers=kept)
        await response.prepare(request)
        if request.method != "HEAD":
            await self._send(response, memoryview(body if fault.cut < 0 else body[: fault.cut]), fault.rate)
            if fault.cut >= 0:
                assert request.transport
                request.transport.close()
        return response

    async def _send(self, response: web.StreamResponse, body: memoryview, rate: int) -> None:
        """At ``rate``: in steps of a fiftieth of a second. A client that has gone away ends it."""
        step = max(1, rate // 50) if rate else max(1, len(body))
        for start in range(0, len(body), step):
            part = bytes(body[start : start + step])
            await response.write(part)
            self.sent += len(part)
            if rate:
                await asyncio.sleep(0.02)


async def start_proxy(upstream: str, defer: Callable[[Any], None], *, netns: int = 0) -> Proxy:
    """A proxy on loopback; ``defer`` is given what stops it. ``netns``: a process in whose network namespace it
    listens; it asks ``upstream`` in our own."""
    proxy = Proxy(upstream)
    runner = web.ServerRunner(web.Server(proxy.handle), shutdown_timeout=1.0)
    await runner.setup()
    listener = await asyncio.to_thread(_listen, netns)
    await web.SockSite(runner, listener).start()
    defer(runner.cleanup)
    proxy.address = f"127.0.0.1:{listener.getsockname()[1]}"
    return proxy


def _listen(netns: int) -> socket.socket:
    """A listening socket on loopback of that process's network; a socket stays in the namespace it was made in."""
    if not netns:
        return socket.create_server(("127.0.0.1", 0))
    with Path(f"/proc/{netns}/ns/net").open("rb") as namespace, entered(namespace.fileno()):
        return socket.create_server(("127.0.0.1", 0))
