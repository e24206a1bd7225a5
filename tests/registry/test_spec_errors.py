"""OCI distribution specification 1.1, "Error Codes": their form, and that nothing unexpected is answered."""

import json

import pytest

from harness.serving import Served
from harness.wire import Repository, Wire, sha256

ABSENT = sha256(b"nobody has pushed this")
CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED",
    "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
}  # fmt: skip
DOCKERS = {"TAG_INVALID", "PAGINATION_NUMBER_INVALID"}
"""Those that Docker's registry adds to the specification's."""
REFUSED = [
    ("GET", "manifests/none", b"", 404),
    ("GET", f"blobs/{ABSENT}", b"", 404),
    ("GET", "blobs/nonsense", b"", 400),
    ("PATCH", "blobs/uploads/" + "0" * 32, b"x", 404),
    ("PUT", "manifests/1", b"{", 400),
    ("PUT", "manifests/.1", b"{}", 400),
    ("PUT", f"manifests/{ABSENT}", b"{}", 400),
    ("POST", f"blobs/uploads/?digest={ABSENT}", b"x", 400),
    ("GET", "tags/list?n=x", b"", 400),
    ("DELETE", "tags/list", b"", 405),
    ("POST", "manifests/1", b"", 405),
    ("PUT", f"blobs/{ABSENT}", b"", 405),
    ("GET", "nothing/of/the/kind", b"", 404),
    ("GET", "", b"", 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), REFUSED)
def test_the_form_of_an_error(
    repository: Repository, method: str, path: str, body: bytes, status: int
) -> None:
    """JSON with ``errors``: each has a code of the list and a message for people; nothing of the inside."""
    repository.push_blob(b"so that it exists")
    reply = repository.ask(method, path, body)
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    (error,) = reply.json["errors"]
    assert error["code"] in CODES | DOCKERS and set(error) <= {"code", "message", "detail"}
    assert error["message"] and "Traceback" not in error["message"] and "/content/" not in error["message"]


def test_a_refusal_of_head_has_no_body(wire: Wire) -> None:
    """RFC 9110, section 9.3.2: the status alone, and the connection goes on."""
    for _ in range(3):
        reply = wire.ask("HEAD", f"/v2/a/b/blobs/{ABSENT}")
        assert (reply.status, reply.body) == (404, b"")


def test_what_is_nobodys_business(served: Served, repository: Repository) -> None:
    """A failure inside is 500 with a sentence, and tells no path and no exception."""
    digest = repository.push_image("1")
    path = served.blob_path(digest)
    path.unlink()
    path.mkdir()
    try:
        reply = repository.ask("GET", "manifests/1")
        assert reply.brief == (500, "UNKNOWN")
        assert str(served.root) not in json.dumps(reply.json) and "Errno" not in json.dumps(reply.json)
    finally:
        path.rmdir()


def test_a_manifest_that_the_disk_has_spoiled(served: Served, repository: Repository) -> None:
    """It is not sent, and it is not the client's fault: 5xx, and a push of it repairs it."""
    digest = repository.push_image("1")
    served.blob_path(digest).write_bytes(b"{" + repository.images[digest][1:-1] + b" ")
    assert repository.ask("GET", "manifests/1").status == 500
    assert repository.ask("GET", f"manifests/{digest}").status == 500
    repository.push_manifest(repository.images[digest], "1")
    assert repository.ask("GET", "manifests/1").body == repository.images[digest]


def test_a_blob_that_the_disk_has_lost(served: Served, repository: Repository) -> None:
    """It is 404, so that the next client sends it again, and does not name a path."""
    digest = repository.push_blob(b"to be lost")
    served.blob_path(digest).unlink()
    reply = repository.ask("GET", f"blobs/{digest}")
    assert reply.brief == (404, "BLOB_UNKNOWN") and str(served.root) not in reply.body.decode()
    repository.push_blob(b"to be lost")
    assert repository.ask("GET", f"blobs/{digest}").body == b"to be lost"
