"""Builds for BuildKit's clients: from attributes and a session to results, and from results to what was ordered."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cais.api.buildkit.attrs import Asked, check_frontend, parse_attrs, parse_options
from cais.api.buildkit.client import SessionAgents, SessionInputs, SessionSecrets, session_credentials
from cais.api.buildkit.gatewaywire import read_definition
from cais.api.buildkit.jobs import Job, Jobs, Outcome
from cais.api.buildkit.messages import CacheOptions, Definition, SolveRequest
from cais.api.buildkit.sessions import Sessions
from cais.build.builder import Builder
from cais.build.narrate import Narrator
from cais.build.synced import SyncedStore
from cais.build.tree import LayersTree, resolve
from cais.errors import Invalid, NotFound
from cais.spec.platform import Platform
from cais.spec.reference import parse_reference


class Solving:
    """What the control API and the gateway share."""

    def __init__(self, builder: Builder, sessions: Sessions, jobs: Jobs, store: SyncedStore) -> None:
        self.builder = builder
        self._sessions = sessions
        self._jobs = jobs
        self._store = store

    def platforms(self) -> Sequence[Platform]:
        """What can be built for."""
        return (self.builder.images.host,)

    async def solve(
        self,
        job: Job,
        frontend: str,
        attrs: Mapping[str, str],
        inputs: Mapping[str, Definition],
        cache: CacheOptions | None,
    ) -> tuple[Outcome | None, dict[str, bytes]]:
        """Build; or answer a question, then there is only metadata. What is made lives as long as the job."""
        check_frontend(frontend, attrs)
        asked = parse_attrs(attrs)
        session = await self._sessions.get(job.session)
        request = replace(
            asked.request,
            credentials=session_credentials(session),
            secrets=SessionSecrets(session),
            agents=SessionAgents(session),
            cache_from=parse_options(cache.imports) if cache else (),
        )
        build = await job.stack.enter_async_context(self.builder.open(request))
        narrator = Narrator(job.tell, build, self.builder)
        source = SessionInputs(session, self._store, attrs, build.folder)
        working = asyncio.ensure_future(narrator.solve(source))
        losing = asyncio.ensure_future(session.lost.wait())
        try:
            await asyncio.wait((working, losing), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Invalid("the client went away")
            solved = await working
        finally:
            losing.cancel()
            working.cancel()
            await asyncio.gather(working, losing, return_exceptions=True)
        outcome = Outcome(uuid.uuid4().hex, build, solved, is_map=is_map(asked, attrs))
        job.outcomes[outcome.id] = outcome
        return outcome, {}

    def find(self, definition: Definition) -> Outcome:
        """What a graph of ours stands for. Raises Invalid, NotFound."""
        id = read_definition(definition).partition("/")[0]
        outcome = self._jobs.find_outcome(id)
        if outcome is None:
            raise NotFound(f"no result {id}: the build that made it is over")
        return outcome

    async def export(self, request: SolveRequest, job: Job, outcomes: Sequence[Outcome]) -> dict[str, str]:
        """What was ordered of the results: an image, if nothing is said of where it goes. The exporters' answers."""
        response: dict[str, str] = {}
        for option in request.exporters:
            if option.type not in ("moby", "image"):
                raise Invalid(f"exporter {option.type} is not known")
            for outcome in outcomes:
                names = [name for name in option.attrs.get("name", "").split(",") if name]
                canonical = [parse_reference(name).tagged().canonical() for name in names]
                target = await outcome.build.write(outcome.solved[0])
                image = self.builder.images.add_built(target, canonical)
                response["containerimage.digest"] = str(image.id)
                if names:
                    response["image.name"] = ",".join(canonical)
        return response

    async def read_file(self, outcome: Outcome, path: str) -> bytes:
        """One file of a result. Raises NotFound."""
        solved = outcome.solved[0]
        workshop = outcome.build.parts.workshop
        lowers = await workshop.lowers(solved.layers, outcome.build.lease)
        return await asyncio.to_thread(_read, lowers, path)


def is_map(asked: Asked, attrs: Mapping[str, str]) -> bool:
    """Whether results are given by platform even if there is one."""
    return len(asked.request.platforms) > 1 or attrs.get("multi-platform") == "true"


_READ_LIMIT = 4 << 20


def _read(lowers: tuple[str, ...], path: str) -> bytes:
    tree = LayersTree(lowers)
    real = resolve(tree.look, path.encode("utf-8", "surrogateescape"))
    node = tree.look(real)
    if node is None or node.is_folder:
        raise NotFound(f"no such file: {path}")
    if node.size > _READ_LIMIT:
        raise Invalid(f"{path} is larger than {_READ_LIMIT} bytes")
    return b"".join(tree.read(real))
