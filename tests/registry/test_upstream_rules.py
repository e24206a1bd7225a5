"""A pull-through cache over time and under rules: expiry, origins that fail, refuse and forget, and who may push."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cais.errors import Invalid
from cais.registry.origins import parse_origin
from cais.registry.upstreams import DOWN_SECONDS, MISS_SECONDS, Upstreams
from harness.caching import EXPIRY, Cache, caching
from harness.origin import MANIFEST, Origin, sha256
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


# Tags and time


def test_a_tag_is_asked_for_again_when_it_has_expired(cache: Cache, origin: Origin) -> None:
    """Until then what is here is served; then a HEAD tells, and only what has changed is fetched."""
    old = origin.add("a/b", "1", b"old")
    assert cache.digest("a/b/manifests/1") == old
    cache.now += EXPIRY
    assert cache.digest("a/b/manifests/1") == old
    assert origin.seen == ["GET a/b manifests 1", "HEAD a/b manifests 1"]
    new = origin.add("a/b", "1", b"new")
    assert cache.digest("a/b/manifests/1") == old
    cache.now += EXPIRY
    assert cache.ask("HEAD", "a/b/manifests/1").headers["docker-content-digest"] == new
    assert cache.ask("GET", f"a/b/manifests/{old}").status == 200
    assert cache.ask("GET", "a/b/tags/list").json["tags"] == ["1"]


def test_an_immutable_tag_stays(cache: Cache, origin: Origin) -> None:
    """Where the hub's administrator says that tags never move, they do not move because they do elsewhere."""
    old = origin.add("a/b", "1", b"old")
    cache.ask("GET", "a/b/manifests/1")
    cache.served.run(
        cache.served.database.write(lambda db: db.execute("UPDATE repositories SET immutable = '[\"1\"]'"))
    )
    new = origin.add("a/b", "1", b"new")
    cache.now += EXPIRY
    assert cache.digest("a/b/manifests/1") == old
    assert cache.digest("a/b/manifests/1") == old
    cache.now += EXPIRY
    cache.ask("GET", "a/b/manifests/1")
    origin.add("a/b", "other", b"new")
    assert cache.digest("a/b/manifests/other") == new
    third = origin.add("a/b", "other", b"third")
    cache.now += EXPIRY - 1
    cache.ask("GET", "a/b/manifests/1")
    cache.now += 1
    assert cache.digest("a/b/manifests/other") == third


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_is_here_is_served_while_the_origin_fails(cache: Cache, origin: Origin, status: int) -> None:
    """An expired tag too, without asking with every request; what is not here is UNAVAILABLE. When the origin is well
    again, it is asked again."""
    old = origin.add("a/b", "1", b"layer")
    cache.ask("GET", "a/b/manifests/1")
    cache.now += EXPIRY
    new = origin.add("a/b", "1", b"other")
    origin.status, origin.seen = status, []
    for _ in range(3):
        assert cache.digest("a/b/manifests/1") == old
    asked = len(origin.seen)
    assert asked <= 2 * 3  # a HEAD, then a GET for its words, each as often as patience allows
    assert cache.ask("GET", f"a/b/blobs/{sha256(b'layer')}").brief == (503, "UNAVAILABLE")
    origin.status = 0
    cache.now += DOWN_SECONDS
    assert cache.digest("a/b/manifests/1") == new


def test_what_is_missing_there_is_missing_here(cache: Cache, origin: Origin) -> None:
    """404 with the specification's codes, remembered for some seconds."""
    blob = sha256(b"appears later")
    for _ in range(2):
        assert cache.ask("GET", "a/b/manifests/1").brief == (404, "MANIFEST_UNKNOWN")
        assert cache.ask("GET", f"a/b/blobs/{blob}").brief == (404, "BLOB_UNKNOWN")
        assert cache.ask("HEAD", f"a/b/blobs/{blob}").status == 404
        assert cache.ask("HEAD", f"a/b/blobs/{sha256(b'never')}").status == 404
    assert origin.seen == [
        "GET a/b manifests 1",
        f"HEAD a/b blobs {blob}",
        f"HEAD a/b blobs {sha256(b'never')}",
    ]
    origin.add("a/b", "1", b"appears later")
    cache.now += MISS_SECONDS
    assert cache.ask("GET", "a/b/manifests/1").status == 200
    assert cache.ask("GET", f"a/b/blobs/{blob}").body == b"appears later"


