"""Sending what builds have made to where other machines find it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cais.build.cache import BuildCache, CacheRecord, Layer
from cais.build.dockerfile.evaluate import RunAct
from cais.build.export.documents import FinishedLayer
from cais.build.export.layers import codec_of, finish_layer
from cais.build.export.options import ImageOptions
from cais.build.export.result import Tools
from cais.build.plan import Op, Plan
from cais.build.share.blobs import BlobSink, describe
from cais.build.share.mounts import pack_mount
from cais.build.share.options import CacheTo, Places
from cais.build.share.shape import (
    CONFIG_LIMIT,
    CONFIG_TYPE,
    INLINE,
    SharedCache,
    format_shared,
    list_layers,
)
from cais.errors import CaisError, Invalid
from cais.images.commit import LAYER_OF_CODEC, OCI_TWINS
from cais.spec.descriptor import (
    DOCKER_MANIFEST,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    format_descriptor,
    format_manifest,
)
from cais.spec.digest import Digest

MANIFEST_KEY = "cache.manifest"
"""Under this a client finds the descriptor: it writes the index of a local folder itself."""

Find = Callable[[str], CacheRecord | None]


class Sent(msgspec.Struct, frozen=True):
    """What came of it: an answer for the client, and what people should know."""

    response: Mapping[str, str] = msgspec.field(default_factory=dict)
    warnings: Sequence[str] = ()


def list_keys(plan: Plan, *, all_steps: bool) -> set[str]:
    """The keys of the steps that the target's image is made of, or of every step that the plan has."""
    if all_steps:
        found = {step.key for stage in plan.stages.values() for step in stage.steps if step.key}
        ends = [stage.end for stage in plan.stages.values()]
    else:
        found = set()
        ends = [plan.target.end]
    for stage in plan.stages.values() if all_steps else (plan.target,):
        found |= {entry.key for entry in stage.history}
    for point in ends:
        while isinstance(point, Op):
            found.add(point.key)
            point = point.parent
    return found


def gather_records(plans: Sequence[Plan], find: Find, *, all_steps: bool) -> dict[str, CacheRecord]:
    """The records of what these plans made; ``find``: by key, wherever it is."""
    keys = set[str]().union(*(list_keys(plan, all_steps=all_steps) for plan in plans))
    return {key: record for key in sorted(keys) if (record := find(key)) is not None}


def list_mounts(plans: Sequence[Plan]) -> list[str]:
    """The names of all cache mounts that steps of these plans use."""
    acts = [
        step.op.act
        for plan in plans
        for stage in plan.stages.values()
        for step in stage.steps
        if step.op is not None
    ]
    return sorted(
        {
            mount.id or mount.target
            for act in acts
            if isinstance(act, RunAct)
            for mount in act.mounts
            if mount.type == "cache"
        }
    )


def make_inline(records: Mapping[str, CacheRecord], layers: Sequence[Layer]) -> dict[str, Any]:
    """For ``Result.extra``: the records of an image's own steps, in its configuration."""
    data = format_shared(SharedCache(records), [layer.diff_id for layer in layers], inline=True)
    return {INLINE: msgspec.json.decode(data)}


class Travel(msgspec.Struct, frozen=True):
    """What caches travel with: where they go, the engine's own records and cache mounts, and the exporters' tools."""

    places: Places
    store: BuildCache
    tools: Tools


async def send_cache(plans: Sequence[Plan], find: Find, to: CacheTo, travel: Travel) -> Sent:
    """Send what these plans made (for one platform each). ``find``: a record by its key, wherever it is.

    Raises Invalid, NotFound, Corrupt, Denied, Unavailable, OSError, unless ``to`` is tolerant. Not for type inline:
    ``make_inline``.
    """
    records = gather_records(plans, find, all_steps=to.all_steps)
    mounts = tuple(list_mounts(plans)) if to.mounts is None else to.mounts
    return await send_records(records, mounts, to, travel)


async def send_records(
    records: Mapping[str, CacheRecord], mounts: Sequence[str], to: CacheTo, travel: Travel
) -> Sent:
    """Send records with their layers, and cache mounts by name. Raises as ``send_cache``."""
    try:
        return await _send(records, mounts, to, travel)
    except (CaisError, OSError) as error:
        if not to.tolerant:
            raise
        return Sent({}, (f"the build cache could not be sent to {to.where}: {error}",))


