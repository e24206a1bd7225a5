"""What a client may make the registry hold or do: sizes, counts, depths, and requests that want to break it."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.serving import Served, serving
from harness.wire import (
    LAYER,
    MANIFEST,
    Repository,
    Wire,
    describe,
    dial,
    format_image,
    read_reply,
    send_raw,
    sha256,
)

MAX_MANIFEST = 4 << 20
MAX_BLOB = 100_000


def pad(data: bytes, size: int) -> bytes:
    """A manifest of just ``size`` bytes."""
    return data + b" " * (size - len(data))


def test_a_manifest_of_4_mib(repository: Repository) -> None:
    """spec.md, "Pushing Manifests": at least 4 megabytes are supported, and come back."""
    for data in (b"{}", b"layer"):
        repository.push_blob(data)
    data = pad(format_image(b"{}", [b"layer"]), MAX_MANIFEST)
    repository.push_manifest(data, "large")
    assert repository.ask("GET", "manifests/large").body == data


@pytest.mark.parametrize("chunked", [False, True])
def test_a_manifest_of_more(repository: Repository, chunked: bool) -> None:
    """spec.md, "Pushing Manifests": one over the limit SHOULD be 413, whether or not its length is said ahead."""
    data = pad(format_image(b"{}", [b"layer"]), MAX_MANIFEST + 1)
    body = [data[: 1 << 20], data[1 << 20 :]] if chunked else data
    reply = repository.ask("PUT", "manifests/large", body, {"Content-Type": MANIFEST})
    assert reply.brief == (413, "SIZE_INVALID")


def test_a_manifest_that_never_ends(served: Served, repository: Repository) -> None:
    """It is refused when the limit is passed, and not first read to its end."""
    head = f"PUT /v2/{repository.name}/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n"
    with dial(served.port) as connection:
        connection.sendall(head.encode())
        connection.sendall(b"x" * (MAX_MANIFEST + 1))
        reply = read_reply(connection)
    assert reply.brief == (413, "SIZE_INVALID") and reply.headers["connection"] == "close"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 2_000_000,
        b'{"a":' * 500_000,
        b'{"schemaVersion":2,"config":' + b'{"annotations":' * 100_000,
        b'{"schemaVersion":2,"x":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"schemaVersion":2,"manifests":' + b"[[" * 100_000 + b"]]" * 100_000 + b"}",
    ],
    ids=["lists", "objects", "config", "nearly", "closed"],
)
def test_depth(repository: Repository, data: bytes) -> None:
    """JSON that nests without end is no manifest, and the next request is answered."""
    assert repository.put_manifest(data, "1").brief == (400, "MANIFEST_INVALID")
    assert repository.ask("GET", "tags/list").status == 404


@pytest.mark.slow
@pytest.mark.parametrize("count", [10_000, 10_001])
def test_layers(repository: Repository, count: int) -> None:
    """10,000 layers are a manifest, one more is none."""
    repository.push_blob(b"{}")
    repository.push_blob(b"layer")
    reply = repository.put_manifest(format_image(b"{}", [], layers=[describe(b"layer")] * count), "1")
    assert reply.brief == ((201, "") if count == 10_000 else (400, "MANIFEST_INVALID"))


def test_many_different_layers_that_are_not_there(repository: Repository) -> None:
    """The first that is absent ends it, whatever else the manifest names."""
    repository.push_blob(b"{}")
    layers = [{"mediaType": LAYER, "digest": f"sha256:{number:064x}", "size": 1} for number in range(9_999)]
    reply = repository.put_manifest(format_image(b"{}", [], layers=layers), "1")
    assert reply.brief == (404, "MANIFEST_BLOB_UNKNOWN")


def test_annotations_of_any_text(repository: Repository) -> None:
    """What people write is listed as they wrote it: NUL, other scripts, a megabyte."""
    texts = {"nul": "a\0b", "empty": "", "": "no key", "Ω": "𝛀 \u2028", "long": "x" * (1 << 20), "'; --": '"'}
    subject = repository.push_image("1")
    repository.push_referrer(subject, annotations=texts)
    (entry,) = repository.ask("GET", f"referrers/{subject}").json["manifests"]
    assert entry["annotations"] == texts


@pytest.mark.parametrize(
    "fields", [{"annotations": {"a": 1}}, {"annotations": []}, {"artifactType": 5}, {"layers": 1}]
)
def test_fields_of_other_types(repository: Repository, fields: dict[str, object]) -> None:
    """What image-spec says is text or a list must be."""
    repository.push_blob(b"{}")
    reply = repository.put_manifest(format_image(b"{}", [], **fields), "1")
    assert reply.brief == (400, "MANIFEST_INVALID")


def test_keys_twice(repository: Repository) -> None:
    """Of a key that stands twice all readers of ours see the same: what was checked is what is recorded."""
    for data in (b"{}", b"layer", b"other"):
        repository.push_blob(data)
    first, second = (json.dumps([describe(data)]) for data in (b"absent", b"layer"))
    data = format_image(b"{}", []).replace(b'"layers": []', f'"layers": {first}, "layers": {second}'.encode())
    repository.push_manifest(data, "1")
    assert repository.ask("DELETE", f"blobs/{sha256(b'layer')}").status == 409


# Blobs of a registry with a limit


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One whose blobs may have MAX_BLOB bytes."""
    with serving(tmp_path_factory.mktemp("small"), max_blob=MAX_BLOB) as served:
        yield served


