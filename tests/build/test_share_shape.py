"""How caches that travel are written and read again: what strangers may make of them, and which steps go along."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.build.cache import Layer
from cais.build.share.shape import SharedCache, format_shared, merge, parse_inline, parse_shared
from cais.errors import Invalid, Unsupported
from cais.spec.descriptor import OCI_LAYER_GZIP, Descriptor
from cais.spec.digest import digest_bytes
from harness.exporting import record, sha256

A = "a" * 64


HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
BLOB = Descriptor(media_type=OCI_LAYER_GZIP, digest=digest_bytes(b"blob"), size=4)


@given(st.dictionaries(HEX, st.tuples(st.integers(0, 2**62), st.text(max_size=9), st.booleans()), max_size=5))
def test_what_is_written_is_read_again(values: dict[str, tuple[int, str, bool]]) -> None:
    """Records, and the order does not count."""
    made = Layer(digest_bytes(b"x"), BLOB)
    records = {
        key: record(made if has else None, created_ns=created, title=title)
        for key, (created, title, has) in values.items()
    }
    data = format_shared(SharedCache(records), [made.diff_id])
    assert parse_shared(data, [BLOB]).records == records
    assert data == format_shared(SharedCache(dict(reversed(records.items()))), [made.diff_id])
    inline = format_shared(SharedCache(records), [made.diff_id], inline=True)
    assert parse_inline(json.loads(inline), [made]).records == records


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_strangers_get_words_and_no_trace(value: Any) -> None:
    """Any JSON, and any bytes, in every place of the object."""
    good = {"version": 1, "records": [{"key": A, "created": 1, "layer": 0}], "diff_ids": [sha256(b"x")]}
    for name in ("version", "records", "diff_ids", "mounts"):
        for raw in (value, {**good, name: value}, {**good, name: [value]}):
            try:
                parse_shared(msgspec.json.encode(raw), [BLOB])
            except (Invalid, Unsupported):
                continue


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"records": [{"key": "../x", "created": 1}]}, "no key"),
        ({"records": [{"key": A, "created": 1, "parent": "../x"}]}, "no key"),
        ({"records": [{"key": A, "created": -1}]}, "out of range"),
        ({"records": [{"key": A, "created": 1, "layer": 1}]}, "no layer 1"),
        ({"records": [{"key": A, "created": 1, "layer": -2}]}, "no layer -2"),
        ({"records": [{"key": A, "created": 1, "title": "x" * 5000}]}, "out of range"),
        ({"diff_ids": []}, "0 diff_ids"),
        ({"diff_ids": ["../../etc"]}, "invalid digest"),
        ({"mounts": [{"name": "a", "layer": 3}]}, "no layer 3"),
        ({"version": 2}, "version 2 is unknown"),
    ],
)
def test_each_field_is_checked(change: dict[str, Any], words: str) -> None:
    """With words for what is wrong."""
    good = {"version": 1, "records": [], "diff_ids": [sha256(b"x")]}
    parse_shared(json.dumps(good).encode(), [BLOB])
    with pytest.raises((Invalid, Unsupported), match=words):
        parse_shared(json.dumps({**good, **change}).encode(), [BLOB])


def test_layers_are_layers() -> None:
    """Foreign addresses, other types and negative sizes are not taken."""
    data = json.dumps({"version": 1, "diff_ids": [sha256(b"x")]}).encode()
    for change in ({"urls": ("http://x/",)}, {"media_type": "text/plain"}, {"size": -1}):
        with pytest.raises(Invalid, match="is no layer"):
            parse_shared(data, [msgspec.structs.replace(BLOB, **change)])


def test_the_first_cache_counts() -> None:
    """Of several that know the same step."""
    one, two = (SharedCache({A: record(None, title=text)}) for text in ("1", "2"))
    assert merge([one, two]).records[A].title == "1"
