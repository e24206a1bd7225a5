"""What carries out steps: the stores, the workers, the containers; one for each engine."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cais.build.cache import BuildCache, Layer
from cais.build.context import Index
from cais.build.dockerfile.evaluate import CopyAct, FolderAct, RunAct
from cais.build.journal import Journal
from cais.build.layering import CopyJob, Part, extract_part, make_layer
from cais.build.mounts import MountMaker, plan_part
from cais.build.request import BuildRequest, CommandFailed, StepOutput, StepRemoved, StepRuns
from cais.build.run import Runner
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
from cais.store.layers.packed import PackedLayer, pack_layer


@dataclass(frozen=True, slots=True)
class Job:
    """What all steps of one build share. ``folder`` is the build's own; ``epoch_ns``: the time that everything gets."""

    request: BuildRequest
    index: Index
    folder: Path
    lease: Lease
    epoch_ns: int | None = None
    places: list[Path] = field(default_factory=list)

    def now_ns(self) -> int:
        """The time of what is made now."""
        return time.time_ns() if self.epoch_ns is None else self.epoch_ns

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
        self, act: CopyAct | FolderAct, stack: Sequence[Layer], source: Sequence[Layer] | None, job: Job
    ) -> Layer | None:
        """The layer of a COPY, ADD or WORKDIR. ``source``: the layers to copy from; None: the context."""
        _check_depth(stack)
        copy = CopyJob(
            act,
            await self.lowers(stack, job.lease),
            job.index if source is None else None,
            () if source is None else await self.lowers(source, job.lease),
            job.now_ns() // 1_000_000_000,
        )
        packed = await self.unpacker.workers.run(make_layer, self.unpacker.root, copy, self.codec)
        return await self._store(packed, job.lease)

    async def run(
        self,
        act: RunAct,
        stack: Sequence[Layer],
        sources: Mapping[str, Sequence[Layer]],
        job: Job,
        journal: Journal,
    ) -> Layer | None:
        """The layer of a RUN. Raises CommandFailed, TaskFailed, Unsupported, Invalid."""
        _check_depth(stack)
        request = job.request
        if not stack:
            raise Invalid("there is nothing to run: the stage stands on scratch and has no files")
        lowers = await self.lowers(stack, job.lease)
        place = job.place()
        parts = await self._parts(act, sources, job)
        tell = (
            lambda id: journal.add(StepRuns(id)),
            lambda stream, data: journal.add(StepOutput(stream, data)),
        )
        async with self.mounts.mount(act, lowers, place, request.secrets, parts) as mounted:
            async with self.runner.run(act, lowers, mounted, request.host, tell) as box:
                if box.code or box.error:
                    raise _failure(act, box.code, box.error)
                source = DiffSource(box.root, lowers, mounted.stub_files, mounted.stub_folders)
                packed = await self.unpacker.workers.run(pack_layer, self.unpacker.root, source, self.codec)
                layer = await self._store(packed, job.lease)
            journal.add(StepRemoved(box.id))
        return layer

    async def _parts(self, act: RunAct, sources: Mapping[str, Sequence[Layer]], job: Job) -> dict[int, str]:
        found = {}
        for index, mount in enumerate(act.mounts):
            if mount.type != "bind":
                continue
            lowers = await self.lowers(sources[mount.from_], job.lease) if mount.from_ else ()
            part = plan_part(mount, Part("", job.index), lowers)
            found[index] = await self.unpacker.workers.run(extract_part, part, job.place())
        return found

    async def _store(self, packed: PackedLayer | None, lease: Lease) -> Layer | None:
        """Give the blob its name; from then on the lease keeps it."""
        if packed is None:
            return None
        with ExitStack() as stack:
            stack.callback(packed.path.unlink, missing_ok=True)
            await asyncio.to_thread(lease.add, packed.digest, packed.diff_id)
            content = self.unpacker.content
            if not content.has(packed.digest):
                packed.path.rename(content.path(packed.digest))
        if not self.unpacker.layers.has(packed.diff_id):
            # A collection took it before it was leased.
            await self.unpacker.unpack_blob(packed.diff_id, packed.digest)
        blob = Descriptor(media_type=LAYER_OF_CODEC[self.codec], digest=packed.digest, size=packed.size)
        return Layer(packed.diff_id, blob)

    def has(self, layer: Layer) -> bool:
        """Whether the layer's bytes are here."""
        return self.unpacker.content.has(Digest(layer.blob.digest))


def _check_depth(stack: Sequence[Layer]) -> None:
    if len(stack) >= MAX_LAYERS:
        raise Invalid(f"max depth exceeded: {MAX_LAYERS} layers, no more are possible")


def _failure(act: RunAct, code: int, error: str) -> CommandFailed:
    shown = " ".join(act.args)
    reason = f" ({error})" if error else " (out of memory, or killed)" if code == 137 else ""
    return CommandFailed(f"The command '{shown}' returned a non-zero code: {code}{reason}", code)
