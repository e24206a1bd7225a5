"""What a push has to send: which manifests, which blobs, and what they become when plain layers are compressed."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from cais.errors import Conflict, Corrupt, Invalid, NotFound
from cais.images.tree import DOCUMENT_LIMIT, MAX_DEPTH, MAX_MANIFESTS
from cais.spec.descriptor import (
    DOCKER_CONFIG,
    DOCKER_FOREIGN_LAYER_GZIP,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
)
from cais.spec.digest import Digest, digest_bytes
from cais.spec.image import parse_image_config
from cais.spec.platform import Platform, choose_platform, matches
from cais.store.content import Content
from cais.store.layers.codec import sniff

_REFERENCE_TYPE = "vnd.docker.reference.type"
_REFERENCE_DIGEST = "vnd.docker.reference.digest"
_TO_OCI = {
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
}
_PACKED = {
    ("gzip", OCI_LAYER): OCI_LAYER_GZIP,
    ("gzip", DOCKER_LAYER): DOCKER_LAYER_GZIP,
    ("zstd", OCI_LAYER): OCI_LAYER_ZSTD,
}
_MAGIC = 8


class Document(msgspec.Struct, frozen=True):
    """A manifest or index, and its bytes."""

    descriptor: Descriptor
    data: bytes


class PushPlan(msgspec.Struct, frozen=True):
    """``documents``: what is named before what names it, so the last one is the target. ``instead_of``: the index that
    is not all here, so that a part of it goes."""

    documents: tuple[Document, ...]
    configs: tuple[Descriptor, ...]
    layers: tuple[Descriptor, ...]
    plain: frozenset[Digest]
    instead_of: Descriptor | None = None

    @property
    def target(self) -> Document:
        """What the tag is to stand for."""
        return self.documents[-1]


class _Part(msgspec.Struct, frozen=True):
    """One manifest of an index. ``missing``: the first blob of it that is not here, empty for none."""

    descriptor: Descriptor
    platform: Platform | None
    missing: str
    is_image: bool


def make_plan(content: Content, target: Descriptor, host: Platform, wanted: Platform | None) -> PushPlan:
    """What to send of ``target``: all of it if all is here, else the part for ``wanted`` or the host, by the rules of
    Docker 28 (moby, daemon/containerd/image_push.go: getPushDescriptor).

    Raises NotFound for a part that is not here, Conflict if there are several to choose from, Corrupt, Invalid.
    """
    chosen = choose_target(list(_survey(content, target, 0)), target, host, wanted)
    documents: dict[Digest, Document] = {}
    _gather(content, chosen, documents)
    manifests = [parse_manifest(one.data, one.descriptor.media_type) for one in documents.values()]
    pushed = [one for one in manifests if isinstance(one, Manifest)]
    layers = {layer.digest: layer for one in pushed for layer in one.layers if not _is_foreign(layer)}
    configs = {one.config.digest: one.config for one in pushed if one.config.digest not in layers}
    for blob in (*configs.values(), *layers.values()):
        if content.size(blob.digest) != blob.size:
            raise Corrupt(f"blob {blob.digest} does not have the {blob.size} bytes its manifest says")
    return PushPlan(
        documents=tuple(documents.values()),
        configs=tuple(configs.values()),
        layers=tuple(layers.values()),
        plain=frozenset(layer.digest for layer in layers.values() if _is_plain(content, layer)),
        instead_of=target if chosen.digest != target.digest else None,
    )


def choose_target(
    parts: list[_Part], target: Descriptor, host: Platform, wanted: Platform | None
) -> Descriptor:
    """The target, or the part of it that is to be pushed."""
    here = [part for part in parts if not part.missing]
    images = [
        part
        for part in here
        if part.is_image and part.platform and (not wanted or matches(wanted, part.platform))
    ]
    if wanted is None and len(here) == len(parts):
        return target
    if not images:
        if parts and parts[0].missing and len(parts) == 1:
            raise NotFound(f"cannot push {target.digest}: {parts[0].missing} is not on this machine")
        raise NotFound(f"cannot push {target.digest}: no image for {wanted or host} of it is on this machine")
    if len(images) == 1:
        return images[0].descriptor
    best = choose_platform(host, [part.platform for part in images if part.platform])
    if wanted is None and best is not None:
        return images[best].descriptor
    raise Conflict("multiple matching manifests found but no specific platform requested")


def rewrite(plan: PushPlan, packed: Mapping[Digest, Descriptor], codec: str) -> PushPlan:
    """The plan with the layers in ``packed`` (by plain digest) in their compressed form. What is not known to us in a
    document stays as it is."""
    if not packed:
        return plan
    changed: dict[str, Descriptor] = {}
    documents = []
    for document in plan.documents:
        raw = msgspec.json.decode(document.data)
        if "manifests" in raw:
            _change_index(raw, changed)
        else:
            _change_manifest(raw, packed, codec)
        if raw == msgspec.json.decode(document.data):
            documents.append(document)
            continue
        data = msgspec.json.encode(raw)
        old = document.descriptor
        media_type = raw.get("mediaType") or old.media_type
        new = msgspec.structs.replace(old, media_type=media_type, digest=digest_bytes(data), size=len(data))
        changed[old.digest] = new
        documents.append(Document(new, data))
    layers = tuple(packed.get(layer.digest, layer) for layer in plan.layers)
    return replace(plan, documents=tuple(documents), layers=layers, plain=frozenset())


def _change_manifest(raw: dict[str, Any], packed: Mapping[Digest, Descriptor], codec: str) -> None:
    layers = raw.get("layers") or []
    if not any(layer["digest"] in packed for layer in layers):
        return
    if codec == "zstd" and raw.get("mediaType") == DOCKER_MANIFEST:
        # Docker's own types know no zstd.
        for one in (raw, raw["config"], *layers):
            one["mediaType"] = _TO_OCI.get(one["mediaType"], one["mediaType"])
    for layer in layers:
        if layer["digest"] in packed:
            new = packed[layer["digest"]]
            kind = _PACKED.get((codec, layer["mediaType"]), layer["mediaType"])
            layer |= {"mediaType": kind, "digest": str(new.digest), "size": new.size}


def _change_index(raw: dict[str, Any], changed: Mapping[str, Descriptor]) -> None:
    for child in raw.get("manifests") or []:
        if child["digest"] in changed:
            new = changed[child["digest"]]
            child |= {"mediaType": new.media_type, "digest": str(new.digest), "size": new.size}
        notes = child.get("annotations") or {}
        if notes.get(_REFERENCE_DIGEST) in changed:
            notes[_REFERENCE_DIGEST] = str(changed[notes[_REFERENCE_DIGEST]].digest)


def _survey(content: Content, descriptor: Descriptor, depth: int) -> Iterator[_Part]:
    """Every manifest below ``descriptor``, also those that are not here."""
    if descriptor.media_type not in MANIFEST_TYPES | INDEX_TYPES or not content.has(descriptor.digest):
        yield _Part(descriptor, descriptor.platform, f"manifest {descriptor.digest}", False)
        return
    document = _read(content, descriptor)
    if isinstance(document, Index):
        if depth >= MAX_DEPTH or len(document.manifests) > MAX_MANIFESTS:
            raise Invalid(f"index {descriptor.digest} is nested too deeply or too long")
        for child in document.manifests:
            yield from _survey(content, child, depth + 1)
        return
    blobs = [document.config, *(layer for layer in document.layers if not _is_foreign(layer))]
    missing = next((f"blob {blob.digest}" for blob in blobs if not content.has(blob.digest)), "")
    platform = descriptor.platform or _read_platform(content, document)
    is_image = (
        _REFERENCE_TYPE not in descriptor.annotations
        and not document.artifact_type
        and platform is not None
        and platform.os not in ("", "unknown")
    )
    yield _Part(descriptor, platform, missing, is_image)


def _gather(content: Content, descriptor: Descriptor, documents: dict[Digest, Document]) -> None:
    if descriptor.digest in documents:
        return
    document = _read(content, descriptor)
    if isinstance(document, Index):
        for child in document.manifests:
            _gather(content, child, documents)
    data = content.read(descriptor.digest, limit=DOCUMENT_LIMIT)
    described = Descriptor(media_type=document.media_type, digest=descriptor.digest, size=len(data))
    documents[descriptor.digest] = Document(described, data)


def _read(content: Content, descriptor: Descriptor) -> Manifest | Index:
    return parse_manifest(content.read(descriptor.digest, limit=DOCUMENT_LIMIT), descriptor.media_type)


def _read_platform(content: Content, manifest: Manifest) -> Platform | None:
    try:
        return parse_image_config(content.read(manifest.config.digest, limit=DOCUMENT_LIMIT)).platform
    except (NotFound, Invalid):
        return None


def _is_plain(content: Content, layer: Descriptor) -> bool:
    """Whether it is an uncompressed tar, by its type and by its bytes: some tools write the wrong type."""
    if layer.media_type not in (OCI_LAYER, DOCKER_LAYER):
        return False
    with content.open(layer.digest) as file:
        return not sniff(file.read(_MAGIC))


def _is_foreign(layer: Descriptor) -> bool:
    """Whether it may not be pushed (image-spec layer.md, "Non-Distributable Layers")."""
    return layer.media_type == DOCKER_FOREIGN_LAYER_GZIP or "nondistributable" in layer.media_type
