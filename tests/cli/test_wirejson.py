"""JSON by the C core alone means the same as the json package's."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.cli.wirejson import JsonLines, format_json, format_pretty, parse_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_round_trip(value: Any) -> None:
    """What is formatted is what json reads, and reads back as the same value."""
    text = format_json(value)
    assert json.loads(text) == value and parse_json(text) == value
    assert parse_json(json.dumps(value, indent=2).encode()) == value


@given(values)
def test_pretty(value: Any) -> None:
    """The indented form is the same value."""
    assert json.loads(format_pretty(value)) == value


def test_pretty_looks_like_docker() -> None:
    """Four blanks a level; empty containers on one line."""
    assert (
        format_pretty([{"a": {}, "b": [1]}])
        == '[\n    {\n        "a": {},\n        "b": [\n            1\n        ]\n    }\n]'
    )


@pytest.mark.parametrize("text", ["", "{", "[1,]", "1 2", "tru", '{"a" 1}', '"\\x"', "nul"])
def test_not_json(text: str) -> None:
    """Everything else is a ValueError."""
    with pytest.raises(ValueError):
        parse_json(text)


def test_lines_across_pieces() -> None:
    """Values of a stream are found though pieces end inside them."""
    lines = JsonLines()
    assert lines.feed(b'{"a":1}\r\n{"a"') == [{"a": 1}]
    assert lines.feed(b":2}\n\n") == [{"a": 2}]
    assert lines.feed(b'{"a":3}') == [] and lines.end() == [{"a": 3}]
