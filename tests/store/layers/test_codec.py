"""Codecs: told by content, several streams in one, truncation, bombs in constant memory."""

import bz2
import gzip
import io
import lzma
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from cais.errors import Corrupt, Invalid
from cais.store.layers.codec import CHUNK, read_chunks, sniff
from cais.store.layers.limits import DEFAULT_LIMITS, Limits

SKIPPABLE = b"\x52\x2a\x4d\x18\x04\x00\x00\x00user"
CODECS = {
    "": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def inflate(data: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Everything that comes out."""
    return b"".join(read_chunks(io.BytesIO(data), limits))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODECS)
@settings(deadline=None)
@given(data=st.binary(max_size=2000), copies=st.integers(1, 300))
def test_what_was_compressed_comes_back(kind: str, data: bytes, copies: int) -> None:
    """Each codec, from nothing to many chunks."""
    data = b"tar" + data * copies
    packed = CODECS[kind](data)
    assert sniff(packed) == kind
    assert inflate(packed) == data


@pytest.mark.parametrize("kind", [kind for kind in CODECS if kind])
def test_streams_may_follow_each_other(kind: str) -> None:
    """pigz, bgzip and zstd:chunked write several; zeros behind the last are padding."""
    one, two = CODECS[kind](b"a" * 1000), CODECS[kind](b"b" * 1000)
    assert inflate(one + two) == b"a" * 1000 + b"b" * 1000
    if kind == "zstd":
        assert inflate(SKIPPABLE + one + SKIPPABLE) == b"a" * 1000
    else:
        assert inflate(one + bytes(3000)) == b"a" * 1000


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "trailing"])
def test_broken_streams_are_corrupt(kind: str, damage: str) -> None:
    """Never an exception of the codec's own."""
    data = bytearray(CODECS[kind](bytes(range(256)) * 2000))
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "trailing":
        data += b"rubbish" * 10
    else:
        data[len(data) // 2 : len(data) // 2 + 8] = b"\xff" * 8
    with pytest.raises(Corrupt):
        inflate(bytes(data))


def test_a_broken_zstd_stream_is_corrupt() -> None:
    """Damage and rubbish; a cut is left to the tar and the diff_id."""
    data = bytearray(zstandard.compress(bytes(range(256)) * 2000))
    data[10:40] = b"\xff" * 30
    with pytest.raises(Corrupt):
        inflate(bytes(data))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_a_bomb_is_stopped_in_constant_memory(kind: str) -> None:
    """The ratio is asked beyond the floor, and no chunk is larger than CHUNK on the way."""
    bomb = CODECS[kind](bytes(64 << 20))
    limits = Limits(ratio_floor=16 << 20, max_ratio=100)
    tracemalloc.start()
    with pytest.raises(Invalid, match="more than 100 times"):
        for chunk in read_chunks(io.BytesIO(bomb), limits):
            assert len(chunk) <= CHUNK
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20  # xz asks for a dictionary of 8 MiB


def test_a_small_layer_of_zeros_is_no_bomb() -> None:
    """Below the floor any ratio is fine."""
    assert len(inflate(gzip.compress(bytes(8 << 20)))) == 8 << 20


def test_the_sources_own_errors_pass_through() -> None:
    """A disk error is not the layer's fault."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        list(read_chunks(Broken(), DEFAULT_LIMITS))
