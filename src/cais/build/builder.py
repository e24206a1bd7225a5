"""Building images: the one door to this room."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from cais.build.cache import BuildCache, CacheRecord, Usage
from cais.build.context import Context, Index, index_context
from cais.build.dockerfile.evaluate import start_state
from cais.build.dockerfile.graph import make_graph
from cais.build.dockerfile.lint import Finding, lint, parse_check
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import PROXY_ARGS, make_scope, platform_args
from cais.build.dockerfile.values import Arg, Dockerfile
from cais.build.mounts import MountMaker
from cais.build.output import is_unchanged, make_config, parse_epoch, write_image
from cais.build.plan import Entry, Plan, Planner
from cais.build.request import (
    BuildEvent,
    BuildRequest,
    Built,
    Named,
    StepCached,
    StepDone,
    StepStarted,
    Warned,
)
from cais.build.run import Runner
from cais.build.solve import Running, Solver
from cais.build.workshop import Job, Workshop
from cais.containers.services import Rooms
from cais.errors import NotFound
from cais.images.feed import feed
from cais.images.image import Image
from cais.images.images import Images
from cais.images.pull import PullRequest
from cais.images.unpack import Unpacker
from cais.spec.descriptor import Descriptor
from cais.spec.ignore import Ignore, parse_ignore
from cais.spec.platform import Platform
from cais.spec.reference import parse_reference

_IN_THREAD = 4 << 20
"""Bytes of a context up to which it is read in a thread: a worker may have to be started first."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What is to be built."""

    file: Dockerfile
    index: Index
    ignore: Ignore


