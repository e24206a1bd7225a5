"""The layers of a result in the form in which they go out."""

import asyncio

from msgspec.structs import replace

from cais.build.cache import Layer
from cais.build.export.convert import Conversion, convert_layer
from cais.build.export.documents import FinishedLayer
from cais.build.export.options import ImageOptions
from cais.build.export.result import Result, Tools
from cais.images.commit import LAYER_OF_CODEC
from cais.spec.descriptor import (
    DOCKER_LAYER,
    DOCKER_LAYER_ZSTD,
    OCI_LAYER,
    OCI_LAYER_ZSTD,
    Descriptor,
)

_PLAIN = frozenset({OCI_LAYER, DOCKER_LAYER})
_ZSTD = frozenset({OCI_LAYER_ZSTD, DOCKER_LAYER_ZSTD})


def codec_of(media_type: str) -> str:
    """What a layer of this type is compressed with: gzip, zstd, none."""
    return "none" if media_type in _PLAIN else "zstd" if media_type in _ZSTD else "gzip"


def choose_conversion(layer: Layer, options: ImageOptions, *, own: bool) -> Conversion | None:
    """What is to be done to a layer; None: nothing. ``own``: it is not the base image's."""
    now = codec_of(layer.blob.media_type)
    wanted = options.codec if options.codec and (own or options.force) else now
    if options.push and wanted == "none" and not options.codec:
        wanted = "gzip"  # a push would do it, and the image here would not be the one that is there
    epoch = (
        options.epoch_ns // 1_000_000_000
        if options.rewrite and own and options.epoch_ns is not None
        else None
    )
    leveled = options.level is not None and (own or options.force)
    if wanted == now and epoch is None and not leveled:
        return None
    return Conversion(wanted, options.level if leveled else None, epoch)


async def finish_layers(result: Result, options: ImageOptions, tools: Tools) -> list[FinishedLayer]:
    """All layers, bottom first, side by side where they are converted; their blobs are here and leased. Raises
    NotFound, Corrupt, OSError."""
    await tools.fetch(result.layers, tools.lease)
    jobs = []
    for index, layer in enumerate(result.layers):
        own = index >= result.base_layers and result.unchanged is None
        jobs.append(finish_layer(layer, options, tools, own=own))
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def finish_layer(layer: Layer, options: ImageOptions, tools: Tools, *, own: bool) -> FinishedLayer:
    """One of them, whose blob is here. Raises as ``finish_layers``."""
    conversion = choose_conversion(layer, options, own=own)
    content = tools.unpacker.content
    await asyncio.to_thread(tools.lease.add, layer.blob.digest, layer.diff_id)
    if conversion is None:
        return FinishedLayer(layer.diff_id, _bare(layer.blob))
    source = content.path(layer.blob.digest)
    made = await tools.unpacker.workers.run(convert_layer, source, layer.diff_id, conversion)
    try:
        await asyncio.to_thread(tools.lease.add, made.digest, made.diff_id)
        if not content.has(made.digest):
            made.path.rename(content.path(made.digest))
    finally:
        made.path.unlink(missing_ok=True)
    kind = LAYER_OF_CODEC[conversion.codec]
    blob = Descriptor(media_type=kind, digest=made.digest, size=made.size)
    return FinishedLayer(made.diff_id, blob)


def _bare(blob: Descriptor) -> Descriptor:
    return replace(blob, annotations={}, urls=())
