"""How upstreams are written in settings, and what repositories are there."""

import pytest

from cais.errors import Invalid
from cais.registry.origins import parse_origin
from cais.spec.digest import digest_bytes

BAD_URLS = (
    *("h", "https://", "ftp://h", "https://[h"),
    *("https://h?a=b", "https://h#f", "https://h/A", "https://h:0", "https://h:99999"),
)
BAD_PREFIXES = ("X=https://h", "x/=https://h", "/x=https://h", "x//y=https://h", "..=https://h")


@pytest.mark.parametrize(
    ("text", "repository", "there", "base"),
    [
        (
            "docker.io=https://docker.io",
            "docker.io/alpine",
            "docker.io/library/alpine",
            "registry-1.docker.io",
        ),
        ("docker.io=https://registry-1.docker.io", "docker.io/a/b", "docker.io/a/b", "registry-1.docker.io"),
        (
            "library=https://docker.io/library/",
            "library/alpine",
            "docker.io/library/alpine",
            "registry-1.docker.io",
        ),
        ("ghcr=https://ghcr.io", "ghcr/alpine", "ghcr.io/alpine", "ghcr.io"),
        ("a/b=https://h:5000/c/d", "a/b/e/f", "h:5000/c/d/e/f", "h:5000"),
        ("in=http://user:p%40ss@registry", "in/x", "registry/x", "registry"),
    ],
)
def test_a_repository_is_found_at_its_origin(text: str, repository: str, there: str, base: str) -> None:
    """The prefix goes, the URL's path comes before, and Docker Hub's short names get what Docker gives them."""
    origin = parse_origin(text)
    assert origin.covers(repository)
    assert origin.refer(repository).name == there
    assert origin.base == f"{text.partition('=')[2].partition(':')[0]}://{base}"


def test_references_carry_tag_or_digest() -> None:
    """A digest wins; a tag is kept as it is."""
    origin = parse_origin("x=https://h.example")
    digest = digest_bytes(b"")
    assert origin.refer("x/a", "1.2").canonical() == "h.example/a:1.2"
    assert origin.refer("x/a", digest).canonical() == f"h.example/a@{digest}"


def test_credentials_are_read_and_never_shown() -> None:
    """They may be percent-encoded; neither the value's text nor an error has the password."""
    origin = parse_origin("x=https://me:p%40ss%3A@h.example")
    assert (origin.credentials.username, origin.credentials.password) == ("me", "p@ss:")
    assert "p@ss" not in repr(origin)
    with pytest.raises(Invalid) as refused:
        parse_origin("x=ftp://me:geheim@h.example")
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "x", "x=", "=https://h", *(f"x={url}" for url in BAD_URLS), *BAD_PREFIXES]
)
def test_what_is_no_upstream_is_refused(text: str) -> None:
    """With words, not with a traceback."""
    with pytest.raises(Invalid, match="invalid upstream"):
        parse_origin(text)


@pytest.mark.parametrize("name", ["x", "xy/a", "y/x/a", "x-a/b"])
def test_a_prefix_ends_at_a_slash(name: str) -> None:
    """Neighbours whose names only begin alike are the hub's own."""
    assert not parse_origin("x=https://h").covers(name)
