"""``POST /cais/build``: builds for Cais's own clients, whose folders are read where they are."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from aiohttp import StreamReader, web

from cais.api.buildkit.answers import answer_call
from cais.api.call import Call
from cais.api.hijack import Hijacked, Relay, hijack_head
from cais.api.replies import cancelled_when_gone, empty_reply, json_bytes, json_reply, start_stream
from cais.api.router import Route
from cais.api.routes.build import parse_credentials, parse_name
from cais.api.routes.caissink import ClientSink
from cais.api.services import Services
from cais.api.wire.build import finding_reply
from cais.api.wire.caisbuild import (
    MISDIRECTED,
    Agent,
    DebugRequest,
    Folder,
    Line,
    Remote,
    Request,
    Tar,
    error_line,
    event_line,
    make_build_request,
    parse_request,
    result_line,
    verdict_line,
)
from cais.build.builder import Builder
from cais.build.building import Build
from cais.build.context import Index
from cais.build.debug import Debugger, Holds, StepHeld
from cais.build.deliver import IMAGE, Delivery, check_orders
from cais.build.explain.compare import Explained
from cais.build.explain.watch import remote_origin
from cais.build.fetch.remote import RemoteInputs
from cais.build.folder import FolderInputs, Folders, open_folder
from cais.build.inputs import MAIN, DockerfileText, Inputs, TarInputs
from cais.build.narrate import Narrator, told
from cais.build.peeragents import PeerAgents, check_socket
from cais.build.request import BuildRequest, HeldSecrets
from cais.build.share.load import Imported, Receiving, open_imports
from cais.build.share.options import EnginePlaces, parse_cache_from
from cais.build.verify import begin_verification, check_verification, end_verification
from cais.build.vertex import VertexEvent, VertexWarned
from cais.errors import Invalid, NotFound
from cais.linux.peers import open_peer, take_descriptor
from cais.spec.ignore import Ignore
from cais.spec.reference import parse_reference

REQUEST_LIMIT = 32 << 20
"""Bytes of the request's line: it holds secrets and perhaps a Dockerfile."""
_PIECE_LIMIT = 16 << 20
_MOST_DESCRIPTORS = 256
_CUT = "the request ends in the middle of a context"


@dataclass(frozen=True, slots=True)
class Taken:
    """Descriptors that were taken from a client, each ours to close."""

    folders: Mapping[str, int]
    agents: Mapping[str, int]


class CaisBuildRoutes:
    """``/cais/build``."""

    def __init__(self, services: Services) -> None:
        self._builder = services.builder
        self._folders = services.builder.folders
        self._holds = Holds()

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("POST", "/cais/build", self.build),
            Route("POST", "/cais/build/*/attach", self.attach),
            Route("POST", "/cais/build/*/start", self.start),
            Route("POST", "/cais/build/*/resize", self.resize),
        ]

    async def attach(self, call: Call) -> web.StreamResponse:
        """A shell for a step that failed; this connection leaves HTTP and is its terminal, or its streams. It is
        started when the client says so, because it has all its output from here then."""
        wanted = await call.body(DebugRequest)
        held = self._holds.find(call.name)
        opening = held.open(wanted.command, tty=wanted.tty, stdin=wanted.stdin, size=wanted.size)
        async with opening as stream:
            relay = Relay(call)
            relay.open(hijack_head(call, multiplexed=not wanted.tty))
            await relay.run(stream)
        return Hijacked()

    async def start(self, call: Call) -> web.Response:
        """Start that shell."""
        await self._holds.find(call.name).start()
        return empty_reply(204)

    async def resize(self, call: Call) -> web.Response:
        """Set the size of that terminal."""
        held = self._holds.find(call.name)
        await held.runner.resize(held.box, call.size("h", "height"), call.size("w", "width"))
        return empty_reply(200)

    async def build(self, call: Call) -> web.StreamResponse:
        """One build; its events are told as they happen."""
        with cancelled_when_gone(call):
            line, rest = await read_line(call.stream)
            request = parse_request(line)
            credentials = parse_credentials(call.request.headers.get("X-Registry-Config", ""))
            wanted = make_build_request(request, [parse_name(name) for name in request.names])
            async with AsyncExitStack() as stack:
                try:
                    taken = await self._folders.call(take_all, _connection(call), request)
                except OSError as error:
                    return json_reply({"message": _cannot_take(error)}, status=MISDIRECTED)
                agents = PeerAgents(taken.agents)
                stack.callback(agents.close)
                held = HeldSecrets(request.secrets)
                wanted = replace(wanted, secrets=held, agents=agents, credentials=credentials)
                given = _Given(request, taken, self._folders, Body(call.stream, rest))
                stack.push_async_exit(given.exit)
                reply = await start_stream(call)
                answer = _Answer(reply, self._builder, wanted, request)
                if request.debug:
                    answer.debugger = Debugger(self._holds, answer.tell)
                await answer.send(given)
        await reply.write_eof()
        return reply


def _connection(call: Call) -> int:
    """The number of the connection's descriptor; -1 for one that is none."""
    transport = call.connection.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    return -1 if sock is None else int(sock.fileno())


