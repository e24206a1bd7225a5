"""Descriptors, manifests and indexes: the JSON documents that tie an image's blobs together."""

from typing import Any, TypeVar

import msgspec

from cais.errors import Invalid, Unsupported
from cais.spec.digest import Digest, parse_digest
from cais.spec.platform import Platform

T = TypeVar("T")

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
DOCKER_FOREIGN_LAYER_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYER_TYPES = frozenset(
    {OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD}
)

REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation of an index.json entry: the tag, by image-spec annotations.md."""
IMAGE_NAME = "io.containerd.image.name"
"""Annotation of an index.json entry: the full name, as containerd and Docker write it."""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a blob is and where: image-spec descriptor.md. ``size`` is bytes."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    data: str = ""
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One image for one platform: image-spec manifest.md; ``media_type`` tells OCI from Docker schema 2."""

    media_type: str = OCI_MANIFEST
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Several manifests under one name: image-spec image-index.md."""

    media_type: str = OCI_INDEX
    artifact_type: str = ""
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """Parse a manifest or index, OCI or Docker v2; ``media_type`` is what the transport said; may be empty.

    Raises Invalid for bytes that are no manifest, or that could be read as both (CVE-2021-41190); Unsupported
    for Docker's schema 1.
    """
    raw = _decode_object(data)
    said = raw.get("mediaType") or media_type
    if said in (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED) or raw.get("schemaVersion") == 1:
        raise Unsupported("manifest has schema version 1, which is deprecated: build or push the image again")
    if raw.get("schemaVersion") != 2:
        raise Invalid("invalid manifest: schemaVersion must be 2")
    if media_type and raw.get("mediaType") and raw["mediaType"] != media_type:
        raise Invalid(f"invalid manifest: it says {raw['mediaType']!r} but was announced as {media_type!r}")
    is_index = "manifests" in raw
    if is_index and ("config" in raw or "layers" in raw):
        raise Invalid("invalid manifest: both manifests and config or layers are present")
    allowed = INDEX_TYPES if is_index else MANIFEST_TYPES
    if said and said not in allowed:
        raise Invalid(f"invalid manifest: media type {said!r} does not fit its content")
    raw["mediaType"] = said or (OCI_INDEX if is_index else OCI_MANIFEST)
    return _convert(raw, Index) if is_index else _convert(raw, Manifest)


def format_manifest(document: Manifest | Index) -> bytes:
    """The JSON bytes of ``document``; deterministic, so equal values have equal digests."""
    raw = {"schemaVersion": 2, "mediaType": document.media_type}  # first, as everybody writes them
    raw |= msgspec.to_builtins(document, enc_hook=str)
    raw.setdefault("manifests" if isinstance(document, Index) else "layers", [])  # required even when empty
    return msgspec.json.encode(raw)


def parse_descriptor(data: bytes) -> Descriptor:
    """Parse one descriptor. Raises Invalid."""
    return _convert(_decode_object(data), Descriptor)


def format_descriptor(descriptor: Descriptor) -> bytes:
    """The JSON bytes of ``descriptor``."""
    return msgspec.json.encode(msgspec.to_builtins(descriptor, enc_hook=str))


def _decode_object(data: bytes) -> dict[str, Any]:
    try:
        raw = _without_nulls(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"invalid manifest: {error}") from error
    if not isinstance(raw, dict):
        raise Invalid("invalid manifest: want a JSON object")
    return raw


def _without_nulls(value: Any) -> Any:
    """Go writes an empty list as null; to us null and absent are the same."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _convert(raw: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(raw, kind, dec_hook=_digest_hook)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Invalid(f"invalid manifest: {error}") from error


def _digest_hook(kind: type, value: Any) -> Any:
    if kind is Digest and isinstance(value, str):
        return parse_digest(value)
    raise msgspec.ValidationError(f"expected {kind.__name__}")
