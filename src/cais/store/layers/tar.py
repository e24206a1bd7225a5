"""The tar format: headers, their extensions and sparse maps, read from a stream without copying file contents.

Sources: POSIX pax "Interchange format" (ustar, pax), GNU tar manual "Basic Tar Format" and "Storing Sparse Files",
star(5) for SCHILY keys. Where readers differ we do what Go's archive/tar does, because the images in the field
were written and checked with it: a header that two readers see differently is how files are smuggled.
"""

import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import NoReturn

import msgspec

from cais.errors import Corrupt, Invalid
from cais.store.layers.pax import PaxRecords, parse_pax, parse_sparse_text
from cais.store.layers.stream import Stream

BLOCK = 512
REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_OLD_REGULAR, _CONTIGUOUS, _GNU_SPARSE = b"\0", b"7", b"S"
_PAX, _PAX_GLOBAL, _SOLARIS_PAX, _GNU_NAME, _GNU_LINK, _GNU_VOLUME = b"x", b"g", b"X", b"L", b"K", b"V"
_WITHOUT_DATA = frozenset({HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, FOLDER, FIFO})
_KINDS = _WITHOUT_DATA | {REGULAR}
_MAX_EXTENSION = 1 << 20
_ZEROS = bytes(BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_SPARSE_PAIR = struct.Struct("12s12s")
_ADLER_MODULUS = 65521


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One member. ``name`` and ``link`` are bytes as they stand in the archive, not yet checked; ``size`` is how many
    bytes of the stream are its content; ``real_size`` the file's size, different when ``sparse`` lists where
    those bytes go as (offset, length)."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes
    device: tuple[int, int]
    xattrs: dict[str, bytes]
    sparse: tuple[tuple[int, int], ...] | None
    real_size: int


def read_entries(stream: Stream) -> Iterator[Entry]:
    """The members in order. The consumer may take an entry's ``size`` bytes from ``stream`` before the next one.

    Raises Corrupt for bytes that are no tar, Invalid for kinds of members that no image may have.
    """
    padding = 0
    extension = _Extension()
    while True:
        raw = stream.take(padding + BLOCK)
        header = bytes(raw[padding:])
        if len(header) < BLOCK:
            if len(raw) == padding and not extension.pending:
                return  # a tar without end blocks: Go takes it, and the diff_id vouches for the length
            raise Corrupt(f"truncated layer at byte {stream.offset}")
        if header == _ZEROS and not extension.pending:
            return
        fields = _parse_header(header, stream.offset - BLOCK)
        size = parse_number(fields[4])
        if size < 0:
            raise Corrupt(f"negative size in the header at byte {stream.offset - BLOCK}")
        if extension.read(fields[7], size, stream):
            padding = -size % BLOCK
            continue
        entry, padding = _make_entry(fields, header, extension, stream)
        extension = _Extension()
        if entry is None:
            continue
        end = stream.offset + entry.size
        yield entry
        stream.skip(end - stream.offset)


class _Extension:
    """What the extension headers in front of a member say about it."""

    def __init__(self) -> None:
        self.pax = PaxRecords()
        self.name: bytes | None = None
        self.link: bytes | None = None
        self.pending = False

    def read(self, kind: bytes, size: int, stream: Stream) -> bool:
        """Take in the extension header of this ``kind``; False if it is an ordinary member."""
        if kind == _PAX_GLOBAL:
            stream.skip(size)
            return True
        if kind not in (_PAX, _SOLARIS_PAX, _GNU_NAME, _GNU_LINK):
            return False
        if size > _MAX_EXTENSION:
            raise Invalid(f"extension header of {size} bytes at byte {stream.offset - BLOCK}")
        data = bytes(stream.take(size))
        if len(data) < size:
            raise Corrupt(f"truncated layer at byte {stream.offset}")
        self.pending = True
        if kind == _GNU_NAME:
            self.name = data.partition(b"\0")[0]
        elif kind == _GNU_LINK:
            self.link = data.partition(b"\0")[0]
        else:
            self.pax = parse_pax(data)
        return True


def _parse_header(header: bytes, offset: int) -> tuple[bytes, ...]:
    fields = _HEADER.unpack(header)
    checksum = parse_number(fields[6])
    # adler32's low half is one plus the sum of all bytes, modulo 65521: ten times faster than sum(), and the
    # checksum guards against accidents only. The field itself counts as eight spaces.
    own = sum(fields[6]) - 8 * 0x20
    total = (zlib.adler32(header) & 0xFFFF) - 1
    if (total - own - checksum) % _ADLER_MODULUS and not _sums_to(header, checksum):
        raise Corrupt(f"no tar header at byte {offset}")
    return fields


def _sums_to(header: bytes, checksum: int) -> bool:
    """The slow and exact check; some old writers summed signed bytes."""
    rest = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(rest)
    return checksum in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest))


