"""BuildKit's gateway: the client runs the build's frame itself, and asks here for its parts.

buildx builds this way; what it asks for is the Dockerfile frontend, and then it returns what it got.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from cais.api.buildkit.gatewaywire import (
    GatewaySolveRequest,
    GatewaySolveResponse,
    Pong,
    ReadFileResponse,
    Ref,
    RefMap,
    RefRequest,
    Result,
    ReturnRequest,
    make_definition,
)
from cais.api.buildkit.jobs import Job, Jobs, Outcome
from cais.api.buildkit.messages import CacheOptions, Capability, Empty, WorkerRecord
from cais.api.buildkit.solving import Solving
from cais.grpc.calls import Call, Handler
from cais.grpc.status import Code, RpcError
from cais.spec.image import format_image_config
from cais.spec.platform import format_platform

BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"
BUILD_ID = "buildkit-controlapi-buildid"
"""The header that says which job a call is of."""
FRONTEND_CAPS = (
    "solve.base",
    "resolveimage",
    "return",
    "returnmap",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "frontend.caps",
    "gateway.solve.metadata",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "readfile",
)
BUILD_CAPS = (
    "source.image",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.git",
    "source.http",
    "source.ocilayout",
    "exec.meta.base",
    "exec.meta.network",
    "exec.meta.security",
    "exec.meta.ulimit",
    "exec.meta.cgroup.parent",
    "exec.mount.bind",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.selector",
    "exec.mount.tmpfs",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.secretenv",
    "file.base",
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "mergeop",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.sourcedateepoch",
    "exporter.multiple",
    "history.filter",
)
CONFIG_KEY = "containerimage.config"


class Bridge:
    """``LLBBridge`` for the jobs of one engine."""

    def __init__(self, solving: Solving, jobs: Jobs, worker: Callable[[], WorkerRecord]) -> None:
        self._solving = solving
        self._jobs = jobs
        self._worker = worker
        self.handlers: dict[str, Handler] = {
            f"{BRIDGE}Ping": self.ping,
            f"{BRIDGE}Solve": self.solve,
            f"{BRIDGE}Return": self.answer,
            f"{BRIDGE}Evaluate": self.evaluate,
            f"{BRIDGE}ReadFile": self.read_file,
        }

    async def _job(self, call: Call) -> Job:
        ref = next(iter(call.metadata.get(BUILD_ID, ())), "")
        if not ref:
            raise RpcError(Code.INVALID_ARGUMENT, f"no {BUILD_ID} in the call")
        return await self._jobs.get(ref)

    async def ping(self, call: Call) -> None:
        """What is possible here."""
        await call.receive()
        await call.send(
            Pong(
                frontend_caps=tuple(Capability(id=id, enabled=True) for id in FRONTEND_CAPS),
                build_caps=tuple(Capability(id=id, enabled=True) for id in BUILD_CAPS),
                workers=(self._worker(),),
            )
        )

    async def solve(self, call: Call) -> None:
        """Run the Dockerfile frontend, or answer a question about a Dockerfile."""
        request = await call.receive_as(GatewaySolveRequest)
        job = await self._job(call)
        if not request.frontend:
            if request.definition is None or not request.definition.operations:
                await call.send(GatewaySolveResponse(result=Result()))
                return
            outcome = self._solving.find(request.definition)
            job.outcomes[outcome.id] = outcome
            await call.send(GatewaySolveResponse(result=_result(outcome)))
            return
        cache = CacheOptions(imports=request.cache_imports)
        solving = asyncio.ensure_future(
            self._solving.solve(job, request.frontend, request.frontend_opt, request.frontend_inputs, cache)
        )
        # The job may end without this call: then what it asked for ends, too.
        job.stack.push_async_callback(_cancel, solving)
        try:
            outcome_or_none, metadata = await solving
        except asyncio.CancelledError:
            solving.cancel()
            raise
        result = _result(outcome_or_none) if outcome_or_none else Result(metadata=metadata)
        await call.send(GatewaySolveResponse(result=result))

    async def answer(self, call: Call) -> None:
        """The client's frontend has ended."""
        request = await call.receive_as(ReturnRequest)
        job = await self._job(call)
        if request.error is not None and request.error.code:
            error = request.error
            job.fail(RpcError(error.code, error.message, error.details))
        else:
            ids = _ids(request.result or Result())
            for id in ids:
                if id not in job.outcomes:
                    raise RpcError(Code.NOT_FOUND, f"no result {id} in this build")
            if not job.returned.done():
                job.returned.set_result(ids)
        await call.send(Empty())

    async def evaluate(self, call: Call) -> None:
        """Results here are made when they are asked for; nothing is left to do."""
        await call.receive_as(RefRequest)
        await call.send(Empty())

    async def read_file(self, call: Call) -> None:
        """One file of a result."""
        request = await call.receive_as(RefRequest)
        outcome = self._outcome(await self._job(call), request.ref)
        await call.send(ReadFileResponse(data=await self._solving.read_file(outcome, request.path)))

    def _outcome(self, job: Job, ref: str) -> Outcome:
        id = ref.partition("/")[0]
        if id not in job.outcomes:
            raise RpcError(Code.NOT_FOUND, f"no result {id} in this build")
        return job.outcomes[id]


async def _cancel(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _result(outcome: Outcome) -> Result:
    """One result by itself, several by their platforms."""
    solved = outcome.solved
    if len(solved) == 1 and not outcome.is_map:
        metadata = {CONFIG_KEY: format_image_config(solved[0].config)}
        return Result(ref=Ref(id=outcome.id, definition=make_definition(outcome.id)), metadata=metadata)
    refs, metadata, platforms = {}, {}, []
    for each in solved:
        name = format_platform(each.platform)
        id = f"{outcome.id}/{name}"
        refs[name] = Ref(id=id, definition=make_definition(id))
        metadata[f"{CONFIG_KEY}/{name}"] = format_image_config(each.config)
        shown = {"os": each.platform.os, "architecture": each.platform.architecture}
        if each.platform.variant:
            shown["variant"] = each.platform.variant
        platforms.append({"ID": name, "Platform": shown})
    metadata["refs.platforms"] = msgspec.json.encode({"Platforms": platforms})
    return Result(refs=RefMap(refs=refs), metadata=metadata)


def _ids(result: Result) -> tuple[str, ...]:
    refs = [result.ref] if result.ref is not None else []
    refs += (result.refs or RefMap()).refs.values()
    return tuple(dict.fromkeys(ref.id.partition("/")[0] for ref in refs if ref.id))
