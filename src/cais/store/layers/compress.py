"""Compressing a layer as it is made: the same bytes in give the same bytes out."""

from typing import Protocol

import zstandard
from isal import isal_zlib

from cais.errors import Invalid

CODECS = ("gzip", "zstd", "none")

_GZIP_WINDOW = 31  # 15 bits of window, and 16: with gzip's frame, which has no time and no name then
_GZIP_LEVEL = 2
_ZSTD_LEVEL = 3


class Compressor(Protocol):
    """What isal's, zstandard's and our own compressors share."""

    def compress(self, data: bytes, /) -> bytes:
        """Take in ``data``; what is ready of the output."""
        ...

    def flush(self) -> bytes:
        """The rest of the output."""
        ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def make_compressor(codec: str) -> Compressor:
    """``gzip``, ``zstd`` or ``none``. Raises Invalid."""
    made: Compressor
    match codec:
        case "gzip":
            made = isal_zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW)
        case "zstd":
            # One thread: the other core has the hashes. Without the size in the frame, which is not known yet.
            made = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
        case "none":
            made = _Plain()
        case _:
            raise Invalid(f"unknown compression {codec!r}: use {', '.join(CODECS)}")
    return made
