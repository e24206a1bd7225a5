"""Making an image of a container: the layer of its changes on top of its image, and the configuration it had."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
from msgspec.structs import replace

from cais.errors import CaisError, Invalid, NotFound
from cais.images.catalog import Catalog
from cais.images.changes import apply_changes
from cais.images.image import Image, PlatformImage
from cais.images.tree import MAX_LAYERS, list_platforms
from cais.images.unpack import Unpacker
from cais.spec.descriptor import (
    DOCKER_FOREIGN_LAYER_GZIP,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    format_manifest,
    parse_manifest,
)
from cais.spec.digest import Digest, digest_bytes, parse_digest
from cais.spec.image import (
    ContainerDefaults,
    Healthcheck,
    History,
    ImageConfig,
    format_image_config,
    format_time_ns,
)
from cais.spec.reference import parse_reference
from cais.store.content import Content
from cais.store.gc import Lease
from cais.store.layers.diff import DiffSource
from cais.store.layers.packed import PackedLayer, pack_layer

LAYER_OF_CODEC = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "none": OCI_LAYER}
OCI_TWINS = {
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    DOCKER_LAYER_ZSTD: OCI_LAYER_ZSTD,
    DOCKER_FOREIGN_LAYER_GZIP: OCI_LAYER_GZIP,
}


def _nothing() -> None:
    return


class CommitRequest(msgspec.Struct, frozen=True):
    """What to make of a container. ``base``: the id of its image; ``source``: what it changed; ``defaults``: the new
    image's; ``names`` are canonical; ``created_by`` is the command that ran; ``check`` raises if the container has gone
    meanwhile, when what was read of it may be half of it."""

    base: str
    source: DiffSource
    defaults: ContainerDefaults
    names: tuple[str, ...] = ()
    author: str = ""
    comment: str = ""
    created_by: str = ""
    check: Callable[[], None] = msgspec.field(default=_nothing)


def parse_target(repo: str, tag: str) -> tuple[str, ...]:
    """The canonical name to give, or none for an empty ``repo``. Raises Invalid in Docker's words."""
    if not repo:
        return ()
    reference = parse_reference(repo)
    if reference.digest or ":" in tag:
        raise Invalid("cannot import digest reference")
    if tag:
        reference = parse_reference(f"{reference.name}:{tag}")
    return (reference.tagged().canonical(),)


def make_defaults(
    own: ContainerDefaults, asked: ContainerDefaults | None, changes: Sequence[str]
) -> ContainerDefaults:
    """What the new image's containers start with: ``asked``, or else the container's ``own``; after ``changes``
    (Dockerfile instructions); and what is empty then, from ``own``. Raises Invalid."""
    made = apply_changes(asked or own, changes)
    entrypoint, cmd = made.entrypoint, made.cmd
    if not entrypoint:
        # A new entry point has no use for the old command, an old one has.
        entrypoint, cmd = own.entrypoint, cmd or own.cmd
    names = {text.partition("=")[0] for text in made.env}
    env = made.env + tuple(text for text in own.env if text.partition("=")[0] not in names)
    return replace(
        made,
        user=made.user or own.user,
        exposed_ports={**own.exposed_ports, **made.exposed_ports},
        env=env,
        entrypoint=entrypoint,
        cmd=cmd,
        volumes={**own.volumes, **made.volumes},
        working_dir=made.working_dir or own.working_dir,
        labels={**own.labels, **made.labels},
        stop_signal=made.stop_signal or own.stop_signal,
        stop_timeout=own.stop_timeout if made.stop_timeout is None else made.stop_timeout,
        shell=made.shell or own.shell,
        healthcheck=_merge_health(made.healthcheck, own.healthcheck),
    )


def _merge_health(made: Healthcheck | None, own: Healthcheck | None) -> Healthcheck | None:
    if made is None or own is None:
        return made or own
    return Healthcheck(
        test=made.test or own.test,
        interval=made.interval or own.interval,
        timeout=made.timeout or own.timeout,
        start_period=made.start_period or own.start_period,
        start_interval=made.start_interval or own.start_interval,
        retries=made.retries or own.retries,
    )


