"""OCI distribution specification 1.1, "Content Management": removing tags, manifests and blobs."""

import pytest

from harness.wire import INDEX, MANIFEST, Repository, format_index, sha256

ABSENT = sha256(b"nobody has pushed this")


def test_a_tag(repository: Repository) -> None:
    """ "Deleting tags": 202, then GET is 404; the manifest and its other tags stay."""
    digest = repository.push_image("1")
    repository.push_manifest(repository.images[digest], "2")
    assert repository.ask("DELETE", "manifests/1").status == 202
    assert repository.ask("GET", "manifests/1").brief == (404, "MANIFEST_UNKNOWN")
    for ref in ("2", digest):
        assert repository.ask("GET", f"manifests/{ref}").status == 200
    assert repository.ask("GET", "tags/list").json["tags"] == ["2"]


def test_a_manifest(repository: Repository) -> None:
    """ "Deleting Manifests": 202, then it and any tag pointing to it are 404; others stay."""
    digest, kept = repository.push_image("1"), repository.push_image("kept", [b"kept"])
    repository.push_manifest(repository.images[digest], "2")
    for method in ("GET", "HEAD"):
        assert repository.ask(method, "manifests/2").status == 200  # also when memory has it
    assert repository.ask("DELETE", f"manifests/{digest}").status == 202
    for ref in (digest, "1", "2"):
        assert repository.ask("GET", f"manifests/{ref}").brief == (404, "MANIFEST_UNKNOWN")
        assert repository.ask("HEAD", f"manifests/{ref}").status == 404
    assert repository.ask("GET", "tags/list").json["tags"] == ["kept"]
    assert repository.ask("GET", f"manifests/{kept}").status == 200


def test_a_blob(repository: Repository, other: Repository) -> None:
    """ "Deleting Blobs": 202, then 404; another repository's stays."""
    digest = repository.push_blob(b"both have it")
    other.push_blob(b"both have it")
    assert repository.ask("DELETE", f"blobs/{digest}").status == 202
    assert repository.ask("GET", f"blobs/{digest}").brief == (404, "BLOB_UNKNOWN")
    assert other.ask("GET", f"blobs/{digest}").body == b"both have it"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("manifests/none", "MANIFEST_UNKNOWN"),
        (f"manifests/{ABSENT}", "MANIFEST_UNKNOWN"),
        (f"blobs/{ABSENT}", "BLOB_UNKNOWN"),
    ],
)
def test_what_is_not_there(repository: Repository, path: str, code: str) -> None:
    """404 with its code; a second time as well; in a repository that is not there, NAME_UNKNOWN."""
    assert repository.ask("DELETE", path).brief == (404, "NAME_UNKNOWN")
    repository.push_image("1")
    for _ in range(2):
        assert repository.ask("DELETE", path).brief == (404, code)


def test_twice(repository: Repository) -> None:
    """What was removed is not there to be removed again."""
    digest, blob = repository.push_image("1"), repository.push_blob(b"alone")
    for path in ("manifests/1", f"manifests/{digest}", f"blobs/{blob}"):
        assert [repository.ask("DELETE", path).status for _ in range(2)] == [202, 404]


def test_a_blob_that_a_manifest_names(repository: Repository) -> None:
    """It is refused: an image that was acknowledged can be pulled until it is removed itself."""
    digest = repository.push_image("1")
    assert repository.ask("DELETE", f"blobs/{sha256(b'layer')}").brief == (409, "DENIED")
    assert repository.ask("GET", f"blobs/{sha256(b'layer')}").status == 200
    repository.ask("DELETE", f"manifests/{digest}")
    assert repository.ask("DELETE", f"blobs/{sha256(b'layer')}").status == 202


def test_a_manifest_that_an_index_names(repository: Repository) -> None:
    """It is refused while an index of the repository names it; the index goes first."""
    child = repository.push_image("child")
    index = repository.push_manifest(format_index([repository.images[child]]), "multi", INDEX)
    assert repository.ask("DELETE", f"manifests/{child}").brief == (409, "DENIED")
    assert repository.ask("GET", "manifests/child").status == 200
    assert repository.ask("DELETE", f"manifests/{index}").status == 202
    assert repository.ask("DELETE", f"manifests/{child}").status == 202


def test_what_is_deleted_can_be_pushed_again(repository: Repository) -> None:
    """By the same client, which looks first what is there."""
    digest = repository.push_image("1")
    repository.ask("DELETE", f"manifests/{digest}")
    assert repository.ask("HEAD", f"blobs/{sha256(b'layer')}").status == 200
    repository.push_manifest(repository.images[digest], "1")
    assert repository.ask("GET", "manifests/1").status == 200


def test_a_subject_can_be_deleted(repository: Repository) -> None:
    """A referrer does not keep its subject, and is there to be asked for by itself."""
    subject = repository.push_image("1")
    about = repository.push_referrer(subject)
    assert repository.ask("DELETE", f"manifests/{subject}").status == 202
    assert repository.ask("GET", f"manifests/{about}", None, {"Accept": MANIFEST}).status == 200
