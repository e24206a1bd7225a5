"""Reading a manifest for what it names. Pure."""

from cais.errors import CaisError
from cais.registry.base import Document
from cais.registry.refusal import Refusal
from cais.spec.descriptor import DOCKER_FOREIGN_LAYER_GZIP, Descriptor, Index, Manifest, parse_manifest
from cais.spec.digest import Digest

MAX_MANIFEST = 4 << 20
"""Bytes of a manifest; what other registries take (distribution spec, "Pushing Manifests")."""
MAX_ENTRIES = 10_000
"""Descriptors in one manifest."""


def read_document(data: bytes, media_type: str, digest: Digest) -> Document:
    """Parse a manifest or index as it was pushed. Raises Refusal MANIFEST_INVALID, with the reason."""
    try:
        parsed = parse_manifest(data, media_type.partition(";")[0].strip())
    except CaisError as error:
        raise Refusal("MANIFEST_INVALID", str(error)) from None
    entries = parsed.manifests if isinstance(parsed, Index) else parsed.layers
    if len(entries) > MAX_ENTRIES:
        raise Refusal("MANIFEST_INVALID", f"invalid manifest: more than {MAX_ENTRIES} entries")
    blobs: tuple[Descriptor, ...] = ()
    if isinstance(parsed, Manifest):
        blobs = (parsed.config, *(layer for layer in parsed.layers if not _is_elsewhere(layer)))
    if any(entry.size < 0 for entry in (*entries, *blobs)):
        raise Refusal("MANIFEST_INVALID", "invalid manifest: a size is negative")
    return Document(
        digest=digest,
        media_type=parsed.media_type,
        data=data,
        config=parsed.config.digest if isinstance(parsed, Manifest) else None,
        blobs=tuple((blob.digest, blob.size) for blob in blobs),
        manifests=tuple(entry.digest for entry in parsed.manifests) if isinstance(parsed, Index) else (),
        subject=parsed.subject.digest if parsed.subject else None,
        # image-spec, manifest.md, "artifactType": where it is not set, the config's media type says it.
        artifact_type=parsed.artifact_type
        or (parsed.config.media_type if isinstance(parsed, Manifest) else ""),
        annotations=dict(parsed.annotations),
    )


def _is_elsewhere(layer: Descriptor) -> bool:
    """Layers that must not be distributed stay where their ``urls`` say (image-spec, layer.md)."""
    return bool(layer.urls) and (
        layer.media_type == DOCKER_FOREIGN_LAYER_GZIP or ".nondistributable." in layer.media_type
    )