def _make_entry(
    fields: tuple[bytes, ...], header: bytes, extension: _Extension, stream: Stream
) -> tuple[Entry | None, int]:
    """The member, or None if it is of a kind to pass over, and the padding behind its content."""
    pax = extension.pax
    name = extension.name or pax.sparse_name or pax.path or _header_name(fields)
    kind = _normalize_kind(fields[7], name)
    if kind == _GNU_VOLUME:
        return None, 0
    size = 0 if kind in _WITHOUT_DATA else parse_number(fields[4]) if pax.size is None else pax.size
    padding = -size % BLOCK
    sparse, real_size, used = _read_sparse(header, kind, size, extension, stream)
    link = extension.link or pax.linkpath or fields[8].partition(b"\0")[0]
    device = (0, 0)
    if kind in (CHARACTER, BLOCK_DEVICE):
        device = (parse_number(fields[12]), parse_number(fields[13]))
    entry = Entry(
        name,
        REGULAR if kind == _GNU_SPARSE else kind,
        parse_number(fields[1]) & 0o7777,
        parse_number(fields[2]) if pax.uid is None else pax.uid,
        parse_number(fields[3]) if pax.gid is None else pax.gid,
        size - used,
        parse_number(fields[5]) * 1_000_000_000 if pax.mtime_ns is None else pax.mtime_ns,
        link,
        device,
        pax.xattrs,
        sparse,
        size if sparse is None else real_size,
    )
    return entry, padding


def _normalize_kind(kind: bytes, name: bytes) -> bytes:
    if kind == _OLD_REGULAR:
        # Before ustar, a trailing slash was how a folder was told from a file.
        return FOLDER if name.endswith(b"/") else REGULAR
    if kind == _CONTIGUOUS:
        return REGULAR
    if kind in _KINDS or kind in (_GNU_SPARSE, _GNU_VOLUME):
        return kind
    raise Invalid(f"{_show(name)}: unknown kind of tar member: {kind!r}")


def _header_name(fields: tuple[bytes, ...]) -> bytes:
    name = fields[0].partition(b"\0")[0]
    if fields[9][:6] != b"ustar\0":  # GNU's magic has spaces, and other things where ustar has the prefix
        return name
    prefix = fields[14]
    if fields[15][8:] == b"tar\0":  # star keeps times in the last 24 bytes of the prefix
        prefix = prefix[:131]
    prefix = prefix.partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _read_sparse(
    header: bytes, kind: bytes, size: int, extension: _Extension, stream: Stream
) -> tuple[tuple[tuple[int, int], ...] | None, int, int]:
    """The sparse map, the file's size, and how many bytes of the content the map itself took."""
    pax = extension.pax
    used = 0
    if kind == _GNU_SPARSE:
        pairs = _read_gnu_sparse(header, stream)
        real_size = parse_number(header[483:495])
    elif kind == REGULAR and pax.is_sparse:
        real_size = size if pax.sparse_size is None else pax.sparse_size
        if pax.sparse_map is None:
            pairs, used = _read_leading_map(size, stream)
        else:
            pairs = pax.sparse_map
    else:
        return None, size, 0
    end = stored = 0
    for offset, length in pairs:
        if offset < end or length < 0:
            raise Corrupt(f"sparse map out of order at byte {stream.offset}")
        end = offset + length
        stored += length
    if end > real_size or stored != size - used:
        raise Corrupt(f"sparse map does not fit its file at byte {stream.offset}")
    return tuple(pairs), real_size, used


def _read_gnu_sparse(header: bytes, stream: Stream) -> list[tuple[int, int]]:
    """Old GNU: four pairs in the header, 21 in each extension block behind it."""
    pairs: list[tuple[int, int]] = []
    area, more = header[386:482], header[482]
    while True:
        for offset, length in _SPARSE_PAIR.iter_unpack(area):
            if not offset.strip(b" \0") and not length.strip(b" \0"):
                break
            pairs.append((parse_number(offset), parse_number(length)))
        if not more:
            return pairs
        block = bytes(stream.take(BLOCK))
        if len(block) < BLOCK or len(pairs) > _MAX_EXTENSION // BLOCK * 21:
            raise Corrupt(f"broken sparse map at byte {stream.offset}")
        area, more = block[:504], block[504]


def _read_leading_map(size: int, stream: Stream) -> tuple[list[tuple[int, int]], int]:
    """GNU 1.0: the map stands as decimal lines in front of the data, padded to whole blocks."""
    text = bytearray()
    wanted = 1  # lines: a count, then two for each pair
    while True:
        if len(text) >= size or len(text) > _MAX_EXTENSION:
            raise Corrupt(f"broken sparse map at byte {stream.offset}")
        text += stream.take(BLOCK)
        lines = text.count(b"\n")
        if lines and wanted == 1:
            count = parse_sparse_text(bytes(text).split(b"\n", 1)[:1])[0]
            wanted = 1 + 2 * count
        if lines >= wanted:
            break
    numbers = parse_sparse_text(bytes(text).split(b"\n")[1:wanted])
    return list(zip(numbers[::2], numbers[1::2], strict=True)), len(text)


@lru_cache(4096)  # pure, and modes, owners and times repeat all through a layer
def parse_number(field: bytes) -> int:
    """A header's number: octal digits, or base 256 (GNU and star) when the first bit is set. Raises Corrupt."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if field[0] & 0x40 else value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    try:
        # isdigit first: int() would also take signs, underscores and 0o.
        return int(digits, 8) if digits.isdigit() else _bad_number(field)
    except ValueError:
        _bad_number(field)


def _bad_number(field: bytes) -> NoReturn:
    raise Corrupt(f"no number in a tar header: {field!r}")


def _show(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
