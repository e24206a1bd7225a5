"""OCI distribution specification 1.1, "Pushing blobs": in one piece, and from another repository."""

import os
import re

import pytest

from harness.wire import Repository, sha256, sha512

ABSENT = sha256(b"nobody has pushed this")
UUID = re.compile(r"[0-9a-f]{32}")


def test_a_session_is_begun(repository: Repository) -> None:
    """ "POST then PUT": 202 with a Location that holds a unique id, for a repository that did not exist."""
    replies = [repository.ask("POST", "blobs/uploads/", b"") for _ in range(3)]
    assert {reply.status for reply in replies} == {202}
    ids = {UUID.findall(reply.headers["location"])[0] for reply in replies}
    assert len(ids) == 3
    assert all(reply.headers["range"] == "0-0" for reply in replies)


def test_no_repository_is_made_by_asking(repository: Repository) -> None:
    """ "POST then PUT": an upload that is only begun makes no repository that others see."""
    repository.start()
    assert repository.ask("GET", "tags/list").brief == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize("size", [0, 1, 33 << 10, (2 << 20) + 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_post_then_put(repository: Repository, size: int, chunked: bool) -> None:
    """ "POST then PUT": 201 with the Location of the blob, which can be pulled; also with chunked encoding."""
    data = os.urandom(size)
    parts = [data[: size // 2], data[size // 2 :]]
    body = [part for part in parts if part] if chunked else data
    reply = repository.wire.ask("PUT", f"{repository.start()}?digest={sha256(data)}", body)
    assert (reply.status, reply.headers["docker-content-digest"]) == (201, sha256(data))
    assert repository.wire.ask("GET", reply.headers["location"]).body == data


@pytest.mark.parametrize("size", [0, 1, (2 << 20) + 1])
def test_single_post(repository: Repository, size: int) -> None:
    """ "Single POST": 201 with the Location of the blob, which can be pulled."""
    data = os.urandom(size)
    reply = repository.ask("POST", f"blobs/uploads/?digest={sha256(data)}", data)
    assert (reply.status, reply.headers["docker-content-digest"]) == (201, sha256(data))
    assert repository.wire.ask("GET", reply.headers["location"]).body == data


def test_single_post_of_something_else(repository: Repository) -> None:
    """ "Single POST": the digest MUST match: else 400, and nothing is there."""
    reply = repository.ask("POST", f"blobs/uploads/?digest={ABSENT}", b"something else")
    assert reply.brief == (400, "DIGEST_INVALID")
    assert repository.ask("HEAD", f"blobs/{ABSENT}").status == 404


def test_put_of_something_else(repository: Repository) -> None:
    """ "POST then PUT": a digest that does not match is refused, and the session is over."""
    location = repository.start()
    assert repository.wire.ask("PUT", f"{location}?digest={ABSENT}", b"else").brief == (400, "DIGEST_INVALID")
    assert repository.wire.ask("GET", location).brief == (404, "BLOB_UPLOAD_UNKNOWN")
    assert repository.ask("HEAD", f"blobs/{sha256(b'else')}").status == 404


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:abc",
        "md5:" + "0" * 32,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha512:" + "0" * 64,
        "sha256:" + "0" * 63 + "%0A",
        "sha256:../../../../etc/passwd",
    ],
)
def test_an_invalid_digest(repository: Repository, digest: str) -> None:
    """ "Pushing blobs": an invalid digest, or one of an unknown algorithm, is 400; the upload may go on."""
    location = repository.start()
    reply = repository.wire.ask("PUT", f"{location}?digest={digest}", b"x")
    assert reply.brief == (400, "DIGEST_INVALID")
    assert repository.wire.ask("PUT", f"{location}?digest={sha256(b'x')}", b"x").status == 201


def test_put_without_a_digest(repository: Repository) -> None:
    """ "Pushing a blob in chunks": the closing PUT MUST say the digest."""
    assert repository.wire.ask("PUT", repository.start(), b"x").brief == (400, "DIGEST_INVALID")


def test_a_session_is_over_when_it_has_ended(repository: Repository) -> None:
    """ "POST then PUT": the same session does not make a second blob."""
    location = repository.start()
    assert repository.wire.ask("PUT", f"{location}?digest={sha256(b'a')}", b"a").status == 201
    for method in ("PUT", "PATCH", "GET", "DELETE"):
        body = b"a" if method[0] == "P" else None
        reply = repository.wire.ask(method, f"{location}?digest={sha256(b'a')}", body)
        assert reply.brief == (404, "BLOB_UPLOAD_UNKNOWN")


def test_the_same_blob_again(repository: Repository) -> None:
    """ "Pushing blobs": what is there can be pushed again, by either digest, and stays as it is."""
    data = os.urandom(1000)
    for digest in (sha256(data), sha256(data), sha512(data)):
        assert repository.wire.ask("PUT", f"{repository.start()}?digest={digest}", data).status == 201
        assert repository.ask("GET", f"blobs/{digest}").body == data


def test_mount(repository: Repository, other: Repository) -> None:
    """ "Mounting a blob": 201 with the Location in the new repository; nothing is sent, and the other keeps it."""
    digest = other.push_blob(b"shared")
    reply = repository.ask("POST", f"blobs/uploads/?mount={digest}&from={other.name}", b"")
    assert (reply.status, reply.headers["docker-content-digest"]) == (201, digest)
    assert reply.headers["location"] == f"/v2/{repository.name}/blobs/{digest}"
    other.ask("DELETE", f"blobs/{digest}")
    assert repository.ask("GET", f"blobs/{digest}").body == b"shared"


@pytest.mark.parametrize(
    "source", ["&from=nobody/here", "", "&from={other}"], ids=["unknown", "none", "without"]
)
def test_mount_of_what_is_not_there(repository: Repository, other: Repository, source: str) -> None:
    """ "Mounting a blob": 202 and a session, where ``from`` is unknown, absent, or has no such blob."""
    other.push_blob(b"something")
    reply = repository.ask("POST", f"blobs/uploads/?mount={ABSENT}{source.format(other=other.name)}", b"")
    assert reply.status == 202
    data = b"nobody has pushed this"
    assert repository.wire.ask("PUT", f"{reply.headers['location']}?digest={ABSENT}", data).status == 201


def test_mount_without_from_tells_nobody_what_others_have(repository: Repository, other: Repository) -> None:
    """ "Mounting a blob": without ``from`` a blob of some other repository is not given away by its digest."""
    digest = other.push_blob(b"a secret of theirs")
    assert repository.ask("POST", f"blobs/uploads/?mount={digest}", b"").status == 202
    assert repository.ask("HEAD", f"blobs/{digest}").status == 404


def test_mount_of_what_it_has(repository: Repository) -> None:
    """ "Mounting a blob": from itself works too."""
    digest = repository.push_blob(b"mine")
    reply = repository.ask("POST", f"blobs/uploads/?mount={digest}&from={repository.name}", b"")
    assert reply.status == 201


def test_mount_from_an_invalid_name(repository: Repository) -> None:
    """ "Mounting a blob": a ``from`` that can be no repository is refused."""
    reply = repository.ask("POST", f"blobs/uploads/?mount={ABSENT}&from=../../etc", b"")
    assert reply.brief == (400, "NAME_INVALID")
    reply = repository.ask("POST", "blobs/uploads/?mount=nothing&from=a/b", b"")
    assert reply.brief == (400, "DIGEST_INVALID")


def test_a_digest_algorithm_may_be_said_ahead(repository: Repository) -> None:
    """ "Pushing a blob in chunks" (after 1.1.1): ``digest-algorithm=sha512`` begins a session for such a blob."""
    data = os.urandom(70_000)
    reply = repository.ask("POST", "blobs/uploads/?digest-algorithm=sha512", b"")
    location = reply.headers["location"]
    for part in (data[:40_000], data[40_000:]):
        location = repository.wire.ask("PATCH", location, part).headers["location"]
    assert repository.wire.ask("PUT", f"{location}?digest={sha512(data)}", b"").status == 201
    assert repository.ask("GET", f"blobs/{sha512(data)}").body == data
