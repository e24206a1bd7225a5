"""RFC 9110 where the specification refers to it: ranges, conditions, and ``Expect: 100-continue``."""

import os

import pytest

from harness.serving import Served
from harness.wire import Repository, dial, read_reply, send_raw, sha256

DATA = b"0123456789"
SPANS = {
    "bytes=0-3": (0, 4),
    "bytes=5-5": (5, 6),
    "bytes=0-0": (0, 1),
    "bytes=9-9": (9, 10),
    "bytes=4-": (4, 10),
    "bytes=0-": (0, 10),
    "bytes=8-100": (8, 10),
    "bytes=-1": (9, 10),
    "bytes=-10": (0, 10),
    "bytes=-100": (0, 10),
}


@pytest.mark.parametrize("text", SPANS)
def test_a_part_of_a_blob(repository: Repository, text: str) -> None:
    """Section 14: 206 with just these bytes, and a Content-Range that says which; a suffix counts from the end."""
    digest = repository.push_blob(DATA)
    start, end = SPANS[text]
    reply = repository.ask("GET", f"blobs/{digest}", None, {"Range": text})
    assert (reply.status, reply.body) == (206, DATA[start:end])
    assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/10"
    assert reply.headers["content-length"] == str(end - start)
    assert reply.headers["docker-content-digest"] == digest


def test_a_part_of_a_large_blob(repository: Repository) -> None:
    """Section 14: also where a part is larger than what is sent at once."""
    data = os.urandom(9 << 20)
    digest = repository.push_blob(data)
    reply = repository.ask("GET", f"blobs/{digest}", None, {"Range": f"bytes=4097-{(9 << 20) - 2}"})
    assert reply.status == 206 and reply.body == data[4097:-1]


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=999999999999999999-"])
def test_a_part_that_is_not_there(repository: Repository, text: str) -> None:
    """Section 15.5.17: 416 with ``Content-Range: bytes */<size>``."""
    digest = repository.push_blob(DATA)
    reply = repository.ask("GET", f"blobs/{digest}", None, {"Range": text})
    assert reply.status == 416 and reply.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize(
    "text",
    [
        "bytes=5-2",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "lines=0-3",
        "0-3",
        "bytes=0-1,3-4",
        "bytes=--1",
        "bytes=0x1-",
    ],
)
def test_a_range_that_may_be_ignored(repository: Repository, text: str) -> None:
    """Section 14.2: what is invalid, of another unit, or of several parts is answered with all of it."""
    digest = repository.push_blob(DATA)
    reply = repository.ask("GET", f"blobs/{digest}", None, {"Range": text})
    assert (reply.status, reply.body) == (200, DATA)


def test_a_part_of_an_empty_blob(repository: Repository) -> None:
    """Section 14.1.2: nothing can be satisfied of nothing."""
    digest = repository.push_blob(b"")
    assert repository.ask("GET", f"blobs/{digest}", None, {"Range": "bytes=0-"}).status == 416


def test_head_knows_no_ranges(repository: Repository) -> None:
    """Section 14.2: Range is of GET alone; HEAD says how large the whole is."""
    digest = repository.push_blob(DATA)
    reply = repository.ask("HEAD", f"blobs/{digest}", None, {"Range": "bytes=0-3"})
    assert (reply.status, reply.headers["content-length"]) == (200, "10")
    assert reply.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(("tag", "status"), [("{digest}", 206), ('W/"x"', 200), ("Tue, 01 Jan 2030", 200)])
def test_if_range(repository: Repository, tag: str, status: int) -> None:
    """Section 13.1.5: the part if it is still the same, else all of it."""
    digest = repository.push_blob(DATA)
    condition = tag.format(digest=f'"{digest}"')
    reply = repository.ask("GET", f"blobs/{digest}", None, {"Range": "bytes=2-3", "If-Range": condition})
    assert (reply.status, reply.body) == (status, DATA[2:4] if status == 206 else DATA)


