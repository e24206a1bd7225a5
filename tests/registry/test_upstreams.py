"""A pull-through cache fetches: once, verified, as it comes; against a registry that lies on demand."""

import hashlib
import http.client
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from cais.spec.digest import Digest
from harness.caching import Cache, caching
from harness.hub import wait_until
from harness.origin import INDEX, MANIFEST, Origin, sha256
from harness.wire import Wire


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """A registry with the upstream ``up``."""
    with caching(tmp_path) as cache:
        yield cache


@pytest.fixture
def origin(cache: Cache) -> Origin:
    """The other registry."""
    return cache.origin


def test_what_is_asked_for_is_fetched_once(cache: Cache, origin: Origin) -> None:
    """Manifest by tag and digest, and blobs: the bytes are the origin's, and the second time it is not asked."""
    layer = os.urandom(3 << 20)
    digest = origin.add("a/b", "1", layer)
    for _ in range(2):
        found = cache.ask("GET", "a/b/manifests/1")
        assert (found.status, found.headers["docker-content-digest"]) == (200, digest)
        assert found.headers["content-type"] == MANIFEST
        assert cache.ask("GET", f"a/b/manifests/{digest}").body == found.body
        assert cache.ask("HEAD", f"a/b/manifests/{digest}").status == 200
        blob = cache.ask("GET", f"a/b/blobs/{sha256(layer)}")
        assert (blob.status, blob.body) == (200, layer)
        assert cache.ask("HEAD", f"a/b/blobs/{sha256(layer)}").headers["content-length"] == str(len(layer))
    assert origin.seen == ["GET a/b manifests 1", f"GET a/b blobs {sha256(layer)}"]


def test_blobs_come_when_they_are_asked_for(cache: Cache, origin: Origin) -> None:
    """A manifest is answered without its blobs, and a HEAD of a blob does not bring it."""
    layer = os.urandom(1000)
    origin.add("a/b", "1", layer)
    assert cache.ask("GET", "a/b/manifests/1").status == 200
    assert cache.ask("HEAD", f"a/b/blobs/{sha256(layer)}").headers["content-length"] == "1000"
    assert not cache.served.blob_path(sha256(layer)).exists()
    assert origin.count("GET .* blobs") == 0


def test_an_index_and_its_manifests_come_one_by_one(cache: Cache, origin: Origin) -> None:
    """Of an index with two platforms only the one that is asked for comes."""
    one, two = origin.add("a/b", "x1", b"one"), origin.add("a/b", "x2", b"two")
    entries = [
        {"mediaType": MANIFEST, "digest": digest, "size": len(origin.manifests["a/b", digest])}
        for digest in (one, two)
    ]
    index = origin.put(
        "a/b", "1", json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    )
    assert cache.ask("GET", "a/b/manifests/1").headers["docker-content-digest"] == index
    assert cache.ask("GET", f"a/b/manifests/{two}").status == 200
    assert origin.seen == ["GET a/b manifests 1", f"GET a/b manifests {two}"]


def test_many_clients_cause_one_fetch_and_share_it(cache: Cache, origin: Origin) -> None:
    """Twelve ask at once, while the origin is half-way: it is asked once, and all get the bytes."""
    layer = os.urandom(2 << 20)
    origin.add("a/b", "1", layer)
    origin.half = threading.Event()
    path = f"a/b/blobs/{sha256(layer)}"

    def read() -> bool:
        cache.ask("GET", "a/b/manifests/1")
        connection = http.client.HTTPConnection("127.0.0.1", cache.served.port, timeout=20)
        with closing(connection):
            connection.request("GET", f"/v2/up/{path}")
            reply = connection.getresponse()
            data = reply.read(1 << 19)
            barrier.wait()  # everybody has the beginning, and nobody can have the end
            return data + reply.read() == layer

    barrier = threading.Barrier(12, action=origin.half.set, timeout=20)
    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(lambda _: read(), range(12)))
    assert origin.count(f"GET .* blobs {sha256(layer)}") == 1
    assert origin.count("GET .* manifests") == 1


