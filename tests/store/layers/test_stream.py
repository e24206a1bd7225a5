"""The stream between the inflating thread and the consumer: exact lengths, errors, no thread left."""

import hashlib
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cais.errors import Corrupt
from cais.store.layers.stream import Stream


def threads() -> int:
    """Inflating threads that run now."""
    return sum(thread.name == "layer-inflate" for thread in threading.enumerate())


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.lists(st.integers(0, 30), max_size=8))
def test_pieces_are_exact_whatever_the_chunks(chunks: list[bytes], sizes: list[int]) -> None:
    """take cuts the stream at any place; drain hashes all of it and knows its length."""
    whole = b"".join(chunks)
    position = 0
    with Stream(iter(chunks)) as stream:
        for size in sizes:
            assert bytes(stream.take(size)) == whole[position : position + size]
            position = min(position + size, len(whole))
            assert stream.offset == position
        digest, length = stream.drain()
    assert (digest.hex, length) == (hashlib.sha256(whole).hexdigest(), len(whole))


def test_a_sink_may_take_less_than_it_is_offered() -> None:
    """write(2) may be short: the rest is offered again."""
    got = bytearray()

    def sink(part: memoryview) -> int:
        got.extend(part[:2])
        return min(2, len(part))

    with Stream(iter([b"abc", b"defgh"])) as stream:
        stream.send(7, sink)
        assert got == b"abcdefg" and stream.take(5) == b"h"


def test_a_stream_that_ends_too_early_is_corrupt() -> None:
    """The content of a file must be there in full."""
    with Stream(iter([b"abc"])) as stream, pytest.raises(Corrupt, match="1 bytes of a file are missing"):
        stream.skip(4)


def test_errors_of_the_source_arrive_in_order() -> None:
    """What came before the error is still handed out."""

    def chunks() -> Iterator[bytes]:
        yield b"abc"
        raise Corrupt("broken")

    with Stream(chunks()) as stream:
        assert stream.take(3) == b"abc"
        with pytest.raises(Corrupt, match="broken"):
            stream.take(1)


def test_the_thread_ends_with_the_block() -> None:
    """Also when an endless source is ahead of a consumer that gives up."""

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(1000)

    before = threads()
    with pytest.raises(KeyError), Stream(endless()) as stream:
        stream.take(1)
        raise KeyError
    assert threads() == before
