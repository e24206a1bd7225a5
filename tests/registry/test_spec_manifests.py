"""OCI distribution specification 1.1, "Pushing Manifests", with and without a subject."""

import json

import pytest

from harness.wire import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    Repository,
    describe,
    format_image,
    format_index,
    sha256,
)

ABSENT = sha256(b"nobody has pushed this")


def image(repository: Repository, **fields: object) -> bytes:
    """A manifest whose blobs are there."""
    for data in (b"{}", b"layer"):
        repository.push_blob(data)
    return format_image(b"{}", [b"layer"], **fields)


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_push(repository: Repository, by: str) -> None:
    """201 with a Location that can be pulled and the digest of what was sent, byte for byte."""
    data = image(repository) + b"\n \t"
    reply = repository.put_manifest(data, "1.0" if by == "tag" else "")
    assert (reply.status, reply.headers["docker-content-digest"]) == (201, sha256(data))
    assert repository.wire.ask("GET", reply.headers["location"]).body == data


def test_a_tag_moves(repository: Repository) -> None:
    """A tag stands for what was pushed last, and the earlier manifest stays, by its digest."""
    first = repository.push_image("latest", [b"first"])
    second = repository.push_image("latest", [b"second"])
    assert repository.ask("HEAD", "manifests/latest").headers["docker-content-digest"] == second
    assert repository.ask("HEAD", f"manifests/{first}").status == 200


def test_parameters_of_the_type_are_ignored(repository: Repository) -> None:
    """The registry SHOULD ignore parameters on the Content-Type, and SHOULD NOT send any."""
    data = image(repository)
    assert repository.put_manifest(data, "1", f"{MANIFEST}; charset=utf-8").status == 201
    assert repository.ask("GET", "manifests/1").headers["content-type"] == MANIFEST


def test_the_type_is_the_contents_where_nobody_says_it(repository: Repository) -> None:
    """Clients SHOULD set it; without, the manifest's own field decides."""
    data = image(repository)
    assert repository.ask("PUT", "manifests/1", data).status == 201
    assert repository.ask("GET", "manifests/1").headers["content-type"] == MANIFEST


def test_a_type_that_does_not_fit(repository: Repository) -> None:
    """Clients MUST set the Content-Type to the manifest's ``mediaType``: what differs is refused."""
    data = image(repository)
    for kind in (
        INDEX,
        "application/json",
        "text/html",
        "application/vnd.docker.distribution.manifest.v2+json",
    ):
        assert repository.put_manifest(data, "1", kind).brief == (400, "MANIFEST_INVALID")
    assert repository.ask("GET", "tags/list").status in (200, 404)
    assert repository.ask("HEAD", "manifests/1").status == 404


def test_an_index_that_says_it_is_an_image(repository: Repository) -> None:
    """image-spec, image-index.md: a type that contradicts the content is refused, whoever says it."""
    repository.push_image()
    entries = format_index(repository.images.values(), mediaType=MANIFEST)
    assert repository.put_manifest(entries, "1", MANIFEST).brief == (400, "MANIFEST_INVALID")
    contents = format_image(b"{}", [b"layer"], mediaType=INDEX)
    assert repository.put_manifest(contents, "1", INDEX).brief == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize("kind", [MANIFEST, INDEX])
def test_what_is_both_index_and_image(repository: Repository, kind: str) -> None:
    """CVE-2021-41190: a document with ``manifests`` and ``config`` or ``layers`` is neither, and refused."""
    document = json.loads(image(repository)) | {"mediaType": kind, "manifests": []}
    for fields in (("config", "layers"), ("config",), ("layers",)):
        both = {key: value for key, value in document.items() if key in fields or key[0] in "sm"}
        assert "manifests" in both
        assert repository.put_manifest(json.dumps(both).encode(), "1", kind).brief == (
            400,
            "MANIFEST_INVALID",
        )
        del both["mediaType"]
        assert repository.put_manifest(json.dumps(both).encode(), "1", kind).brief == (
            400,
            "MANIFEST_INVALID",
        )


def test_no_layers(repository: Repository) -> None:
    """The list of blobs MAY be empty."""
    repository.push_blob(b"{}")
    repository.push_manifest(format_image(b"{}", []), "empty")


def test_a_blob_that_is_not_there(repository: Repository, other: Repository) -> None:
    """404 MANIFEST_BLOB_UNKNOWN that names it, though another repository has it; and nothing is there."""
    other.push_blob(b"layer")
    repository.push_blob(b"{}")
    reply = repository.put_manifest(format_image(b"{}", [b"layer"]), "1")
    assert reply.brief == (404, "MANIFEST_BLOB_UNKNOWN")
    assert reply.json["errors"][0]["detail"] == {"digest": sha256(b"layer")}
    assert repository.ask("HEAD", "manifests/1").status == 404
    assert repository.ask("HEAD", f"manifests/{sha256(format_image(b'{}', [b'layer']))}").status == 404


def test_a_child_that_is_not_there(repository: Repository) -> None:
    """An index MUST be refused with MANIFEST_BLOB_UNKNOWN, if at all, for a manifest that is not there."""
    reply = repository.put_manifest(format_index([b"{}"]), "1", INDEX)
    assert reply.brief == (404, "MANIFEST_BLOB_UNKNOWN")


def test_a_size_that_is_wrong(repository: Repository) -> None:
    """A descriptor that says another size than the blob has would fail every pull: it is refused."""
    data = image(repository).replace(b'"size": 5', b'"size": 6')
    assert repository.put_manifest(data, "1").brief == (400, "SIZE_INVALID")


