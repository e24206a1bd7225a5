"""Sizes, times and CPUs read and shown as Docker does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.cli import units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("32", 32),
        ("32b", 32),
        ("32k", 32 << 10),
        ("1.5 MiB", 3 << 19),
        ("2GB", 2 << 30),
        ("32.5kB", 33280),
    ],
)
def test_parse_bytes(text: str, size: int) -> None:
    """Suffixes in either case, with and without B, in powers of 1024."""
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "hello", "-32", ".3kBb", " 32 ", "32bb", "1_0k", "inf", "nan", "1e999", "3mm", "3ix"]
)
def test_not_bytes(text: str) -> None:
    """Everything else is refused."""
    with pytest.raises(ValueError, match="invalid"):
        units.parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1984000, "1.98MB"),
        (999900, "1e+03kB"),
        (117_000_000, "117MB"),
        (5 * 10**9, "5GB"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    """Three digits in powers of 1000 (999.9 kB is Docker's own 1e+03kB)."""
    assert units.format_size(size) == text


def test_format_binary_size() -> None:
    """Memory is shown in powers of 1024."""
    assert units.format_binary_size(25_275_867_136) == "23.54GiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (729 * 86400, "24 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_format_age(seconds: float, text: str) -> None:
    """Docker's words for a length of time."""
    assert units.format_age(seconds) == text


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0),
        ("5s", 5 * 10**9),
        ("1m30s", 90 * 10**9),
        ("-1.5h", -5400 * 10**9),
        ("100ms", 10**8),
        ("1µs", 1000),
        (".5s", 5 * 10**8),
    ],
)
def test_parse_duration(text: str, nano: int) -> None:
    """Go's durations."""
    assert units.parse_duration(text) == nano


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "missing unit"),
        ("5x", 'unknown unit "x"'),
        ("", "invalid"),
        ("s", "invalid"),
        ("1..5s", "invalid"),
        ("-", "invalid"),
    ],
)
def test_not_a_duration(text: str, words: str) -> None:
    """Everything else is refused in Go's words."""
    with pytest.raises(ValueError, match=words):
        units.parse_duration(text)


@given(st.integers(0, 10**6), st.integers(0, 9))
def test_cpus_are_exact(nano: int, digits: int) -> None:
    """Decimal CPUs never pass through a float."""
    text = f"{nano / 10**digits:.9f}" if digits < 4 else str(nano)
    assert units.parse_cpus(text) * 1 == round(float(text) * 10**9)


@pytest.mark.parametrize(
    ("text", "nano"), [("1.5", 1_500_000_000), ("3/2", 1_500_000_000), ("0.000000001", 1), ("2", 2 * 10**9)]
)
def test_parse_cpus(text: str, nano: int) -> None:
    """Decimals and fractions as billionths."""
    assert units.parse_cpus(text) == nano


@pytest.mark.parametrize("text", ["", "x", "1/0", "1.2345678901", "1/3", "1e3"])
def test_not_cpus(text: str) -> None:
    """What is not a number, or finer than a billionth, is refused."""
    with pytest.raises(ValueError):
        units.parse_cpus(text)
