"""OCI distribution specification 1.1, "Pull": manifests, blobs, and whether they are there.

Quotations in the docstrings' places are of spec.md; where the text after 1.1.1 says MUST for SHOULD, that is tested.
"""

import os

import pytest

from harness.wire import INDEX, MANIFEST, Repository, Wire, format_image, format_index, sha256, sha512

ABSENT = sha256(b"nobody has pushed this")


def test_support_is_said(wire: Wire) -> None:
    """ "Determining Support": GET /v2/ is 200, also without the slash, and says the version older Docker asks for."""
    for path in ("/v2/", "/v2"):
        reply = wire.ask("GET", path)
        assert (reply.status, reply.json) == (200, {})
        assert reply.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_manifest_comes_back_as_it_was_pushed(repository: Repository, by: str) -> None:
    """ "Pulling manifests": 200, the very bytes, their type without parameters, and their digest."""
    data = format_image(b"{}", [b"layer"]).replace(b", ", b" ,\n\t ")
    repository.push_image("1")
    repository.push_manifest(data, "1")
    reply = repository.ask(
        "GET", f"manifests/{'1' if by == 'tag' else sha256(data)}", None, {"Accept": MANIFEST}
    )
    assert (reply.status, reply.body) == (200, data)
    assert reply.headers["content-type"] == MANIFEST
    assert reply.headers["docker-content-digest"] == sha256(data)


def test_the_type_is_the_one_it_was_pushed_with(repository: Repository) -> None:
    """ "Pulling manifests": the Content-Type SHOULD match what the client pushed, of a Docker manifest as well."""
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    repository.push_image()
    data = format_image(b"{}", [b"layer"], mediaType=docker)
    repository.push_manifest(data, "docker", docker)
    assert repository.ask("GET", "manifests/docker").headers["content-type"] == docker


def test_accept_does_not_change_what_a_tag_stands_for(repository: Repository) -> None:
    """ "Pulling manifests": an index is an index, also to who asks for a manifest; its digest is what was pushed."""
    child = repository.push_image()
    data = format_index([repository.images[child]])
    repository.push_manifest(data, "multi", INDEX)
    reply = repository.ask("GET", "manifests/multi", None, {"Accept": MANIFEST})
    assert (reply.body, reply.headers["content-type"]) == (data, INDEX)


def test_a_manifest_that_is_absent(repository: Repository) -> None:
    """ "Pulling manifests": 404, by tag and by digest, in a repository with others."""
    repository.push_image("1")
    for ref in ("2", ABSENT):
        assert repository.ask("GET", f"manifests/{ref}").brief == (404, "MANIFEST_UNKNOWN")
        assert repository.ask("HEAD", f"manifests/{ref}").status == 404


def test_a_repository_that_is_absent(repository: Repository) -> None:
    """ "Pushing Manifests": an attempt to pull a nonexistent repository MUST return 404."""
    for ref in ("latest", ABSENT):
        assert repository.ask("GET", f"manifests/{ref}").brief == (404, "NAME_UNKNOWN")


def test_a_manifest_is_its_own_repositorys(repository: Repository, other: Repository) -> None:
    """ "Pulling manifests": what another repository has is not found in this one."""
    repository.push_image("1")
    digest = other.push_image("1", [b"else"])
    assert repository.ask("GET", f"manifests/{digest}").brief == (404, "MANIFEST_UNKNOWN")


def test_a_tag_has_128_characters_at_most(repository: Repository) -> None:
    """ "Pulling manifests": a tag of 128 characters of the grammar works; what cannot be a tag is not found."""
    longest = "A_" + "x.-9" * 31 + "zz"
    assert len(longest) == 128
    digest = repository.push_image(longest)
    assert repository.ask("GET", f"manifests/{longest}").headers["docker-content-digest"] == digest
    for ref in (longest + "x", ".hidden", "-x", "a+b"):
        assert repository.ask("GET", f"manifests/{ref}").brief == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("size", [0, 1, 4096, 3 << 20])
def test_a_blob_comes_back_as_it_was_pushed(repository: Repository, size: int) -> None:
    """ "Pulling blobs": 200, the very bytes, and their digest; also of none and of many."""
    data = os.urandom(size)
    digest = repository.push_blob(data)
    reply = repository.ask("GET", f"blobs/{digest}")
    assert (reply.status, reply.body) == (200, data)
    assert reply.headers["docker-content-digest"] == digest
    assert reply.headers["content-length"] == str(size)


def test_a_blob_that_is_absent(repository: Repository, other: Repository) -> None:
    """ "Pulling blobs": 404, in a repository that has none, one that has others, and one that is not there."""
    digest = other.push_blob(b"only there")
    assert repository.ask("GET", f"blobs/{digest}").brief == (404, "BLOB_UNKNOWN")
    repository.push_blob(b"something")
    for absent in (digest, ABSENT):
        assert repository.ask("GET", f"blobs/{absent}").brief == (404, "BLOB_UNKNOWN")
        assert repository.ask("HEAD", f"blobs/{absent}").status == 404


def test_head_says_what_get_would(repository: Repository) -> None:
    """ "Checking if content exists": 200 with digest and size, the same headers as GET, and no body."""
    image = repository.push_image("1")
    blob = repository.push_blob(b"0123456789")
    for path in ("manifests/1", f"manifests/{image}", f"blobs/{blob}"):
        got, head = repository.ask("GET", path), repository.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        named = ("content-length", "docker-content-digest", "content-type", "etag")
        assert [head.headers[name] for name in named] == [got.headers[name] for name in named]
        assert int(head.headers["content-length"]) == len(got.body)


def test_a_sha512_blob_and_manifest(repository: Repository) -> None:
    """image-spec "Registered algorithms": what was pushed by its sha512 digest is found by it, and answered with it."""
    data = os.urandom(100)
    reply = repository.wire.ask("PUT", f"{repository.start()}?digest={sha512(data)}", data)
    assert (reply.status, reply.headers["docker-content-digest"]) == (201, sha512(data))
    assert repository.ask("GET", f"blobs/{sha512(data)}").body == data
    repository.push_image("1")
    manifest = format_image(b"{}", [b"layer"])
    reply = repository.put_manifest(manifest, sha512(manifest))
    assert (reply.status, reply.headers["docker-content-digest"]) == (201, sha512(manifest))
    found = repository.ask("GET", f"manifests/{sha512(manifest)}")
    assert (found.body, found.headers["docker-content-digest"]) == (manifest, sha512(manifest))


def test_one_connection_serves_many_requests(repository: Repository) -> None:
    """RFC 9112, section 9.3: answers of every kind, refusals too, leave the connection usable."""
    digest = repository.push_blob(b"x" * 200_000)
    repository.wire.ask("GET", "/v2/")
    before = repository.wire.local_port
    for path in (f"blobs/{digest}", f"blobs/{ABSENT}", "manifests/none", "tags/list", f"blobs/{digest}"):
        for method in ("GET", "HEAD"):
            repository.ask(method, path)
    assert repository.wire.local_port == before
