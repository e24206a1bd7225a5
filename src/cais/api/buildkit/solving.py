"""Builds for BuildKit's clients: from attributes and a session to results, and from results to what was ordered."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from cais.api.buildkit.answers import answer_call
from cais.api.buildkit.attrs import Asked, check_frontend, parse_attrs, parse_imports
from cais.api.buildkit.client import (
    SessionAgents,
    SessionInputs,
    SessionSecrets,
    pull_upload,
    session_credentials,
)
from cais.api.buildkit.gatewaywire import read_definition
from cais.api.buildkit.jobs import Job, Jobs, Outcome
from cais.api.buildkit.layouts import take_layout
from cais.api.buildkit.messages import CacheOptions, Definition
from cais.api.buildkit.sessions import Session, Sessions
from cais.api.buildkit.sinks import SessionSink
from cais.api.buildkit.stores import ClientPlaces
from cais.build.builder import Builder
from cais.build.building import Build
from cais.build.context import Index
from cais.build.deliver import Delivery, check_orders
from cais.build.explain.watch import remote_origin
from cais.build.export.documents import CONFIG_DIGEST
from cais.build.export.options import parse_bool
from cais.build.fetch.remote import RemoteInputs
from cais.build.inputs import MAIN, DockerfileText, Inputs, TarInputs
from cais.build.narrate import Narrator, told
from cais.build.request import Option
from cais.build.share.load import Receiving, open_imports
from cais.build.share.options import EnginePlaces, Places, parse_cache_from
from cais.build.synced import SyncedStore
from cais.build.tree import LayersTree, resolve
from cais.build.vertex import VertexWarned
from cais.errors import Invalid, NotFound, Unavailable, Unsupported
from cais.images.image import Image
from cais.linux.binfmt import read_emulated
from cais.spec.ignore import Ignore
from cais.spec.platform import Platform, host_platform, list_runnable

UPLOAD = "http://buildkit-session/"
"""What clients name a stream of theirs by (moby/buildkit session/upload/uploadprovider)."""
_READ_LIMIT = 4 << 20


class Solving:
    """What the control API and the gateway share."""

    def __init__(self, builder: Builder, sessions: Sessions, jobs: Jobs, store: SyncedStore) -> None:
        self.builder = builder
        self._sessions = sessions
        self._jobs = jobs
        self._store = store

    def platforms(self) -> Sequence[Platform]:
        """What can be built for: this machine's own, what its processor runs too, and what is emulated at present."""
        host = self.builder.images.host
        also = [host_platform(host.os, machine) for machine in read_emulated()]
        return tuple(dict.fromkeys((host, *list_runnable(host), *also)))

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
        asked = parse_attrs(attrs, job.entitlements)
        session = await self._sessions.get(job.session)
        request = replace(
            asked.request,
            credentials=session_credentials(session),
            secrets=SessionSecrets(session),
            agents=SessionAgents(session),
            cache_from=parse_imports(cache, attrs),
            cache_to=job.cache_to,
            outputs=job.outputs,
        )
        check_orders(request)
        async with _while_connected(session):
            build = await job.stack.enter_async_context(self.builder.open(request))
            source = self._inputs(asked, job, session, attrs, build)
            if asked.call:
                return None, await answer_call(asked.call, build, source)
            build.origin = "" if asked.context.startswith(UPLOAD) else asked.context
            build.vcs = {
                name.removeprefix("vcs:"): value for name, value in attrs.items() if name.startswith("vcs:")
            }
            build.special = Special(self, build, session, inputs).find
            await self._open_imports(job, build, session)
            origin = remote_origin(build.origin) if build.origin else ""
            solved = await Narrator(job.tell, build, self.builder, origin).solve(source)
        outcome = Outcome(uuid.uuid4().hex, build, solved, is_map=is_map(asked, attrs))
        job.outcomes[outcome.id] = outcome
        return outcome, {}

    def _inputs(
        self, asked: Asked, job: Job, session: Session, attrs: Mapping[str, str], build: Build
    ) -> Inputs:
        """Where the build's files come from: the client's folders, its standard input, or what it names."""
        client = SessionInputs(session, self._store, attrs, build.folder)
        if job.body is not None:
            return TarInputs(job.body, build.folder, self.builder.unpacker.workers)
        if not asked.context:
            return client
        has_dockerfile = "dockerfilekey" in attrs
        if asked.context.startswith(UPLOAD):
            stream = pull_upload(session, asked.context.removeprefix(UPLOAD))
            given = TarInputs(stream, build.folder, self.builder.unpacker.workers)
            return Mixed(given, client) if has_dockerfile else given
        return RemoteInputs(asked.context, build.fetching, client, has_dockerfile=has_dockerfile)

    async def _open_imports(self, job: Job, build: Build, session: Session) -> None:
        if not build.request.cache_from:
            return
        caches = [parse_cache_from(option) for option in build.request.cache_from]
        receiving = Receiving(self.builder.cache, self.builder.unpacker, build.folder, build.lease)
        with told(job.tell, "importing cache") as digest:
            imports = open_imports(caches, self._places(build, session), receiving)
            build.imports = await job.stack.enter_async_context(imports)
            for warning in build.imports.warnings:
                job.tell(VertexWarned(digest, 1, warning))

    def _places(self, build: Build, session: Session) -> Places:
        return ClientPlaces(session, EnginePlaces(build.parts.remotes, build.request.credentials))

    def find(self, definition: Definition) -> Outcome:
        """What a graph of ours stands for. Raises Invalid, NotFound."""
        id = read_definition(definition).partition("/")[0]
        outcome = self._jobs.find_outcome(id)
        if outcome is None:
            raise NotFound(f"no result {id}: the build that made it is over")
        return outcome

    async def export(self, job: Job, outcomes: Sequence[Outcome]) -> dict[str, str]:
        """What was ordered of the results; the exporters' answers."""
        if not outcomes:
            return {}
        session = await self._sessions.get(job.session)
        response: dict[str, str] = {}
        for outcome in outcomes:
            build = outcome.build
            delivery = Delivery(build, job.tell, self._places(build, session))
            outputs = [(option, SessionSink(session, index)) for index, option in enumerate(job.outputs)]
            async with _while_connected(session):
                response |= await delivery.deliver(outcome.solved, outputs)
        if any(map(_has_id, job.outputs)):
            # Clients would show it as the image's id (-q, --iidfile), by which no command of theirs would find it here.
            response.pop(CONFIG_DIGEST, None)
        return response

    async def read_file(self, outcome: Outcome, path: str) -> bytes:
        """One file of a result. Raises NotFound."""
        solved = outcome.solved[0]
        workshop = outcome.build.parts.workshop
        lowers = await workshop.lowers(solved.layers, outcome.build.lease)
        return await asyncio.to_thread(_read, lowers, path)


