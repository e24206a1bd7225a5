"""Manifests and indexes: OCI and Docker forms, and documents that could be read two ways."""

import json
from typing import Any

import pytest

from cais.errors import Invalid, Unsupported
from cais.spec.descriptor import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1_SIGNED,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    format_descriptor,
    format_manifest,
    parse_descriptor,
    parse_manifest,
)
from cais.spec.digest import Digest, digest_bytes
from cais.spec.platform import Platform

CONFIG = Descriptor(media_type=OCI_CONFIG, digest=digest_bytes(b"c"), size=1)
LAYER = Descriptor(
    media_type=OCI_LAYER,
    digest=digest_bytes(b"l"),
    size=2,
    annotations={"a": "b"},
    platform=Platform(os="linux", architecture="arm", variant="v7", os_version="1"),
)


def document(**changes: Any) -> bytes:
    """A small manifest's JSON with some keys changed; None drops one."""
    raw = json.loads(format_manifest(Manifest(config=CONFIG, layers=(LAYER,)))) | changes
    return json.dumps({key: value for key, value in raw.items() if value is not None}).encode()


@pytest.mark.parametrize(
    "value",
    [
        Manifest(config=CONFIG, layers=(LAYER, LAYER), annotations={"k": "v"}, subject=CONFIG),
        Manifest(config=CONFIG, media_type=DOCKER_MANIFEST),
        Index(manifests=(LAYER,), annotations={"k": "v"}),
        Index(manifests=(LAYER,), media_type=DOCKER_INDEX),
        Index(),
    ],
)
def test_documents_parse_back(value: Manifest | Index) -> None:
    """What was formatted parses to an equal value, media type included."""
    assert parse_manifest(format_manifest(value)) == value


def test_digests_in_documents_are_checked_digests() -> None:
    """A parsed digest is a Digest, so it may become a path; a wrong one is Invalid."""
    manifest = parse_manifest(document())
    assert isinstance(manifest, Manifest) and type(manifest.layers[0].digest) is Digest
    with pytest.raises(Invalid, match="invalid digest"):
        parse_manifest(document(config={"mediaType": "x", "digest": "sha256:../../x", "size": 1}))


def test_descriptors_parse_back() -> None:
    """A lone descriptor survives, with names of the specification."""
    assert parse_descriptor(format_descriptor(LAYER)) == LAYER
    assert json.loads(format_descriptor(LAYER))["platform"]["os.version"] == "1"


def test_gos_null_lists_are_empty() -> None:
    """Go writes a nil slice as null."""
    raw = json.loads(document())
    raw["layers"] = None
    manifest = parse_manifest(json.dumps(raw).encode())
    assert isinstance(manifest, Manifest) and manifest.layers == ()


def test_the_media_type_may_come_from_outside() -> None:
    """OCI leaves mediaType out; then the transport's word counts."""
    manifest = parse_manifest(document(mediaType=None), DOCKER_MANIFEST)
    assert manifest.media_type == DOCKER_MANIFEST
    assert parse_manifest(document(mediaType=None)).media_type == OCI_MANIFEST


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (document(manifests=[]), ""),
        (document(mediaType=OCI_INDEX), ""),
        (document(), OCI_INDEX),
        (document(), DOCKER_MANIFEST),
        (b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % OCI_MANIFEST.encode(), ""),
        (document(mediaType="text/html"), ""),
    ],
)
def test_a_document_that_could_be_two_things_is_refused(data: bytes, said: str) -> None:
    """Two readers must not see two images in one document (CVE-2021-41190)."""
    with pytest.raises(Invalid, match="invalid manifest"):
        parse_manifest(data, said)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"\xff",
        b"{" * 100_000,
        b"[" * 100_000,
        document(schemaVersion=3),
        document(config=None),
        document(config=[]),
        document(layers=[{}]),
        document(layers="x"),
        document(config={"mediaType": "x", "digest": CONFIG.digest, "size": "1"}),
    ],
)
def test_no_manifest(data: bytes) -> None:
    """Wrong JSON and wrong shapes are Invalid, never another exception."""
    with pytest.raises(Invalid):
        parse_manifest(data)


@pytest.mark.parametrize(("data", "said"), [(b'{"schemaVersion":1}', ""), (b"{}", DOCKER_SCHEMA1_SIGNED)])
def test_schema_1_is_named(data: bytes, said: str) -> None:
    """The form that Docker gave up is Unsupported, not merely invalid."""
    with pytest.raises(Unsupported, match="schema version 1"):
        parse_manifest(data, said)