def test_a_download_taken_up_again(repository: Repository) -> None:
    """Section 14: parts put together are the whole, however a client cuts them."""
    data = os.urandom(100_000)
    digest, got = repository.push_blob(data), b""
    while len(got) < len(data):
        span = f"bytes={len(got)}-{len(got) + 33_333}"
        got += repository.ask("GET", f"blobs/{digest}", None, {"Range": span, "If-Range": f'"{digest}"'}).body
    assert got == data


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_if_none_match(repository: Repository, method: str) -> None:
    """Section 13.1.2: 304 without a body to who has it; in a list and weakly as well; all of it to who has another."""
    image, blob = repository.push_image("1"), repository.push_blob(DATA)
    for path, digest in (("manifests/1", image), (f"manifests/{image}", image), (f"blobs/{blob}", blob)):
        etag = repository.ask(method, path).headers["etag"]
        assert etag == f'"{digest}"'
        for known in (etag, f'"a", {etag}', f"W/{etag}", "*"):
            reply = repository.ask(method, path, None, {"If-None-Match": known})
            assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", etag)
        for known in ('"a"', f'"{sha256(b"else")}"', digest[:20]):
            assert repository.ask(method, path, None, {"If-None-Match": known}).status == 200


def test_a_tag_that_moved_is_sent(repository: Repository) -> None:
    """Section 13.1.2: who asks with the earlier manifest's ETag gets the later one."""
    first = repository.push_image("1", [b"first"])
    second = repository.push_image("1", [b"second"])
    reply = repository.ask("GET", "manifests/1", None, {"If-None-Match": f'"{first}"'})
    assert (reply.status, reply.headers["docker-content-digest"]) == (200, second)


def test_a_blob_may_be_kept_for_ever(repository: Repository) -> None:
    """RFC 8246: a blob never changes, and caches on the way may know; a tag does, and they may not."""
    digest = repository.push_blob(DATA)
    repository.push_image("1")
    assert "immutable" in repository.ask("GET", f"blobs/{digest}").headers["cache-control"]
    assert "immutable" not in repository.ask("GET", "manifests/1").headers.get("cache-control", "")


def test_expect_100_continue(served: Served, repository: Repository) -> None:
    """Section 10.1.1: who asks first is told to go on, and its body is taken."""
    data = os.urandom(5000)
    with dial(served.port) as connection:
        head = (
            f"PUT {repository.start()}?digest={sha256(data)} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
        )
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(data)
        assert read_reply(connection).status == 201
    assert repository.ask("GET", f"blobs/{sha256(data)}").body == data


def test_expect_is_answered_with_a_refusal(served: Served, repository: Repository) -> None:
    """Section 10.1.1: what would be refused is refused before the body is sent, and the connection ends."""
    with dial(served.port) as connection:
        request = (
            f"PUT /v2/{repository.name.upper()}/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
        )
        connection.sendall(f"{request}Expect: 100-continue\r\n\r\n".encode())
        reply = read_reply(connection)
        assert reply.brief == (400, "NAME_INVALID") and reply.headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_http_1_0(served: Served, repository: Repository) -> None:
    """RFC 9112, section 9.3: an old client gets all of it, and the end of it."""
    digest = repository.push_blob(DATA)
    request = f"GET /v2/{repository.name}/blobs/{digest} HTTP/1.0\r\n\r\n".encode()
    with dial(served.port) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.endswith(b"\r\n\r\n" + DATA) and b" 200 " in answer[:20]


def test_requests_one_behind_the_other(served: Served, repository: Repository) -> None:
    """RFC 9112, section 9.3.2: pipelined requests are answered in order, bodies of files too."""
    blobs = [os.urandom(size) for size in (3, 300_000, 70_000)]
    paths = [f"/v2/{repository.name}/blobs/{repository.push_blob(data)}" for data in blobs]
    with dial(served.port) as connection:
        connection.sendall(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))
        with connection.makefile("rb") as file:
            for data in blobs:
                assert file.readline().startswith(b"HTTP/1.1 200 ")
                while file.readline() != b"\r\n":
                    pass
                assert file.read(len(data)) == data


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 5x\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
    ],
)
def test_a_body_whose_end_is_unclear(served: Served, repository: Repository, head: bytes) -> None:
    """RFC 9112, section 6.3: what could be read as two different requests is refused (request smuggling)."""
    path = f"/v2/{repository.name}/blobs/uploads/?digest={sha256(b'12345')}".encode()
    reply = send_raw(served.port, b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n12345")
    assert reply.status == 400
    assert repository.ask("HEAD", f"blobs/{sha256(b'12345')}").status == 404
