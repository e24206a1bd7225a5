"""Solving a build and telling of it vertex by vertex, as things happen: for doors that show everything at once."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cais.build.builder import Builder, unused_args
from cais.build.building import Build, Solved, Source
from cais.build.context import Index
from cais.build.dockerfile.fault import DockerfileError, Lines
from cais.build.dockerfile.lint import Finding
from cais.build.explain.compare import Explained
from cais.build.explain.watch import watch
from cais.build.inputs import MAIN, TRANSFERRED, Inputs
from cais.build.plan import Op, Plan, StagePlan
from cais.build.request import CommandFailed, StepBegan, StepCached, StepOutput
from cais.build.solve import Solver
from cais.build.vertex import (
    Tell,
    VertexDone,
    VertexOutput,
    VertexProgress,
    VertexStarted,
    VertexWarned,
)
from cais.errors import CaisError
from cais.images.image import Image, PullEvent
from cais.spec.ignore import Ignore
from cais.spec.platform import Platform, format_platform
from cais.spec.reference import parse_reference

DEFINITION = "[internal] load build definition from "
CONTEXT = "[internal] load build context"
_PROGRESS_NS = 100_000_000


class StepFailed(CaisError):
    """A step of the Dockerfile that failed: ``error`` why, ``vertex`` which one, and where it stands."""

    def __init__(self, error: Exception, vertex: str, file: str, text: Sequence[str], lines: Lines) -> None:
        super().__init__(str(error))
        self.error = error
        self.vertex = vertex
        self.file = file
        self.text = text
        self.lines = lines


@contextmanager
def told(tell: Tell, name: str) -> Iterator[str]:
    """A vertex for the time of the block; its digest."""
    digest = name_digest(name)
    tell(VertexStarted(digest, name, time.time_ns()))
    try:
        yield digest
    except BaseException as error:
        tell(VertexDone(digest, time.time_ns(), error=describe(error)))
        raise
    tell(VertexDone(digest, time.time_ns()))


@dataclass(slots=True)
class Narrator:
    """Tells of one build. Digests of vertices are those of steps where there are any, so that clients can see that
    two builds wait for the same one."""

    tell: Tell
    build: Build
    builder: Builder
    origin: str = ""
    """Where the context is, if that says which builds are of the same thing."""
    explained: Callable[[Explained], None] | None = None
    """Told why each step is made or not, under the step's name; before any of them is."""
    _pulls: dict[str, int] = field(default_factory=dict)

    def vertex(self, name: str) -> AbstractContextManager[str]:
        """See ``told``."""
        return told(self.tell, name)

    @contextmanager
    def transfer(self, digest: str, name: str) -> Iterator[None]:
        """Tell how much of something has come while the block runs."""
        began = time.time_ns()
        told_ns = began
        total = 0

        def come(count: int) -> None:
            nonlocal total, told_ns
            total = count
            now = time.time_ns()
            if now - told_ns > _PROGRESS_NS:
                told_ns = now
                self.tell(VertexProgress(digest, name, count, 0, now, began))

        token = TRANSFERRED.set(come)
        try:
            yield
        finally:
            TRANSFERRED.reset(token)
        self.tell(VertexProgress(digest, name, total, 0, time.time_ns(), began, is_done=True))

    async def solve(self, inputs: Inputs) -> tuple[Solved, ...]:
        """Everything, for all platforms. Raises what ``Builder.build`` raises; StepFailed where a step is to blame."""
        build = self.build
        with (
            self.vertex(f"{DEFINITION}{build.request.dockerfile}") as digest,
            self.transfer(digest, "transferring dockerfile:"),
        ):
            source = await build.read(inputs)
        outlined = {platform: build.outline(source, platform) for platform in build.platforms}
        graphs = {platform: graph for platform, (_, graph) in outlined.items()}
        index = await build.load(source, graphs, _Told(inputs, self), self._resolve)
        await self._warn(source, digest)
        plans = [
            await build.plan(source, outlined[platform], index, platform, self._resolve)
            for platform in build.platforms
        ]
        return tuple([await self._solve(plan, index, source) for plan in plans])

    async def _warn(self, source: Source, digest: str) -> None:
        raw = "\n".join(source.file.raw).encode("utf-8", "surrogateescape")
        findings = await self.build.check(source, self.build.platforms[0])
        for finding in findings:
            self.tell(_warning(finding, digest, source.file.name, raw))
        self.build.refuse_findings(source, findings)

    async def _resolve(self, name: str, platform: Platform | None) -> Image:
        shown = parse_reference(name).tagged().canonical()
        with self.vertex(f"[internal] load metadata for {shown}") as digest:
            queue: asyncio.Queue[PullEvent] = asyncio.Queue()
            telling = asyncio.create_task(self._tell_pull(queue, digest))
            try:
                return await self.builder.resolve(self.build, name, platform, queue)
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
                while not queue.empty():
                    self._pull_event(queue.get_nowait(), digest)

    async def _tell_pull(self, queue: "asyncio.Queue[PullEvent]", digest: str) -> None:
        while True:
            self._pull_event(await queue.get(), digest)

    def _pull_event(self, event: PullEvent, digest: str) -> None:
        if not event.is_layer:
            return
        now = time.time_ns()
        started = self._pulls.setdefault(event.id, now)
        done = event.status in ("Pull complete", "Already exists")
        self.tell(VertexProgress(digest, event.id, event.current, event.total, now, started, done))

    async def _solve(self, plan: Plan, index: Index, source: Source) -> Solved:
        solver = self.build.solver(plan, index)
        named = dict(_named_ops(plan, len(self.build.platforms) > 1))
        titles = {op.key: name for op, name in named.items()}
        for name, stage in _bases(plan, len(self.build.platforms) > 1):
            self._cached(vertex_digest(stage.base.key), name)
            titles.setdefault(stage.base.key, name)
        watching = watch(self.build.parts.cache.notes, self.build, solver, self.origin)
        watching.begin()
        if self.explained is not None:
            for each in await watching.explain():
                self.explained(replace(each, title=titles.get(each.key, each.title)))
        solving = asyncio.ensure_future(solver.solve())
        followers = [asyncio.create_task(self._follow(solver, op, name)) for op, name in named.items()]
        try:
            await solving
            await asyncio.gather(*followers)
        except Exception as error:
            await asyncio.gather(*followers, return_exceptions=True)
            await watching.end(solver)
            failed = next((op for op in named if op.key == solver.failed), None)
            if failed is None:
                raise
            text = source.file.raw
            place = failed.lines
            raise StepFailed(error, vertex_digest(failed.key), source.file.name, text, place) from error
        finally:
            solving.cancel()
            await asyncio.gather(solving, return_exceptions=True)
            for task in followers:
                task.cancel()
            await asyncio.gather(*followers, return_exceptions=True)
        await watching.end(solver)
        if unused := unused_args(plan, self.build.request):
            digest = name_digest(f"{DEFINITION}{self.build.request.dockerfile}")
            short = f"One or more build-args [{' '.join(unused)}] were not consumed"
            self.tell(VertexWarned(digest, 1, short))
        return self.build.finish(solver)

    def _cached(self, digest: str, name: str, inputs: tuple[str, ...] = ()) -> None:
        now = time.time_ns()
        self.tell(VertexStarted(digest, name, now, inputs))
        self.tell(VertexDone(digest, now, is_cached=True))

    async def _follow(self, solver: Solver, op: Op, name: str) -> None:
        digest = vertex_digest(op.key)
        inputs = tuple(vertex_digest(point.key) for point in (op.parent, *op.sources.values()))
        began = False
        async for event in solver.journals[op.key].follow():
            match event:
                case StepCached():
                    self._cached(digest, name, inputs)
                    return
                case StepBegan():
                    began = True
                    self.tell(VertexStarted(digest, name, event.at_ns, inputs))
                case StepOutput():
                    self.tell(VertexOutput(digest, event.stream, event.data, time.time_ns()))
        if not began:
            return  # something else failed before its turn came
        if op.key in solver.records:
            self.tell(VertexDone(digest, time.time_ns()))
        else:
            error = solver.error if solver.failed == op.key else None
            self.tell(VertexDone(digest, time.time_ns(), error=describe(error) if error else "canceled"))