@pytest.fixture
def limited(small: Served) -> Iterator[Repository]:
    """A repository there."""
    with closing(Wire(small.port)) as wire:
        yield Repository(wire, "team/limited")


def test_a_blob_of_the_limit(limited: Repository) -> None:
    """It is taken."""
    limited.push_blob(b"x" * MAX_BLOB)


@pytest.mark.parametrize("way", ["put", "post", "chunks", "stream"])
def test_a_blob_of_more(limited: Repository, small: Served, way: str) -> None:
    """413 whichever way it comes, and nothing of it stays on the disk."""
    data = b"y" * (MAX_BLOB + 1)
    location = limited.start()
    if way == "put":
        reply = limited.wire.ask("PUT", f"{location}?digest={sha256(data)}", data)
    elif way == "post":
        reply = limited.ask("POST", f"blobs/uploads/?digest={sha256(data)}", data)
    elif way == "stream":
        reply = limited.wire.ask("PATCH", location, [data[:50_000], data[50_000:]])
    else:
        assert limited.wire.ask("PATCH", location, data[:MAX_BLOB]).status == 202
        reply = limited.wire.ask("PATCH", location, data[MAX_BLOB:])
    assert reply.brief == (413, "SIZE_INVALID")
    if way != "post":
        assert limited.wire.ask("GET", location).brief == (404, "BLOB_UPLOAD_UNKNOWN")
        assert not list((small.root / "uploads").glob(f"{location.rpartition('/')[2]}*"))


# Requests that want to break it


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(100_000)) + b"\r\n",
        b"GET /v2/" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 60,
        b"G\0T /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n\r\n\r\nnonsense\r\n\r\n",
    ],
    ids=["value", "headers", "line", "colon", "version", "tls", "nul", "nonsense"],
)
def test_what_is_no_request(served: Served, wire: Wire, request_: bytes) -> None:
    """It is refused with 400 or cut, nobody else notices, and nothing of it is kept."""
    try:
        with dial(served.port) as connection:
            connection.sendall(request_)
            answer = connection.recv(100)
    except ConnectionError:
        answer = b""
    assert not answer or answer[:12] in (b"HTTP/1.0 400", b"HTTP/1.1 400"), answer
    assert wire.ask("GET", "/v2/").status == 200


def test_a_method_that_nobody_knows(served: Served, wire: Wire) -> None:
    """It is 405 or 400, not a failure."""
    for method in ("BREW", "TRACE", "OPTIONS", "CONNECT"):
        reply = send_raw(served.port, f"{method} /v2/a/b/tags/list HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert reply.status in (400, 405), (method, reply)
    assert wire.ask("GET", "/v2/").status == 200


@pytest.mark.slow
def test_connections_that_say_nothing(served: Served, wire: Wire) -> None:
    """They keep nobody from being answered."""
    idle = [dial(served.port) for _ in range(300)]
    try:
        for connection in idle[::2]:
            connection.sendall(b"GET /v2/ HT")
        assert wire.ask("GET", "/v2/").status == 200
    finally:
        for connection in idle:
            connection.close()


def test_neighbours_are_not_believed_by_name(tmp_path: Path) -> None:
    """A store beside ours gives what it has, and what it has not is sent as ever."""
    folder = tmp_path / "engine" / "blobs" / "sha256"
    folder.mkdir(parents=True)
    (folder / sha256(b"shared")[7:]).write_bytes(b"shared")
    with (
        serving(tmp_path / "hub", neighbours=(tmp_path / "engine",)) as served,
        closing(Wire(served.port)) as wire,
    ):
        repository = Repository(wire, "a/b")
        reply = repository.ask("POST", f"blobs/uploads/?mount={sha256(b'shared')}&from=c/d", b"")
        assert reply.status == 201 and repository.ask("GET", f"blobs/{sha256(b'shared')}").body == b"shared"
        reply = repository.ask("POST", f"blobs/uploads/?mount={sha256(b'else')}&from=c/d", b"")
        assert reply.status == 202
        repository.ask("DELETE", f"blobs/{sha256(b'shared')}")
    assert (folder / sha256(b"shared")[7:]).read_bytes() == b"shared"
