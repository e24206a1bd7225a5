"""References: Docker's normalisation and the grammar's edges."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cais.errors import Invalid
from cais.spec.digest import digest_bytes
from cais.spec.reference import Reference, parse_reference

DIGEST = digest_bytes(b"x")
COMPONENT = st.from_regex(r"[a-z0-9]{1,4}(?:(?:\.|_|__|-{1,2})[a-z0-9]{1,3}){0,2}", fullmatch=True)
DOMAIN = st.sampled_from(
    ["docker.io", "index.docker.io", "localhost", "localhost:5000", "quay.io", "[::1]:80", "A"]
)
TAG = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
        ("quay.io/a/b/c:t", "quay.io/a/b/c:t", "quay.io/a/b/c:t"),
        ("localhost/a", "localhost/a", "localhost/a"),
        ("localhost:5000/a", "localhost:5000/a", "localhost:5000/a"),
        ("Host/a", "Host/a", "Host/a"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        (f"a:t@{DIGEST}", f"docker.io/library/a:t@{DIGEST}", f"a:t@{DIGEST}"),
        ("docker.io/localhost/a", "docker.io/localhost/a", "docker.io/localhost/a"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
    ],
)
def test_spellings(text: str, canonical: str, familiar: str) -> None:
    """A name has one full and one short spelling."""
    reference = parse_reference(text)
    assert (reference.canonical(), reference.familiar()) == (canonical, familiar)


@settings(deadline=None)
@given(DOMAIN, st.lists(COMPONENT, min_size=1, max_size=4), TAG, st.booleans())
def test_both_spellings_parse_back(domain: str, path: list[str], tag: str | None, digest: bool) -> None:
    """canonical() and familiar() name the very reference that they were made from."""
    text = "/".join([domain, *path]) + (f":{tag}" if tag else "") + (f"@{DIGEST}" if digest else "")
    reference = parse_reference(text)
    assert parse_reference(reference.canonical()) == reference
    assert parse_reference(reference.familiar()) == reference


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Nothing but Invalid comes out of arbitrary text, and what parses survives the round trip."""
    try:
        reference = parse_reference(text)
    except Invalid:
        return
    assert parse_reference(reference.canonical()) == reference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        (":t", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a:" + "t" * 129, "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a/../b", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("a@sha256:abc", "invalid reference format"),
        ("a@", "invalid reference format"),
        ("Busybox", r"invalid reference format: repository name \(Busybox\) must be lowercase"),
        ("quay.io/A", r"repository name \(A\) must be lowercase"),
        ("a" * 64, "cannot specify 64-byte hexadecimal strings"),
        ("quay.io/" + "a" * 256, "must not be more than 255 characters"),
        ("https://quay.io/a", "invalid reference format"),
    ],
)
def test_refused_with_dockers_words(text: str, message: str) -> None:
    """Wrong names are Invalid, in dockerd's wording."""
    with pytest.raises(Invalid, match=message):
        parse_reference(text)


def test_tagged_adds_latest_only_to_a_bare_name() -> None:
    """A tag or a digest is enough; otherwise latest is meant."""
    assert parse_reference("a").tagged() == Reference("docker.io", "library/a", "latest")
    assert parse_reference("a:x").tagged().tag == "x"
    assert parse_reference(f"a@{DIGEST}").tagged().tag is None
