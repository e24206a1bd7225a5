"""Tar headers of a layer that is being made: the same file gives the same bytes, which every reader reads.

Sources: POSIX pax "Interchange format" (ustar, pax), GNU tar manual "Storing Sparse Files" (PAX format, version 1.0),
star(5) for the SCHILY keys. Module ``tar`` is the other direction.
"""

import struct
from collections.abc import Mapping, Sequence

import msgspec

from cais.store.layers.tar import BLOCK, FOLDER, REGULAR

END = bytes(2 * BLOCK)
"""What an archive ends with."""

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12s")
_PAX = b"x"
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_NAME = 100
_SPARSE_FOLDER = b"GNUSparseFile.0/"


class Member(msgspec.Struct, frozen=True, gc=False):
    """One member to be. ``name`` without slash at its end; ``size`` the file's; ``mtime`` in seconds, as everybody's
    layers have it; ``holes``: where data is, as (offset, length), of a file that is not all data."""

    name: bytes
    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = {}
    data: tuple[tuple[int, int], ...] | None = None


def format_member(member: Member) -> bytes:
    """Everything that stands in front of the content: pax records if they are needed, the header, a sparse map."""
    name = member.name + b"/" if member.kind == FOLDER else member.name
    records: dict[bytes, bytes] = {}
    size, prelude = member.size if member.kind == REGULAR else 0, b""
    if member.data is not None:
        prelude = _format_map(member.data)
        size = len(prelude) + sum(length for _, length in member.data)
        records |= {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": name,
            b"GNU.sparse.realsize": b"%d" % member.size,
        }
        # What a reader shows that knows no sparse files.
        name = _SPARSE_FOLDER + name.rpartition(b"/")[2]
    for key, value in ((b"path", name), (b"linkpath", member.link)):
        if len(value) > _NAME or not value.isascii():
            records[key] = value
    for key, number, most in (
        (b"uid", member.uid, _MAX_ID),
        (b"gid", member.gid, _MAX_ID),
        (b"size", size, _MAX_SIZE),
        (b"mtime", member.mtime, _MAX_SIZE),
    ):
        if not 0 <= number <= most:
            records[key] = b"%d" % number
    for xattr in sorted(member.xattrs):
        records[b"SCHILY.xattr." + xattr.encode("utf-8", "surrogateescape")] = member.xattrs[xattr]
    header = _format_header(member, name, size)
    return (_format_records(records, name) if records else b"") + header + prelude


def padding(size: int) -> bytes:
    """What fills a content of ``size`` bytes up to whole blocks."""
    return bytes(-size % BLOCK)


def stored_size(member: Member) -> int:
    """Bytes of the content that follow ``format_member``, without padding."""
    if member.data is not None:
        return sum(length for _, length in member.data)
    return member.size if member.kind == REGULAR else 0


def _format_header(member: Member, name: bytes, size: int) -> bytes:
    major, minor = member.device
    raw = _HEADER.pack(
        name[:_NAME],
        b"%07o" % member.mode,
        b"%07o" % (member.uid if member.uid <= _MAX_ID else 0),
        b"%07o" % (member.gid if member.gid <= _MAX_ID else 0),
        b"%011o" % (size if size <= _MAX_SIZE else 0),
        b"%011o" % (member.mtime if 0 <= member.mtime <= _MAX_SIZE else 0),
        b" " * 8,
        member.kind,
        member.link[:_NAME],
        b"ustar\0",
        b"00",
        b"",
        b"",
        b"%07o" % major,
        b"%07o" % minor,
        b"",
        b"",
    )
    return raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]


def _format_records(records: Mapping[bytes, bytes], name: bytes) -> bytes:
    data = b"".join(_format_record(key, records[key]) for key in records)
    # The name of this header is seen only by readers that know no pax.
    head = Member(b"PaxHeaders.0/" + name.rstrip(b"/").rpartition(b"/")[2][:80], _PAX, 0o644)
    return _format_header(head, head.name, len(data)) + data + padding(len(data))


def _format_record(key: bytes, value: bytes) -> bytes:
    """``length key=value`` and a newline; the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def _format_map(data: Sequence[tuple[int, int]]) -> bytes:
    text = b"%d\n" % len(data) + b"".join(b"%d\n%d\n" % pair for pair in data)
    return text + padding(len(text))