class Special(msgspec.Struct, frozen=True):
    """Named contexts that come over this door: results of other builds, and OCI layouts of the client."""

    solving: Solving
    build: Build
    session: Session
    inputs: Mapping[str, Definition]

    async def find(self, kind: str, rest: str, platform: Platform | None) -> Image:
        """See ``NamedContexts.special``. Raises Invalid, Unsupported, NotFound, Corrupt, Unavailable."""
        images = self.build.parts.images
        if kind == "input":
            if rest not in self.inputs:
                raise NotFound(f"the client sent no input {rest!r}")
            outcome = self.solving.find(self.inputs[rest])
            solved = next(
                (each for each in outcome.solved if platform is None or each.platform == platform),
                outcome.solved[0],
            )
            return images.preview(await self.build.write(solved))
        if kind == "oci-layout":
            content = self.build.parts.workshop.unpacker.content
            target = await take_layout(self.session, rest, platform or images.host, content, self.build.lease)
            return images.preview(target)
        raise Unsupported(f"unsupported context source {kind!r}")


class Mixed(msgspec.Struct, frozen=True):
    """Inputs: files from one place, the Dockerfile and other contexts from another."""

    files: Inputs
    others: Inputs

    async def dockerfile(self, name: str) -> DockerfileText:
        """Inputs.dockerfile."""
        return await self.others.dockerfile(name)

    async def context(
        self, name: str, ignore: Ignore, folder: Path, paths: frozenset[str] | None = None
    ) -> Index:
        """Inputs.context."""
        place = self.files if name == MAIN else self.others
        return await place.context(name, ignore, folder, paths)


@asynccontextmanager
async def _while_connected(session: Session) -> AsyncIterator[None]:
    """Ends the block when the client goes away. Raises Unavailable then."""
    task = asyncio.current_task()
    assert task is not None
    is_lost = False

    async def watch() -> None:
        nonlocal is_lost
        await session.lost.wait()
        is_lost = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if is_lost and task.uncancel() == 0:
            raise Unavailable("the client went away") from None
        raise
    finally:
        watching.cancel()


def _has_id(option: Option) -> bool:
    """Whether the image is an engine's, here or where the client loads it, and so known by its manifest's digest."""
    is_kept = option.type in ("image", "moby", "registry") and parse_bool(
        option.attrs.get("store", ""), "store"
    )
    return is_kept or option.type == "docker"


def is_map(asked: Asked, attrs: Mapping[str, str]) -> bool:
    """Whether results are given by platform even if there is one."""
    return len(asked.request.platforms) > 1 or attrs.get("multi-platform") == "true"


def _read(lowers: tuple[str, ...], path: str) -> bytes:
    tree = LayersTree(lowers)
    real = resolve(tree.look, path.encode("utf-8", "surrogateescape"))
    node = tree.look(real)
    if node is None or node.is_folder:
        raise NotFound(f"no such file: {path}")
    if node.size > _READ_LIMIT:
        raise Invalid(f"{path} is larger than {_READ_LIMIT} bytes")
    return b"".join(tree.read(real))
