"""Layers in another form: with another compression, or without times that are later than a given one; for a worker."""

import hashlib
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import zstandard

from cais.errors import Corrupt
from cais.spec.digest import Digest
from cais.store.layers.codec import read_chunks
from cais.store.layers.compress import Compressor, make_compressor
from cais.store.layers.limits import DEFAULT_LIMITS
from cais.store.layers.pack import END, Member, format_member, padding
from cais.store.layers.stream import Stream
from cais.store.layers.tar import REGULAR, Entry, read_entries

_GZIP_WINDOW = 31
_CHUNK = 256 << 10


class Conversion(msgspec.Struct, frozen=True):
    """``codec``: gzip, zstd, none; ``level``: None for the engine's own; ``epoch``: seconds, later times become it."""

    codec: str
    level: int | None = None
    epoch: int | None = None


class ConvertedLayer(msgspec.Struct, frozen=True):
    """A blob without a name yet: it lies at ``path`` in the content store's folder and is to be renamed to ``digest``
    once that is leased. ``size`` is bytes."""

    path: Path
    digest: Digest
    size: int
    diff_id: Digest


def convert_layer(source: Path, diff_id: Digest, conversion: Conversion) -> ConvertedLayer:
    """The blob at ``source`` in the content store, converted; the same bytes give the same bytes. A failure leaves
    nothing. Raises Corrupt if the source is not ``diff_id``, OSError."""
    epoch = conversion.epoch
    if epoch is not None and not _is_later(source, epoch):
        epoch = None
    # The folder of the content store, and a name that it sweeps at the engine's start.
    target = source.parents[2] / f".tmp-{uuid.uuid4().hex}"
    read, plain, packed, size = hashlib.sha256(), hashlib.sha256(), hashlib.sha256(), 0
    compressor = make_leveled_compressor(conversion.codec, conversion.level)
    try:
        with source.open("rb", buffering=0) as file, target.open("xb", buffering=_CHUNK) as out:
            chunks = _tee(read_chunks(file, DEFAULT_LIMITS), read)
            for chunk in chunks if epoch is None else _rewrite(chunks, epoch):
                plain.update(chunk)
                data = compressor.compress(chunk)
                packed.update(data)
                size += out.write(data)
            data = compressor.flush()
            packed.update(data)
            size += out.write(data)
        if f"sha256:{read.hexdigest()}" != diff_id:
            raise Corrupt(f"layer is not what its config says: want {diff_id}")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    digest, made = Digest(f"sha256:{packed.hexdigest()}"), Digest(f"sha256:{plain.hexdigest()}")
    return ConvertedLayer(target, digest, size, made)


def make_leveled_compressor(codec: str, level: int | None) -> Compressor:
    """As ``make_compressor``, at a level that somebody asked for. Raises Invalid."""
    made: Compressor
    if level is None or codec == "none":
        made = make_compressor(codec)
    elif codec == "gzip":
        made = cast(Compressor, zlib.compressobj(level, wbits=_GZIP_WINDOW))
    else:
        made = zstandard.ZstdCompressor(level=level).compressobj()
    return made


def _tee(chunks: Iterator[bytes], seen: "hashlib._Hash") -> Iterator[bytes]:
    for chunk in chunks:
        seen.update(chunk)
        yield chunk


def _is_later(source: Path, epoch: int) -> bool:
    """Whether anything in the layer is later: else it stays the layer that it is, which others have, too."""
    with source.open("rb", buffering=0) as file, Stream(read_chunks(file, DEFAULT_LIMITS)) as stream:
        return any(_seconds(entry) > epoch for entry in read_entries(stream))


def _seconds(entry: Entry) -> int:
    return entry.mtime_ns // 1_000_000_000


def _rewrite(chunks: Iterator[bytes], epoch: int) -> Iterator[bytes]:
    with Stream(chunks) as stream:
        for entry in read_entries(stream):
            yield format_member(_member(entry, epoch))
            left = entry.size
            while left:
                part = bytes(stream.take(min(left, _CHUNK)))
                if not part:
                    raise Corrupt("truncated layer: bytes of a file are missing")
                left -= len(part)
                yield part
            yield padding(entry.size)
        yield END
        # What stands behind the end belongs to the digest of what was read.
        stream.drain()


def _member(entry: Entry, epoch: int) -> Member:
    return Member(
        entry.name.rstrip(b"/") or b".",
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.real_size if entry.kind == REGULAR else 0,
        min(_seconds(entry), epoch),
        entry.link,
        entry.device,
        entry.xattrs,
        entry.sparse,
    )
