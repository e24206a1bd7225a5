"""A client of BuildKit's API, small and obedient unless a test wants it otherwise."""

import asyncio
import os
import socket
import stat
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cais.api.buildkit.control import CONTROL
from cais.api.buildkit.filesync import METHOD as SYNC
from cais.api.buildkit.messages import (
    BytesMessage,
    Option,
    SolveRequest,
    SolveResponse,
    StatusRequest,
    StatusResponse,
)
from cais.api.buildkit.sessionwire import (
    DATA,
    FIN,
    REQ,
    STAT,
    Packet,
    SecretRequest,
    SecretResponse,
    Stat,
)
from cais.api.buildkit.sinks import METHOD as SEND
from cais.grpc.calls import Call, Channel, Handler, Server
from cais.grpc.http2 import Connection
from cais.grpc.protobuf import decode
from cais.grpc.status import Code, RpcError


async def upgrade(
    path: str, target: str, headers: Mapping[str, str | list[str]], protocol: str = "h2c"
) -> socket.socket:
    """A connection that has left HTTP/1.1."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await loop.sock_connect(sock, path)
    lines = [f"POST {target} HTTP/1.1", "Host: d", "Connection: Upgrade", f"Upgrade: {protocol}"]
    for name, value in headers.items():
        lines += [f"{name}: {each}" for each in (value if isinstance(value, list) else [value])]
    await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode())
    head = b""
    while b"\r\n\r\n" not in head and (part := await loop.sock_recv(sock, 1)):
        head += part
    if not head.startswith(b"HTTP/1.1 101"):
        sock.close()
        raise RuntimeError(head.decode())
    return sock


@dataclass
class BuildClient:
    """One client with one session. ``folders``: what it shows, by name; ``walks``: instead of a folder's own files;
    ``sent``: paths whose bytes went to the engine; ``received``: what came for each output."""

    channel: Channel
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    shared_key: str = ""
    folders: dict[str, Path] = field(default_factory=dict)
    walks: dict[str, list[Stat]] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    asked: list[dict[str, tuple[str, ...]]] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    handlers: dict[str, Handler] = field(default_factory=dict)
    serving: Connection | None = None

    def methods(self) -> dict[str, Handler]:
        """What the session offers."""
        return {
            SYNC: self._sync,
            SEND: self._take,
            "/moby.buildkit.secrets.v1.Secrets/GetSecret": self._secret,
            **self.handlers,
        }

    async def open_session(self, path: str) -> None:
        """Offer the session to the engine."""
        loop = asyncio.get_running_loop()
        methods = self.methods()
        headers: dict[str, str | list[str]] = {
            "X-Docker-Expose-Session-Uuid": self.session,
            "X-Docker-Expose-Session-Sharedkey": self.shared_key,
            "X-Docker-Expose-Session-Grpc-Method": list(methods),
        }
        sock = await upgrade(path, "/session", headers)
        server = Server(methods)
        self.serving = server.connection
        await loop.create_connection(lambda: server.connection, sock=sock)

    async def build(
        self, attrs: Mapping[str, str] | None = None, *exporters: Option, ref: str = ""
    ) -> tuple[dict[str, str], list[StatusResponse]]:
        """Build with the Dockerfile frontend: the exporters' answers, and all that was told."""
        ref = ref or uuid.uuid4().hex
        request = SolveRequest(
            ref=ref,
            session=self.session,
            frontend="dockerfile.v0",
            frontend_attrs=dict(attrs or {}),
            exporters=exporters,
        )
        told: list[StatusResponse] = []

        async def follow() -> None:
            call = self.channel.call(f"{CONTROL}Status")
            await call.send(StatusRequest(ref=ref), end=True)
            async for message in call.messages(StatusResponse):
                told.append(message)

        following = asyncio.create_task(follow())
        try:
            answer = await self.channel.unary(f"{CONTROL}Solve", request, SolveResponse)
            await following
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        return answer.exporter_response, told

    # What the session serves

    async def _secret(self, call: Call) -> None:
        request = await call.receive_as(SecretRequest)
        if request.id not in self.secrets:
            raise RpcError(Code.NOT_FOUND, f"secret {request.id} not found")
        await call.send(SecretResponse(data=self.secrets[request.id]))

    async def _take(self, call: Call) -> None:
        async for message in call.messages(BytesMessage):
            self.received += message.data

    async def _sync(self, call: Call) -> None:
        self.asked.append(dict(call.metadata))
        name = call.metadata["dir-name"][0]
        if name not in self.folders and name not in self.walks:
            raise RpcError(Code.NOT_FOUND, f"no access allowed to dir {name!r}")
        wanted = call.metadata.get("followpaths", ())
        stats = self.walks.get(name) or list(walk(self.folders[name], wanted))
        excluded = call.metadata.get("exclude-patterns", ())
        stats = [each for each in stats if each.path.partition("/")[0] not in excluded]
        for each in stats:
            await call.send(Packet(type=STAT, stat=each))
        await call.send(Packet(type=STAT))
        while (message := await call.receive()) is not None:
            packet = decode(message, Packet)
            if packet.type == FIN:
                await call.send(Packet(type=FIN))
                return
            assert packet.type == REQ
            path = stats[packet.id].path
            self.sent.append(path)
            if name in self.folders:
                data = (self.folders[name] / path).read_bytes()
                for at in range(0, len(data), 32768):
                    await call.send(Packet(type=DATA, id=packet.id, data=data[at : at + 32768]))
            await call.send(Packet(type=DATA, id=packet.id))