@pytest.mark.slow
def test_a_tag_that_is_gone_there_goes_here(cache: Cache, origin: Origin) -> None:
    """And does not come back when the origin cannot be asked any more."""
    origin.add("a/b", "1", b"x")
    cache.ask("GET", "a/b/manifests/1")
    del origin.manifests["a/b", "1"]
    cache.now += EXPIRY
    assert cache.ask("GET", "a/b/manifests/1").brief == (404, "MANIFEST_UNKNOWN")
    origin.status = 503
    cache.now += MISS_SECONDS
    assert cache.ask("GET", "a/b/manifests/1").brief == (503, "UNAVAILABLE")
    assert cache.ask("GET", "a/b/tags/list").json["tags"] == []


# Who may


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_told_with_its_reason(cache: Cache, origin: Origin, status: int) -> None:
    """The client must not think that it is the one that has to log in."""
    origin.status = status
    reply = cache.ask("GET", "a/b/manifests/1")
    assert reply.brief == (403, "DENIED")
    assert "does not give up/a/b to this hub" in reply.json["errors"][0]["message"]
    assert cache.ask("GET", f"a/b/blobs/{sha256(b'x')}").brief == (403, "DENIED")


def test_the_hub_says_who_it_is(cache: Cache, origin: Origin) -> None:
    """With the credentials of the URL; without, or with wrong ones, it is DENIED, and no word of them is told."""
    origin.login = "me:se@cret"
    origin.add("a/b", "1", b"x")
    cache.connect(login="me:se%40cret")
    assert cache.ask("GET", "a/b/manifests/1").status == 200
    origin.add("a/c", "1", b"x")
    cache.connect(login="me:wr0ng")
    refused = cache.ask("GET", "a/c/manifests/1")
    assert refused.brief == (403, "DENIED") and b"wr0ng" not in refused.body
    cache.connect()
    assert cache.ask("GET", "a/c/manifests/1").brief == (403, "DENIED")


def test_the_path_of_the_url_comes_before(cache: Cache, origin: Origin) -> None:
    """``up/b`` is ``a/b`` there."""
    origin.add("a/b", "1", b"x")
    cache.connect("/a")
    assert cache.ask("GET", "b/manifests/1").status == 200


def test_private_addresses_are_refused(cache: Cache, origin: Origin) -> None:
    """Unless they are allowed: the origin hears nothing, and the log's reader is told why."""
    origin.add("a/b", "1", b"x")
    cache.connect(allow_private=False)
    reply = cache.ask("GET", "a/b/manifests/1")
    assert reply.brief == (503, "UNAVAILABLE")
    assert "127.0.0.1 is not a public address" in reply.json["errors"][0]["message"]
    assert not origin.seen


def test_nobody_pushes_to_a_cache(cache: Cache, origin: Origin) -> None:
    """Neither blobs nor manifests; but what is here may be deleted, and comes again."""
    origin.add("a/b", "1", b"x")
    assert cache.ask("POST", "a/b/blobs/uploads/").brief == (403, "DENIED")
    reply = cache.ask("PUT", "a/b/manifests/1", b"{}", {"Content-Type": MANIFEST})
    assert reply.brief == (403, "DENIED")
    assert "push it there, not here" in reply.json["errors"][0]["message"]
    assert cache.ask("GET", "a/b/manifests/1").status == 200
    assert cache.ask("DELETE", "a/b/manifests/1").status == 202
    assert cache.ask("GET", "a/b/manifests/1").status == 200
    assert origin.count("GET .* manifests") == 2


def test_repositories_beside_the_prefix_are_our_own(cache: Cache) -> None:
    """They are pushed to and looked for here only."""
    with closing(Wire(cache.served.port)) as wire:
        assert wire.ask("POST", "/v2/upper/a/blobs/uploads/").status == 202
        assert wire.ask("GET", "/v2/upper/a/manifests/1").status == 404
        assert wire.ask("GET", f"/v2/upper/a/blobs/{sha256(b'x')}").brief == (404, "BLOB_UNKNOWN")
        assert wire.ask("HEAD", f"/v2/upper/a/blobs/{sha256(b'x')}").status == 404
    assert not cache.origin.seen


def test_two_upstreams_need_two_prefixes(cache: Cache) -> None:
    """Else nobody could say whose a repository is."""
    with pytest.raises(Invalid, match="same prefix"):
        Upstreams(cache.served.registry, [parse_origin("a=http://x"), parse_origin("a=http://y")], expiry=1)