def test_layers_that_must_not_be_distributed(repository: Repository) -> None:
    """image-spec, layer.md: nondistributable layers with ``urls`` need not be there."""
    repository.push_blob(b"{}")
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    layer = describe(b"elsewhere", kind, urls=["https://example.com/layer"])
    repository.push_manifest(format_image(b"{}", [], layers=[layer]), "1")
    unsaid = describe(b"elsewhere", LAYER, urls=["https://example.com/layer"])
    reply = repository.put_manifest(format_image(b"{}", [], layers=[unsaid]), "2")
    assert reply.brief == (404, "MANIFEST_BLOB_UNKNOWN")


def test_an_artifact(repository: Repository) -> None:
    """image-spec, manifest.md, "Guidance for an empty descriptor": an artifact with the empty config is kept."""
    empty = describe(b"{}", "application/vnd.oci.empty.v1+json", data="e30=")
    repository.push_blob(b"{}")
    data = format_image(b"{}", [b"{}"], config=empty, layers=[empty], artifactType="application/vnd.example")
    repository.push_manifest(data, "1")
    assert repository.ask("GET", "manifests/1").body == data


def test_an_index_of_indexes(repository: Repository) -> None:
    """image-spec, image-index.md: an index may name indexes."""
    repository.push_image()
    inner = format_index(repository.images.values())
    repository.push_manifest(inner, "", INDEX)
    outer = format_index([inner], manifests=[describe(inner, INDEX)])
    repository.push_manifest(outer, "all", INDEX)
    assert repository.ask("GET", "manifests/all").body == outer


def test_a_digest_that_does_not_match(repository: Repository) -> None:
    """The digest MUST be the content's: else 400, and nothing is there under either."""
    data = image(repository)
    assert repository.put_manifest(data, ABSENT).brief == (400, "DIGEST_INVALID")
    for digest in (ABSENT, sha256(data)):
        assert repository.ask("HEAD", f"manifests/{digest}").status == 404


@pytest.mark.parametrize("ref", [".hidden", "-x", "a+b", "x" * 129, "%C3%A4", "a%20b", "latest%00"])
def test_a_tag_that_is_none(repository: Repository, ref: str) -> None:
    """ "Pulling manifests": a tag MUST match the grammar: else 400."""
    reply = repository.put_manifest(image(repository), ref)
    assert reply.status == 400 and reply.code in ("TAG_INVALID", "NAME_INVALID")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b"1", b'"x"', b"{}", b'{"schemaVersion": 2}', b'{"schemaVersion": 1}',
        b'{"schemaVersion": "2", "config": {}, "layers": []}', b"\xff\xfe", b'{"a": "\xff"}', b'{"a": "\\ud800"}',
        b'{"schemaVersion": 2, "config": {"mediaType": "a", "digest": "sha256:x", "size": 1}, "layers": []}',
        b'{"schemaVersion": 2, "config": {"mediaType": "a", "digest": 5, "size": 1}, "layers": []}',
        b'{"schemaVersion": 2, "layers": []}', b'{"schemaVersion": 2, "manifests": {}}',
        b'{"schemaVersion": 2, "manifests": [{}]}',
    ],
)  # fmt: skip
def test_what_is_no_manifest(repository: Repository, data: bytes) -> None:
    """Anything else than a manifest is 400 MANIFEST_INVALID."""
    reply = repository.put_manifest(data, "1", "")
    assert reply.brief == (400, "MANIFEST_INVALID")


def test_a_negative_or_absurd_size(repository: Repository) -> None:
    """Sizes below zero or above what a file can have are refused, wherever they stand."""
    for size in (-1, 2**63, 2**64, 10**30):
        for media_type, where in ((MANIFEST, "config"), (MANIFEST, "layers"), (INDEX, "manifests")):
            entry = {"mediaType": LAYER, "digest": repository.push_blob(b"{}"), "size": size}
            fields: dict[str, object] = {"schemaVersion": 2, "mediaType": media_type}
            if media_type == MANIFEST:
                fields |= {"config": describe(b"{}", CONFIG), "layers": []}
            fields[where] = entry if where == "config" else [entry]
            reply = repository.put_manifest(json.dumps(fields).encode(), "1", media_type)
            assert 400 <= reply.status < 500, (size, where, reply)
            assert reply.code in ("MANIFEST_INVALID", "SIZE_INVALID", "MANIFEST_BLOB_UNKNOWN")


def test_a_refused_manifest_makes_no_repository(repository: Repository) -> None:
    """What is refused leaves nothing that others see."""
    repository.put_manifest(format_image(b"{}", [b"layer"]), "1")
    assert repository.ask("GET", "tags/list").brief == (404, "NAME_UNKNOWN")


def test_subject(repository: Repository) -> None:
    """ "Pushing Manifests with Subject": 201 with ``OCI-Subject``, whether or not the subject is there."""
    for subject in (repository.push_image("1"), ABSENT):
        about = {"mediaType": MANIFEST, "digest": subject, "size": 10}
        for data, kind in (
            (image(repository, subject=about), MANIFEST),
            (format_index([], subject=about), INDEX),
        ):
            reply = repository.put_manifest(data, "", kind)
            assert (reply.status, reply.headers["oci-subject"]) == (201, subject)


def test_no_subject(repository: Repository) -> None:
    """Without a subject there is no such header."""
    assert "oci-subject" not in repository.put_manifest(image(repository), "1").headers


def test_a_subject_that_is_none(repository: Repository) -> None:
    """A subject that is no descriptor is refused."""
    for subject in (
        {"digest": "sha256:x"},
        {"mediaType": MANIFEST, "digest": "../../x", "size": 1},
        "x",
        [1],
    ):
        reply = repository.put_manifest(image(repository, subject=subject), "1")
        assert reply.brief == (400, "MANIFEST_INVALID")
