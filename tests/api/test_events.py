"""Events for clients of different ages, and the filters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.api.replies import json_bytes
from cais.api.times import parse_unix_time
from cais.api.wire.events import event_message, is_wanted
from cais.errors import Invalid
from cais.events import Event

EVENT = Event(
    "container",
    "exec_start: sh -c true",
    "abc123",
    1_500_000_000_123_456_789,
    {"image": "bb", "name": "n", "a": "b"},
)


def test_legacy_fields() -> None:
    """Up to API 1.51 ``status``, ``id`` and ``from`` are there; the CLI before 24 fails without them."""
    line = json_bytes(event_message(EVENT, (1, 51)))
    assert line.startswith(
        b'{"status":"exec_start: sh -c true","id":"abc123","from":"bb","Type":"container",'
    )
    assert line.endswith(b'"scope":"local","time":1500000000,"timeNano":1500000000123456789}\n')
    assert b'"status"' not in json_bytes(event_message(EVENT, (1, 52)))


def test_other_kinds_have_none() -> None:
    """Volumes and networks never had them."""
    assert json_bytes(event_message(Event("volume", "create", "v", 1), (1, 41))).startswith(
        b'{"Type":"volume"'
    )


@pytest.mark.parametrize(
    "filters",
    [
        {"event": ["exec_start"]},
        {"event": ["die", "exec_start"]},
        {"type": ["container"]},
        {"container": ["n"]},
        {"container": ["abc"]},
        {"image": ["bb"]},
        {"label": ["a", "a=b"]},
        {"scope": ["local"]},
        {},
    ],
)
def test_wanted(filters: dict[str, list[str]]) -> None:
    """Any value of a key will do, but all labels must be there."""
    assert is_wanted(EVENT, filters)


@pytest.mark.parametrize(
    "filters",
    [
        {"event": ["die"]},
        {"type": ["image"]},
        {"container": ["other"]},
        {"volume": ["n"]},
        {"image": ["b"]},
        {"label": ["a", "c"]},
        {"type": ["container"], "event": ["die"]},
        {"node": ["x"]},
    ],
)
def test_unwanted(filters: dict[str, list[str]]) -> None:
    """Every key must be satisfied."""
    assert not is_wanted(EVENT, filters)


@given(st.integers(0, 2**40), st.integers(0, 999_999_999))
def test_unix_time(seconds: int, nanoseconds: int) -> None:
    """Seconds with a fraction, as Go writes them."""
    assert parse_unix_time(f"{seconds}.{nanoseconds:09d}", "since") == seconds * 10**9 + nanoseconds


@pytest.mark.parametrize("text", ["x", "1.x", "1e3", "--1", "1 "])
def test_no_time(text: str) -> None:
    """Anything else is refused with the parameter's name."""
    with pytest.raises(Invalid, match="invalid value for 'since'"):
        parse_unix_time(text, "since")
