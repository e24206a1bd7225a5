"""What is attached to an image: signatures, bills of materials, provenance; found by all the ways that tools use.

Referrers (OCI 1.1: cosign 3, notation, oras), tags named after the digest (cosign before), and manifests beside the
image in its index (BuildKit). Nothing is verified here: the pages say what somebody has attached, not that it is true.
"""

import asyncio
import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cais.errors import CaisError
from cais.hub.images import Member
from cais.registry.registry import Registry
from cais.spec.descriptor import Descriptor, Index, Manifest, parse_manifest
from cais.spec.digest import Digest

Kind = Literal["signature", "sbom", "provenance", "attestation", "other"]
MAX_DOCUMENT = 32 << 20
MAX_PACKAGES = 20_000
MAX_REFERRERS = 100
_LEGACY = ("sig", "att", "sbom")
_COSIGN = "application/vnd.dev.cosign.simplesigning.v1+json"
_BUNDLE = "application/vnd.dev.sigstore.bundle"
_NOTATION = "application/vnd.cncf.notary.signature"
_IN_TOTO = "application/vnd.in-toto+json"
_DSSE = "application/vnd.dsse.envelope.v1+json"
_CERTIFICATE = "dev.sigstore.cosign/certificate"
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_PREDICATES = ("in-toto.io/predicate-type", "predicateType", "dev.sigstore.bundle.predicateType")


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was attached. ``blob`` holds it; ``about`` is the manifest that it speaks of."""

    kind: Kind
    format: str
    manifest: Digest
    blob: Digest
    media_type: str
    size: int
    about: Digest
    pushed_ns: int = 0
    predicate: str = ""
    annotations: Mapping[str, str] = {}


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a signature says. ``names``: whether it is about this image; None: its form does not say."""

    signer: str = ""
    issuer: str = ""
    reference: str = ""
    names: bool | None = None


class Package(msgspec.Struct, frozen=True, order=True):
    """A line of a bill of materials."""

    name: str
    version: str = ""
    license: str = ""
    purl: str = ""


