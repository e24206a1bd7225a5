"""Building images: the one door to this room."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

from cais.build.building import Build, Parts, Resolve
from cais.build.cache import BuildCache, Usage
from cais.build.context import Index
from cais.build.dockerfile.lint import Finding
from cais.build.dockerfile.scope import PROXY_ARGS, platform_args
from cais.build.dockerfile.values import Arg, Dockerfile
from cais.build.explain.watch import remote_origin, watch
from cais.build.fetch.fetcher import Fetcher
from cais.build.fetch.remote import RemoteInputs
from cais.build.folder import Folders
from cais.build.inputs import Inputs, TarInputs
from cais.build.later import Later
from cais.build.mounts import MountMaker
from cais.build.plan import Plan, PlannedStep
from cais.build.request import (
    BuildEvent,
    BuildRequest,
    Built,
    Named,
    StepBegan,
    StepCached,
    StepDone,
    StepStarted,
    Warned,
)
from cais.build.run import Runner
from cais.build.solve import Running, Solver
from cais.build.synced import SyncedStore
from cais.build.workshop import Workshop
from cais.containers.services import Rooms
from cais.errors import NotFound
from cais.images.image import Image, PullEvent
from cais.images.images import Images
from cais.images.pull import PullRequest
from cais.images.unpack import Unpacker
from cais.remotes.client import Remotes
from cais.spec.platform import Platform
from cais.spec.reference import parse_reference

_SETTLE = 1.0
"""Seconds between the end of a build and a look at what all of them have left."""


class Builder:
    """All builds of an engine."""

    def __init__(
        self, rooms: Rooms, images: Images, unpacker: Unpacker, cache: BuildCache, remotes: Remotes
    ) -> None:
        self.images = images
        self.unpacker = unpacker
        self.cache = cache
        self._runner = Runner(rooms)
        codec = rooms.config.commit_compression
        self._later = Later(images, unpacker)
        mounts = MountMaker(cache)
        workshop = Workshop(images, unpacker, self._runner, mounts, cache, codec, self._later)
        running: dict[str, Running] = {}
        self.fetcher = Fetcher(unpacker.root, unpacker.workers)
        self.folders = Folders(unpacker.root)
        self.synced = SyncedStore(unpacker.root, unpacker.workers.warm)
        self.parts = Parts(images, workshop, cache, running, self.fetcher, remotes)
        self._builds: set[asyncio.Task[object]] = set()
        self._budget = rooms.config.build_budget
        self._keeping: asyncio.Task[None] | None = None

    def containers(self) -> set[str]:
        """Ids of the containers that run for builds right now; they are on no record."""
        return self._runner.ids()

    async def close(self) -> None:
        """End all builds."""
        for task in list(self._builds):
            task.cancel()
        await asyncio.gather(*self._builds, return_exceptions=True)
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._runner.close()
        await self._later.close()
        await self.fetcher.close()
        self.folders.close()

    def usage(self) -> list[Usage]:
        """What is kept of earlier builds: steps, cache mounts, and what was fetched."""
        return [*self.cache.usage(), *self.fetcher.usage()]

    async def prune(
        self,
        *,
        unused_since_ns: int = 0,
        keep_bytes: int = 0,
        wanted: Callable[[Usage], bool] | None = None,
    ) -> tuple[list[str], int]:
        """Forget what was not used since then (0: all of it), down to ``keep_bytes``, and of it only what is
        ``wanted``; the ids and the bytes. What layers nothing else needs goes at once."""
        choose = wanted or (lambda usage: True)
        ids, freed = self.cache.prune(unused_since_ns=unused_since_ns, keep_bytes=keep_bytes, wanted=choose)
        if not keep_bytes:
            old = [
                usage.id
                for usage in self.fetcher.usage()
                if choose(usage) and (not unused_since_ns or usage.used_ns < unused_since_ns)
            ]
            freed += self.fetcher.forget(old)
            ids += old
        if not keep_bytes and wanted is None:
            freed += self.synced.prune(unused_since_ns)
            if not unused_since_ns:
                self.folders.forget_all()
        await self.images.collect()
        return ids, freed

    async def _keep_budget(self) -> None:
        """What builds leave behind stays within what the configuration says."""
        await asyncio.sleep(_SETTLE)
        budget = self._budget
        if budget.unused_for_ns:
            await self.prune(unused_since_ns=time.time_ns() - budget.unused_for_ns)
        if budget.keep_bytes:
            await self.prune(keep_bytes=budget.keep_bytes)

    @asynccontextmanager
    async def open(self, request: BuildRequest) -> AsyncIterator[Build]:
        """A build; leaving the block gives up what is not an image by then. Engines that stop cancel the block."""
        task = asyncio.current_task()
        if task is not None:
            self._builds.add(task)
        try:
            with self.cache.scratch() as folder:
                async with self.images.working() as lease:
                    yield Build(request, self.parts, folder, lease)
        finally:
            if task is not None:
                self._builds.discard(task)
            if self._budget.is_set and (self._keeping is None or self._keeping.done()):
                self._keeping = asyncio.create_task(self._keep_budget(), name="build cache budget")

    async def resolve(
        self, build: Build, name: str, platform: Platform | None, tell: "asyncio.Queue[PullEvent]"
    ) -> Image:
        """The image, pulled if it is not here or the newest is wanted; kept for the time of the build."""
        images, request = self.images, build.request
        if not request.pull:
            with suppress(NotFound):
                image = await images.resolve(name, platform=platform)
                build.lease.digests.add(image.id)
                return image
        reference = parse_reference(name).tagged()
        pull = PullRequest(reference, platform, await request.credentials(reference.domain))
        async with aclosing(images.pull(pull)) as events:
            async for event in events:
                tell.put_nowait(event)
        image = await images.resolve(name, platform=platform)
        build.lease.digests.add(image.id)
        return image

    # The classic way: steps one after the other, whatever order they are made in

    async def build(
        self, request: BuildRequest, context: AsyncIterator[bytes], remote: str = ""
    ) -> AsyncGenerator[BuildEvent]:
        """Build an image from a context (a tar, compressed or not), or from what ``remote`` names: a repository, the
        URL of a tar or of a Dockerfile. A failure leaves nothing but what the cache knows.

        Cancelling ends its steps. Raises DockerfileError, CommandFailed, TaskFailed, NotFound, Invalid, Unsupported,
        Corrupt, Unavailable.
        """
        async with self.open(request) as build:
            inputs: Inputs = TarInputs(context, build.folder, self.unpacker.workers)
            if remote:
                inputs = RemoteInputs(remote, build.fetching)
            queue: asyncio.Queue[BuildEvent | None] = asyncio.Queue()
            planning = asyncio.create_task(self._plan(build, inputs, queue))
            try:
                while (event := await queue.get()) is not None:
                    yield event
                plan, index = await planning
            finally:
                planning.cancel()
                await asyncio.gather(planning, return_exceptions=True)
            solver = build.solver(plan, index)
            async with aclosing(self._tell_noted(build, solver, remote)) as events:
                async for event in events:
                    yield event
            target = await build.write(build.finish(solver))
            image = self.images.add_built(target, request.names)
        yield Built(image.id)
        for name in request.names:
            yield Named(parse_reference(name).familiar())

    async def _plan(
        self, build: Build, inputs: Inputs, queue: "asyncio.Queue[BuildEvent | None]"
    ) -> tuple[Plan, Index]:
        """The plan; what pulls tell goes into ``queue``, and None at the end."""
        try:
            source = await build.read(inputs)
            platform = build.platforms[0]
            outlined = build.outline(source, platform)
            resolve = self._resolver(build, queue)
            index = await build.load(source, {platform: outlined[1]}, inputs, resolve)
            return await build.plan(source, outlined, index, platform, resolve), index
        finally:
            queue.put_nowait(None)

    def _resolver(self, build: Build, queue: "asyncio.Queue[BuildEvent | None]") -> Resolve:
        async def resolve(name: str, platform: Platform | None) -> Image:
            return await self.resolve(build, name, platform, queue)  # type: ignore[arg-type]

        return resolve

    async def check(
        self, request: BuildRequest, context: AsyncIterator[bytes]
    ) -> tuple[Dockerfile, Sequence[Finding]]:
        """What the checks find in the Dockerfile; nothing runs and nothing is pulled. Variables are looked at in stages
        whose base is here. Raises DockerfileError, NotFound, Invalid."""
        async with self.open(request) as build:
            source = await build.read(TarInputs(context, build.folder, self.unpacker.workers))
            return source.file, await build.check(source, build.platforms[0])

    async def _tell_noted(self, build: Build, solver: Solver, remote: str) -> AsyncGenerator[BuildEvent]:
        """The same as ``_tell``; what the build was is noted for the next one, of whatever door, to be explained by."""
        watching = watch(self.cache.notes, build, solver, remote_origin(remote) if remote else "")
        watching.begin()
        try:
            async with aclosing(self._tell(build, solver)) as events:
                async for event in events:
                    yield event
        except Exception:
            await watching.end(solver)
            raise
        await watching.end(solver)

    async def _tell(self, build: Build, solver: Solver) -> AsyncGenerator[BuildEvent]:
        """Solve, and tell of the steps in the file's order, whatever order they are made in."""
        solving = asyncio.ensure_future(solver.solve())
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
                    async for event in _step_events(build, solver, step):
                        yield event
                    if step.op is not None and step.op.key not in solver.records and solving.done():
                        await solving
                    yield StepDone(step.key or stage.base.key)
            await solving
            if unused := unused_args(plan, build.request):
                yield Warned(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed")
        finally:
            solving.cancel()
            await asyncio.gather(solving, return_exceptions=True)


async def _step_events(build: Build, solver: Solver, step: PlannedStep) -> AsyncIterator[BuildEvent]:
    """What one step tells."""
    if step.op is not None:
        async for event in solver.journals[step.op.key].follow():
            if not isinstance(event, StepBegan):
                yield event
    elif step.key and build.find_config(solver, step.key):
        yield StepCached()


def unused_args(plan: Plan, request: BuildRequest) -> list[str]:
    """Build arguments that no ARG asked for."""
    steps = [*plan.file.args, *(step for stage in plan.file.stages for step in stage.steps)]
    known = {name for step in steps if isinstance(step.value, Arg) for name, _ in step.value.pairs}
    known |= {*PROXY_ARGS, *platform_args(Platform(), Platform()), "SOURCE_DATE_EPOCH"}
    return sorted(name for name in request.args if name not in known and not name.startswith("BUILDKIT_"))
