"""One build, from what a client gives to images: read, plan, make, write. Every door walks through here."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cais.build.cache import BuildCache, CacheRecord, Layer
from cais.build.context import Index
from cais.build.debug import Debugger
from cais.build.dockerfile.evaluate import start_state
from cais.build.dockerfile.graph import Graph, blame_image, make_graph
from cais.build.dockerfile.lint import BasePlatforms, Finding, check_options, lint
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.rules import violation
from cais.build.dockerfile.scope import Scope, make_scope, platform_args
from cais.build.dockerfile.values import Copy, Dockerfile, Instruction, OnBuild, Run
from cais.build.fetch.fetcher import Fetcher, Fetching
from cais.build.fetch.named import NamedContexts, Special
from cais.build.fetch.sources import is_remote
from cais.build.inputs import MAIN, DockerfileText, Inputs
from cais.build.keys import KeyedContext
from cais.build.output import is_unchanged, make_config, parse_epoch, write_image
from cais.build.plan import Entry, Plan, Planner
from cais.build.request import BuildRequest
from cais.build.share.load import Imported
from cais.build.solve import Running, Solver
from cais.build.workshop import Job, Workshop
from cais.errors import CaisError, Denied, Invalid, NotFound, Unavailable
from cais.images.image import Image
from cais.images.images import Images
from cais.remotes.client import Remotes
from cais.spec.descriptor import Descriptor
from cais.spec.ignore import Ignore, clean_path, parse_ignore
from cais.spec.image import ImageConfig
from cais.spec.platform import Platform
from cais.store.gc import Lease

Resolve = Callable[[str, Platform | None], Awaitable[Image]]
"""Gives an image, pulled if need be."""


@dataclass(frozen=True, slots=True)
class Source:
    """A Dockerfile that was read, with what it ignores."""

    file: Dockerfile
    ignore: Ignore


@dataclass(frozen=True, slots=True)
class Parts:
    """What builds of one engine share. ``running``: the steps that are made right now."""

    images: Images
    workshop: Workshop
    cache: BuildCache
    running: dict[str, Running]
    fetcher: Fetcher
    remotes: Remotes


@dataclass(frozen=True, slots=True)
class Solved:
    """The result for one platform: layers and a configuration. ``unchanged``: it is just this image."""

    platform: Platform
    plan: Plan
    config: ImageConfig
    layers: Sequence[Layer]
    unchanged: Image | None = None


@dataclass(slots=True)
class Build:
    """One build; ``folder`` and ``lease`` live as long as it does."""

    request: BuildRequest
    parts: Parts
    folder: Path
    lease: Lease
    started_ns: int = field(default_factory=time.time_ns)
    imports: Imported | None = None
    """Caches from elsewhere, open as long as the build is."""
    debugger: Debugger | None = None
    """Keeps a step that fails, so that somebody can look."""
    _bases: dict[tuple[str, Platform | None], Image] = field(default_factory=dict)
    _job: Job | None = None
    _fetching: Fetching | None = None
    _named: NamedContexts | None = None
    special: Special | None = None
    """Gives named contexts that only the client's door knows of."""
    origin: str = ""
    """Where the context is from, if it is no folder of the client's: a URL or git reference."""
    vcs: Mapping[str, str] = field(default_factory=dict)
    """What the client says of its repository."""

    @property
    def fetching(self) -> Fetching:
        """What is fetched from elsewhere; each thing once."""
        if self._fetching is None:
            self._fetching = Fetching(self.parts.fetcher, self.request, self.folder)
        return self._fetching

    @property
    def platforms(self) -> Sequence[Platform]:
        """What is built for."""
        return self.request.platforms or (self.parts.images.host,)

    async def read(self, inputs: Inputs) -> Source:
        """Raises DockerfileError, NotFound, Invalid, Unavailable."""
        text = await inputs.dockerfile(self.request.dockerfile)
        file = await parse_all(text, inputs)
        check_options(file, self.request.args)
        return Source(file, parse_ignore(text.ignore) if text.ignore is not None else Ignore())

    def outline(self, source: Source, platform: Platform) -> tuple[Scope, Graph]:
        """Arguments and needed stages; nothing else is known yet. Raises DockerfileError."""
        request = self.request
        automatic = platform_args(self.parts.images.host, platform, request.target)
        scope = make_scope(source.file, request.args, automatic)
        return scope, make_graph(source.file, scope, request.target, request.contexts)

    async def load(
        self, source: Source, graphs: Mapping[Platform, Graph], inputs: Inputs, resolve: Resolve
    ) -> Index:
        """The bases, side by side and each asked for once, then the files that are needed of the context."""
        self._named = NamedContexts(self.fetching, inputs, self.special)
        wanted: dict[tuple[str, Platform | None], asyncio.Task[Image]] = {}
        for target, graph in graphs.items():
            for name, platform in graph.images():
                key = name, platform or self._asked(target)
                if key not in wanted:
                    wanted[key] = asyncio.ensure_future(resolve(*key))
        try:
            for (name, _), task in wanted.items():
                await _blamed(task, name, next(iter(graphs.values())))
            self._bases.update({key: task.result() for key, task in wanted.items()})
        finally:
            for task in wanted.values():
                task.cancel()
        paths = self._needed(graphs)
        if paths is not None and not paths:
            return Index("", {})
        index = await inputs.context(MAIN, source.ignore, self.folder, paths)
        return without_own_files(index, source.ignore, source.file.name)

    def _asked(self, target: Platform) -> Platform | None:
        """None if nobody said for which platform: then what is here is taken."""
        return target if self.request.platforms else None

    def _needed(self, graphs: Mapping[Platform, Graph]) -> frozenset[str] | None:
        """The paths of the context that instructions name; None if only evaluation tells, or if it is all of it."""
        triggers = [text for base in self._bases.values() for text in base.config.config.on_build]
        found: set[str] = set()
        for graph in graphs.values():
            for node in graph.nodes.values():
                for instruction in node.stage.steps:
                    found.update(context_paths(instruction))
                    if isinstance(instruction.value, OnBuild):
                        triggers.append(instruction.line.rest)
        cleaned = {clean_path(path.lstrip("/")) for path in found}
        if any(may_take_files(text) for text in triggers) or any("$" in path for path in cleaned):
            return None
        return None if cleaned & {"", "."} else frozenset(cleaned)

    async def plan(
        self,
        source: Source,
        outlined: tuple[Scope, Graph],
        index: Index,
        platform: Platform,
        resolve: Resolve,
    ) -> Plan:
        """Raises DockerfileError, NotFound, Invalid, and what resolving an image raises."""
        asked = self._asked(platform)

        async def known(name: str, wanted: Platform | None) -> Image:
            found = self._bases.get((name, wanted or asked))
            return found or await resolve(name, wanted or asked)

        scope, graph = outlined
        planner = Planner(
            graph, scope, KeyedContext(index), known, platform, self.request, self.fetching, self._named
        )
        return await planner.plan()

    def job(self, index: Index) -> Job:
        """What all steps share; the same for every platform."""
        if self._job is None:
            epoch_ns = parse_epoch(self.request.args)
            self._job = Job(
                self.request,
                index,
                self.folder,
                self.lease,
                epoch_ns,
                imports=self.imports,
                debugger=self.debugger,
            )
        return self._job

    def solver(self, plan: Plan, index: Index) -> Solver:
        """Ready to be followed and run."""
        solver = Solver(self.parts.workshop, self.job(index), plan, self.parts.running)
        solver.prepare()
        return solver

    def find_config(self, solver: Solver, key: str) -> CacheRecord | None:
        """The record of a step that changes the configuration alone."""
        if key not in solver.records and not self.request.no_cache:
            record = self.parts.cache.find(key) or (self.imports.find(key) if self.imports else None)
            if record:
                solver.records[key] = record
        return solver.records.get(key)

    def finish(self, solver: Solver) -> Solved:
        """What was made, once all of it is there."""
        plan, job = solver.plan, solver.job
        stage = plan.target

        def record_of(entry: Entry) -> CacheRecord:
            if entry.op is not None:
                return solver.records[entry.key]
            record = self.find_config(solver, entry.key)
            if record is None:
                record = CacheRecord(created_ns=job.now_ns(), title=entry.text)
                self.parts.cache.put(entry.key, record)
                solver.records[entry.key] = record
            return record

        layers = solver.stack(stage.end)
        config = make_config(stage, layers, record_of, plan.platform, job.epoch_ns)
        base = stage.base.image
        unchanged = base if base is not None and is_unchanged(stage) else None
        return Solved(plan.platform, plan, config, layers, unchanged)

    async def write(self, solved: Solved) -> Descriptor:
        """The blobs of an image for one platform; the manifest's descriptor."""
        if solved.unchanged:
            return solved.unchanged.descriptor
        if self.imports:
            await self.imports.fetch(solved.layers, self.lease)
        content = self.parts.workshop.unpacker.content
        return await asyncio.to_thread(write_image, content, self.lease, solved.config, solved.layers)

    async def check(self, source: Source, platform: Platform) -> Sequence[Finding]:
        """What the rules find; variables and platforms are looked at in stages whose base is here."""
        scope, graph = self.outline(source, platform)
        base_env: dict[int, dict[str, str]] = {}
        platforms: dict[int, BasePlatforms] = {}
        for index, node in graph.nodes.items():
            if isinstance(node.base, str):
                wanted = node.platform or self._asked(platform)
                image = self._bases.get((node.base, wanted))
                if image is None:
                    with suppress(NotFound):
                        image = await self.parts.images.resolve(node.base, platform=wanted)
                if image is not None:
                    base_env[index] = dict(start_state(image.config.config).env)
                    platforms[index] = BasePlatforms(node.platform or platform, image.config.platform)
        ignore = source.ignore
        return lint(source.file, scope, base_env=base_env, platforms=platforms, ignore=ignore)

    def refuse_findings(self, source: Source, findings: Sequence[Finding]) -> None:
        """Raises Invalid if there are any, and the Dockerfile says that then it fails."""
        if findings and check_options(source.file, self.request.args).error:
            raise Invalid(violation(finding.rule for finding in findings))