class Attachments:
    """Reads only; the caller has asked the gate."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def find(
        self, repository: str, subjects: Sequence[Digest], members: Sequence[Member] = ()
    ) -> list[Attachment]:
        """All that is attached to these manifests: an image and the index it is in. ``members``: those of the index."""
        found: list[Attachment] = []
        for subject in dict.fromkeys(subjects):
            for record in await self._registry.referrers(repository, subject, "", MAX_REFERRERS, ""):
                found += await self._open(repository, record.digest, subject)
            for ending in _LEGACY:
                tag = f"{subject.algorithm}-{subject.hex}.{ending}"
                record_or_none = await self._registry.catalog.find_manifest(repository, tag)
                if record_or_none is not None:
                    found += await self._open(repository, record_or_none.digest, subject)
            for member in members:
                if member.about == subject:
                    found += await self._open(repository, member.digest, subject)
        order = ("signature", "sbom", "provenance", "attestation", "other")
        unique = {(each.manifest, each.blob): each for each in found}
        return sorted(unique.values(), key=lambda each: (order.index(each.kind), each.format, each.blob))

    async def _open(self, repository: str, digest: Digest, about: Digest) -> list[Attachment]:
        try:
            record = await self._registry.catalog.find_manifest(repository, digest)
            data = await self._registry.find_manifest(repository, digest)
            document = parse_manifest(data.data, data.media_type)
        except CaisError:
            return []
        if record is None or isinstance(document, Index):
            return []
        return [
            classify(document, layer, record.digest, about, record.pushed_ns)
            for layer in document.layers or (document.config,)
        ]

    async def read(self, attachment: Attachment) -> bytes:
        """The document. Raises NotFound, Corrupt, Invalid (too large)."""
        return await self._registry.blobs.read(attachment.blob, MAX_DOCUMENT)

    async def packages(self, attachment: Attachment) -> list[Package]:
        """What a bill of materials lists, sorted; empty for what is not one that is understood. Raises NotFound."""
        return await asyncio.to_thread(parse_packages, await self.read(attachment))

    async def signature(self, attachment: Attachment) -> Signature:
        """What a signature says of itself; empty where it cannot be read."""
        try:
            data = await self._registry.blobs.read(attachment.blob, 1 << 20)
        except CaisError:
            return Signature()
        return parse_signature(data, attachment)


def classify(
    manifest: Manifest, layer: Descriptor, digest: Digest, about: Digest, pushed_ns: int = 0
) -> Attachment:
    """What one blob of an attached manifest is."""
    annotations = {**manifest.annotations, **layer.annotations}
    predicate = next((annotations[key] for key in _PREDICATES if key in annotations), "")
    types = (layer.media_type, manifest.artifact_type, manifest.config.media_type)
    kind, form = _name(types, predicate)
    return Attachment(
        kind=kind,
        format=form,
        manifest=digest,
        blob=layer.digest,
        media_type=layer.media_type,
        size=layer.size,
        about=about,
        pushed_ns=pushed_ns,
        predicate=predicate,
        annotations=annotations,
    )


def _name(types: Iterable[str], predicate: str) -> tuple[Kind, str]:
    text = " ".join(types).lower()
    if _COSIGN in text:
        return "signature", "cosign"
    if _NOTATION in text:
        return "signature", "notation"
    if _BUNDLE in text and not predicate:
        return "signature", "sigstore bundle"
    wrapped = "in-toto" if _IN_TOTO in text or _DSSE in text or _BUNDLE in text else ""
    about = f"{text} {predicate.lower()}"
    if "spdx" in about:
        return "sbom", f"SPDX {wrapped}".strip()
    if "cyclonedx" in about:
        return "sbom", f"CycloneDX {wrapped}".strip()
    if "slsa.dev/provenance" in predicate:
        return "provenance", "SLSA"
    if "cosign/sign" in predicate:
        return "signature", "sigstore bundle"
    if wrapped:
        return "attestation", predicate or wrapped
    return "other", next((each for each in types if each), "")


# Bills of materials


def parse_packages(data: bytes) -> list[Package]:
    """Of SPDX or CycloneDX in JSON, bare or inside of an in-toto statement, which may be in an envelope or bundle."""
    document = _unwrap(_decode(data))
    found: set[Package] = set()
    for entry in _items(document.get("packages"))[:MAX_PACKAGES]:  # SPDX
        license = _text(entry, "licenseConcluded", "licenseDeclared").replace("NOASSERTION", "")
        purls = [
            _text(each, "referenceLocator")
            for each in _items(entry.get("externalRefs"))
            if each.get("referenceType") == "purl"
        ]
        version = _text(entry, "versionInfo")
        if version or purls:  # else it is the image itself, or a file that is called a package
            found.add(Package(_text(entry, "name"), version, license, purls[0] if purls else ""))
    for entry in _items(document.get("components"))[:MAX_PACKAGES]:  # CycloneDX
        if entry.get("type") != "file":
            version = _text(entry, "version")
            found.add(Package(_text(entry, "name"), version, _licenses(entry), _text(entry, "purl")))
    return sorted(found)


def _licenses(entry: Mapping[str, Any]) -> str:
    names = []
    for each in _items(entry.get("licenses")):
        inner = each.get("license")
        names.append(
            _text(each, "expression") or (_text(inner, "id", "name") if isinstance(inner, dict) else "")
        )
    return ", ".join(filter(None, names))


def _decode(data: bytes) -> dict[str, Any]:
    with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        found = msgspec.json.decode(data)
        if isinstance(found, dict):
            return found
    return {}


def _unwrap(document: dict[str, Any]) -> dict[str, Any]:
    """Out of bundle, envelope and statement."""
    inner = document.get("dsseEnvelope")
    document = inner if isinstance(inner, dict) else document
    if isinstance(document.get("payload"), str):
        with suppress(binascii.Error, ValueError):
            document = _decode(base64.b64decode(document["payload"]))
    inner = document.get("predicate")
    document = inner if isinstance(inner, dict) else document
    inner = document.get("Data")  # cosign's own predicate around an SBOM
    return inner if isinstance(inner, dict) else document


def _items(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(entry: Mapping[str, Any], *keys: str) -> str:
    """The first of these that is a text."""
    return next((str(entry[key])[:300] for key in keys if isinstance(entry.get(key), str) and entry[key]), "")


# Signatures


def parse_signature(data: bytes, attachment: Attachment) -> Signature:
    """Who says they signed, and what."""
    document = _decode(data)
    critical = document.get("critical")
    signer, issuer = _signer(attachment.annotations.get(_CERTIFICATE, "") or _bundled_certificate(document))
    if isinstance(critical, dict):
        image, identity = critical.get("image"), critical.get("identity")
        named = _text(image, "docker-manifest-digest") if isinstance(image, dict) else ""
        reference = _text(identity, "docker-reference") if isinstance(identity, dict) else ""
        return Signature(
            signer=signer,
            issuer=issuer,
            reference=reference,
            names=named == attachment.about if named else None,
        )
    return Signature(signer=signer, issuer=issuer)


def _bundled_certificate(document: Mapping[str, Any]) -> str:
    """Of a sigstore bundle, as PEM."""
    try:
        raw = document["verificationMaterial"]["certificate"]["rawBytes"]
        certificate = x509.load_der_x509_certificate(base64.b64decode(raw))
        return certificate.public_bytes(Encoding.PEM).decode()
    except (KeyError, TypeError, ValueError):
        return ""


def _signer(pem: str) -> tuple[str, str]:
    """Name and identity provider out of a certificate that sigstore gave (Fulcio's extension 1.3.6.1.4.1.57264.1.8)."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        signer = next((str(name.value) for name in names), "")
    except (ValueError, x509.ExtensionNotFound):
        return "", ""
    with suppress(ValueError, x509.ExtensionNotFound):
        issuer = certificate.extensions.get_extension_for_oid(_ISSUER).value
        if isinstance(issuer, x509.UnrecognizedExtension):
            return signer, issuer.value[2:].decode("utf-8", "replace")  # behind DER's tag and length
    return signer, ""