class Committer(msgspec.Struct, frozen=True):
    """Makes images of containers. ``codec``: what new layers are compressed with: gzip, zstd, none."""

    content: Content
    catalog: Catalog
    unpacker: Unpacker
    codec: str = "gzip"

    async def commit(self, request: CommitRequest, lease: Lease) -> Image:
        """The new image, named last. A failure leaves nothing but what ``lease`` keeps.

        Raises NotFound (the image is gone), Conflict, Invalid (what the container made does not fit into a layer),
        OSError (the disk is full).
        """
        base_id = parse_digest(request.base)
        await asyncio.to_thread(lease.add, base_id)
        base = await asyncio.to_thread(self._find_base, base_id, request.source.lowers)
        if len(base.manifest.layers) >= MAX_LAYERS:
            raise Invalid(f"max depth exceeded: {base_id} has {MAX_LAYERS} layers, no more are possible")
        root = self.unpacker.root
        packed = await self.unpacker.workers.run(pack_layer, root, request.source, self.codec)
        try:
            request.check()
            target = await asyncio.to_thread(self._make, base, packed, request, lease)
        finally:
            if packed:
                packed.path.unlink(missing_ok=True)
        (chosen,) = await asyncio.to_thread(list_platforms, self.content, target)
        async for _ in self.unpacker.unpack([chosen], lease):
            pass
        request.check()
        parent = base_id if base_id in self.catalog.targets() else ""
        self.catalog.set_names(target, request.names, parent=parent)
        return self.catalog.get(target.digest)

    def _find_base(self, base_id: Digest, lowers: tuple[str, ...]) -> PlatformImage:
        """The platform of the image that the container stands on. The name may be gone: the container keeps the
        rest."""
        data = self.content.read(base_id)
        document = parse_manifest(data)
        target = Descriptor(media_type=document.media_type, digest=base_id, size=len(data))
        for image in list_platforms(self.content, target):
            with suppress(CaisError):
                if image.config and self.unpacker.lowers(image.config.rootfs.diff_ids) == lowers:
                    return image
        raise NotFound(f"No such image: {base_id} is not what the container was made from any more")

    def _make(
        self, base: PlatformImage, packed: PackedLayer | None, request: CommitRequest, lease: Lease
    ) -> Descriptor:
        """Write the blobs; the manifest's descriptor."""
        layers = tuple(
            replace(layer, media_type=OCI_TWINS.get(layer.media_type, layer.media_type))
            for layer in base.manifest.layers
        )
        if packed:
            lease.add(packed.digest, packed.diff_id)
            if not self.content.has(packed.digest):
                packed.path.rename(self.content.path(packed.digest))
            media_type = LAYER_OF_CODEC[self.codec]
            layers += (Descriptor(media_type=media_type, digest=packed.digest, size=packed.size),)
        config = _make_config(base.config, packed, request)
        described = self._put(format_image_config(config), OCI_CONFIG, lease)
        manifest = Manifest(media_type=OCI_MANIFEST, config=described, layers=layers)
        return self._put(format_manifest(manifest), OCI_MANIFEST, lease)

    def _put(self, data: bytes, media_type: str, lease: Lease) -> Descriptor:
        digest = digest_bytes(data)
        lease.add(digest)
        self.content.put(data)
        return Descriptor(media_type=media_type, digest=digest, size=len(data))


def _make_config(base: ImageConfig | None, packed: PackedLayer | None, request: CommitRequest) -> ImageConfig:
    assert base is not None  # _find_base chooses among those that have one
    created = format_time_ns(time.time_ns())
    step = History(
        created=created,
        created_by=request.created_by,
        author=request.author,
        comment=request.comment,
        empty_layer=packed is None,
    )
    diff_ids = base.rootfs.diff_ids + ((packed.diff_id,) if packed else ())
    return replace(
        base,
        created=created,
        author=request.author,
        config=request.defaults,
        rootfs=replace(base.rootfs, diff_ids=diff_ids),
        history=(*base.history, step),
    )
