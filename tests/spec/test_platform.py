"""Platforms: spellings and the choice among several."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cais.errors import Invalid
from cais.spec.platform import (
    Platform,
    choose_platform,
    format_platform,
    host_platform,
    matches,
    parse_platform,
)

AMD64 = Platform(os="linux", architecture="amd64")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("amd64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("macos/arm64", "darwin/arm64"),
    ],
)
def test_one_spelling_for_each_platform(text: str, normal: str) -> None:
    """Aliases and default variants collapse."""
    assert format_platform(parse_platform(text)) == normal


@pytest.mark.parametrize(
    "text", ["", "linux/", "linux/a/b/c", "linux/am d64", "plan9", "a/../b", "linux/a\n"]
)
def test_no_platform(text: str) -> None:
    """Anything that is not os/arch[/variant] is Invalid."""
    with pytest.raises(Invalid, match="invalid platform"):
        parse_platform(text)


@settings(deadline=None)
@given(*[st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True)] * 3)
def test_formatted_platforms_parse_back(system: str, architecture: str, variant: str) -> None:
    """format and parse are inverse for normalised values."""
    platform = parse_platform(f"{system}/{architecture}/{variant}")
    assert parse_platform(format_platform(platform)) == platform


def test_host_platform_uses_gos_names() -> None:
    """uname's words become Go's."""
    assert host_platform("Linux", "x86_64") == AMD64
    assert host_platform("Linux", "armv7l") == parse_platform("linux/arm/v7")


def test_the_best_of_several_is_chosen() -> None:
    """The host's own first, then older variants, then the 32-bit sibling; None if nothing runs."""
    offered = [parse_platform(text) for text in ("linux/386", "linux/arm64", "linux/amd64", "windows/amd64")]
    assert choose_platform(AMD64, offered) == 2
    assert choose_platform(AMD64, offered[:2]) == 0
    assert choose_platform(parse_platform("linux/amd64/v3"), offered) == 2
    assert choose_platform(parse_platform("linux/arm/v7"), [parse_platform("linux/arm/v6")]) == 0
    assert choose_platform(parse_platform("linux/arm/v6"), [parse_platform("linux/arm/v7")]) is None
    assert choose_platform(AMD64, offered[3:]) is None


def test_matches_ignores_what_was_not_asked() -> None:
    """Empty fields of the wanted platform match everything."""
    assert matches(Platform(os="linux"), AMD64)
    assert matches(parse_platform("linux/x86_64"), AMD64)
    assert not matches(parse_platform("linux/arm64"), AMD64)
    assert not matches(parse_platform("linux/arm/v6"), parse_platform("linux/arm/v7"))
    assert not matches(Platform(os="windows"), AMD64)
