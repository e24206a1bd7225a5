"""What is going on: one job for every build that a client asked for, with all that is told of it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec

from cais.api.buildkit.attrs import parse_options
from cais.api.buildkit.historywire import BuildResult
from cais.api.buildkit.messages import (
    Position,
    Range,
    SolveRequest,
    SourceInfo,
    StatusResponse,
    Vertex,
    VertexLog,
    VertexStatus,
    VertexWarning,
    to_timestamp,
)
from cais.build.building import Build, Solved
from cais.build.vertex import (
    VertexDone,
    VertexEvent,
    VertexOutput,
    VertexProgress,
    VertexStarted,
    VertexWarned,
)
from cais.errors import NotFound
from cais.grpc.status import RpcError

WAIT_SECONDS = 5.0
"""How long callers wait for a build that is about to begin: clients make all their calls at once."""
LOG_LIMIT = 16 << 20
"""Bytes of output that are kept for who asks late."""
_BATCH = 4096
_KEPT = 8
"""Jobs that are over and can still be followed."""


class Outcome(msgspec.Struct, frozen=True):
    """A frontend's result here: by id, what another call may name. ``is_map``: clients see it by platform."""

    id: str
    build: Build
    solved: tuple[Solved, ...]
    is_map: bool = False


class Job:
    """One build. ``returned``: the ids of the outcomes that the client's frontend gave back; ``body``: its context, if
    that came with the order."""

    def __init__(self, request: SolveRequest) -> None:
        ref, session = request.ref, request.session
        exports = request.cache.exports if request.cache else ()
        self.outputs = parse_options(request.exporters)
        self.cache_to = parse_options(exports)
        self.entitlements = request.entitlements
        self.ref = ref
        self.session = session
        self.body: AsyncIterator[bytes] | None = None
        self.stack = AsyncExitStack()
        self.outcomes: dict[str, Outcome] = {}
        self.returned: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        self.started_ns = time.time_ns()
        self.vertices: dict[str, Vertex] = {}
        self.warnings = 0
        self.result: BuildResult | None = None
        self.blobs: dict[str, bytes] = {}
        self.is_done = False
        self._messages: list[StatusResponse] = []
        self._logged = 0
        self._changed = asyncio.Event()

    def tell(self, event: VertexEvent) -> None:
        """One more thing happened."""
        message = self._message(event)
        if message is not None:
            self._messages.append(message)
            self._wake()

    def finish(self) -> None:
        """Nothing more will."""
        self.is_done = True
        if not self.returned.done():
            self.returned.cancel()
        self._wake()

    def fail(self, error: RpcError) -> None:
        """The client's frontend failed."""
        if not self.returned.done():
            self.returned.set_exception(error)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _message(self, event: VertexEvent) -> StatusResponse | None:
        match event:
            case VertexStarted():
                vertex = Vertex(
                    digest=event.digest,
                    inputs=event.inputs,
                    name=event.name,
                    started=to_timestamp(event.at_ns),
                )
                self.vertices[event.digest] = vertex
                return StatusResponse(vertexes=(vertex,))
            case VertexDone():
                return StatusResponse(vertexes=(self._done(event),))
            case VertexOutput():
                self._logged += len(event.data)
                if self._logged > LOG_LIMIT:
                    return None
                log = VertexLog(
                    vertex=event.digest,
                    timestamp=to_timestamp(event.at_ns),
                    stream=event.stream,
                    message=event.data,
                )
                return StatusResponse(logs=(log,))
            case VertexProgress():
                return StatusResponse(statuses=(_status(event),))
            case VertexWarned():
                self.warnings += 1
                return StatusResponse(warnings=(_warning(event),))

    def _done(self, event: VertexDone) -> Vertex:
        before = self.vertices.get(event.digest) or Vertex(digest=event.digest)
        vertex = Vertex(
            digest=before.digest,
            inputs=before.inputs,
            name=before.name,
            started=before.started,
            completed=to_timestamp(event.at_ns),
            cached=event.is_cached,
            error=event.error,
        )
        self.vertices[event.digest] = vertex
        return vertex

    async def follow(self) -> AsyncIterator[StatusResponse]:
        """Everything from the beginning to the end; what is there at once comes at once."""
        at = 0
        while True:
            changed = self._changed
            while at < len(self._messages):
                batch = self._messages[at : at + _BATCH]
                at += len(batch)
                yield merge(batch)
            if self.is_done:
                return
            await changed.wait()

    def messages(self) -> list[StatusResponse]:
        """Everything so far."""
        return list(self._messages)


def merge(messages: list[StatusResponse]) -> StatusResponse:
    """Several in one."""
    return StatusResponse(
        vertexes=tuple(each for message in messages for each in message.vertexes),
        statuses=tuple(each for message in messages for each in message.statuses),
        logs=tuple(each for message in messages for each in message.logs),
        warnings=tuple(each for message in messages for each in message.warnings),
    )


def _status(event: VertexProgress) -> VertexStatus:
    now = to_timestamp(event.at_ns)
    return VertexStatus(
        id=event.id,
        vertex=event.digest,
        current=event.current,
        total=event.total,
        timestamp=now,
        started=to_timestamp(event.started_ns),
        completed=now if event.is_done else None,
    )


def _warning(event: VertexWarned) -> VertexWarning:
    info: SourceInfo | None = None
    ranges: tuple[Range, ...] = ()
    if event.lines is not None:
        info = SourceInfo(filename=event.file, data=event.text, language="Dockerfile")
        ranges = (Range(start=Position(line=event.lines.start), end=Position(line=event.lines.end)),)
    return VertexWarning(
        vertex=event.digest,
        level=event.level,
        short=event.short.encode(),
        detail=tuple(text.encode() for text in event.detail),
        url=event.url,
        info=info,
        ranges=ranges,
    )


class Jobs(msgspec.Struct):
    """All that run, by the reference that clients give them."""

    _jobs: dict[str, Job] = msgspec.field(default_factory=dict)
    _over: "OrderedDict[str, Job]" = msgspec.field(default_factory=OrderedDict)
    """The last ones that ended: a client's ``Status`` may come after its ``Solve`` is over."""
    _changed: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    def open(self, request: SolveRequest) -> Job:
        """A new one."""
        job = Job(request)
        self._jobs[job.ref] = job
        self._note_change()
        return job

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self, job: Job) -> None:
        """It is over; who follows it gets the rest."""
        job.finish()
        if self._jobs.get(job.ref) is job:
            del self._jobs[job.ref]
            self._over[job.ref] = job
            while len(self._over) > _KEPT:
                self._over.popitem(last=False)
            self._note_change()

    async def settle(self) -> None:
        """Until none runs."""
        while self._jobs:
            await self._changed.wait()

    def running(self) -> list[Job]:
        """Those that are not over."""
        return list(self._jobs.values())

    def find_outcome(self, id: str) -> Outcome | None:
        """What a running build has made."""
        return next((job.outcomes[id] for job in self._jobs.values() if id in job.outcomes), None)

    async def get(self, ref: str) -> Job:
        """Raises NotFound."""
        if ref not in self._jobs and ref in self._over:
            return self._over[ref]
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while ref not in self._jobs:
                    await self._changed.wait()
        except TimeoutError:
            raise NotFound(f"no such job {ref}") from None
        return self._jobs[ref]
