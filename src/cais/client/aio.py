"""`AsyncEngine`: a container engine over its socket, asynchronous."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self, TypeVar, Unpack

import msgspec

from cais.client import calls, models
from cais.client.aiobuild import AsyncBuild
from cais.client.aiochannel import AsyncChannel, Pieces, Wire, read_head, receive, send
from cais.client.aioprocess import AsyncProcess
from cais.client.buildrequest import BuildOptions, PathText, prepare
from cais.client.channel import USUAL
from cais.client.engine import EXEC_POLLS, POLL_SECONDS, TIMEOUT_SECONDS
from cais.client.options import ContainerOptions, ExecOptions
from cais.client.protocol import Call, Exchange
from cais.client.target import Tls, parse_target
from cais.errors import Unavailable

T = TypeVar("T")


class AsyncEngine:
    """A container engine, for asyncio; as ``Engine``, method by method.

    ::

        async with AsyncEngine() as engine:
            async with await engine.run("busybox", ["cat"], stdin=True, remove=True) as process:
                done = await process.communicate(b"hello")
    """

    def __init__(
        self, host: str = "", *, timeout: float | None = TIMEOUT_SECONDS, tls: Tls | None = None
    ) -> None:
        """``host``: ``unix:///path`` or ``tcp://name:port``; empty: CAIS_HOST, else the default socket."""
        self._channel = AsyncChannel(parse_target(host, tls), timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing is kept open between requests."""

    async def ping(self) -> None:
        """Return if an engine answers; raises Unavailable."""
        await self._channel.call(calls.ping())

    async def version(self) -> models.Version:
        """The engine's version."""
        return await self._channel.call(calls.version())

    async def info(self) -> dict[str, Any]:
        """What the engine says about itself and the machine."""
        return await self._channel.call(calls.info())

    async def create(
        self, image: str, command: Sequence[str] = (), **options: Unpack[ContainerOptions]
    ) -> "AsyncContainer":
        """Make a container."""
        made = await self._channel.call(calls.create(image, command, options, attach=False))
        return AsyncContainer(self._channel, made.id)

    async def run(
        self, image: str, command: Sequence[str] = (), **options: Unpack[ContainerOptions]
    ) -> AsyncProcess:
        """Make and start a container and hold its streams."""
        made = await self._channel.call(calls.create(image, command, options, attach=True))
        container = AsyncContainer(self._channel, made.id)
        stdin, tty = options.get("stdin", False), options.get("tty", False)
        return await container.start_attached(stdin=stdin, tty=tty, removed=options.get("remove", False))

    async def containers(
        self, *, all: bool = False, filters: Mapping[str, Any] | None = None, size: bool = False
    ) -> list[models.ContainerSummary]:
        """Running containers, or ``all``."""
        return await self._channel.call(calls.list_containers(all=all, filters=filters or {}, size=size))

    async def container(self, name: str) -> "AsyncContainer":
        """The container of that name or id."""
        return AsyncContainer(self._channel, (await self._channel.call(calls.inspect_container(name))).id)

    async def images(
        self, *, all: bool = False, filters: Mapping[str, Any] | None = None
    ) -> list[models.ImageSummary]:
        """Images."""
        return await self._channel.call(calls.list_images(all=all, filters=filters or {}))

    async def image(self, name: str) -> models.ImageDetails:
        """Everything about an image."""
        return await self._channel.call(calls.inspect_image(name))

    async def history(self, name: str) -> list[models.HistoryItem]:
        """The steps an image was made in."""
        return await self._channel.call(calls.history(name))

    async def tag(self, name: str, target: str) -> None:
        """Give an image a further name."""
        await self._channel.call(calls.tag(name, *calls.split_name(target)))

    async def remove_image(self, name: str, *, force: bool = False) -> list[models.Deleted]:
        """Remove a name and, with the last, the image."""
        return await self._channel.call(calls.remove_image(name, force=force))

    def save(self, *names: str) -> AsyncIterator[bytes]:
        """Images as an archive, piece by piece."""
        return self._channel.stream(calls.save(names))

    async def load(self, archive: Pieces) -> list[str]:
        """Take images in from an archive."""
        return await self._channel.call(calls.load(), pieces=archive)

    async def import_image(self, root: Pieces, name: str, *, changes: Sequence[str] = ()) -> list[str]:
        """Make an image of a root file system's tar."""
        return await self._channel.call(calls.import_image(*calls.split_name(name), changes), pieces=root)

    async def pull(
        self, name: str, *, platform: str = "", auth: models.RegistryAuth | None = None
    ) -> models.ImageDetails:
        """Fetch an image from its registry. Raises NotFound, Unauthenticated, Unavailable."""
        await self._channel.call(calls.pull(name, platform, auth), limit=None)
        return await self._channel.call(calls.inspect_image(name))

    async def push(
        self,
        name: str,
        *,
        platform: str = "",
        compression: str = "",
        auth: models.RegistryAuth | None = None,
    ) -> models.PushResult:
        """Send an image to its registry; ``compression`` of layers that are plain here: gzip, zstd, none. Raises
        Unavailable with the reason."""
        return await self._channel.call(calls.push(name, platform, compression, auth), limit=None)

    async def login(self, auth: models.RegistryAuth) -> models.RegistryAuth:
        """Try credentials at a registry; what to use from now on. Raises Unauthenticated."""
        found = await self._channel.call(calls.login(auth))
        token = found.identity_token
        return msgspec.structs.replace(auth, password="", identitytoken=token) if token else auth

    def build(self, path: PathText = "", **options: Unpack[BuildOptions]) -> AsyncBuild:
        """Build an image from the folder ``path`` (or a URL; empty: ``text`` alone).

        ::

            done = await engine.build(".", tag="my/web:2")

            async with engine.build(".", tag="my/web:2") as build:
                async for event in build:
                    print(event)
                done = await build

        Raises Invalid; the ``AsyncBuild`` raises BuildError, Unavailable.
        """
        return AsyncBuild(self._channel, prepare(path, options))

    async def bootstrap(self, name: str) -> list[str]:
        """Make the base image ``busybox`` or ``debian[:SUITE]``."""
        return await self._channel.call(calls.bootstrap(name), limit=None)

    async def volumes(self, *, filters: Mapping[str, Any] | None = None) -> list[models.Volume]:
        """Volumes."""
        return await self._channel.call(calls.list_volumes(filters or {}))

    async def create_volume(
        self, name: str = "", *, labels: Mapping[str, str] | None = None
    ) -> models.Volume:
        """Make a volume."""
        return await self._channel.call(calls.create_volume(name, labels or {}))

    async def remove_volume(self, name: str, *, force: bool = False) -> None:
        """Remove a volume."""
        await self._channel.call(calls.remove_volume(name, force=force))

    async def networks(self, *, filters: Mapping[str, Any] | None = None) -> list[models.Network]:
        """Networks."""
        return await self._channel.call(calls.list_networks(filters or {}))

    async def events(
        self, *, since: str = "", until: str = "", filters: Mapping[str, Any] | None = None
    ) -> AsyncIterator[models.Event]:
        """What happens, as it happens."""
        reader = calls.LineReader()
        async with aclosing(self._channel.stream(calls.events(since, until, filters or {}))) as pieces:
            async for piece in pieces:
                for event in reader.feed(piece):
                    yield event


class AsyncContainer:
    """A container of an engine; as ``Container``, with coroutines."""

    def __init__(self, channel: AsyncChannel, identity: str) -> None:
        self._channel = channel
        self.id = identity

    def __repr__(self) -> str:
        return f"<AsyncContainer {self.id[:12]}>"

    async def inspect(self) -> models.ContainerDetails:
        """Everything about it."""
        return await self._channel.call(calls.inspect_container(self.id))

    async def start(self) -> None:
        """Start it."""
        await self._channel.call(calls.start(self.id))

    async def start_attached(
        self, *, stdin: bool = False, tty: bool = False, removed: bool = False
    ) -> AsyncProcess:
        """Start it and hold its streams from the first byte. ``removed``: it removes itself at its end."""
        stream = await self._channel.hijack(calls.attach(self.id, stdin=stdin))
        waiting = None
        try:
            waiting = await _open_wait(
                self._channel, calls.wait(self.id, "removed" if removed else "next-exit")
            )
            await self.start()
        except BaseException:
            stream[0].close()
            if waiting:
                waiting.wire.close()
            raise
        return AsyncProcess(self.id, stream, waiting, stdin=stdin, tty=tty, on_close=waiting.wire.close)

    async def attach(self, *, stdin: bool = False, logs: bool = False) -> AsyncProcess:
        """Hold the streams of a running container."""
        tty = (await self.inspect()).tty
        stream = await self._channel.hijack(calls.attach(self.id, stdin=stdin, logs=logs))
        return AsyncProcess(self.id, stream, self.wait, stdin=stdin, tty=tty)

    async def exec(self, command: Sequence[str], **options: Unpack[ExecOptions]) -> AsyncProcess:
        """Run a command in it."""
        identity = (await self._channel.call(calls.exec_create(self.id, command, options))).id
        tty = options.get("tty", False)
        stream = await self._channel.hijack(calls.exec_start(identity, tty=tty))

        async def wait() -> int:
            for _ in range(EXEC_POLLS):
                details = await self._channel.call(calls.exec_inspect(identity))
                if details.exit_code is not None and not details.running:
                    return details.exit_code
                await asyncio.sleep(POLL_SECONDS)
            raise Unavailable(f"the engine does not know the exit code of {identity}")

        stdin = options.get("stdin", False)
        return AsyncProcess(identity, stream, wait, stdin=stdin, tty=tty, drained=True)

    async def stop(self, *, timeout: int | None = None, signal: str = "") -> None:  # noqa: ASYNC109
        """Ask it to stop; after ``timeout`` seconds the engine kills it."""
        await self._act("stop", {"t": _text(timeout), "signal": signal}, limit=None)

    async def restart(self, *, timeout: int | None = None) -> None:  # noqa: ASYNC109
        """Stop and start it."""
        await self._act("restart", {"t": _text(timeout)}, limit=None)

    async def kill(self, signal: str = "KILL") -> None:
        """Send it a signal."""
        await self._act("kill", {"signal": signal})

    async def pause(self) -> None:
        """Freeze all its processes."""
        await self._act("pause")

    async def unpause(self) -> None:
        """Let them go on."""
        await self._act("unpause")

    async def rename(self, name: str) -> None:
        """Give it another name."""
        await self._act("rename", {"name": name})

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal."""
        await self._channel.call(calls.resize(f"/containers/{self.id}", rows, columns))

    async def wait(self) -> int:
        """Its exit code, once it does not run. For a time limit use ``asyncio.timeout``."""
        return (await self._channel.call(calls.wait(self.id, "not-running"), limit=None)).status_code

    async def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it."""
        await self._channel.call(calls.remove(self.id, force=force, volumes=volumes))

    async def top(self, arguments: str = "") -> models.Processes:
        """Its processes, as ps shows them."""
        return await self._channel.call(calls.top(self.id, arguments))

    async def commit(
        self,
        name: str = "",
        *,
        author: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
    ) -> str:
        """Make an image of its files and configuration; the image's id."""
        call = calls.commit(self.id, name, author=author, message=message, changes=changes, pause=pause)
        return (await self._channel.call(call, limit=None)).id

    def export(self) -> AsyncIterator[bytes]:
        """Its root file system as a tar, piece by piece."""
        return self._channel.stream(calls.export(self.id))

    async def logs(
        self, *, follow: bool = False, tail: int | None = None, timestamps: bool = False, since: str = ""
    ) -> AsyncIterator[bytes]:
        """Lines of its output; ``follow``: also what comes."""
        query = {"follow": follow, "tail": _text(tail), "timestamps": timestamps, "since": since}
        splitter = calls.LogLines(tty=(await self.inspect()).tty)
        async with aclosing(self._channel.stream(calls.logs(self.id, query))) as pieces:
            async for piece in pieces:
                for line in splitter.feed(piece):
                    yield line
        for line in splitter.end():
            yield line

    async def _act(
        self, verb: str, query: Mapping[str, Any] | None = None, *, limit: float | None = USUAL
    ) -> None:
        await self._channel.call(calls.act(self.id, verb, query or {}), limit=limit)


class _Waiting:
    """A request for an exit that was made before the start, so that no exit can be missed."""

    def __init__(self, wire: Wire, call: Call[models.Exit], exchange: Exchange, first: list[bytes]) -> None:
        self.wire = wire
        self._call = call
        self._exchange = exchange
        self._first = first

    async def __call__(self) -> int:
        rest = [piece async for piece in receive(self.wire, self._exchange)]
        await self.wire.closed()
        content = b"".join([*self._first, *rest])
        if self._exchange.refused():
            raise self._exchange.failure(content)
        return self._call.parse(content).status_code


async def _open_wait(channel: AsyncChannel, call: Call[models.Exit]) -> _Waiting:
    wire = await channel.connect()
    exchange = Exchange(call)
    await send(wire, call, None)
    return _Waiting(wire, call, exchange, await read_head(wire, exchange))


def _text(value: int | None) -> str:
    return "" if value is None else str(value)
