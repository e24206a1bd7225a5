"""One build and its notes: what the last one was is read before, what this one was is written after."""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cais.build.building import Build
from cais.build.explain.compare import Explained, Fate, explain_build
from cais.build.explain.facts import context_parts, list_files, make_note, note_keys, op_keys, platform_text
from cais.build.explain.notes import FAILED, MADE, BuildNote
from cais.build.explain.store import NoteStore
from cais.build.keys import fingerprint
from cais.build.plan import Op, Plan
from cais.build.request import BuildRequest
from cais.build.solve import Solver
from cais.errors import CaisError

_HARMLESS = (OSError, CaisError)
"""What goes wrong with notes is no reason to end a build."""


def note_names(request: BuildRequest, plan: Plan, origin: str) -> list[str]:
    """What one and the same thing goes by from build to build: its image's name, and where its context is
    (``origin``, empty: nobody knows); failing both, what it stands on."""
    about = [platform_text(plan), request.target]
    found = [["name", *about, request.names[0]]] if request.names else []
    if origin:
        found.append(["origin", *about, request.dockerfile, origin])
    if not found:
        bases = [stage.line.rest for stage in plan.file.stages]
        digest = hashlib.sha256("\n".join(bases).encode("utf-8", "surrogateescape")).hexdigest()
        found.append(["text", *about, request.dockerfile, digest])
    return [repr(parts) for parts in found]


def remote_origin(url: str) -> str:
    """The ``origin`` of a context that is fetched, whichever door it is asked for at."""
    return f"remote {url}"


def find_fates(solver: Solver, ops: Sequence[Op]) -> dict[str, Fate]:
    """What a solver that is prepared has found of each step."""
    return {op.key: _fate(solver, op) for op in ops}


def _fate(solver: Solver, op: Op) -> Fate:
    if not solver.is_missing(op.key):
        record = solver.records.get(op.key)
        if record is None:
            return Fate.UNNEEDED
        return Fate.HIT if solver.workshop.cache.knows(op.key) else Fate.IMPORTED
    if solver.job.request.no_cache:
        return Fate.NO_CACHE
    if op.no_cache:
        return Fate.FILTERED
    return Fate.LOST if op.key in solver.lost else Fate.MISSING


def plan_ops(plan: Plan) -> list[Op]:
    """All steps that make files."""
    return [step.op for stage in plan.stages.values() for step in stage.steps if step.op is not None]


@dataclass(slots=True)
class Watch:
    """One plan of a build, from when its solver is prepared to its end. What goes wrong here ends no build."""

    store: NoteStore
    names: Sequence[str]
    plan: Plan
    epoch: str
    fates: Mapping[str, Fate]
    before: Sequence[BuildNote] = ()
    _note: BuildNote | None = None
    _noting: "asyncio.Task[None] | None" = field(default=None)

    def is_same(self) -> bool:
        """Whether all is as it was the last time."""
        if not self.before or any(fate not in (Fate.HIT, Fate.UNNEEDED) for fate in self.fates.values()):
            return False
        last = self.before[0]
        return all(step.state == MADE for step in last.steps()) and note_keys(last) == op_keys(self.plan)

    def begin(self) -> None:
        """Note what there is to be noted, beside the steps; nothing if nothing changed."""
        if not self.is_same():
            self._noting = asyncio.create_task(self._take_note())

    async def _take_note(self) -> None:
        with suppress(*_HARMLESS):
            await asyncio.to_thread(self._write_files)

    def _write_files(self) -> None:
        """In a thread: of what the last build had not."""
        self._note = make_note(self.plan, time.time_ns(), self.epoch, self.store.salt)
        context = self.plan.context
        for op in plan_ops(self.plan):
            for _, text, manner in context_parts(op):
                name = fingerprint(context, text, manner)
                if not self.store.has_files(name):
                    files = list_files(context, text, manner)
                    if files is not None:
                        self.store.put_files(name, files)

    async def explain(self) -> list[Explained]:
        """Every step; nothing if that cannot be told."""
        if self._noting is None:
            self._noting = asyncio.create_task(self._take_note())
        await self._noting
        if self._note is None:
            return []
        return await asyncio.to_thread(
            explain_build, self._note, self.before, self.fates, self.store.find_files
        )

    async def end(self, solver: Solver) -> None:
        """The steps are made, or one has failed."""
        if self.is_same():
            self.store.touch(self.names)
            return
        if self._noting is None:
            return
        await self._noting
        if self._note is None:
            return
        states = {
            op.key: MADE
            for op in plan_ops(self.plan)
            if op.key in solver.records or not solver.is_missing(op.key)
        }
        if solver.failed:
            states[solver.failed] = FAILED
        with suppress(*_HARMLESS):
            await asyncio.to_thread(self.store.put, self.names, self._note.with_states(states), self.before)


def watch(store: NoteStore, build: Build, solver: Solver, origin: str) -> Watch:
    """A watch over a prepared solver."""
    plan = solver.plan
    names = note_names(build.request, plan, origin)
    epoch = build.request.args.get("SOURCE_DATE_EPOCH", "")
    return Watch(store, names, plan, epoch, find_fates(solver, plan_ops(plan)), store.find(names))
