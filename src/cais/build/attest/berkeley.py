"""Berkeley DB's hash files, in which rpm kept its packages before it had SQLite: keys and values, of any byte order.

Sources: Berkeley DB 5.3, dbinc/db_page.h (the layout of pages), and what its db_load writes. A file is pages of one
size: the first describes it, hash pages hold keys and values by turns, and what is too long for those lies on a chain
of overflow pages. All hash pages are read, in the order of the file: which bucket one belongs to decides nothing here.

A database in an image is anybody's. Items of a page must not overlap and a page of a chain is used once, so that no
more comes out than the file is long.
"""

import struct
from collections.abc import Iterator

from cais.errors import Invalid

_MAGIC = 0x61561
_ORDERS = {_MAGIC.to_bytes(4, "little"): "<", _MAGIC.to_bytes(4, "big"): ">"}
_VERSIONS = range(8, 11)
"""Of hash files: Berkeley DB 4.1 to 6."""
_CHECKSUMS = 0x01
_HEAD = 26
"""Bytes of a page before its table of items, or before what an overflow page holds."""
_UNSORTED, _OVERFLOW, _FIRST, _HASH = 2, 7, 8, 13
_INLINE, _OFF_PAGE = 1, 3
"""The first byte of an item: its bytes follow, or where they begin and how many they are."""


def is_hash_file(data: bytes) -> bool:
    """By its first bytes."""
    return data[12:16] in _ORDERS


def read_hash_file(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys with their values. Raises Invalid: at once if the file is none that can be read, and at the end if
    something of it could not be."""
    file = _HashFile(data)
    yield from file.pairs()
    if file.is_cut:
        raise Invalid("the database of rpm is damaged: it is cut short")
    if file.lost:
        raise Invalid(f"the database of rpm is damaged: {file.lost} of its records cannot be read")


class _HashFile:
    """``lost``: how many pairs could not be read so far."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 512 or not is_hash_file(data):
            raise Invalid("the database of rpm is damaged: it is too short")
        order = _ORDERS[data[12:16]]
        version, self._page_size, encryption, kind, flags = struct.unpack_from(f"{order}IIBBB", data, 16)
        (last,) = struct.unpack_from(f"{order}I", data, 32)
        size = self._page_size
        if version not in _VERSIONS:
            raise Invalid(f"the database of rpm is in version {version} of Berkeley DB's hash format")
        if encryption or flags & _CHECKSUMS:
            raise Invalid("the database of rpm is encrypted or has checksums")  # its pages are other ones
        if kind != _FIRST or size & (size - 1) or not 512 <= size <= 65536:
            raise Invalid("the database of rpm is damaged: its first page cannot be")
        self._data = data
        self._pages = min(last + 1, len(data) // size)
        self.is_cut = self._pages <= last
        # Number, the next one, how many items, how many bytes, what it is.
        self._page = struct.Struct(f"{order}8xI4xIHHxB")
        self._place = struct.Struct(f"{order}4xII")
        self._order = order
        self._used = bytearray(self._pages)
        self.lost = 0

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """From all pages."""
        for number in range(1, self._pages):
            start = number * self._page_size
            _, _, count, _, kind = self._page.unpack_from(self._data, start)
            # What belongs to no bucket yet is empty, or nothing but zeros; what was given up has another kind.
            if kind in (_HASH, _UNSORTED):
                yield from self._pairs_of(start, count)

    def _pairs_of(self, start: int, count: int) -> Iterator[tuple[bytes, bytes]]:
        places = self._places(start, count)
        for (key_start, key_end), (value_start, value_end) in zip(places[::2], places[1::2], strict=False):
            key, value = self._item(key_start, key_end), self._item(value_start, value_end)
            if key is None or value is None:
                self.lost += 1
            else:
                yield key, value
        self.lost += (count + 1) // 2 - len(places) // 2

    def _places(self, start: int, count: int) -> list[tuple[int, int]]:
        """Where the items of a page begin and end: the first one is at the page's end, each next one before it."""
        table = start + _HEAD
        end = self._page_size
        count = min(count, (end - _HEAD) // 2)
        found = []
        for place in struct.unpack_from(f"{self._order}{count}H", self._data, table):
            if not _HEAD + 2 * count <= place < end:
                break
            found.append((start + place, start + end))
            end = place
        return found

    def _item(self, start: int, end: int) -> bytes | None:
        """None if it is damaged, or one of several values of a key, which rpm has not in its packages."""
        kind = self._data[start]
        if kind == _INLINE:
            return self._data[start + 1 : end]
        if kind == _OFF_PAGE and end - start == self._place.size:
            return self._chain(*self._place.unpack_from(self._data, start))
        return None

    def _chain(self, number: int, length: int) -> bytes | None:
        """What lies on a chain of overflow pages."""
        found = bytearray()
        while len(found) < length:
            if not 0 < number < self._pages or self._used[number]:
                return None
            self._used[number] = 1
            start = number * self._page_size
            same, next_number, _, count, kind = self._page.unpack_from(self._data, start)
            if kind != _OVERFLOW or same != number or not 0 < count <= self._page_size - _HEAD:
                return None
            found += self._data[start + _HEAD : start + _HEAD + count]
            number = next_number
        return bytes(found) if len(found) == length else None
