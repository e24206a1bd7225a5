"""Undoing whatever compression a whole stream has, in bounded memory, while its bytes arrive."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import zstandard
from isal import igzip_lib

from cais.errors import Corrupt

OUTPUT = 1 << 20
"""Bytes handed on at once: a bomb must not become memory."""

_MAGIC = 6
_ZSTD_SLICE = 2048
"""zstd has no output limit: a block of 4 bytes can hold 128 KiB, so one slice gives at most 64 MiB."""
# The stubs call it a value.
_IsalError: type[Exception] = igzip_lib.error  # type: ignore[assignment]
_BROKEN: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    lzma.LZMAError,
    zlib.error,
    _IsalError,
    zstandard.ZstdError,
)


class _Decoder(Protocol):
    def decode(self, data: bytes) -> Iterator[bytes]: ...

    def finish(self) -> None: ...


class Inflater:
    """Plain, gzip, zstd, bzip2 or xz, told by the first bytes; several members in a row are one stream.

    Raises Corrupt for a stream that is damaged or ends too early.
    """

    def __init__(self) -> None:
        self._head = b""
        self._decoder: _Decoder | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bytes that ``data`` adds."""
        if self._decoder is None:
            data = self._head + data
            if len(data) < _MAGIC:
                self._head = data
                return
            self._decoder = _choose(data)
        yield from _guard(self._decoder.decode(data))

    def finish(self) -> Iterator[bytes]:
        """There is no more: check that the stream is whole, and give what was too short to tell."""
        if self._decoder is None:
            yield self._head
        else:
            self._decoder.finish()


def _choose(head: bytes) -> _Decoder:
    if head.startswith(b"\x1f\x8b"):
        return _Members(_gzip_member, b"\x1f\x8b")
    if head.startswith((b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18")):
        return _Zstd()
    if head.startswith(b"BZh"):
        return _Members(bz2.BZ2Decompressor, b"BZh")
    if head.startswith(b"\xfd7zXZ\0"):
        return _Members(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), b"\xfd7zXZ\0")
    return _Plain()


def _guard(pieces: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        try:
            piece = next(pieces, None)
        except _BROKEN as error:
            raise Corrupt(f"archive cannot be decompressed: {error}") from error
        if piece is None:
            return
        if piece:
            yield piece


def _gzip_member() -> Any:
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


class _Plain:
    def decode(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class _Members:
    """gzip, bzip2, xz: objects of the standard library's shape, one a member."""

    def __init__(self, make: Callable[[], Any], magic: bytes) -> None:
        self._make = make
        self._magic = magic
        self._member = make()
        self._between = b""
        self._ended = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._ended:
                data = self._next(data)
                if not data:
                    return
            yield self._member.decompress(data, OUTPUT)
            while not self._member.needs_input and not self._member.eof:
                yield self._member.decompress(b"", OUTPUT)
            self._ended = self._member.eof
            data = self._member.unused_data if self._ended else b""

    def _next(self, data: bytes) -> bytes:
        """The start of the next member; padding with zeros is skipped, as gzip(1) and xz(1) do."""
        data = (self._between + data).lstrip(b"\0")
        self._between = b""
        if len(data) < len(self._magic):
            self._between = data
            return b""
        if not data.startswith(self._magic):
            raise OSError("garbage after the end")
        self._member, self._ended = self._make(), False
        return data

    def finish(self) -> None:
        if not self._ended or self._between:
            raise Corrupt("archive cannot be decompressed: unexpected EOF")


class _Zstd:
    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._fed = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_SLICE):
            rest = data[start : start + _ZSTD_SLICE]
            while rest:
                self._fed = True
                yield self._frame.decompress(rest)
                rest = b""
                if self._frame.eof:
                    rest = self._frame.unused_data
                    self._frame, self._fed = self._decompressor.decompressobj(), False

    def finish(self) -> None:
        if self._fed:
            raise Corrupt("archive cannot be decompressed: unexpected EOF")
