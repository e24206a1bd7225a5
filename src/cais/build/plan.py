"""The whole build before anything runs: every step of every needed stage with its key."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace as change

from cais.build.dockerfile.evaluate import (
    Act,
    CopyAct,
    State,
    Step,
    child_state,
    evaluate,
    scratch_state,
    start_state,
    triggers_of,
)
from cais.build.dockerfile.fault import DockerfileError, Lines, StepError
from cais.build.dockerfile.graph import SCRATCH, ContextLink, Graph, Link, Node, find_source, from_texts
from cais.build.dockerfile.scope import Scope
from cais.build.dockerfile.values import Dockerfile, Instruction
from cais.build.fetch.fetcher import Fetching
from cais.build.fetch.files import Files
from cais.build.fetch.named import NamedContexts, Reference
from cais.build.keys import KeyedContext, act_key, base_key, key_of, link_key
from cais.build.refusals import check_act
from cais.build.request import BuildRequest
from cais.errors import Denied, Invalid, NotFound, Unavailable, Unsupported
from cais.images.image import Image
from cais.spec.platform import Platform, format_platform

_REFUSALS = (NotFound, Invalid, Unsupported, Denied, Unavailable)

Resolve = Callable[[str, Platform | None], Awaitable[Image]]


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """An image that a stage stands on, or nothing."""

    key: str
    image: Image | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One step that changes files. ``sources``: what its ``from``s stand for; ``files``: what comes from elsewhere, by
    the text of a source or a from. ``no_cache``: it is made anew, because it is asked for or stands on what is."""

    key: str
    act: Act
    parent: "Point"
    sources: Mapping[str, "Point"]
    title: str
    lines: Lines
    no_cache: bool = False
    files: Mapping[str, Files] = field(default_factory=dict)


Point = Base | Op


def is_fresh(point: Point) -> bool:
    """Whether it is made anew, whatever there is."""
    return isinstance(point, Op) and point.no_cache


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the image's history: of the step ``op``, or of the configuration alone, under ``key``."""

    text: str
    op: Op | None
    key: str


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One instruction in the file's order. ``key``: of its record; empty for FROM."""

    title: str
    key: str
    op: Op | None = None
    triggers: int = 0
    is_trigger: bool = False
    is_from: bool = False


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage. ``end`` is what its files are at the end; ``history`` what it adds to the base image's, parents
    included."""

    node: Node
    base: Base
    end: Point
    state: State
    steps: tuple[PlannedStep, ...]
    history: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All needed stages by index, in order; ``args``: titles of the ARGs before the first FROM; ``context``: what the
    keys were made of."""

    file: Dockerfile
    stages: dict[int, StagePlan]
    target: StagePlan
    args: tuple[str, ...]
    platform: Platform
    context: KeyedContext


