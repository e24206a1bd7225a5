"""The documents of an image that is exported: configurations, manifests, attestations, an index. Pure."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from cais.build.attest.statement import (
    Blob,
    format_statement,
    image_subjects,
    make_attestation_manifest,
)
from cais.build.export.options import ImageOptions
from cais.build.export.result import Attestation, Result
from cais.errors import Invalid
from cais.images.commit import OCI_TWINS
from cais.spec.descriptor import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    format_descriptor,
    format_manifest,
)
from cais.spec.digest import Digest, digest_bytes
from cais.spec.image import ImageConfig, format_image_config, format_time_ns, parse_time_ns
from cais.spec.platform import Platform, format_platform

_DOCKER_TWINS = {
    OCI_LAYER: DOCKER_LAYER,
    OCI_LAYER_GZIP: DOCKER_LAYER_GZIP,
    OCI_LAYER_ZSTD: DOCKER_LAYER_ZSTD,
}
DIGEST, CONFIG_DIGEST = "containerimage.digest", "containerimage.config.digest"
DESCRIPTOR, NAME = "containerimage.descriptor", "image.name"


class FinishedLayer(msgspec.Struct, frozen=True):
    """A layer as it goes out."""

    diff_id: Digest
    blob: Descriptor


class ImagePart(msgspec.Struct, frozen=True):
    """One platform of the image. ``manifest``: it is there already, and stays as it is."""

    result: Result
    layers: Sequence[FinishedLayer]
    manifest: Descriptor | None = None


class Documents(msgspec.Struct, frozen=True):
    """``blobs`` in an order in which nothing is named before it is there; ``target``: what names stand for; ``config``
    of an image without an index."""

    blobs: Sequence[Blob]
    target: Descriptor
    config: Digest | None = None
    manifests: Mapping[str, Descriptor] = msgspec.field(default_factory=dict)

    def response(self, names: Sequence[str]) -> dict[str, str]:
        """What BuildKit tells of an image, by its keys."""
        found = {
            DIGEST: str(self.target.digest),
            DESCRIPTOR: base64.b64encode(format_descriptor(self.target)).decode(),
        }
        if self.config:
            found[CONFIG_DIGEST] = str(self.config)
        if names:
            found[NAME] = ",".join(names)
        return found


def make_documents(parts: Sequence[ImagePart], options: ImageOptions) -> Documents:
    """One manifest for each part; an index if there are several, or something is attested. Raises Invalid."""
    _check(parts, options)
    blobs: list[Blob] = []
    entries: list[Descriptor] = []
    attested: list[Descriptor] = []
    config: Digest | None = None
    notes = options.annotations
    for part in parts:
        platform = part.result.platform
        made, config = _make_manifest(part, options, blobs)
        entry = replace(made, annotations=notes.of("manifest-descriptor", platform), platform=platform)
        entries.append(entry)
        if part.result.attestations:
            attested.append(_attest(made, part.result, options, blobs))
    manifests = {format_platform(part.result.platform): one for part, one in zip(parts, entries, strict=True)}
    if len(parts) == 1 and not attested:
        return Documents(blobs, entries[0], config, manifests)
    index = Index(
        media_type=DOCKER_INDEX if options.docker_types else OCI_INDEX,
        manifests=(*entries, *attested),
        annotations=notes.of("index"),
    )
    data = format_manifest(index)
    target = _describe(index.media_type, data)
    blobs.append(Blob(target, data))
    return Documents(blobs, replace(target, annotations=notes.of("index-descriptor")), None, manifests)


def _check(parts: Sequence[ImagePart], options: ImageOptions) -> None:
    seen: set[str] = set()
    for part in parts:
        shown = format_platform(part.result.platform)
        if shown in seen:
            raise Invalid(f"platform {shown} was built twice")
        seen.add(shown)
    attests = any(part.result.attestations for part in parts)
    if attests and options.docker_types:
        raise Invalid(
            "attestations are not possible with oci-mediatypes=false: build with --provenance=false"
        )
    notes = options.annotations
    if len(parts) == 1 and not attests and (notes.of("index") or notes.of("index-descriptor")):
        raise Invalid("index annotations are not possible for one platform: there is no index")
    if wrong := {platform for _, platform in notes.values if platform} - seen:
        raise Invalid(f"invalid annotation: platform {min(wrong)} is not built")


def _make_manifest(
    part: ImagePart, options: ImageOptions, blobs: list[Blob]
) -> tuple[Descriptor, Digest | None]:
    """The manifest's descriptor and its configuration's digest."""
    if part.manifest is not None:
        return _plain(part.manifest), None
    config = make_final_config(part, options)
    data = _with_extra(format_image_config(config), part.result.extra)
    described = _describe(DOCKER_CONFIG if options.docker_types else OCI_CONFIG, data)
    blobs.append(Blob(described, data))
    manifest = Manifest(
        media_type=DOCKER_MANIFEST if options.docker_types else OCI_MANIFEST,
        config=described,
        layers=tuple(_typed(layer.blob, options) for layer in part.layers),
        annotations=options.annotations.of("manifest", part.result.platform),
    )
    document = format_manifest(manifest)
    made = _describe(manifest.media_type, document)
    blobs.append(Blob(made, document))
    return made, described.digest


def _attest(target: Descriptor, result: Result, options: ImageOptions, blobs: list[Blob]) -> Descriptor:
    subjects = image_subjects(options.names, result.platform, target.digest)
    statements = [
        (one.type, format_statement(one.type, one.predicate, subjects)) for one in result.attestations
    ]
    entry, more = make_attestation_manifest(target, statements, artifact=options.artifact)
    blobs += more
    return entry


def make_final_config(part: ImagePart, options: ImageOptions) -> ImageConfig:
    """With the layers as they go out, and no time of ours later than the one that was asked for."""
    config = part.result.config
    diff_ids = tuple(layer.diff_id for layer in part.layers)
    config = replace(config, rootfs=replace(config.rootfs, diff_ids=diff_ids))
    epoch = options.epoch_ns
    if epoch is None or part.result.unchanged:
        return config
    base = part.result.base_steps
    steps = [
        replace(step, created=_earlier(step.created, epoch)) if index >= base else step
        for index, step in enumerate(config.history)
    ]
    return replace(config, created=format_time_ns(epoch), history=tuple(steps))


def _earlier(text: str, epoch_ns: int) -> str:
    try:
        return text if parse_time_ns(text) <= epoch_ns else format_time_ns(epoch_ns)
    except Invalid:
        return format_time_ns(epoch_ns)


def _with_extra(data: bytes, extra: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(data), **extra}) if extra else data


def _typed(blob: Descriptor, options: ImageOptions) -> Descriptor:
    """The layer's descriptor with the media type of the manifest's kind, and nothing of ours."""
    kind = OCI_TWINS.get(blob.media_type, blob.media_type)
    return replace(blob, media_type=_DOCKER_TWINS.get(kind, kind) if options.docker_types else kind)


def _plain(descriptor: Descriptor) -> Descriptor:
    return Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size)


def _describe(media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type=media_type, digest=digest_bytes(data), size=len(data))


def folder_name(platform: Platform) -> str:
    """The folder of a platform's files, as BuildKit calls it: ``linux_amd64``."""
    return format_platform(platform).replace("/", "_")


def file_name(attestation: Attestation, prefix: str, platform: str) -> str:
    """The name of an attestation among a result's files; ``platform``: the folder's name, if files of several
    platforms lie side by side."""
    stem, dot, end = attestation.file.rpartition(".")
    if platform and dot:
        return f"{prefix}{stem}.{platform}.{end}"
    return f"{prefix}{attestation.file}{'.' + platform if platform else ''}"
