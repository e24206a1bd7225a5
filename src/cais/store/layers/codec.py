"""Compressed layers as plain chunks: the codec is told by its first bytes, never by a name."""

import bz2
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol, cast

import zstandard
from isal import igzip_lib

from cais.errors import Corrupt, Invalid
from cais.store.layers.limits import Limits

CHUNK = 256 << 10
"""Bytes of one chunk: it stays in the second-level cache between inflating, hashing and writing."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes([0x50 + low]) + b"\x2a\x4d\x18" for low in range(16))
_XZ = b"\xfd7zXZ\x00"
_BZIP2 = b"BZh"
_MAGIC = 6
# zstd and xz declare how much memory they want. Docker's daemons refuse windows above this too.
_ZSTD_WINDOW = 1 << 27
_XZ_MEMORY = 1 << 27

_BROKEN = (
    EOFError,
    ValueError,
    lzma.LZMAError,
    zlib.error,
    zstandard.ZstdError,
    cast("type[Exception]", igzip_lib.IsalError),
)


class _Decompressor(Protocol):
    """The interface that bz2, lzma and isal share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def read_chunks(source: BinaryIO, limits: Limits) -> Iterator[bytes]:
    """The uncompressed bytes of ``source`` from its current position, in chunks of at most ``CHUNK`` bytes.

    Constant memory whatever the ratio. Raises Corrupt for a broken or truncated stream, Invalid for a bomb.
    """
    head = _read_head(source)
    kind = sniff(head)
    counted = _Counted(source, head)
    chunks = _inflate_zstd(counted) if kind == "zstd" else _inflate(counted, kind)
    produced = 0
    try:
        for chunk in chunks if kind else iter(lambda: counted.read(CHUNK), b""):
            produced += len(chunk)
            _check(produced, counted.count, limits)
            yield chunk
    except _BROKEN as error:
        raise Corrupt(f"broken {kind or 'tar'} stream: {error}") from error
    except OSError as error:
        if error.errno:
            raise  # the disk's, or the connection's
        raise Corrupt(f"broken {kind} stream: {error}") from error  # bz2's way to say so


def sniff(head: bytes) -> str:
    """The codec whose magic number ``head`` starts with: gzip, zstd, xz, bzip2, or empty for none."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD) or head.startswith(_ZSTD_SKIPPABLE):
        return "zstd"
    if head.startswith(_XZ):
        return "xz"
    return "bzip2" if head.startswith(_BZIP2) else ""


class _Counted:
    """A source with some bytes already read, that counts what it has handed out."""

    def __init__(self, source: BinaryIO, head: bytes) -> None:
        self._source = source
        self._head = head
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data, self._head = self._head, b""
        else:
            data = self._source.read(size)
        self.count += len(data)
        return data


def _read_head(source: BinaryIO) -> bytes:
    head = b""
    while len(head) < _MAGIC and (more := source.read(_MAGIC - len(head))):
        head += more
    return head


def _check(produced: int, consumed: int, limits: Limits) -> None:
    if produced > limits.max_bytes:
        raise Invalid(f"layer is larger than {limits.max_bytes} bytes")
    if produced > limits.ratio_floor and produced > consumed * limits.max_ratio:
        raise Invalid(f"layer grows more than {limits.max_ratio} times when it is decompressed")


def _make_decompressor(kind: str) -> _Decompressor:
    made: _Decompressor
    match kind:
        case "gzip":
            made = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        case "xz":
            made = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        case _:
            made = bz2.BZ2Decompressor()
    return made


def _inflate(source: _Counted, kind: str) -> Iterator[bytes]:
    """Streams may follow each other, as pigz and bgzip write them; zeros after the last one are padding."""
    codec = _make_decompressor(kind)
    data = b""
    while True:
        if not data and codec.needs_input:
            data = source.read(CHUNK)
            if not data:
                raise Corrupt(f"truncated {kind} stream")
        chunk = codec.decompress(data, CHUNK)
        data = b""
        if chunk:
            yield chunk
        if codec.eof:
            data = codec.unused_data.lstrip(b"\0")
            while not data and (more := source.read(CHUNK)):
                data = more.lstrip(b"\0")
            if not data:
                return
            codec = _make_decompressor(kind)


def _inflate_zstd(source: _Counted) -> Iterator[bytes]:
    # The stream reader bounds its output; decompressobj would return all that one input chunk expands to.
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    with decompressor.stream_reader(
        cast(BinaryIO, source), read_size=CHUNK, read_across_frames=True
    ) as reader:
        while chunk := reader.read(CHUNK):
            yield chunk
