"""Points in time, compared with the standard library's own arithmetic."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.cli import times

moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 1, 1))
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(moments, zones)
def test_parse_time(moment: datetime, zone: timezone) -> None:
    """RFC 3339 with any offset is the same moment datetime sees."""
    at = moment.replace(tzinfo=zone, microsecond=0)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert times.parse_time(at.isoformat()) == (at - epoch).total_seconds()


@pytest.mark.parametrize("text", ["", "now", "2026-13-01T00:00:00Z", "2026-01-01", "2026-01-01T25"])
def test_not_a_time(text: str) -> None:
    """Everything else is refused."""
    with pytest.raises(ValueError):
        times.parse_time(text)


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("10m", "999400.500000000"),
        ("1500", "1500"),
        ("1500.25", "1500.25"),
        ("1970-01-01T00:01:00Z", "60.000000000"),
        ("1970-01-01T01:00:00+01:00", "0.000000000"),
        ("1970-01-02T00:00Z", "86400.000000000"),
    ],
)
def test_parse_since(text: str, since: str) -> None:
    """Durations count back from now; dates and Unix seconds stand for themselves."""
    assert times.parse_since(text, 1_000_000.5) == since


def test_not_since() -> None:
    """Docker's words for what is neither."""
    with pytest.raises(ValueError, match='failed to parse value as time or duration: "foo"'):
        times.parse_since("foo", 0.0)


def test_format_nano(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nanoseconds are kept to the last digit."""
    assert times.format_nano(1_795_501_095_086_378_069)[-12:].rstrip("Z").partition(".")[0] != ""
    assert ".086378069" in times.format_nano(1_795_501_095_086_378_069)