def test_a_client_that_goes_away_does_not_end_the_fetch(cache: Cache, origin: Origin) -> None:
    """What has begun comes to its end: the next client finds it here."""
    layer = os.urandom(1 << 20)
    origin.add("a/b", "1", layer)
    origin.half = threading.Event()
    with closing(http.client.HTTPConnection("127.0.0.1", cache.served.port, timeout=20)) as connection:
        connection.request("GET", f"/v2/up/a/b/blobs/{sha256(layer)}")
        connection.getresponse().read(1000)
    origin.half.set()
    assert cache.ask("GET", f"a/b/blobs/{sha256(layer)}").body == layer
    assert origin.count("GET .* blobs") == 1


def test_a_part_is_sent_only_of_what_is_whole(cache: Cache, origin: Origin) -> None:
    """A range of a blob that is half-way here, of the half that is: it waits until the blob has been verified."""
    layer = os.urandom(100_000)
    origin.add("a/b", "1", layer)
    origin.half = threading.Event()
    path = f"a/b/blobs/{sha256(layer)}"
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: cache.ask("GET", path, headers={"Range": "bytes=50-99"}))
        uploads = cache.served.root / "uploads"
        wait_until(lambda: [each for each in uploads.iterdir() if each.stat().st_size], "half of the blob")
        assert not asking.done()
        origin.half.set()
        reply = asking.result()
    assert (reply.status, reply.body) == (206, layer[50:100])
    assert cache.served.blob_path(sha256(layer)).read_bytes() == layer


@pytest.mark.parametrize("size", [1, 1000, 3 << 20])
def test_a_wrong_byte_never_becomes_a_blob(cache: Cache, origin: Origin, size: int) -> None:
    """The client's connection is cut before the last byte, or it gets an error; nothing is kept; and the next
    attempt, with an honest origin, gets it right."""
    layer = os.urandom(size)
    origin.add("a/b", "1", layer)
    origin.tell = lambda data, kind: data if kind == "manifests" else bytes([data[0] ^ 1]) + data[1:]
    cache.ask("GET", "a/b/manifests/1")
    with closing(http.client.HTTPConnection("127.0.0.1", cache.served.port, timeout=20)) as connection:
        connection.request("GET", f"/v2/up/a/b/blobs/{sha256(layer)}")
        reply = connection.getresponse()
        if reply.status == 200:
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                reply.read()
        else:
            assert reply.status == 502
    assert not cache.served.blob_path(sha256(layer)).exists()
    assert not list((cache.served.root / "uploads").iterdir())
    origin.tell = lambda data, kind: data
    assert cache.ask("GET", f"a/b/blobs/{sha256(layer)}").body == layer


@pytest.mark.parametrize(
    "tell", [lambda d, k: d[:-1] if k == "blobs" else d, lambda d, k: d + b"!" if k == "blobs" else d]
)
def test_a_blob_of_another_size_is_refused(
    cache: Cache, origin: Origin, tell: Callable[[bytes, str], bytes]
) -> None:
    """Fewer or more bytes than the manifest says."""
    origin.add("a/b", "1", b"some bytes")
    cache.ask("GET", "a/b/manifests/1")
    origin.tell = tell
    assert cache.ask("GET", f"a/b/blobs/{sha256(b'some bytes')}").brief == (502, "UNAVAILABLE")
    assert not cache.served.blob_path(sha256(b"some bytes")).exists()


def test_a_manifest_is_verified(cache: Cache, origin: Origin) -> None:
    """Bytes that are not what their digest says, and bytes that are no manifest, are nobody's answer."""
    digest = origin.add("a/b", "1", b"x")
    origin.tell = lambda data, kind: data + b" "
    assert cache.ask("GET", "a/b/manifests/1").brief == (502, "UNAVAILABLE")
    assert cache.ask("GET", f"a/b/manifests/{digest}").brief == (502, "UNAVAILABLE")
    origin.tell = lambda data, kind: data
    origin.put("a/b", "odd", json.dumps({"schemaVersion": 2, "mediaType": MANIFEST}).encode())
    assert cache.ask("GET", "a/b/manifests/odd").brief == (502, "UNAVAILABLE")


# What is here