def walk(folder: Path, wanted: tuple[str, ...] = ()) -> Iterator[Stat]:
    """A folder as fsutil walks it."""
    for found in sorted(folder.rglob("*"), key=lambda path: path.parts):
        path = str(found.relative_to(folder))
        if wanted and not any(path == each or path.startswith(f"{each}/") for each in wanted):
            continue
        status = found.lstat()
        mode = stat.S_IMODE(status.st_mode)
        link = ""
        if stat.S_ISDIR(status.st_mode):
            mode |= 1 << 31
        elif stat.S_ISLNK(status.st_mode):
            mode |= 1 << 27
            link = os.readlink(found)
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        yield Stat(path=path, mode=mode, size=size, mtime=status.st_mtime_ns, link=link)


@asynccontextmanager
async def connected(
    path: str, prepare: Callable[[BuildClient], None] | None = None
) -> AsyncIterator[BuildClient]:
    """A client of the engine at the socket ``path``."""
    loop = asyncio.get_running_loop()
    sock = await upgrade(path, "/grpc", {})
    client = BuildClient(Channel())
    if prepare is not None:
        prepare(client)
    await loop.create_connection(lambda: client.channel.connection, sock=sock)
    try:
        await client.open_session(path)
        yield client
    finally:
        client.channel.connection.close()
        if client.serving is not None:
            client.serving.close()


@asynccontextmanager
async def direct(path: str) -> AsyncIterator[BuildClient]:
    """A client that speaks HTTP/2 from the first byte, with its session inside a call."""
    loop = asyncio.get_running_loop()
    client = BuildClient(Channel())
    await loop.create_unix_connection(lambda: client.channel.connection, path)
    methods = client.methods()
    metadata = {
        "x-docker-expose-session-uuid": (client.session,),
        "x-docker-expose-session-grpc-method": tuple(methods),
    }
    call = client.channel.call(f"{CONTROL}Session", metadata)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    server = Server(methods)
    await loop.create_connection(lambda: server.connection, sock=theirs)
    tasks = [asyncio.create_task(_up(call, ours)), asyncio.create_task(_down(call, ours))]
    try:
        yield client
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ours.close()
        client.channel.connection.close()


async def _up(call: Call, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, 65536):
        await call.send(BytesMessage(data=data))


async def _down(call: Call, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async for message in call.messages(BytesMessage):
        await loop.sock_sendall(sock, message.data)
