"""OCI distribution specification 1.1, "Pushing a blob in chunks" and "Cancel a blob upload"."""

import os
from collections.abc import Callable

import pytest

from harness.wire import Reply, Repository, sha256

ABSENT = sha256(b"nobody has pushed this")


def patch(repository: Repository, location: str, data: bytes, start: int) -> Reply:
    """A chunk that says where it belongs."""
    place = {"Content-Range": f"{start}-{start + len(data) - 1}", "Content-Type": "application/octet-stream"}
    return repository.wire.ask("PATCH", location, data, place)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (10, 100_000, 3), (1 << 20, 1 << 20, 5)])
def test_chunks_in_order(repository: Repository, sizes: tuple[int, ...]) -> None:
    """Each chunk is 202 with the Location of the next and ``Range: 0-<end>``; the closing PUT is 201."""
    location, data = repository.start(), b""
    for size in sizes:
        chunk = os.urandom(size)
        reply = patch(repository, location, chunk, len(data))
        data += chunk
        assert (reply.status, reply.headers["range"]) == (202, f"0-{len(data) - 1}")
        location = reply.headers["location"]
    reply = repository.wire.ask("PUT", f"{location}?digest={sha256(data)}", b"")
    assert reply.status == 201
    assert repository.wire.ask("GET", reply.headers["location"]).body == data


def test_the_last_chunk_in_the_closing_put(repository: Repository) -> None:
    """The final chunk MAY be uploaded in the closing PUT, with its Content-Range."""
    location = patch(repository, repository.start(), b"01234", 0).headers["location"]
    reply = repository.wire.ask(
        "PUT", f"{location}?digest={sha256(b'0123456789')}", b"56789", {"Content-Range": "5-9"}
    )
    assert reply.status == 201
    assert repository.wire.ask("GET", reply.headers["location"]).body == b"0123456789"


@pytest.mark.parametrize("start", [0, 4, 6, 100])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_chunk_out_of_order(repository: Repository, start: int, method: str) -> None:
    """416, for a final chunk too; nothing of it is kept, and the answer says where the next one belongs."""
    location = patch(repository, repository.start(), b"01234", 0).headers["location"]
    digest = f"?digest={sha256(b'0123456789')}" if method == "PUT" else ""
    place = {"Content-Range": f"{start}-{start + 4}"}
    reply = repository.wire.ask(method, location + digest, b"56789", place)
    assert reply.brief == (416, "BLOB_UPLOAD_INVALID")
    assert (reply.headers["range"], reply.headers["location"]) == ("0-4", location)
    status = repository.wire.ask("GET", location)
    assert (status.status, status.headers["range"]) == (204, "0-4")
    reply = repository.wire.ask(
        "PUT", f"{location}?digest={sha256(b'0123456789')}", b"56789", {"Content-Range": "5-9"}
    )
    assert reply.status == 201


def test_the_first_chunk_begins_with_0(repository: Repository) -> None:
    """The first chunk's range MUST begin with 0: else 416."""
    location = repository.start()
    assert patch(repository, location, b"x", 1).status == 416
    assert patch(repository, location, b"x", 0).status == 202


@pytest.mark.parametrize("text", ["abc", "0", "-4", "4-0", "0-3", "0-5", "0-4-4", "0x0-0x4", "0-4,5-9"])
def test_a_content_range_that_is_none(repository: Repository, text: str) -> None:
    """It MUST match ``^[0-9]+-[0-9]+$`` and be as long as the body: else 4xx, and nothing is kept."""
    location = repository.start()
    reply = repository.wire.ask("PATCH", location, b"01234", {"Content-Range": text})
    assert reply.status in (400, 416)
    assert reply.code == "BLOB_UPLOAD_INVALID"
    assert repository.wire.ask("GET", location).headers["range"] == "0-0"
    assert patch(repository, location, b"01234", 0).headers["range"] == "0-4"


def test_a_stream(repository: Repository) -> None:
    """What Docker does: one PATCH with chunked encoding and no Content-Range, then an empty PUT."""
    parts = [os.urandom(size) for size in (1, 65_536, 300_000)]
    reply = repository.wire.ask("PATCH", repository.start(), parts)
    assert (reply.status, reply.headers["range"]) == (202, f"0-{65_537 + 300_000 - 1}")
    data = b"".join(parts)
    reply = repository.wire.ask("PUT", f"{reply.headers['location']}?digest={sha256(data)}", b"")
    assert repository.wire.ask("GET", reply.headers["location"]).body == data


def test_an_empty_blob_in_chunks(repository: Repository) -> None:
    """No chunk at all, or an empty one, makes the empty blob."""
    for chunks in (0, 1):
        location = repository.start()
        for _ in range(chunks):
            location = repository.wire.ask("PATCH", location, b"").headers["location"]
        assert repository.wire.ask("PUT", f"{location}?digest={sha256(b'')}", b"").status == 201
    assert repository.ask("GET", f"blobs/{sha256(b'')}").body == b""


def test_status(repository: Repository) -> None:
    """GET of an active upload is 204 with Location and Range."""
    location = repository.start()
    reply = repository.wire.ask("GET", location)
    assert (reply.status, reply.headers["location"], reply.headers["range"]) == (204, location, "0-0")
    patch(repository, location, b"x" * 10, 0)
    assert repository.wire.ask("GET", location).headers["range"] == "0-9"


def test_an_upload_belongs_to_its_repository(repository: Repository, other: Repository) -> None:
    """Another repository's name does not find it, so that nobody ends an upload into what it may not write."""
    location = repository.start()
    patch(repository, location, b"x", 0)
    strange = location.replace(repository.name, other.name)
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        body = b"x" if method[0] == "P" else None
        reply = repository.wire.ask(method, f"{strange}?digest={sha256(b'x')}", body)
        assert reply.brief == (404, "BLOB_UPLOAD_UNKNOWN")
    assert repository.wire.ask("PUT", f"{location}?digest={sha256(b'x')}", b"").status == 201


def test_cancel(repository: Repository) -> None:
    """ "Cancel a blob upload": 204, and the session is gone."""
    location = repository.start()
    patch(repository, location, b"x" * 50_000, 0)
    assert repository.wire.ask("DELETE", location).status == 204
    assert repository.wire.ask("GET", location).brief == (404, "BLOB_UPLOAD_UNKNOWN")
    assert repository.wire.ask("DELETE", location).brief == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("id", ["0" * 32, "nothing", "..", "%2e%2e%2f", "0" * 31, "F" * 32, "0" * 5000])
def test_a_session_that_was_never_begun(repository: Repository, id: str) -> None:
    """404, whatever the id looks like."""
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        reply = repository.ask(
            method, f"blobs/uploads/{id}?digest={ABSENT}", b"" if method[0] == "P" else None
        )
        assert reply.status in (404, 400) and reply.code in (
            "BLOB_UPLOAD_UNKNOWN",
            "NAME_INVALID",
            "NAME_UNKNOWN",
        )


def test_waiting_uploads_hold_no_descriptors(
    repository: Repository, served_descriptors: Callable[[], int]
) -> None:
    """Sessions whose clients have gone wait for a day: they must not use up what connections need."""
    before = served_descriptors()
    for _ in range(40):
        patch(repository, repository.start(), b"x" * 10, 0)
    assert served_descriptors() < before + 10