class _Wanted(Exception):
    """A file that the Dockerfile includes, which has to be fetched first."""


async def parse_all(text: DockerfileText, inputs: Inputs) -> Dockerfile:
    """The Dockerfile with what it includes; included files come from where it came from itself."""
    files: dict[str, bytes | CaisError] = {}

    def read(path: str) -> bytes:
        if path not in files:
            raise _Wanted(path)
        found = files[path]
        if isinstance(found, CaisError):
            raise found
        return found

    while True:
        try:
            return parse_dockerfile(text.data, text.name, read)
        except _Wanted as wanted:
            path = str(wanted)
            try:
                files[path] = (await inputs.dockerfile(path)).data
            except CaisError as error:
                files[path] = error


async def _blamed(task: "asyncio.Task[Image]", name: str, graph: Graph) -> None:
    """Wait for an image; where the Dockerfile asks for it is said if it cannot be had."""
    try:
        await task
    except (NotFound, Denied, Unavailable) as error:
        raise blame_image(graph, name, str(error)) from error


def context_paths(instruction: Instruction) -> list[str]:
    """The paths of the main context that an instruction names."""
    value = instruction.value
    if isinstance(value, Copy):
        inline = {heredoc.name for heredoc in value.heredocs}
        if value.from_:
            return []
        return [path for path in value.sources if path not in inline and not is_remote(path)]
    if isinstance(value, Run):
        return [mount.source or "." for mount in value.mounts if mount.type == "bind" and not mount.from_]
    return []


def may_take_files(trigger: str) -> bool:
    """Whether an ONBUILD trigger may take files from the context."""
    return trigger.strip().split(maxsplit=1)[:1] not in ([], ["ENV"], ["LABEL"], ["CMD"], ["USER"])


def without_own_files(index: Index, ignore: Ignore, dockerfile: str) -> Index:
    """Clients send the Dockerfile and the ignore file even if they are ignored: then they are not for COPY."""
    own = [name for name in (dockerfile, ".dockerignore") if ignore.excludes(name)]
    dropped = {name.encode("utf-8", "surrogateescape") for name in own}
    if not dropped:
        return index
    return Index(index.path, {path: item for path, item in index.items.items() if path not in dropped})