async def _send(
    records: Mapping[str, CacheRecord], mounts: Sequence[str], to: CacheTo, travel: Travel
) -> Sent:
    warnings: list[str] = []
    tools = travel.tools
    folders = await _pack_mounts(mounts, travel, warnings)
    whole = SharedCache(records, folders)
    ours = {layer.diff_id for layer in list_layers(SharedCache(records))}
    async with travel.places.sink(to) as sink:
        tasks = [
            asyncio.ensure_future(_put_layer(layer, to, sink, tools, own=layer.diff_id in ours))
            for layer in list_layers(whole)
        ]
        try:
            done = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        described = await _put_documents(whole, [one for one in done if one], to, sink, tools)
    return Sent({MANIFEST_KEY: format_descriptor(described).decode()}, tuple(warnings))


async def _put_layer(
    layer: Layer, to: CacheTo, sink: BlobSink, tools: Tools, *, own: bool
) -> FinishedLayer | None:
    """Have the blob there, in the form that was asked for; None if it is nowhere any more: nobody can use its step."""
    options = ImageOptions(codec=to.codec, level=to.level, force=to.force)
    converts = own and to.codec and (to.force or codec_of(layer.blob.media_type) != to.codec)
    if not converts and await sink.has(layer.blob):
        return FinishedLayer(layer.diff_id, layer.blob)
    if own:
        await tools.fetch([layer], tools.lease)
        if not tools.unpacker.content.has(layer.blob.digest):
            return None
    finished = await finish_layer(layer, options if converts else ImageOptions(), tools, own=True)
    await sink.put(finished.blob, tools.unpacker.content.path(finished.blob.digest))
    return finished


async def _put_documents(
    cache: SharedCache, layers: Sequence[FinishedLayer], to: CacheTo, sink: BlobSink, tools: Tools
) -> Descriptor:
    config = format_shared(cache, [layer.diff_id for layer in layers])
    if len(config) > CONFIG_LIMIT:
        raise Invalid(f"the build cache has too many records: {len(config)} bytes")
    described = describe(CONFIG_TYPE, config)
    content = tools.unpacker.content
    await asyncio.to_thread(tools.lease.add, described.digest)
    await asyncio.to_thread(content.put, config)
    await sink.put(described, content.path(described.digest))
    manifest = Manifest(
        media_type=DOCKER_MANIFEST if to.docker_types else OCI_MANIFEST,
        config=described,
        layers=tuple(_typed(layer.blob) for layer in layers),
    )
    data = format_manifest(manifest)
    target = describe(manifest.media_type, data)
    await sink.put_manifest(target, data)
    return target


def _typed(blob: Descriptor) -> Descriptor:
    kind = OCI_TWINS.get(blob.media_type, blob.media_type)
    return Descriptor(media_type=kind, digest=blob.digest, size=blob.size)


async def _pack_mounts(names: Sequence[str], travel: Travel, warnings: list[str]) -> dict[str, Layer]:
    """The folders that are to go along, packed. One that a step uses right now would be half of something."""
    found = {}
    for name in names:
        path = travel.store.mount_path(name)
        if not path.is_dir():
            warnings.append(f"cache mount {name} is not sent: there is none")
        elif path.name in travel.store.busy:
            warnings.append(f"cache mount {name} is not sent: a step uses it")
        else:
            found[name] = await _pack_mount(path, travel.tools)
    return found


async def _pack_mount(path: Path, tools: Tools) -> Layer:
    unpacker, codec = tools.unpacker, "zstd"
    folder = unpacker.root / "content"
    made = await unpacker.workers.run(pack_mount, folder, path, codec)
    try:
        await asyncio.to_thread(tools.lease.add, made.digest)
        if not unpacker.content.has(made.digest):
            made.path.rename(unpacker.content.path(made.digest))
    finally:
        made.path.unlink(missing_ok=True)
    blob = Descriptor(media_type=LAYER_OF_CODEC[codec], digest=made.digest, size=made.size)
    return Layer(Digest(made.diff_id), blob)
