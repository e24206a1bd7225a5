"""Making an image of one layer from the tar of a root file system."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec

from cais.errors import Invalid
from cais.images.changes import apply_changes
from cais.images.feed import feed
from cais.images.inflate import Inflater
from cais.spec.descriptor import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest, format_manifest
from cais.spec.digest import digest_bytes
from cais.spec.image import (
    ContainerDefaults,
    History,
    ImageConfig,
    RootFs,
    format_image_config,
    format_time_ns,
)
from cais.spec.platform import Platform
from cais.spec.reference import parse_reference
from cais.store.content import Content, Writer
from cais.store.gc import Lease


class ImportOptions(msgspec.Struct, frozen=True):
    """What the new image is to be. ``names`` are canonical; ``message`` its history comment;
    ``created_ns``
    nanoseconds since the epoch, 0 for now."""

    names: tuple[str, ...] = ()
    message: str = ""
    defaults: ContainerDefaults = msgspec.field(default_factory=ContainerDefaults)
    platform: Platform = msgspec.field(default_factory=Platform)
    created_ns: int = 0


def make_options(
    repo: str, tag: str, *, message: str, changes: tuple[str, ...], platform: Platform
) -> ImportOptions:
    """Check everything that the caller said, before a byte is read. Raises Invalid with Docker's wording."""
    names: tuple[str, ...] = ()
    if repo:
        reference = parse_reference(repo)
        if reference.digest:
            raise Invalid("cannot import digest reference")
        if tag:
            if ":" in tag:
                raise Invalid("cannot import digest reference")
            reference = parse_reference(f"{reference.name}:{tag}")
        names = (reference.tagged().canonical(),)
    defaults = apply_changes(ContainerDefaults(), changes)
    return ImportOptions(names, message or "Imported from -", defaults, platform)


async def store_layer(content: Content, stream: AsyncIterator[bytes], lease: Lease) -> Descriptor:
    """The tar in ``stream``, whatever its compression, as a plain blob: its digest is its diff_id.

    Raises Corrupt for a damaged stream; then nothing is stored.
    """
    with content.writer() as writer:
        sink = _LayerSink(writer)
        async for _ in feed(stream, sink.feed):
            pass
        await asyncio.to_thread(sink.finish)
        digest = await asyncio.to_thread(lease.commit, writer)
    return Descriptor(media_type=OCI_LAYER, digest=digest, size=sink.size)


def make_image(content: Content, layer: Descriptor, options: ImportOptions, lease: Lease) -> Descriptor:
    """Write configuration and manifest for the one ``layer``; the manifest's descriptor."""
    created = format_time_ns(options.created_ns or time.time_ns())
    config = ImageConfig(
        created=created,
        architecture=options.platform.architecture,
        os=options.platform.os,
        variant=options.platform.variant,
        config=options.defaults,
        rootfs=RootFs(diff_ids=(layer.digest,)),
        history=(History(created=created, comment=options.message),),
    )
    described = _put(content, format_image_config(config), OCI_CONFIG, lease)
    manifest = Manifest(media_type=OCI_MANIFEST, config=described, layers=(layer,))
    return _put(content, format_manifest(manifest), OCI_MANIFEST, lease)


def _put(content: Content, data: bytes, media_type: str, lease: Lease) -> Descriptor:
    digest = digest_bytes(data)
    lease.add(digest)
    content.put(data)
    return Descriptor(media_type=media_type, digest=digest, size=len(data))


class _LayerSink:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._inflater = Inflater()
        self.size = 0

    def feed(self, data: bytes) -> None:
        for piece in self._inflater.feed(data):
            self.size += len(piece)
            self._writer.write(piece)

    def finish(self) -> None:
        for piece in self._inflater.finish():
            self.size += len(piece)
            self._writer.write(piece)