def _cannot_take(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    return f"cannot take a descriptor from the client ({reason}): send the context"


def take_all(connection: int, request: Request) -> Taken:
    """Everything that the request names by descriptor. Raises Invalid; OSError: over this connection it cannot
    be had."""
    wanted: dict[str, Folder] = {
        name: each for name, each in request.folders.items() if isinstance(each, Folder)
    }
    if MAIN in request.folders:
        raise Invalid(f"a named context cannot be called {MAIN!r}")
    if isinstance(request.context, Folder):
        wanted[MAIN] = request.context
    if not wanted and not request.agents:
        return Taken({}, {})
    if len(wanted) + len(request.agents) > _MOST_DESCRIPTORS:
        raise Invalid(f"more than {_MOST_DESCRIPTORS} folders and agents")
    folders: dict[str, int] = {}
    agents: dict[str, int] = {}
    peer = open_peer(connection)
    try:
        for name, folder in wanted.items():
            taken = take_descriptor(peer, folder.fd)
            try:
                folders[name] = open_folder(taken, folder.device, folder.inode)
            finally:
                os.close(taken)
        for name, agent in request.agents.items():
            agents[name] = _take_agent(peer, agent)
    except BaseException:
        for fd in (*folders.values(), *agents.values()):
            os.close(fd)
        raise
    finally:
        os.close(peer)
    return Taken(folders, agents)


def _take_agent(peer: int, agent: Agent) -> int:
    fd = take_descriptor(peer, agent.fd)
    try:
        check_socket(fd, agent.device, agent.inode)
    except BaseException:
        os.close(fd)
        raise
    return fd


async def read_line(stream: StreamReader) -> tuple[bytes, bytes]:
    """The request's line, and what came behind it. Raises Invalid."""
    parts: list[bytes] = []
    size = 0
    while part := await stream.readany():
        head, end, rest = part.partition(b"\n")
        parts.append(head)
        size += len(head)
        if size > REQUEST_LIMIT:
            raise Invalid(f"the build request is longer than {REQUEST_LIMIT} bytes")
        if end:
            return b"".join(parts), rest
    return b"".join(parts), b""


class Body:
    """What follows the request: contexts, one after the other."""

    def __init__(self, stream: StreamReader, rest: bytes) -> None:
        self._stream = stream
        self._rest = rest

    async def context(self) -> AsyncIterator[bytes]:
        """The pieces of the next one. Raises Invalid."""
        while size := int.from_bytes(await self._read(4), "big"):
            if size > _PIECE_LIMIT:
                raise Invalid(f"a piece of a context is longer than {_PIECE_LIMIT} bytes")
            yield await self._read(size)

    async def drain(self) -> None:
        """Receive the rest, and forget it."""
        while await self._stream.readany():
            pass

    async def _read(self, size: int) -> bytes:
        parts = [self._rest]
        have = len(self._rest)
        while have < size:
            part = await self._stream.readany()
            if not part:
                raise Invalid(_CUT)
            parts.append(part)
            have += len(part)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]


class _Given:
    """``build.inputs.Inputs`` of one request: folders by descriptor, tars that follow, a Dockerfile in the request."""

    def __init__(self, request: Request, taken: Taken, folders: Folders, body: Body) -> None:
        self._request = request
        text = (
            None if request.text is None else DockerfileText(request.dockerfile, request.text, request.ignore)
        )
        self._text = text
        self._folders = FolderInputs(folders, taken.folders, text)
        self._here = frozenset(taken.folders)
        names = [MAIN] if isinstance(request.context, Tar) else []
        names += [name for name, each in request.folders.items() if isinstance(each, Tar)]
        self._coming = names
        self._body = body
        self._tars: dict[str, TarInputs] = {}
        self._build: Build | None = None

    def open(self, build: Build) -> Inputs:
        """The inputs, once there is a build that they are for."""
        self._build = build
        context = self._request.context
        if isinstance(context, Remote):
            return RemoteInputs(context.url, build.fetching, self, has_dockerfile=self._text is not None)
        return self

    async def exit(self, kind: object, error: BaseException | None, trace: object) -> None:
        """The build has ended."""
        await self._folders.close(error)

    async def dockerfile(self, name: str) -> DockerfileText:
        """Inputs.dockerfile."""
        if MAIN in self._here:
            return await self._folders.dockerfile(name)
        if self._text is not None and name == self._request.dockerfile:
            return self._text
        if MAIN not in self._coming:
            raise NotFound(f"cannot locate specified Dockerfile: {name}: the build has no context")
        return await (await self._tar(MAIN)).dockerfile(name)

    async def context(
        self, name: str, ignore: Ignore, folder: Path, paths: frozenset[str] | None = None
    ) -> Index:
        """Inputs.context."""
        if name in self._here:
            return await self._folders.context(name, ignore, folder, paths)
        if name in self._coming:
            return await (await self._tar(name)).context(MAIN, ignore, folder, paths)
        if name == MAIN:
            return Index("", {})
        raise NotFound(f"no context {name!r} came with the build")

    async def _tar(self, name: str) -> TarInputs:
        """All up to ``name`` are received: they come in this order, whatever order they are wanted in."""
        assert self._build is not None
        for each in self._coming:
            if each not in self._tars:
                folder = self._build.folder / f"given-{len(self._tars)}"
                folder.mkdir(mode=0o700)
                tar = TarInputs(self._body.context(), folder, self._build.parts.workshop.unpacker.workers)
                self._tars[each] = tar
                await tar.context(MAIN, Ignore(), folder)
            if each == name:
                break
        return self._tars[name]

    async def drain(self) -> None:
        """Receive what nobody wanted, so that the client can read the answer."""
        await self._body.drain()


