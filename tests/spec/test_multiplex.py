"""Frames of an attach stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.spec.multiplex import STDERR, STDOUT, Demultiplexer, format_frame

frames = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)))


@given(frames, st.integers(1, 20))
def test_any_cut(pieces: list[tuple[int, bytes]], size: int) -> None:
    """Each stream's bytes come out complete and in order, however the stream is cut."""
    wire = b"".join(format_frame(*piece) for piece in pieces)
    demultiplexer = Demultiplexer()
    found = [item for at in range(0, len(wire), size) for item in demultiplexer.feed(wire[at : at + size])]
    for stream in (STDOUT, STDERR):
        assert b"".join(d for s, d in found if s == stream) == b"".join(d for s, d in pieces if s == stream)


def test_long_frame_is_not_collected() -> None:
    """What is there of a long frame is given out at once."""
    assert Demultiplexer().feed(b"\x01\0\0\0\xff\xff\xff\xffabc") == [(STDOUT, b"abc")]


@pytest.mark.parametrize("header", [b"\x07\0\0\0\0\0\0\1", b"hello wo"])
def test_out_of_step(header: bytes) -> None:
    """Bytes that are no frame header are an error, not output."""
    with pytest.raises(ValueError, match="out of step"):
        Demultiplexer().feed(header + b"x")
