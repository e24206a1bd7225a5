"""What the names of images need in the store: which blobs, of which size, under which names."""

from collections.abc import Iterable, Iterator

import msgspec

from cais.errors import CaisError
from cais.images.tree import DOCUMENT_LIMIT, MAX_DEPTH, is_foreign
from cais.spec.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Index, Manifest, parse_manifest
from cais.spec.digest import Digest
from cais.spec.image import parse_image_config
from cais.spec.platform import Platform, choose_platform
from cais.store.content import Content


class Need(msgspec.Struct):
    """One blob that must be here. ``names``: canonical names of the images that need it."""

    descriptor: Descriptor
    is_document: bool
    names: set[str] = msgspec.field(default_factory=set)


class Needs(msgspec.Struct):
    """``blobs`` by digest; ``layers``: blob by diff_id, of every configuration that can be read."""

    blobs: dict[Digest, Need] = msgspec.field(default_factory=dict)
    layers: dict[Digest, Digest] = msgspec.field(default_factory=dict)

    def add(self, descriptor: Descriptor, names: Iterable[str], *, is_document: bool) -> None:
        """One more that needs it."""
        need = self.blobs.setdefault(descriptor.digest, Need(descriptor, is_document))
        need.names.update(names)

    def names_of(self, digest: Digest) -> tuple[str, ...]:
        """Who needs the blob, or the layer of this diff_id."""
        need = self.blobs.get(digest) or self.blobs.get(self.layers.get(digest, digest))
        return tuple(sorted(need.names)) if need else ()


def collect_needs(
    content: Content, targets: Iterable[tuple[Descriptor, tuple[str, ...]]], host: Platform
) -> Needs:
    """Follow every name as far as its documents can be read."""
    needs = Needs()
    for target, names in targets:
        needs.add(target, names, is_document=True)
        manifests = [*_manifests(content, target, names, needs, host, 0)]
        for manifest in manifests:
            _add_image(content, manifest, names, needs, is_alone=len(manifests) == 1)
    return needs


def _manifests(
    content: Content, target: Descriptor, names: tuple[str, ...], needs: Needs, host: Platform, depth: int
) -> Iterator[Manifest]:
    document = _read(content, target)
    if isinstance(document, Manifest):
        yield document
    elif document and depth <= MAX_DEPTH:
        children = [child for child in document.manifests if child.media_type in MANIFEST_TYPES | INDEX_TYPES]
        # Platforms that were never fetched are no damage. Only if none at all is here, the host's must be.
        here = [child for child in children if content.has(child.digest)]
        for child in here or _for_host(children, host):
            needs.add(child, names, is_document=True)
            yield from _manifests(content, child, names, needs, host, depth + 1)


def _for_host(children: list[Descriptor], host: Platform) -> list[Descriptor]:
    told = [(child, child.platform) for child in children if child.platform]
    best = choose_platform(host, [platform for _, platform in told])
    return [told[best][0]] if best is not None else children[:1]


def _add_image(
    content: Content, manifest: Manifest, names: tuple[str, ...], needs: Needs, *, is_alone: bool
) -> None:
    """Configuration and layers. Of several manifests an archive may hold some whose images it does not."""
    layers = [layer for layer in manifest.layers if not is_foreign(layer)]
    if not is_alone and not any(content.has(blob.digest) for blob in (manifest.config, *layers)):
        return
    for blob in (manifest.config, *layers):
        needs.add(blob, names, is_document=False)
    try:
        config = parse_image_config(content.read(manifest.config.digest, limit=DOCUMENT_LIMIT))
    except (CaisError, OSError):
        return  # absent, damaged, or an artifact's
    for layer, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=False):
        needs.layers[diff_id] = layer.digest


def _read(content: Content, descriptor: Descriptor) -> Manifest | Index | None:
    try:
        data = content.read(descriptor.digest, limit=DOCUMENT_LIMIT)
        return parse_manifest(data, descriptor.media_type)
    except (CaisError, OSError):
        return None  # the blob is told of by itself
