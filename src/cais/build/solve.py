"""Making what a plan needs and nothing else: hits are taken, misses are made side by side, each once what it stands on
is there."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from cais.build.cache import CacheRecord, Layer, layer_of
from cais.build.dockerfile.evaluate import CopyAct, RunAct
from cais.build.journal import Journal
from cais.build.plan import Base, Op, Plan, Point
from cais.build.request import StepBegan, StepCached
from cais.build.workshop import Job, Workshop


@dataclass(frozen=True, slots=True)
class Running:
    """A step that some build makes right now."""

    task: "asyncio.Task[CacheRecord]"
    journal: Journal


@dataclass(slots=True)
class Solver:
    """One build. ``running``: the steps under way of all builds, by ``_share_key``."""

    workshop: Workshop
    job: Job
    plan: Plan
    running: dict[str, Running]
    records: dict[str, CacheRecord] = field(default_factory=dict)
    journals: dict[str, Journal] = field(default_factory=dict)
    failed: str = ""
    """The key of the step that failed."""
    error: Exception | None = None
    """Why."""
    lost: set[str] = field(default_factory=set)
    """Keys of steps that have a record, but no layer any more."""
    _missing: dict[str, Op] = field(default_factory=dict)
    _stood_on: set[str] = field(default_factory=set)
    _tasks: "dict[str, asyncio.Task[None]]" = field(default_factory=dict)

    def prepare(self) -> None:
        """Look what is there; after this ``journals`` has one for every step that is told."""
        self._look(self.plan.target.end)
        for op in self._missing.values():
            points = (op.parent, *op.sources.values())
            self._stood_on |= {point.key for point in points if isinstance(point, Op)}
        for stage in self.plan.stages.values():
            for step in stage.steps:
                if step.op is not None and step.op.key not in self.journals:
                    # Nobody needs it: what stands on it is there already.
                    self.journals[step.op.key] = _cached()

    def _look(self, target: Point) -> None:
        waiting: list[Point] = [target]
        while waiting:
            point = waiting.pop()
            while isinstance(point, Op) and point.key not in self.journals:
                fresh = point.no_cache or self.job.request.no_cache
                record = None if fresh else self._find(point.key) or self._find_linked(point)
                if record:
                    self.records[point.key] = record
                    self.journals[point.key] = _cached()
                else:
                    self._missing[point.key] = point
                    self.journals[point.key] = Journal()
                    waiting += point.sources.values()
                point = point.parent

    def _find_linked(self, op: Op) -> CacheRecord | None:
        """What was made of the same files for another parent."""
        key = op.act.link_key if isinstance(op.act, CopyAct) else ""
        return self._find(key) if key else None

    def is_missing(self, key: str) -> bool:
        """Whether the step was not there when this was prepared: then it is made."""
        return key in self._missing

    def _find(self, key: str) -> CacheRecord | None:
        record = self.workshop.cache.find(key)
        if record is None:
            imports = self.job.imports
            return imports.find(key) if imports else None
        layer = layer_of(record)
        if layer and not self.workshop.has(layer):
            self.workshop.cache.forget(key)
            self.lost.add(key)
            return None
        self.workshop.cache.count_use(key)
        return record

    async def solve(self) -> None:
        """Make all that is missing. The first step that fails ends the others; its error is raised."""
        for key, op in self._missing.items():
            self._tasks[key] = asyncio.create_task(self._make(op), name=f"build {op.title[:60]}")
        try:
            await _first_error(list(self._tasks.values()))
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            for journal in self.journals.values():
                journal.finish()

    async def _make(self, op: Op) -> None:
        before = [key for point in (op.parent, *op.sources.values()) if (key := self._nearest(point))]
        # Shielded: what others wait for too is not ended by the end of one.
        await asyncio.gather(*(asyncio.shield(self._tasks[key]) for key in before))
        try:
            self.records[op.key] = await self._shared(op)
        except Exception as error:
            if not self.failed:
                self.failed, self.error = op.key, error
            raise
        finally:
            self.journals[op.key].finish()

    def _nearest(self, point: Point) -> str:
        """The last step up to ``point`` that is not there yet."""
        while isinstance(point, Op):
            if point.key in self._missing:
                return point.key
            point = point.parent
        return ""

    async def _shared(self, op: Op) -> CacheRecord:
        """Make the step, unless another build is at it: then what that makes will do."""
        key = self._share_key(op)
        while (other := self.running.get(key)) is not None:
            copying = asyncio.create_task(_copy(other.journal, self.journals[op.key]))
            try:
                record = await asyncio.shield(other.task)
                await copying
                return record
            except asyncio.CancelledError:
                if not other.task.cancelled():
                    raise
                # The other build has gone: now it is ours to make.
            finally:
                copying.cancel()
        self.journals[op.key].add(StepBegan(time.time_ns()))
        task = asyncio.create_task(self._record(op))
        self.running[key] = Running(task, self.journals[op.key])
        try:
            return await task
        finally:
            self.running.pop(key, None)

    def _share_key(self, op: Op) -> str:
        request = self.job.request
        # Nobody else is to wait until somebody has looked at a step that failed.
        if request.no_cache or op.no_cache or self.job.debugger is not None:
            return f"{op.key} {id(self)}"
        # A step that was given another client's secrets is not ours.
        needs = isinstance(op.act, RunAct) and any(mount.type in ("secret", "ssh") for mount in op.act.mounts)
        whose = id(request) if needs else 0
        circumstances = msgspec.json.encode((request.host, whose, dict(request.args)))
        return f"{op.key} {hashlib.sha256(circumstances).hexdigest()}"

    async def _record(self, op: Op) -> CacheRecord:
        layer = await self._layer(op)
        record = CacheRecord(
            created_ns=self.job.now_ns(),
            title=op.title,
            diff_id=str(layer.diff_id) if layer else "",
            digest=str(layer.blob.digest) if layer else "",
            media_type=layer.blob.media_type if layer else "",
            size=layer.blob.size if layer else 0,
            parent=op.parent.key if isinstance(op.parent, Op) else "",
        )
        self.workshop.cache.put(op.key, record)
        return record

    async def _layer(self, op: Op) -> Layer | None:
        stack = self.stack(op.parent)
        sources = {text: self.stack(point) for text, point in op.sources.items()}
        if self.job.imports is not None:
            needed = [*stack, *(layer for source in sources.values() for layer in source)]
            await self.job.imports.fetch(needed, self.job.lease)
            if isinstance(op.act, RunAct):
                names = [mount.id or mount.target for mount in op.act.mounts if mount.type == "cache"]
                await self.job.imports.restore_mounts(names)
        act = op.act
        if isinstance(act, RunAct):
            journal = self.journals[op.key]
            return await self.workshop.run(act, stack, sources, self.job, journal, op.files, key=op.key)
        source = next(iter(sources.values()), None)
        is_last = op.key not in self._stood_on
        return await self.workshop.copy(act, stack, source, self.job, op.files, is_last=is_last)

    def stack(self, point: Point) -> Sequence[Layer]:
        """The layers of what stands at ``point``, bottom first; all of it is there."""
        above: list[Layer] = []
        while isinstance(point, Op):
            layer = layer_of(self.records[point.key])
            if layer:
                above.append(layer)
            point = point.parent
        return [*layers_of(point), *reversed(above)]


def layers_of(base: Base) -> list[Layer]:
    """The layers of an image."""
    if base.image is None:
        return []
    pairs = zip(base.image.diff_ids, base.image.manifest.layers, strict=True)
    return [Layer(diff_id, blob) for diff_id, blob in pairs]


def _cached() -> Journal:
    journal = Journal()
    journal.add(StepCached())
    journal.finish()
    return journal


async def _copy(source: Journal, target: Journal) -> None:
    async for event in source.follow():
        target.add(event)


async def _first_error(tasks: "Sequence[asyncio.Task[None]]") -> None:
    """Wait for all, or until one fails: its error."""
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if error := None if task.cancelled() else task.exception():
                raise error
