"""Names on the wire: which are taken, and that none leads out of the registry's folder or into another's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.registry.http.ask import find_verb, split_path
from cais.registry.naming import parse_name, parse_ref
from cais.registry.refusal import Refusal
from harness.serving import Served
from harness.wire import Repository, Wire, send_raw, sha256

ABSENT = sha256(b"nobody has pushed this")
GOOD = [
    "a", "a/b", "library/alpine", "a0/b_c/d__e/f-g/h---i/j.k", "0", "a/manifests/b", "blobs/uploads", "tags/list",
    "x/blobs", "x/manifests", "x/tags", "x/referrers", "manifests/manifests", "a/blobs/uploads", "v2/x", "_catalog/x",
    "a" * 255, "/".join(["a"] * 128),
]  # fmt: skip
BAD = [
    "A", "a/B", "a_/b", "-a", "a-", "a..b", "a/../b", "..", ".", "a/./b", ".a", "a/.b", "a___b", "a._b", "ä", "a b",
    "a:b", "a@b", "a\\b", "a/", "a%2fb%2f..", "a" * 256, "a" * 300, "/".join(["a"] * 129), "~", "a;b", "a,b", "*",
]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in GOOD if name not in ("_catalog/x",)])
def test_names_of_the_grammar(wire: Wire, name: str) -> None:
    """ "Pulling manifests": every name that matches can be pushed to and pulled from, with the routes' words in it."""
    repository = Repository(wire, name)
    digest = repository.push_image("list", [b"of " + name.encode()])
    for ref in ("list", digest):
        assert repository.ask("GET", f"manifests/{ref}").headers["docker-content-digest"] == digest
    assert repository.ask("GET", f"blobs/{sha256(b'of ' + name.encode())}").status == 200
    assert repository.ask("GET", "tags/list").json == {"name": name, "tags": ["list"]}
    assert repository.ask("GET", f"referrers/{digest}").status == 200
    assert repository.ask("DELETE", f"manifests/{digest}").status == 202


@pytest.mark.parametrize("name", BAD)
def test_names_of_no_grammar(served: Served, name: str) -> None:
    """All others are refused for every verb, as they stand and percent-encoded, and nothing is made of them."""
    encoded = "".join(f"%{byte:02x}" for byte in name.encode())
    for path in (name, encoded, encoded.upper().replace("%2F", "/")):
        for method, rest in (
            ("GET", "manifests/1"),
            ("PUT", "manifests/1"),
            ("POST", "blobs/uploads/"),
            ("GET", f"blobs/{ABSENT}"),
            ("GET", "tags/list"),
            ("GET", f"referrers/{ABSENT}"),
        ):
            line = f"{method} /v2/{path}/{rest} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            reply = send_raw(served.port, line.encode())
            assert reply.status in (400, 404), (line[:80], reply)
            assert reply.code in ("NAME_INVALID", "NAME_UNKNOWN", ""), (line[:80], reply)
    assert served.database.read("SELECT name FROM repositories WHERE name = ?", name) == []


@pytest.mark.parametrize(
    "path",
    [
        "/v2/../../etc/passwd", "/v2/%2e%2e/%2e%2e/etc/passwd", "/v2/a/b/blobs/..%2f..%2f..%2fhub.db",
        "/v2/a/b/blobs/sha256:..%2f..%2f..%2fhub.db", "/v2/a/b/blobs/sha256:" + "%2e" * 64,
        "/v2/a/b/blobs/sha256:" + "a" * 61 + "/..", "/v2/a/b/blobs/sha256/" + "a" * 64, "/v2//manifests/latest",
        "/v2/a//b/manifests/latest", "/v2/a/b/manifests//latest", "/v2/a/b/manifests/la%00test",
        "/v2/a%00/b/manifests/latest", "/v2/a/b/manifests/..", "/v2/a/b/manifests/%2e%2e", "/v2/a/b/manifests/%ff",
        "/v2/%ff/b/manifests/latest", "/v2/%c3%28/manifests/1", "/v2/a/b/manifests/sha256:" + "A" * 64,
        "/v2/a/b/manifests/" + "x" * 300, "/v2/a/b/manifests/sha256:" + "0" * 300, "/v2/a/b/blobs/%F0%9F%90%B3",
        "/v2/a/b/blobs/uploads/..%2f..%2fhub.db", "/v2/a/b/blobs/uploads/../../../hub.db", "/v2/a/b/tags/list/..",
        "/v2/a/b/tags/list/", "/v2/a/b/tags", "/v2/a/b", "/v2/a/b/", "/v2/a/b/blobs", "/v2/a/b/blobs/",
        "/v2/blobs/uploads/", "/v2/manifests/latest", "/v2/tags/list", "/v2/%", "/v2/a/b/manifests/%zz",
        "/v2/_catalog/", "/v2/_catalog/..", "/v2x", "/v2/a/b/manifests/latest%23x", "/v2/a/b/manifests/latest%3Fx",
        "/v2/a%2fb/../../../manifests/1", "/v2/a/b/referrers/", "/v2/a/b/referrers/..%2f",
    ],
)  # fmt: skip
def test_paths_that_lead_nowhere(served: Served, path: str) -> None:
    """Nothing outside of a repository is ever read: 4xx with a code, for reading and for writing."""
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "POST"):
        line = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        reply = send_raw(served.port, line.encode(), method)
        assert 400 <= reply.status < 500, (method, path, reply)
        assert b"SQLite" not in reply.body and b"root:" not in reply.body


