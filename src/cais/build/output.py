"""The image that a build makes: configuration, history and manifest (pure), and their blobs."""

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from cais.build.cache import CacheRecord, Layer, layer_of
from cais.build.plan import Entry, StagePlan
from cais.images.commit import OCI_TWINS
from cais.spec.descriptor import OCI_CONFIG, OCI_MANIFEST, Descriptor, Manifest, format_manifest
from cais.spec.digest import digest_bytes
from cais.spec.image import History, ImageConfig, RootFs, format_image_config, format_time_ns
from cais.spec.platform import Platform
from cais.store.content import Content
from cais.store.gc import Lease

COMMENT = "buildkit.dockerfile.v0"
"""By this tools know how to read ``created_by``."""


def is_unchanged(stage: StagePlan) -> bool:
    """Whether the stage adds nothing at all to its base."""
    image = stage.base.image
    if image is None or stage.history:
        return False
    return stage.state.defaults == image.config.config


def make_config(
    stage: StagePlan,
    stack: Sequence[Layer],
    record_of: Callable[[Entry], CacheRecord],
    platform: Platform,
    epoch_ns: int | None,
) -> ImageConfig:
    """The configuration; times are those of the steps, so that what was made before looks the same again."""
    base = stage.base.image.config if stage.base.image else _empty(platform)
    steps = []
    newest = base.created_ns
    for entry in stage.history:
        record = record_of(entry)
        created = record.created_ns if epoch_ns is None else epoch_ns
        newest = max(newest, created)
        empty = entry.op is None or layer_of(record) is None
        steps.append(
            History(
                created=format_time_ns(created), created_by=entry.text, comment=COMMENT, empty_layer=empty
            )
        )
    return replace(
        base,
        created=format_time_ns(newest if epoch_ns is None else epoch_ns),
        author=stage.state.author,
        config=stage.state.defaults,
        rootfs=RootFs(diff_ids=tuple(layer.diff_id for layer in stack)),
        history=(*base.history, *steps),
    )


def _empty(platform: Platform) -> ImageConfig:
    return ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        os_version=platform.os_version,
        rootfs=RootFs(),
    )


def write_image(content: Content, lease: Lease, config: ImageConfig, stack: Sequence[Layer]) -> Descriptor:
    """Write configuration and manifest; the manifest's descriptor. For a thread: a lease may have to wait."""
    described = _put(content, lease, format_image_config(config), OCI_CONFIG)
    layers = tuple(
        replace(layer.blob, media_type=OCI_TWINS.get(layer.blob.media_type, layer.blob.media_type))
        for layer in stack
    )
    manifest = Manifest(media_type=OCI_MANIFEST, config=described, layers=layers)
    return _put(content, lease, format_manifest(manifest), OCI_MANIFEST)


def _put(content: Content, lease: Lease, data: bytes, media_type: str) -> Descriptor:
    digest = digest_bytes(data)
    lease.add(digest)
    content.put(data)
    return Descriptor(media_type=media_type, digest=digest, size=len(data))


def parse_epoch(args: Mapping[str, str]) -> int | None:
    """``SOURCE_DATE_EPOCH`` of the build arguments in nanoseconds (reproducible-builds.org); None without one."""
    text = args.get("SOURCE_DATE_EPOCH", "")
    return int(text) * 1_000_000_000 if text.isascii() and text.isdecimal() else None