@dataclass(slots=True)
class Planner:
    """``resolve`` gives an image, pulled if need be; ``platform`` the one to build for; ``fetching`` gives what is not
    in the context, ``named`` what contexts of the request are."""

    graph: Graph
    scope: Scope
    context: KeyedContext
    resolve: Resolve
    platform: Platform
    request: BuildRequest
    fetching: Fetching | None = None
    named: NamedContexts | None = None
    _stages: dict[int, StagePlan] = field(default_factory=dict)
    _bases: dict[tuple[str, Platform | None], Base] = field(default_factory=dict)

    async def plan(self) -> Plan:
        """Raises DockerfileError, NotFound, Invalid, and what resolving an image raises."""
        if self.fetching:
            nodes = self.graph.nodes.values()
            await self.fetching.prefetch([step.value for node in nodes for step in node.stage.steps])
        for index in self.graph.order():
            self._stages[index] = await self._stage(self.graph.nodes[index])
        target = self._stages[self.graph.target]
        titles = tuple(f"{step.line.name} {step.line.rest}" for step in self.graph.file.args)
        stages = {index: self._stages[index] for index in sorted(self._stages)}
        return Plan(self.graph.file, stages, target, titles, self.platform, self.context)

    async def _stage(self, node: Node) -> StagePlan:
        base, end, state, history, on_build = await self._start(node)
        line = node.stage.line
        file = self.graph.file
        triggers = self._locate(line.lines, lambda: triggers_of(on_build, line.lines, file.escape))
        title = f"{line.name} {' '.join((*line.flags, line.rest))}"
        steps = [PlannedStep(title, "", triggers=len(triggers), is_from=True)]
        builder = _StageBuilder(self, node, end, state, list(history), steps)
        for index, instruction in enumerate((*triggers, *node.stage.steps)):
            await builder.add(instruction, trigger=index < len(triggers))
        if node.stage.index == self.graph.target and self.request.labels:
            builder.add_labels(self.request.labels)
        return StagePlan(node, base, builder.end, builder.state, tuple(steps), tuple(builder.history))

    async def _start(self, node: Node) -> tuple[Base, Point, State, tuple[Entry, ...], tuple[str, ...]]:
        if isinstance(node.base, int):
            parent = self._stages[node.base]
            state = child_state(parent.state)
            return parent.base, parent.end, state, parent.history, parent.state.defaults.on_build
        try:
            found = await self.found(node.base, node.platform)
        except _REFUSALS as error:
            if isinstance(node.base, str):
                raise
            file = self.graph.file
            problem = StepError(f"failed to load the context {node.base.name}: {error}")
            raise problem.located(node.stage.line.lines, file.name, file.raw) from error
        if isinstance(found, Files):
            return await self._start_with(found, node)
        base = found
        if base.image is None:
            return base, base, scratch_state(), (), ()
        config = base.image.config
        return base, base, start_state(config.config, config.author), (), config.config.on_build

    async def _start_with(
        self, files: Files, node: Node
    ) -> tuple[Base, Point, State, tuple[Entry, ...], tuple[str, ...]]:
        """A stage that stands on the files of a context: on one layer of them."""
        base = await self.base(SCRATCH, node.platform)
        act = CopyAct(("/",), (), "/")
        line = node.stage.line
        title = f"{line.name} {line.rest}"
        files_of = {"/": files}
        key = await asyncio.to_thread(act_key, act, base.key, {}, None, files_of)
        op = Op(dated_key(self.request, key), act, base, {}, title, line.lines, files=files_of)
        return base, op, scratch_state(), (Entry(title, op, op.key),), ()

    async def found(self, link: str | ContextLink, platform: Platform | None) -> Base | Files:
        """An image, or what a context of the request is."""
        if isinstance(link, str):
            return await self.base(link, platform)
        if self.named is None:
            raise Unsupported(f"named contexts are not possible here: {link.name}")
        meaning = await self.named.find(link.name, platform or self.platform)
        match meaning:
            case Files():
                return meaning
            case Reference():
                return await self.base(meaning.text, platform)
        return _image_base(meaning)

    async def base(self, name: str, platform: Platform | None) -> Base:
        """The image ``name``, asked for once."""
        found = self._bases.get((name, platform))
        if found is None:
            if name == SCRATCH:
                found = Base(base_key((), format_platform(platform or self.platform)))
            else:
                found = _image_base(await self.resolve(name, platform))
            self._bases[name, platform] = found
        return found

    async def point(self, link: Link, platform: Platform | None) -> Point | Files:
        """What a ``from`` stands for."""
        if not isinstance(link, int):
            return await self.found(link, platform)
        if link not in self._stages:
            raise Invalid(f"stage {link} is named by an ONBUILD trigger only: name it in a COPY --from, too")
        return self._stages[link].end

    def _locate(self, lines: Lines, act: Callable[[], list[Instruction]]) -> list[Instruction]:
        try:
            return act()
        except DockerfileError as error:
            raise error.located(lines, self.graph.file.name, self.graph.file.raw) from None


def _image_base(image: Image) -> Base:
    shown = format_platform(image.config.platform)
    return Base(base_key(tuple(map(str, image.diff_ids)), shown), image)


