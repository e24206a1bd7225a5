"""BuildKit's control API: builds, what is told of them, the cache, and who builds here."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

from cais.api.buildkit.bridge import Bridge
from cais.api.buildkit.failure import explain
from cais.api.buildkit.history import History
from cais.api.buildkit.jobs import Job, Jobs, Outcome
from cais.api.buildkit.messages import (
    BytesMessage,
    DiskUsageRequest,
    DiskUsageResponse,
    GCPolicy,
    InfoResponse,
    ListWorkersResponse,
    PlatformMessage,
    PruneRequest,
    SolveRequest,
    SolveResponse,
    StatusRequest,
    UsageRecord,
    Version,
    WorkerRecord,
    to_timestamp,
)
from cais.api.buildkit.sessions import Sessions
from cais.api.buildkit.solving import Solving
from cais.build.cache import Usage, parse_usage_filter
from cais.grpc.calls import Call, Handler
from cais.grpc.status import Code, Status
from cais.spec.platform import Platform

CONTROL = "/moby.buildkit.v1.Control/"
VERSION = "v0.25.1"
"""The version of BuildKit's API that is spoken."""


class Control:
    """The services of one engine; ``handlers`` for every connection's server."""

    def __init__(
        self,
        solving: Solving,
        sessions: Sessions,
        jobs: Jobs,
        history: History,
        labels: Mapping[str, str],
    ) -> None:
        """``labels`` describe this worker."""
        self._history = history
        self._solving = solving
        self._sessions = sessions
        self._jobs = jobs
        self._labels = dict(labels)
        self._bridge = Bridge(solving, jobs, self.worker)
        self.handlers: dict[str, Handler] = {
            f"{CONTROL}Solve": self.solve,
            f"{CONTROL}Status": self.status,
            f"{CONTROL}Session": self.session,
            f"{CONTROL}ListWorkers": self.list_workers,
            f"{CONTROL}Info": self.info,
            f"{CONTROL}DiskUsage": self.disk_usage,
            f"{CONTROL}Prune": self.prune,
            **self._bridge.handlers,
            **history.handlers,
        }

    async def solve(self, call: Call) -> None:
        """A build, to its end; a client that goes away ends it."""
        request = await call.receive_as(SolveRequest)
        await call.send(SolveResponse(exporter_response=await self.run(request)))

    async def run(self, request: SolveRequest, body: AsyncIterator[bytes] | None = None) -> dict[str, str]:
        """A build, to its end: the exporters' answers. ``body``: its context as a tar, if it is not in the session."""
        job = self._jobs.open(request)
        job.body = body
        self._history.begin(request, job)
        response: dict[str, str] = {}
        failure: Status | None = None
        try:
            async with job.stack:
                outcomes = await self._outcomes(request, job)
                response = await self._solving.export(job, outcomes)
        except asyncio.CancelledError:
            failure = Status(code=Code.CANCELLED, message="canceled")
            raise
        except Exception as error:
            failure = explain(error)
            raise
        finally:
            self._jobs.close(job)
            self._history.end(job, response, failure)
        return response

    async def _outcomes(self, request: SolveRequest, job: Job) -> tuple[Outcome, ...]:
        if request.frontend:
            outcome, _ = await self._solving.solve(
                job, request.frontend, request.frontend_attrs, request.frontend_inputs, request.cache
            )
            return (outcome,) if outcome else ()
        if request.definition is not None and request.definition.operations:
            return (self._solving.find(request.definition),)
        # The client runs the frontend itself, over the bridge.
        ids = await job.returned
        return tuple(job.outcomes[id] for id in ids)

    async def status(self, call: Call) -> None:
        """What is told of a build, from its beginning."""
        request = await call.receive_as(StatusRequest)
        if self._history.has(request.ref):
            async for message in self._history.told(request.ref):
                await call.send(message)
            return
        job = await self._jobs.get(request.ref)
        async for message in job.follow():
            await call.send(message)

    async def session(self, call: Call) -> None:
        """A session inside a call: the client's connection as messages."""
        session = self._sessions.accept(call.metadata)
        transport = _CallTransport(call)
        connection = session.channel.connection
        connection.connection_made(transport)
        try:
            async for message in call.messages(BytesMessage):
                connection.data_received(message.data)
        finally:
            transport.close()
            connection.connection_lost(None)

    def worker(self) -> WorkerRecord:
        """This engine as a worker."""
        platforms = tuple(map(_platform, self._solving.platforms()))
        version = Version(package="cais", version=VERSION)
        policy = (GCPolicy(all=True),)
        return WorkerRecord(
            id=self._labels.get("id", "cais"),
            labels={name: value for name, value in self._labels.items() if name != "id"},
            platforms=platforms,
            gc_policy=policy,
            version=version,
        )

    async def list_workers(self, call: Call) -> None:
        """There is one."""
        await call.receive()
        await call.send(ListWorkersResponse(record=(self.worker(),)))

    async def info(self, call: Call) -> None:
        """The version."""
        await call.receive()
        await call.send(InfoResponse(version=Version(package="cais", version=VERSION)))

    async def disk_usage(self, call: Call) -> None:
        """The cache's records."""
        request = await call.receive_as(DiskUsageRequest)
        wanted = parse_usage_filter(request.filter)
        usages = [usage for usage in self._solving.builder.usage() if wanted(usage)]
        await call.send(DiskUsageResponse(record=tuple(map(_usage, usages))))

    async def prune(self, call: Call) -> None:
        """Forget records, and say which."""
        request = await call.receive_as(PruneRequest)
        builder = self._solving.builder
        before = {usage.id: usage for usage in builder.usage()}
        since = time.time_ns() - request.keep_duration if request.keep_duration > 0 else 0
        keep = max(request.reserved_space, request.max_used_space, 0)
        wanted = parse_usage_filter(request.filter) if request.filter else None
        ids, _ = await builder.prune(unused_since_ns=since, keep_bytes=keep, wanted=wanted)
        for id in ids:
            if id in before:
                await call.send(_usage(before[id]))


class _CallTransport(asyncio.Transport):
    """A connection's way out: messages of a call, in order."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._closing = False
        self._task = asyncio.create_task(self._send(call))

    async def _send(self, call: Call) -> None:
        while (data := await self._queue.get()) is not None:
            await call.send(BytesMessage(data=data))

    def write(self, data: "bytes | bytearray | memoryview[int]") -> None:
        """Send it after what was written before."""
        if not self._closing:
            self._queue.put_nowait(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """What waits here is bounded by the peer's windows."""

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closing

    def close(self) -> None:
        """No more. Idempotent."""
        if not self._closing:
            self._closing = True
            self._queue.put_nowait(None)


def _platform(platform: Platform) -> PlatformMessage:
    return PlatformMessage(architecture=platform.architecture, os=platform.os, variant=platform.variant)


def _usage(usage: Usage) -> UsageRecord:
    return UsageRecord(
        id=usage.id,
        mutable=usage.kind == "exec.cachemount",
        in_use=usage.in_use,
        size=usage.size,
        created=to_timestamp(usage.created_ns),
        last_used=to_timestamp(usage.used_ns),
        usage_count=usage.uses,
        description=usage.title,
        record_type=usage.kind,
        parents=(usage.parent,) if usage.parent else (),
    )
