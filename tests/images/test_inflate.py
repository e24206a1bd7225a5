"""Every codec is undone, in pieces, in bounded memory; damage is told."""

import bz2
import gzip
import lzma
from collections.abc import Callable

import pytest
import zstandard

from cais.errors import Corrupt
from cais.images.inflate import OUTPUT, Inflater

CODECS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
DATA = b"".join(number.to_bytes(4, "big") for number in range(100_000))


def inflate(data: bytes, step: int) -> bytes:
    """All of ``data``, fed in pieces of ``step`` bytes."""
    inflater = Inflater()
    parts = [
        part for start in range(0, len(data), step) for part in inflater.feed(data[start : start + step])
    ]
    return b"".join([*parts, *inflater.finish()])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_every_codec_is_undone(codec: str, step: int) -> None:
    """The bytes come out as they went in, whatever the pieces."""
    assert inflate(CODECS[codec](DATA), step) == DATA


@pytest.mark.parametrize("codec", ["gzip", "bzip2", "xz", "zstd"])
def test_members_in_a_row_are_one_stream(codec: str) -> None:
    """What pigz, pbzip2 and ``cat a.gz b.gz`` write is read to its end."""
    compress = CODECS[codec]
    assert inflate(compress(DATA[:10]) + compress(DATA[10:]), 5000) == DATA


@pytest.mark.parametrize("codec", ["gzip", "bzip2", "xz", "zstd"])
def test_a_stream_that_ends_early_is_corrupt(codec: str) -> None:
    """The end mark has to come."""
    with pytest.raises(Corrupt):
        inflate(CODECS[codec](DATA)[:-10], 5000)


@pytest.mark.parametrize("codec", ["gzip", "bzip2", "xz", "zstd"])
def test_a_damaged_stream_is_corrupt(codec: str) -> None:
    """A codec's own error becomes ours."""
    data = bytearray(CODECS[codec](DATA))
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    with pytest.raises(Corrupt, match="cannot be decompressed"):
        inflate(bytes(data), 5000)


def test_garbage_after_gzip_is_corrupt_and_zeros_are_padding() -> None:
    """gzip(1) ignores zeros at the end, and so do we."""
    assert inflate(gzip.compress(DATA) + bytes(1000), 5000) == DATA
    with pytest.raises(Corrupt):
        inflate(gzip.compress(DATA) + b"garbage", 5000)


@pytest.mark.parametrize("codec", ["gzip", "bzip2", "xz"])
def test_a_bomb_comes_in_small_pieces(codec: str) -> None:
    """A stream of zeros is never in memory as a whole."""
    bomb = CODECS[codec](bytes(20 << 20))
    assert max(len(part) for part in Inflater().feed(bomb)) <= OUTPUT


def test_a_zstd_bomb_comes_in_pieces_of_64_mebibytes() -> None:
    """zstd knows no output limit; feeding it little at a time is one."""
    frame = zstandard.ZstdCompressor(level=19).compress(bytes(300 << 20))
    assert max(len(part) for part in Inflater().feed(frame)) <= 64 << 20


def test_a_short_stream_is_plain() -> None:
    """Too few bytes to tell a codec are just bytes."""
    assert inflate(b"abc", 1) == b"abc"
    assert inflate(b"", 1) == b""