def origin_of(request: Request) -> str:
    """Where the main context is: what tells builds of one thing from those of another."""
    # What only compares is another thing: the next build is not to be told of its date.
    start = "verify " if request.verify else ""
    match request.context:
        case Folder() as folder:
            return f"{start}folder {folder.device} {folder.inode}"
        case Remote() as remote:
            return f"{start}{remote_origin(remote.url)}"
    return start


class _Answer:
    """The answer to one request, as it is written."""

    def __init__(
        self, reply: web.StreamResponse, builder: Builder, wanted: BuildRequest, request: Request
    ) -> None:
        self._reply = reply
        self._builder = builder
        self._wanted = wanted
        self._request = request
        self._call = request.call
        self._lock = asyncio.Lock()
        self._events: asyncio.Queue[VertexEvent | Explained | StepHeld | None] = asyncio.Queue()
        self.tell = self._events.put_nowait
        self.debugger: Debugger | None = None

    async def send(self, given: _Given) -> None:
        """Build, and tell all of it; the error is the last line. Cancelling ends the build."""
        telling = asyncio.create_task(self._tell())
        failure: Exception | None = None
        try:
            try:
                line = await self._run(given)
            except ConnectionError:
                raise
            except Exception as error:
                failure, line = error, error_line(error)
            await given.exit(None, failure, None)
            await given.drain()
            self._events.put_nowait(None)
            await telling
            await self.write(line)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def write(self, line: Line, data: bytes = b"") -> None:
        """One line, with what belongs behind it."""
        async with self._lock:
            await self._reply.write(json_bytes(line) + data)

    async def _tell(self) -> None:
        """Write events as they come, what has come meanwhile in one piece."""
        while True:
            lines = []
            event = await self._events.get()
            while event is not None:
                lines.append(json_bytes(event_line(event)))
                if self._events.empty():
                    break
                event = self._events.get_nowait()
            if lines:
                async with self._lock:
                    await self._reply.write(b"".join(lines))
            if event is None:
                return

    async def _run(self, given: _Given) -> Line:
        wanted, tell = self._wanted, self.tell
        check_orders(wanted)
        if self._request.verify:
            check_verification(wanted)
        async with self._builder.open(wanted) as build, AsyncExitStack() as stack:
            build.debugger = self.debugger
            inputs = given.open(build)
            if self._call != "build":
                return await self._look(build, inputs)
            places = EnginePlaces(build.parts.remotes, wanted.credentials)
            if wanted.cache_from:
                with told(tell, "importing cache") as digest:
                    build.imports = await stack.enter_async_context(self._open_imports(build, places))
                    for warning in build.imports.warnings:
                        tell(VertexWarned(digest, 1, warning))
            explained = tell if self._request.explain else None
            narrator = Narrator(tell, build, self._builder, origin_of(self._request), explained)
            if self._request.verify:
                return await self._verify(build, narrator, inputs)
            solved = await narrator.solve(inputs)
            outputs = [
                (each, ClientSink(index, self.write)) for index, each in enumerate(wanted.outputs or (IMAGE,))
            ]
            response = await Delivery(build, tell, places).deliver(solved, outputs)
        names = [parse_reference(name).familiar() for name in self._wanted.names]
        return result_line(response.get("containerimage.digest", ""), names, response)

    async def _verify(self, build: Build, narrator: Narrator, inputs: Inputs) -> Line:
        """Make everything anew, and compare it."""
        name = self._request.verify
        with narrator.vertex(f"[verify] load {name}"):
            image = await begin_verification(build, self._builder, name)
        solved = await narrator.solve(inputs)
        with narrator.vertex(f"[verify] compare with {name}"):
            other, found = await end_verification(build, image, solved)
        return verdict_line(str(other.id), len(other.diff_ids), found)

    def _open_imports(self, build: Build, places: EnginePlaces) -> AbstractAsyncContextManager[Imported]:
        caches = [parse_cache_from(option) for option in self._wanted.cache_from]
        receiving = Receiving(self._builder.cache, self._builder.unpacker, build.folder, build.lease)
        return open_imports(caches, places, receiving)

    async def _look(self, build: Build, given: Inputs) -> Line:
        """What the Dockerfile says, without building."""
        if self._call == "check":
            source = await build.read(given)
            findings = await build.check(source, build.platforms[0])
            return {"type": "result", "findings": [finding_reply(source.file, each) for each in findings]}
        answer = await answer_call(self._call, build, given)
        texts = {name.removeprefix("result."): data.decode() for name, data in answer.items()}
        return {"type": "result", "text": texts["txt"], "json": texts["json"]}