def test_bytes_that_are_no_text(served: Served, wire: Wire) -> None:
    """Raw bytes outside of ASCII in a request line are refused, not guessed at."""
    for name in (b"\xc3\xa4", b"\xff\xfe", b"a\x80b"):
        reply = send_raw(served.port, b"GET /v2/" + name + b"/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert 400 <= reply.status < 500
    assert wire.ask("GET", "/v2/").status == 200


def test_encoded_names_are_the_same_names(repository: Repository) -> None:
    """RFC 3986, section 6.2.2.2: percent-encoding of what needs none changes nothing."""
    digest = repository.push_image("v1")
    encoded = "".join(f"%{byte:02X}" for byte in repository.name.encode())
    reply = repository.wire.ask("GET", f"/v2/{encoded}/manifests/%761")
    assert reply.headers["docker-content-digest"] == digest
    assert repository.ask("GET", f"manifests/{digest.replace(':', '%3A')}").status == 200


def test_a_query_that_is_strange(repository: Repository) -> None:
    """Unknown, empty and repeated parameters do no harm."""
    repository.push_image("1")
    for query in ("?", "?&&", "?=", "?a", "?ns=docker.io", "?%", "?%00=%ff", "?n=1&n=x", "?" + "a&" * 2000):
        assert repository.ask("GET", f"tags/list{query}").status == 200


# The pure functions


@given(st.text(max_size=300))
def test_a_name_is_taken_or_refused(text: str) -> None:
    """``parse_name`` gives back what it got, or raises Refusal: nothing else, of any text."""
    try:
        assert parse_name(text) == text
    except Refusal as refusal:
        assert refusal.code == "NAME_INVALID"
        return
    assert (
        ".." not in text
        and "//" not in text
        and text == text.lower()
        and "\0" not in text
        and "\n" not in text
    )


@given(st.text(max_size=200))
def test_a_reference_is_taken_or_refused(text: str) -> None:
    """``parse_ref`` gives back what it got, which is safe in a path, or raises Refusal."""
    try:
        assert parse_ref(text) == text
    except Refusal as refusal:
        assert refusal.code in ("TAG_INVALID", "DIGEST_INVALID")
        return
    assert "/" not in text and text not in (".", "..") and "\n" not in text


@given(st.text(alphabet="/%2eafmnist:abklo?&=+\0ü", max_size=60))
def test_a_path_is_taken_apart_or_refused(text: str) -> None:
    """``split_path`` and ``find_verb`` raise Refusal or nothing, of any path."""
    try:
        path, _ = split_path("/v2/" + text)
        name, verb, rest = find_verb(path)
    except Refusal:
        return
    assert name and verb in ("manifests", "blobs", "uploads", "tags", "referrers") and "/" not in rest


@given(
    st.sampled_from(GOOD),
    st.sampled_from(["manifests", "referrers", "blobs"]),
    st.sampled_from(["latest", ABSENT]),
)
def test_names_with_the_routes_words(name: str, verb: str, rest: str) -> None:
    """``find_verb`` finds the last verb, so that a name may contain them."""
    assert find_verb(f"/v2/{name}/{verb}/{rest}") == (name, verb, rest)
    assert find_verb(f"/v2/{name}/tags/list") == (name, "tags", "")
    assert find_verb(f"/v2/{name}/blobs/uploads/") == (name, "uploads", "")
    assert find_verb(f"/v2/{name}/blobs/uploads/abc") == (name, "uploads", "abc")