class Builder:
    """All builds of an engine."""

    def __init__(self, rooms: Rooms, images: Images, unpacker: Unpacker, cache: BuildCache) -> None:
        self._images = images
        self._unpacker = unpacker
        self._cache = cache
        self._runner = Runner(rooms)
        codec = rooms.config.commit_compression
        self._workshop = Workshop(images, unpacker, self._runner, MountMaker(cache), cache, codec)
        self._running: dict[str, Running] = {}
        self._builds: set[asyncio.Task[object]] = set()

    def containers(self) -> set[str]:
        """Ids of the containers that run for builds right now; they are on no record."""
        return self._runner.ids()

    async def close(self) -> None:
        """End all builds."""
        for task in list(self._builds):
            task.cancel()
        await asyncio.gather(*self._builds, return_exceptions=True)
        await self._runner.close()

    def usage(self) -> list[Usage]:
        """What the cache holds."""
        return self._cache.usage()

    async def prune(self, *, unused_since_ns: int = 0, keep_bytes: int = 0) -> tuple[list[str], int]:
        """Forget; the ids and the bytes. What layers nothing else needs goes at once."""
        found = self._cache.prune(unused_since_ns=unused_since_ns, keep_bytes=keep_bytes)
        await self._images.collect()
        return found

    async def build(self, request: BuildRequest, context: AsyncIterator[bytes]) -> AsyncGenerator[BuildEvent]:
        """Build an image from a context (a tar, compressed or not). A failure leaves nothing but what the cache knows.

        Cancelling ends its steps. Raises DockerfileError, CommandFailed, TaskFailed, NotFound, Invalid, Unsupported,
        Corrupt, Unavailable.
        """
        with self._cache.scratch() as folder:
            source = await self._receive(request, context, folder)
            async with self._images.working() as lease:
                job = Job(request, source.index, folder, lease, parse_epoch(request.args))
                queue: asyncio.Queue[BuildEvent | None] = asyncio.Queue()
                planning = asyncio.create_task(self._plan(source, job, queue))
                try:
                    while (event := await queue.get()) is not None:
                        yield event
                    plan = await planning
                finally:
                    planning.cancel()
                    await asyncio.gather(planning, return_exceptions=True)
                solver = Solver(self._workshop, job, plan, self._running)
                solver.prepare()
                async with aclosing(self._tell(solver)) as events:
                    async for event in events:
                        yield event
                image = await self._finish(solver)
            yield Built(image.id)
            for name in request.names:
                yield Named(parse_reference(name).familiar())

    async def check(
        self, request: BuildRequest, context: AsyncIterator[bytes]
    ) -> tuple[Dockerfile, Sequence[Finding]]:
        """What the checks find in the Dockerfile; nothing runs and nothing is pulled. Variables are looked at in stages
        whose base is here. Raises DockerfileError, NotFound, Invalid."""
        with self._cache.scratch() as folder:
            source = await self._receive(request, context, folder)
        target = request.platform or self._images.host
        automatic = platform_args(self._images.host, target, request.target)
        scope = make_scope(source.file, request.args, automatic)
        graph = make_graph(source.file, scope, request.target)
        base_env: dict[int, dict[str, str]] = {}
        for index, node in graph.nodes.items():
            if isinstance(node.base, str):
                with suppress(NotFound):
                    image = await self._images.resolve(node.base, platform=node.platform or request.platform)
                    base_env[index] = dict(start_state(image.config.config).env)
        return source.file, lint(source.file, scope, base_env=base_env, ignore=source.ignore)

    # Before anything runs

    async def _receive(self, request: BuildRequest, context: AsyncIterator[bytes], folder: Path) -> _Source:
        """Store and index the context; read the Dockerfile and what it ignores."""
        path = folder / "context"
        with path.open("xb", buffering=0) as file:
            async for _ in feed(context, lambda data: _write_all(cast(BinaryIO, file), data)):
                pass
        names = (str(path), str(folder / "plain"))
        if path.stat().st_size <= _IN_THREAD:
            index = await asyncio.to_thread(index_context, *names)
        else:
            index = await self._unpacker.workers.run(index_context, *names)
        whole = Context(index)
        try:
            name, data = _read_dockerfile(whole, request.dockerfile)
            ignore = _read_ignore(whole, name)
        finally:
            whole.close()
        file_value = parse_dockerfile(data, name)
        parse_check(file_value.directives.get("check", ""))
        return _Source(file_value, _without_own_files(index, ignore, name), ignore)

    async def _plan(self, source: _Source, job: Job, queue: "asyncio.Queue[BuildEvent | None]") -> Plan:
        """The plan; what pulls tell goes into ``queue``, and None at the end."""
        try:
            request = job.request
            host = self._images.host
            target = request.platform or host
            automatic = platform_args(host, target, request.target)
            scope = make_scope(source.file, request.args, automatic)
            graph = make_graph(source.file, scope, request.target)

            async def resolve(name: str, platform: Platform | None) -> Image:
                return await self._resolve(name, platform or request.platform, job, queue)

            # Side by side, and each asked for once.
            cache: dict[tuple[str, Platform | None], asyncio.Task[Image]] = {}
            for name, platform in graph.images():
                cache[name, platform] = asyncio.ensure_future(resolve(name, platform))
            try:
                await asyncio.gather(*cache.values())
                resolved = {key: task.result() for key, task in cache.items()}
            finally:
                for task in cache.values():
                    task.cancel()

            async def known(name: str, platform: Platform | None) -> Image:
                found = resolved.get((name, platform))
                return found or await resolve(name, platform)

            planner = Planner(graph, scope, Context(source.index), known, target, request)
            return await planner.plan()
        finally:
            queue.put_nowait(None)

    async def _resolve(
        self, name: str, platform: Platform | None, job: Job, queue: "asyncio.Queue[BuildEvent | None]"
    ) -> Image:
        """The image, pulled if it is not here or the newest is wanted; kept for the time of the build."""
        images = self._images
        if not job.request.pull:
            with suppress(NotFound):
                image = await images.resolve(name, platform=platform)
                job.lease.digests.add(image.id)
                return image
        reference = parse_reference(name).tagged()
        pull = PullRequest(reference, platform, job.request.credentials(reference.domain))
        async with aclosing(images.pull(pull)) as events:
            async for event in events:
                queue.put_nowait(event)
        image = await images.resolve(name, platform=platform)
        job.lease.digests.add(image.id)
        return image

    # While it runs

    async def _tell(self, solver: Solver) -> AsyncGenerator[BuildEvent]:
        """Solve, and tell of the steps in the file's order, whatever order they are made in."""
        solving = asyncio.ensure_future(solver.solve())
        self._builds.add(solving)
        solving.add_done_callback(self._builds.discard)
        plan = solver.plan
        steps = [step for stage in plan.stages.values() for step in stage.steps]
        total = len(plan.args) + sum(not step.is_trigger for step in steps)
        number = 0
        try:
            for title in plan.args:
                number += 1
                yield StepStarted(number, total, title)
            for stage in plan.stages.values():
                for step in stage.steps:
                    if solver.failed and (step.op is None or step.op.key != solver.failed):
                        continue
                    if not step.is_trigger:
                        number += 1
                        yield StepStarted(number, total, step.title, step.triggers)
                    if step.op is not None:
                        async for event in solver.journals[step.op.key].follow():
                            yield event
                        if step.op.key not in solver.records and solving.done():
                            await solving
                    elif step.key and self._find_config(solver, step.key):
                        yield StepCached()
                    yield StepDone(step.key or stage.base.key)
            await solving
            if unused := _unused_args(plan, solver.job.request):
                yield Warned(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed")
        finally:
            solving.cancel()
            await asyncio.gather(solving, return_exceptions=True)

    def _find_config(self, solver: Solver, key: str) -> CacheRecord | None:
        """The record of a step that changes the configuration alone."""
        if key not in solver.records and not solver.job.request.no_cache:
            record = self._cache.find(key)
            if record:
                solver.records[key] = record
        return solver.records.get(key)

    async def _finish(self, solver: Solver) -> Image:
        """Write the image, its names last."""
        plan, job, request = solver.plan, solver.job, solver.job.request
        stage = plan.target

        def record_of(entry: Entry) -> CacheRecord:
            if entry.op is not None:
                return solver.records[entry.key]
            record = self._find_config(solver, entry.key)
            if record is None:
                record = CacheRecord(created_ns=job.now_ns(), title=entry.text)
                self._cache.put(entry.key, record)
                solver.records[entry.key] = record
            return record

        stack = solver.stack(stage.end)
        target: Descriptor
        if is_unchanged(stage) and stage.base.image:
            target = stage.base.image.descriptor
        else:
            config = make_config(stage, stack, record_of, plan.platform, job.epoch_ns)
            target = await asyncio.to_thread(write_image, self._unpacker.content, job.lease, config, stack)
        return self._images.add_built(target, request.names)


def _unused_args(plan: Plan, request: BuildRequest) -> list[str]:
    """Build arguments that no ARG asked for."""
    steps = [*plan.file.args, *(step for stage in plan.file.stages for step in stage.steps)]
    known = {name for step in steps if isinstance(step.value, Arg) for name, _ in step.value.pairs}
    known |= {*PROXY_ARGS, *platform_args(Platform(), Platform()), "SOURCE_DATE_EPOCH"}
    return sorted(name for name in request.args if name not in known and not name.startswith("BUILDKIT_"))


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _read_dockerfile(context: Context, name: str) -> tuple[str, bytes]:
    """The Dockerfile and its name. Raises NotFound, Invalid."""
    try:
        return name, context.read_text(name)
    except NotFound:
        if name != "Dockerfile":
            raise
        # As Docker: the lower-case name is taken if it is the only one.
        with suppress(NotFound):
            return "dockerfile", context.read_text("dockerfile")
        raise


def _read_ignore(context: Context, dockerfile: str) -> Ignore:
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        with suppress(NotFound):
            return parse_ignore(context.read_text(name))
    return Ignore()


def _without_own_files(index: Index, ignore: Ignore, dockerfile: str) -> Index:
    """Clients send the Dockerfile and the ignore file even if they are ignored: then they are not for COPY."""
    own = [name for name in (dockerfile, ".dockerignore") if ignore.excludes(name)]
    dropped = {name.encode("utf-8", "surrogateescape") for name in own}
    if not dropped:
        return index
    return Index(index.path, {path: item for path, item in index.items.items() if path not in dropped})