def test_a_blob_of_the_same_origin_is_shared(cache: Cache, origin: Origin) -> None:
    """Images of one origin have layers in common: the bytes come once. The origin must say that this repository has
    it too."""
    layer = os.urandom(5000)
    origin.add("a/b", "1", layer)
    origin.add("a/c", "1", layer)
    for name in ("a/b", "a/c"):
        cache.ask("GET", f"{name}/manifests/1")
        assert cache.ask("GET", f"{name}/blobs/{sha256(layer)}").body == layer
    assert origin.count(f"GET .* blobs {sha256(layer)}") == 1
    assert cache.ask("GET", f"a/d/blobs/{sha256(layer)}").brief == (404, "BLOB_UNKNOWN")
    origin.add("a/e", "1", layer)
    del origin.blobs["a/e", sha256(layer)]
    cache.ask("GET", "a/e/manifests/1")
    assert cache.ask("GET", f"a/e/blobs/{sha256(layer)}").brief == (404, "BLOB_UNKNOWN")


@pytest.mark.parametrize("claim", [b"", b"an other layer!"])
def test_blobs_of_our_own_repositories_are_not_given_away(cache: Cache, origin: Origin, claim: bytes) -> None:
    """An origin's manifest can name any digest, and it can say that it has the blob; that does not make a private blob
    of ours readable."""
    secret = b"a private layer"
    with closing(Wire(cache.served.port)) as wire:
        upload = wire.ask("POST", f"/v2/own/app/blobs/uploads/?digest={sha256(secret)}", secret)
        assert upload.status == 201
    origin.add("evil/x", "1", secret)
    del origin.blobs["evil/x", sha256(secret)]
    if claim:
        origin.blobs["evil/x", sha256(secret)] = claim
    cache.ask("GET", "evil/x/manifests/1")
    assert cache.ask("GET", f"evil/x/blobs/{sha256(secret)}").status == (502 if claim else 404)
    assert cache.ask("HEAD", f"evil/x/blobs/{sha256(secret)}").status == (200 if claim else 404)


def test_the_collector_keeps_what_manifests_name(cache: Cache, origin: Origin) -> None:
    """Blobs of a manifest stay; one that came without goes, and comes again when it is asked for."""
    named, loose = os.urandom(1000), os.urandom(1000)
    origin.add("a/b", "1", named)
    origin.blobs["a/b", sha256(loose)] = loose
    cache.ask("GET", "a/b/manifests/1")
    for data in (named, loose):
        assert cache.ask("GET", f"a/b/blobs/{sha256(data)}").body == data
    cache.collect()
    assert cache.served.blob_path(sha256(named)).exists()
    assert not cache.served.blob_path(sha256(loose)).exists()
    for data in (named, loose):
        assert cache.ask("GET", f"a/b/blobs/{sha256(data)}").body == data
    assert (origin.count(f"GET .* {sha256(named)}"), origin.count(f"GET .* {sha256(loose)}")) == (1, 2)


def test_a_deleted_copy_goes_with_its_blobs_and_comes_again(cache: Cache, origin: Origin) -> None:
    """After the repository was deleted nothing of it is left, and a pull works as the first one did."""
    layer = os.urandom(1000)
    digest = origin.add("a/b", "1", layer)
    cache.ask("GET", "a/b/manifests/1")
    cache.ask("GET", f"a/b/blobs/{sha256(layer)}")
    assert cache.ask("DELETE", f"a/b/manifests/{digest}").status == 202
    cache.collect()
    assert not cache.served.blob_path(sha256(layer)).exists()
    assert cache.ask("GET", "a/b/manifests/1").status == 200
    assert cache.ask("GET", f"a/b/blobs/{sha256(layer)}").body == layer


def test_a_manifest_that_the_disk_has_spoiled_is_fetched_again(cache: Cache, origin: Origin) -> None:
    """And the damaged bytes are put aside, or the new ones would be taken for here already."""
    digest = origin.add("a/b", "1", b"x")
    data = cache.ask("GET", "a/b/manifests/1").body
    cache.served.blob_path(digest).write_bytes(b"{}")
    cache.served.registry.forget("up/a/b")
    assert cache.ask("GET", f"a/b/manifests/{digest}").body == data
    assert hashlib.sha256(cache.served.blob_path(digest).read_bytes()).hexdigest() == Digest(digest).hex
