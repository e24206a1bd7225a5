"""In-toto statements, and the documents by which BuildKit attaches them to images.

Sources: in-toto attestation "Statement" v1; BuildKit docs/attestations/attestation-storage.md; package-url
specification, type docker.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec

from cais.spec.descriptor import (
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    format_manifest,
)
from cais.spec.digest import Digest, digest_bytes
from cais.spec.platform import Platform, format_platform
from cais.spec.reference import parse_reference

STATEMENT = "https://in-toto.io/Statement/v1"
INTOTO = "application/vnd.in-toto+json"
PREDICATE_TYPE = "in-toto.io/predicate-type"
REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
ATTESTATION_MANIFEST = "attestation-manifest"
ARTIFACT_TYPE = "application/vnd.docker.attestation.manifest.v1+json"
UNKNOWN = Platform(architecture="unknown", os="unknown")


class Subject(msgspec.Struct, frozen=True):
    """What a statement is about: a name, and a digest by its algorithm."""

    name: str
    digest: Mapping[str, str]


class Blob(msgspec.Struct, frozen=True):
    """Bytes to be stored, and their descriptor."""

    descriptor: Descriptor
    data: bytes


def format_statement(type: str, predicate: bytes, subjects: Sequence[Subject]) -> bytes:
    """The JSON bytes of one statement; equal values give equal bytes. ``predicate`` is JSON."""
    return msgspec.json.encode(
        {
            "_type": STATEMENT,
            "predicateType": type,
            "subject": [{"name": one.name, "digest": dict(one.digest)} for one in subjects],
            "predicate": msgspec.Raw(predicate),
        }
    )


def image_subjects(names: Sequence[str], platform: Platform, digest: Digest) -> list[Subject]:
    """An image under each of its names; without any, as its digest alone."""
    digests = {digest.algorithm: digest.hex}
    return [Subject(image_purl(name, platform), digests) for name in names] or [Subject("_", digests)]


def image_purl(name: str, platform: Platform | None = None, kind: str = "docker") -> str:
    """The package URL of an image's name, e.g. ``pkg:docker/busybox@latest?platform=linux%2Famd64``."""
    reference = parse_reference(name).tagged()
    namespace, _, last = reference.familiar_name.rpartition("/")
    path = "/".join(quote(part, safe="") for part in (*namespace.split("/"), last) if part)
    version = f"@{quote(reference.tag, safe='')}" if reference.tag else ""
    qualifiers = {}
    if reference.digest:
        qualifiers["digest"] = str(reference.digest)
    if platform is not None:
        qualifiers["platform"] = format_platform(platform)
    text = "&".join(f"{key}={quote(value, safe=':')}" for key, value in sorted(qualifiers.items()))
    return f"pkg:{kind}/{path}{version}{'?' + text if text else ''}"


def make_attestation_manifest(
    target: Descriptor, statements: Sequence[tuple[str, bytes]], *, artifact: bool = False
) -> tuple[Descriptor, list[Blob]]:
    """What says of the manifest ``target`` all that ``statements`` (predicate type, JSON) say: its entry for the
    index, and the blobs to store, the manifest last. ``artifact``: as an OCI artifact."""
    blobs = []
    layers = []
    for type, data in statements:
        layer = Descriptor(
            media_type=INTOTO,
            digest=digest_bytes(data),
            size=len(data),
            annotations={PREDICATE_TYPE: type},
        )
        layers.append(layer)
        blobs.append(Blob(layer, data))
    config = b"{}" if artifact else _format_config([layer.digest for layer in layers])
    config_type = OCI_EMPTY if artifact else OCI_CONFIG
    described = Descriptor(media_type=config_type, digest=digest_bytes(config), size=len(config))
    blobs.append(Blob(described, config))
    subject = Descriptor(media_type=target.media_type, digest=target.digest, size=target.size)
    document = format_manifest(
        Manifest(
            media_type=OCI_MANIFEST,
            artifact_type=ARTIFACT_TYPE if artifact else "",
            config=described,
            layers=tuple(layers),
            subject=subject if artifact else None,
        )
    )
    entry = Descriptor(
        media_type=OCI_MANIFEST,
        digest=digest_bytes(document),
        size=len(document),
        annotations={REFERENCE_DIGEST: str(target.digest), REFERENCE_TYPE: ATTESTATION_MANIFEST},
        platform=UNKNOWN,
    )
    return entry, [*blobs, Blob(entry, document)]


def _format_config(digests: Sequence[Digest]) -> bytes:
    """A configuration for readers that want one: it says that nothing can run this."""
    return msgspec.json.encode(
        {
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": list(map(str, digests))},
        }
    )