def dated_key(request: BuildRequest, key: str) -> str:
    """Layers of a dated build hold no later times: they are others."""
    epoch = request.args.get("SOURCE_DATE_EPOCH", "")
    return key_of("dated", epoch, key) if epoch else key


@dataclass(slots=True)
class _StageBuilder:
    """Goes through the instructions of one stage."""

    planner: Planner
    node: Node
    end: Point
    state: State
    history: list[Entry]
    steps: list[PlannedStep]

    async def add(self, instruction: Instruction, *, trigger: bool) -> None:
        """One instruction. Raises DockerfileError with the place."""
        planner, file = self.planner, self.planner.graph.file
        lines = instruction.line.lines
        try:
            state, step = evaluate(self.state, instruction, planner.scope, file.escape, trigger=trigger)
            op = await self._op(step, instruction) if step.act else None
        except DockerfileError as error:
            raise error.located(lines, file.name, file.raw) from None
        except _REFUSALS as error:
            problem = f"{instruction.line.name} failed: {error}"
            raise StepError(problem).located(lines, file.name, file.raw) from error
        self.state = state
        self.end = op or self.end
        key = (
            op.key
            if op
            else key_of("config", self.end.key, [entry.text for entry in self.history], step.history)
        )
        if step.history is not None:
            self.history.append(Entry(step.history, op, key))
        self.steps.append(PlannedStep(step.title, key, op, is_trigger=trigger))

    async def _op(self, step: Step, instruction: Instruction) -> Op:
        assert step.act is not None
        planner = self.planner
        check_act(step.act, planner.request)
        sources, files = await self._sources(step.act, instruction)
        no_cache = self._is_fresh() or any(is_fresh(point) for point in (self.end, *sources.values()))
        # In a thread: of a large context many files are to be looked at.
        act, key = await asyncio.to_thread(self._key, step.act, sources, files, fresh=no_cache)
        return Op(key, act, self.end, sources, step.title, step.lines, no_cache, files)

    async def _sources(self, act: Act, instruction: Instruction) -> tuple[dict[str, Point], dict[str, Files]]:
        """What a step takes from, other than the context: stages and images, and files from elsewhere."""
        planner = self.planner
        points: dict[str, Point] = {}
        files: dict[str, Files] = {}
        if isinstance(act, CopyAct) and planner.fetching:
            files.update(await planner.fetching.look(act))
        for text in from_texts(instruction):
            link = self.node.sources.get(text)
            if link is None:
                graph = planner.graph
                link = find_source(graph.file, text, graph.contexts, graph.platform)
            point = await planner.point(link, self.node.platform)
            if isinstance(point, Files):
                files[text] = point
            else:
                points[text] = point
        return points, files

    def _key(
        self, act: Act, sources: Mapping[str, Point], files: Mapping[str, Files], *, fresh: bool
    ) -> tuple[Act, str]:
        """The act, with the key of its layer alone if it has one, and its own key."""
        planner = self.planner
        keys = {text: point.key for text, point in sources.items()}
        link = link_key(act, keys, planner.context, files)
        if isinstance(act, CopyAct) and link:
            act = change(act, link_key=dated_key(planner.request, link))
        key = act_key(act, self.end.key, keys, planner.context, files)
        if isinstance(act, CopyAct) and fresh:
            act = change(act, link_key="")
        return act, dated_key(planner.request, key)

    def _is_fresh(self) -> bool:
        """Whether the stage is one of those to be made anew."""
        stage = self.node.stage
        wanted = {name.lower() for name in self.planner.request.no_cache_filter}
        return bool(wanted & {stage.base.name, str(stage.index)})

    def add_labels(self, labels: Mapping[str, str]) -> None:
        """Those of the request, over the file's."""
        defaults = self.state.defaults
        merged = {**defaults.labels, **labels}
        self.state = change(self.state, defaults=change(defaults, labels=merged))
