"""Pax records: the ``length key=value`` lines that extend a tar header."""

import binascii
import re
from base64 import b64decode
from urllib.parse import unquote_to_bytes

import msgspec

from cais.errors import Corrupt

_SCHILY = b"SCHILY.xattr."
_LIBARCHIVE = b"LIBARCHIVE.xattr."
_TIME = re.compile(rb"(-?)(\d{1,19})(?:\.(\d*))?")


class PaxRecords(msgspec.Struct):
    """What one pax header says, as far as an image needs it; None or empty: it does not say."""

    path: bytes | None = None
    linkpath: bytes | None = None
    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    xattrs: dict[str, bytes] = msgspec.field(default_factory=dict)
    is_sparse: bool = False
    sparse_name: bytes | None = None
    sparse_size: int | None = None
    sparse_map: list[tuple[int, int]] | None = None


def parse_pax(data: bytes) -> PaxRecords:
    """Parse a pax extended header (POSIX pax, "pax Extended Header"). Raises Corrupt.

    A later record of one key wins; an empty value means that the key is not there.
    """
    records: dict[bytes, bytes] = {}
    pairs: list[int] = []
    for key, value in _split(data):
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # GNU 0.0 repeats these two
            if (key == b"GNU.sparse.offset") != (len(pairs) % 2 == 0):
                raise Corrupt("broken pax header: sparse offsets and lengths do not alternate")
            pairs.append(_number(value))
        else:
            records[key] = value
    found = PaxRecords(
        path=_text(records, b"path"),
        linkpath=_text(records, b"linkpath"),
        size=_find_number(records, b"size"),
        uid=_find_number(records, b"uid"),
        gid=_find_number(records, b"gid"),
        mtime_ns=parse_pax_time(records[b"mtime"]) if records.get(b"mtime") else None,
    )
    _read_xattrs(records, found)
    _read_sparse(records, pairs, found)
    return found


def _split(data: bytes) -> list[tuple[bytes, bytes]]:
    pairs = []
    start = 0
    while start < len(data):
        space = data.find(b" ", start, start + 21)
        digits = data[start:space]
        if space < 0 or not digits.isdigit():
            raise Corrupt("broken pax header: no length")
        end = start + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or data[end - 1 : end] != b"\n" or not equals or not key or b"\0" in key:
            raise Corrupt("broken pax header: wrong length or no key")
        pairs.append((key, value))
        start = end
    return pairs


def _text(records: dict[bytes, bytes], key: bytes) -> bytes | None:
    value = records.get(key)
    if value and b"\0" in value:
        raise Corrupt(f"broken pax header: {key.decode()} has a NUL byte")
    return value or None


def _find_number(records: dict[bytes, bytes], key: bytes) -> int | None:
    value = records.get(key)
    return _number(value) if value else None


def _number(value: bytes) -> int:
    if not value.isdigit() or len(value) > 19:
        raise Corrupt(f"broken pax header: {value[:40]!r} is no number")
    return int(value)


def parse_pax_time(value: bytes) -> int:
    """Nanoseconds since the epoch of a decimal number of seconds; exact, which a float is not. Raises Corrupt."""
    match = _TIME.fullmatch(value)
    if not match:
        raise Corrupt(f"broken pax header: {value[:40]!r} is no time")
    sign, seconds, fraction = match.groups()
    magnitude = int(seconds) * 1_000_000_000 + int((fraction or b"")[:9].ljust(9, b"0"))
    return -magnitude if sign else magnitude


def _read_xattrs(records: dict[bytes, bytes], found: PaxRecords) -> None:
    """libarchive writes both spellings; SCHILY, the one that Go and GNU tar know, wins."""
    for key, value in records.items():
        if key.startswith(_LIBARCHIVE):
            name = unquote_to_bytes(key[len(_LIBARCHIVE) :])
            try:
                found.xattrs[_xattr_name(name)] = b64decode(value + b"=" * (-len(value) % 4), validate=True)
            except binascii.Error as error:
                raise Corrupt("broken pax header: xattr is not in base64") from error
    for key, value in records.items():
        if key.startswith(_SCHILY):
            found.xattrs[_xattr_name(key[len(_SCHILY) :])] = value


def _xattr_name(name: bytes) -> str:
    if not name or b"\0" in name:
        raise Corrupt("broken pax header: xattr without a proper name")
    return name.decode("utf-8", "surrogateescape")


def _read_sparse(records: dict[bytes, bytes], pairs: list[int], found: PaxRecords) -> None:
    major, minor = records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b"")
    text = records.get(b"GNU.sparse.map")
    if text is not None:
        pairs = parse_sparse_text(text.split(b",")) if text else []
    elif (major, minor) == (b"1", b"0"):
        found.is_sparse = True
    elif not pairs:
        return
    if not found.is_sparse:
        if len(pairs) % 2:
            raise Corrupt("broken pax header: sparse map of odd length")
        found.is_sparse = True
        found.sparse_map = list(zip(pairs[::2], pairs[1::2], strict=True))
    found.sparse_name = _text(records, b"GNU.sparse.name")
    size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
    found.sparse_size = _number(size) if size else None


def parse_sparse_text(words: list[bytes]) -> list[int]:
    """The decimal numbers of a sparse map. Raises Corrupt."""
    return [_number(word) for word in words]