class _Told:
    """Inputs whose transfers are told."""

    def __init__(self, inputs: Inputs, narrator: Narrator) -> None:
        self._inputs = inputs
        self._narrator = narrator
        self.dockerfile = inputs.dockerfile

    async def context(
        self, name: str, ignore: Ignore, folder: Path, paths: frozenset[str] | None = None
    ) -> Index:
        """Inputs.context."""
        title = CONTEXT if name == MAIN else f"[context {name}] load from client"
        with (
            self._narrator.vertex(title) as digest,
            self._narrator.transfer(digest, "transferring context:"),
        ):
            return await self._inputs.context(name, ignore, folder, paths)


def _stage_name(stage: StagePlan, alone: bool) -> str:
    return "" if alone and not stage.node.stage.base.name else stage.node.stage.label


def _named_ops(plan: Plan, many: bool) -> Iterator[tuple[Op, str]]:
    """Every step that makes files, with the name people know: ``[stage 2/5] RUN …``."""
    alone = len(plan.file.stages) == 1
    for stage in plan.stages.values():
        ops = [step for step in stage.steps if step.op is not None]
        prefix = _prefix(plan, stage, alone, many)
        for number, step in enumerate(ops, 2):
            assert step.op is not None
            yield step.op, f"[{prefix}{number}/{len(ops) + 1}] {step.title}"


def _bases(plan: Plan, many: bool) -> Iterator[tuple[str, StagePlan]]:
    """The images that stages stand on."""
    alone = len(plan.file.stages) == 1
    for stage in plan.stages.values():
        image = stage.base.image
        if isinstance(stage.node.base, str) and image is not None:
            count = sum(step.op is not None for step in stage.steps) + 1
            shown = parse_reference(stage.node.base).tagged().canonical()
            yield f"[{_prefix(plan, stage, alone, many)}1/{count}] FROM {shown}", stage


def _prefix(plan: Plan, stage: StagePlan, alone: bool, many: bool) -> str:
    words = [format_platform(plan.platform)] if many else []
    words += [name] if (name := _stage_name(stage, alone)) else []
    return " ".join(words) + " " if words else ""


def _warning(finding: Finding, digest: str, file: str, text: bytes) -> VertexWarned:
    short = f"{finding.rule}: {finding.message} ({finding.lines})"
    about = finding.about
    return VertexWarned(digest, 1, short, (about.description,), about.url, file, text, finding.lines)


def vertex_digest(key: str) -> str:
    """The digest that a step's vertex goes by."""
    return f"sha256:{key}"


def name_digest(name: str) -> str:
    """The digest of a vertex that is no step."""
    return f"sha256:{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()}"


def describe(error: BaseException) -> str:
    """An error in one line, for a vertex."""
    if isinstance(error, CommandFailed):
        return (
            f'process "{error.command}" did not complete successfully: exit code: {error.code}{error.reason}'
        )
    if isinstance(error, DockerfileError):
        return (
            f"dockerfile parse error on {error.lines}: {error.problem}"
            if error.lines.start
            else error.problem
        )
    if isinstance(error, asyncio.CancelledError):
        return "canceled"
    return str(error) or type(error).__name__
