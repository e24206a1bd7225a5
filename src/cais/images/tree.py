"""From a manifest or index in the content store to the images in it, one for each platform."""

from collections.abc import Iterator, Sequence

from cais.errors import CaisError, Corrupt, Invalid, NotFound
from cais.images.image import PlatformImage
from cais.spec.descriptor import (
    DOCKER_FOREIGN_LAYER_GZIP,
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
)
from cais.spec.digest import Digest
from cais.spec.image import ImageConfig, parse_image_config
from cais.spec.platform import Platform, choose_platform, matches
from cais.store.content import Content

MAX_DEPTH = 4
"""Indexes in indexes; a digest cannot contain itself, but a chain could be long."""
MAX_MANIFESTS = 1024
DOCUMENT_LIMIT = 4 << 20
"""Bytes of one manifest, index or configuration (what registries accept)."""
MAX_LAYERS = 125
"""Docker's own limit; with helper folders for implied parents it stays well below the kernel's 500."""
_REFERENCE_TYPE = "vnd.docker.reference.type"


def read_document(content: Content, descriptor: Descriptor) -> Manifest | Index:
    """The manifest or index that ``descriptor`` names, verified. Raises NotFound, Corrupt, Invalid."""
    data = content.read(descriptor.digest, limit=DOCUMENT_LIMIT)
    if len(data) != descriptor.size:
        raise Corrupt(f"manifest {descriptor.digest} has {len(data)} bytes, announced were {descriptor.size}")
    return parse_manifest(data, descriptor.media_type)


def list_platforms(content: Content, target: Descriptor) -> list[PlatformImage]:
    """Every manifest below ``target`` that is here, in the index's order. Raises NotFound if ``target`` is
    not."""
    found: list[PlatformImage] = []
    for descriptor, manifest in _walk(content, target, 0):
        if len(found) >= MAX_MANIFESTS:
            raise Invalid(f"index {target.digest} has more than {MAX_MANIFESTS} manifests")
        found.append(_platform_image(content, descriptor, manifest))
    return found


def choose(images: Sequence[PlatformImage], host: Platform, wanted: Platform | None) -> PlatformImage | None:
    """The image for ``wanted``, or the best for ``host``; None if there is none. Complete ones go first."""
    runnable = [image for image in images if image.is_image]
    if wanted is not None:
        runnable = [image for image in runnable if matches(wanted, image.platform)]
    for candidates in ([image for image in runnable if image.is_complete], runnable):
        index = choose_platform(host, [image.platform for image in candidates])
        if index is not None:
            return candidates[index]
        if wanted is not None and candidates:
            return candidates[0]
    return None


def check_complete(content: Content, image: PlatformImage) -> ImageConfig:
    """The configuration, if all blobs are here and fit together. Raises NotFound, Corrupt, Invalid."""
    manifest = image.manifest
    config = parse_image_config(content.read(manifest.config.digest, limit=DOCUMENT_LIMIT))
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise Invalid(
            f"invalid image {image.descriptor.digest}: {len(manifest.layers)} layers "
            f"but {len(config.rootfs.diff_ids)} diff_ids"
        )
    if len(manifest.layers) > MAX_LAYERS:
        raise Invalid(f"max depth exceeded: {len(manifest.layers)} layers, {MAX_LAYERS} are possible")
    for layer in manifest.layers:
        if not content.has(layer.digest):
            raise NotFound(f"layer {layer.digest} is missing")
        if content.size(layer.digest) != layer.size:
            raise Corrupt(f"layer {layer.digest} does not have the {layer.size} bytes its manifest says")
    return config


def is_foreign(blob: Descriptor) -> bool:
    """Whether it is a layer that registries do not have: Windows' own, and others "nondistributable"."""
    return blob.media_type == DOCKER_FOREIGN_LAYER_GZIP or ".layer.nondistributable." in blob.media_type


def _walk(content: Content, target: Descriptor, depth: int) -> Iterator[tuple[Descriptor, Manifest]]:
    document = read_document(content, target)
    if isinstance(document, Manifest):
        yield target, document
        return
    if depth >= MAX_DEPTH:
        raise Invalid(f"index {target.digest} is nested too deeply")
    for child in document.manifests:
        # Platforms that were left behind (a partial save or pull) are no error, nor are foreign documents.
        if child.media_type in MANIFEST_TYPES | INDEX_TYPES and content.has(child.digest):
            yield from _walk(content, child, depth + 1)


def _platform_image(content: Content, descriptor: Descriptor, manifest: Manifest) -> PlatformImage:
    config: ImageConfig | None = None
    try:
        config = parse_image_config(content.read(manifest.config.digest, limit=DOCUMENT_LIMIT))
    except CaisError:
        # Absent, or the configuration of an artifact: listed, but no image.
        config = None
    platform = descriptor.platform or (config.platform if config else Platform())
    if _REFERENCE_TYPE in descriptor.annotations:
        platform = Platform(os="unknown", architecture="unknown")
    blobs: list[Digest] = [layer.digest for layer in manifest.layers]
    complete = config is not None and all(map(content.has, blobs))
    return PlatformImage(descriptor, manifest, config, platform, complete)
