"""What carries out steps: the stores, the workers, the containers; one for each engine."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cais.build.cache import BuildCache, CacheRecord, Layer, layer_of
from cais.build.context import Index, narrow
from cais.build.debug import Debugger, Held
from cais.build.dockerfile.evaluate import CopyAct, FolderAct, RunAct
from cais.build.fetch.files import NO_FILES, Files
from cais.build.journal import Journal
from cais.build.later import Later
from cais.build.layering import CopyJob, Other, Part, extract_part, make_blob, make_layer, pack_run
from cais.build.mounts import Given, MountMaker, plan_part
from cais.build.request import BuildRequest, CommandFailed, StepOutput, StepRemoved, StepRuns
from cais.build.run import Runner
from cais.build.share.load import Imported
from cais.errors import Invalid
from cais.images.commit import LAYER_OF_CODEC
from cais.images.images import Images
from cais.images.tree import MAX_LAYERS
from cais.images.unpack import Unpacker
from cais.spec.descriptor import Descriptor
from cais.spec.digest import Digest
from cais.store.gc import Lease
from cais.store.layers.diff import DiffSource
from cais.store.layers.layers import ensure_layers
from cais.store.layers.packed import PackedLayer

_ROOM = 1 << 30
"""Bytes that must be free for a layer to be unpacked later."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all steps of one build share. ``folder`` is the build's own; ``epoch_ns``: the time that everything gets;
    ``imports``: caches from elsewhere; ``debugger`` keeps a step that fails."""

    request: BuildRequest
    index: Index
    folder: Path
    lease: Lease
    epoch_ns: int | None = None
    places: list[Path] = field(default_factory=list)
    imports: Imported | None = None
    debugger: Debugger | None = None

    def now_ns(self) -> int:
        """The time of what is made now."""
        return time.time_ns() if self.epoch_ns is None else self.epoch_ns

    @property
    def newest(self) -> int | None:
        """Seconds: nothing in a new layer is later; None: everything keeps its time."""
        return None if self.epoch_ns is None else self.epoch_ns // 1_000_000_000

    def place(self) -> Path:
        """A folder for one step."""
        path = self.folder / f"step-{len(self.places)}"
        self.places.append(path)
        path.mkdir(mode=0o700)
        return path


@dataclass(frozen=True, slots=True)
class Workshop:
    """``codec``: what new layers are compressed with."""

    images: Images
    unpacker: Unpacker
    runner: Runner
    mounts: MountMaker
    cache: BuildCache
    codec: str
    later: Later

    async def lowers(self, stack: Sequence[Layer], lease: Lease) -> tuple[str, ...]:
        """The folders of these layers, top first; what is not unpacked is unpacked now. Raises NotFound, Corrupt."""
        unpacker = self.unpacker
        diff_ids = [layer.diff_id for layer in stack]
        if not unpacker.is_ready(diff_ids):
            await asyncio.to_thread(lease.add, *diff_ids, *(layer.blob.digest for layer in stack))
            for layer in stack:
                if not unpacker.layers.has(layer.diff_id):
                    await unpacker.unpack_blob(layer.diff_id, layer.blob.digest)
            blobs = [unpacker.content.path(layer.blob.digest) for layer in stack]
            limits = unpacker.layers.limits
            await unpacker.workers.run(ensure_layers, unpacker.root, blobs, diff_ids, limits)
        return unpacker.lowers(diff_ids)

    async def copy(
        self,
        act: CopyAct | FolderAct,
        stack: Sequence[Layer],
        source: Sequence[Layer] | None,
        job: Job,
        files: Mapping[str, Files] = NO_FILES,
        *,
        is_last: bool = False,
    ) -> Layer | None:
        """The layer of a COPY, ADD or WORKDIR. ``source``: the layers to copy from; None: the context. ``files``: what
        comes from elsewhere, by the text of a source or of the from. ``is_last``: no step of the build stands on it, so
        nobody waits until it is unpacked. Raises what fetching raises."""
        _check_depth(stack)
        linked = isinstance(act, CopyAct) and act.is_linked
        if isinstance(act, CopyAct) and (found := self._find_linked(act, job)):
            return found
        index = job.index
        if isinstance(act, CopyAct) and act.from_ in files:
            index = await files[act.from_].load()
        others = {
            text: Other(await each.load(), each.path, each.unpack)
            for text, each in files.items()
            if isinstance(act, CopyAct) and text in act.sources and not act.from_
        }
        if isinstance(act, CopyAct) and not act.parents:
            # Ten thousand members take a while to travel.
            index = narrow(index, [text for text in act.sources if text not in others])
        copy = CopyJob(
            act,
            () if linked else await self.lowers(stack, job.lease),
            index if source is None else None,
            () if source is None else await self.lowers(source, job.lease),
            job.now_ns() // 1_000_000_000,
            job.newest,
            others,
        )
        is_last = is_last and self._has_room(act, index if source is None else None)
        make = make_blob if is_last else make_layer
        packed = await self.unpacker.workers.run(make, self.unpacker.root, copy, self.codec)
        made = await self._store(packed, job.lease, is_last=is_last)
        if isinstance(act, CopyAct) and act.link_key and made:
            self.cache.put(act.link_key, _linked_record(made, act, job.now_ns()))
        return made

    def _has_room(self, act: CopyAct | FolderAct, index: Index | None) -> bool:
        """Whether it is sure that the layer can be unpacked after the build has said that all is well."""
        if index is None or isinstance(act, FolderAct) or act.unpack or act.unpack_fetched:
            return False
        status = os.statvfs(self.unpacker.root)
        free = status.f_bavail * status.f_frsize
        needed = sum(item.node.size for item in index.items.values())
        return free > _ROOM and free > 2 * needed and status.f_favail > 2 * len(index.items)

    def _find_linked(self, act: CopyAct, job: Job) -> Layer | None:
        """A layer that an earlier build made of the same files for another parent."""
        record = self.cache.find(act.link_key) if act.link_key and not job.request.no_cache else None
        layer = layer_of(record) if record else None
        return layer if layer and self.has(layer) else None

    async def run(
        self,
        act: RunAct,
        stack: Sequence[Layer],
        sources: Mapping[str, Sequence[Layer]],
        job: Job,
        journal: Journal,
        files: Mapping[str, Files] = NO_FILES,
        *,
        key: str = "",
    ) -> Layer | None:
        """The layer of a RUN. ``files``: what mounts show from elsewhere, by their from; ``key``: the step's, for those
        who look at one that failed. Raises CommandFailed, TaskFailed, Unsupported, Invalid."""
        _check_depth(stack)
        request = job.request
        if not stack:
            raise Invalid("there is nothing to run: the stage stands on scratch and has no files")
        lowers = await self.lowers(stack, job.lease)
        place = job.place()
        parts = await self._parts(act, sources, job, files)
        given = Given(parts, self._extract, request.secrets, request.agents)
        tell = (
            lambda id: journal.add(StepRuns(id)),
            lambda stream, data: journal.add(StepOutput(stream, data)),
        )
        async with self.mounts.mount(act, lowers, place, given) as mounted:
            async with self.runner.run(act, lowers, mounted, request.host, tell) as box:
                if box.code or box.error:
                    failure = _failure(act, box.code, box.error)
                    if job.debugger is not None:
                        await job.debugger.hold(key, Held(self.runner, box, act), str(failure))
                    raise failure
                source = DiffSource(box.root, lowers, mounted.stub_files, mounted.stub_folders)
                packed = await self.unpacker.workers.run(
                    pack_run, self.unpacker.root, source, self.codec, job.newest
                )
                layer = await self._store(packed, job.lease)
            journal.add(StepRemoved(box.id))
        return layer

    async def _parts(
        self, act: RunAct, sources: Mapping[str, Sequence[Layer]], job: Job, files: Mapping[str, Files]
    ) -> dict[int, Part]:
        """What mounts show, by their index."""
        found = {}
        for index, mount in enumerate(act.mounts):
            if mount.from_ in files:
                found[index] = Part(mount.source or "/", await files[mount.from_].load())
            elif mount.type == "bind" or (mount.type == "cache" and mount.from_):
                lowers = await self.lowers(sources[mount.from_], job.lease) if mount.from_ else ()
                found[index] = plan_part(mount, Part("", job.index), lowers)
        return found

    async def _extract(self, part: Part, folder: Path) -> str:
        return await self.unpacker.workers.run(extract_part, part, folder)

    async def _store(
        self, packed: PackedLayer | None, lease: Lease, *, is_last: bool = False
    ) -> Layer | None:
        """Give the blob its name; from then on the lease keeps it."""
        if packed is None:
            return None
        with ExitStack() as stack:
            stack.callback(packed.path.unlink, missing_ok=True)
            await asyncio.to_thread(lease.add, packed.digest, packed.diff_id)
            content = self.unpacker.content
            if not content.has(packed.digest):
                packed.path.rename(content.path(packed.digest))
        blob = Descriptor(media_type=LAYER_OF_CODEC[self.codec], digest=packed.digest, size=packed.size)
        layer = Layer(packed.diff_id, blob)
        if not self.unpacker.layers.has(packed.diff_id):
            if is_last:
                self.later.unpack(layer)
            else:
                # A collection took it before it was leased.
                await self.unpacker.unpack_blob(packed.diff_id, packed.digest)
        return layer

    def has(self, layer: Layer) -> bool:
        """Whether the layer's bytes are here."""
        return self.unpacker.content.has(Digest(layer.blob.digest))


def _linked_record(layer: Layer, act: CopyAct, now_ns: int) -> CacheRecord:
    """The record of a layer that fits on everything."""
    return CacheRecord(
        created_ns=now_ns,
        title=f"--link {' '.join(act.sources)} {act.destination}",
        diff_id=str(layer.diff_id),
        digest=str(layer.blob.digest),
        media_type=layer.blob.media_type,
        size=layer.blob.size,
    )


def _check_depth(stack: Sequence[Layer]) -> None:
    if len(stack) >= MAX_LAYERS:
        raise Invalid(f"max depth exceeded: {MAX_LAYERS} layers, no more are possible")


def _failure(act: RunAct, code: int, error: str) -> CommandFailed:
    shown = " ".join(act.args)
    reason = f" ({error})" if error else " (out of memory, or killed)" if code == 137 else ""
    return CommandFailed(
        f"The command '{shown}' returned a non-zero code: {code}{reason}", code, shown, reason
    )
