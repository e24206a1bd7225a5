"""The packages that rpm has on record: in SQLite, in its own ndb format, and in Berkeley DB.

Sources: rpm docs "RPM Header Format" (file format, tags), lib/backend/ndb/rpmpkg.c (the layout of ndb: pages of slots,
blobs in blocks of 16 bytes).

A database in an image is anybody's: what does not fit is passed over, and SQLite works under limits.
"""

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing

from cais.build.attest.berkeley import is_hash_file, read_hash_file
from cais.build.attest.packages import Package, clip
from cais.errors import Invalid

FOLDERS = ("usr/lib/sysimage/rpm", "usr/share/rpm", "var/lib/rpm")
"""Where distributions keep the database: where it went to, where those with OSTree have it, where it always was."""
FILES = ("rpmdb.sqlite", "Packages.db", "Packages")
"""In the order in which rpm looks for what it is not told (lib/backend/dbi.c): the later ones are older."""

_NAME, _VERSION, _RELEASE, _EPOCH, _VENDOR = 1000, 1001, 1002, 1003, 1011
_LICENSE, _URL, _ARCH, _SOURCE = 1014, 1020, 1022, 1044
_TEXTS = frozenset((_NAME, _VERSION, _RELEASE, _VENDOR, _LICENSE, _URL, _ARCH, _SOURCE))
_INT32, _STRING, _I18N = 4, 6, 9
_MAX_ENTRIES = 1 << 16
_MAX_BLOB = 64 << 20
_ENTRY = struct.Struct(">IIII")
_SLOT = struct.Struct("<IIII")
_NDB_MAGIC, _SLOT_MAGIC, _BLOB_MAGIC = (
    int.from_bytes(text, "little") for text in (b"RpmP", b"Slot", b"BlbS")
)
_PAGE, _BLOCK = 4096, 16
_STEPS = 100_000
"""SQLite's instructions between two looks at how many there were."""
_MAX_LOOKS = 2_000


def parse_rpm(data: bytes, path: str) -> Iterator[Package]:
    """All packages of a database, by its first bytes. Raises Invalid if it is none that can be read, and at the end if
    not all of it could be."""
    if data.startswith(b"SQLite format 3\0"):
        blobs = _read_sqlite(data)
    elif data[:4] == b"RpmP":
        blobs = _read_ndb(data)
    elif is_hash_file(data):
        # By number, and under 0 how many numbers were given: what that says is too short to be a header.
        blobs = (blob for _, blob in read_hash_file(data))
    else:
        raise Invalid(f"/{path} is no database of rpm that is known")
    for blob in blobs:
        package = parse_header(blob, path)
        if package is not None and package.name != "gpg-pubkey":
            yield package


def _read_sqlite(data: bytes) -> Iterator[bytes]:
    looks = 0

    def count() -> int:
        nonlocal looks
        looks += 1
        return looks > _MAX_LOOKS

    # rpm keeps its database in WAL mode, which memory has not: bytes 18 and 19 say so (SQLite file format 1.3.3).
    plain = bytearray(data)
    plain[18:20] = b"\1\1"
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(plain)
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_BLOB)
            database.execute("PRAGMA trusted_schema=OFF")
            database.set_progress_handler(count, _STEPS)
            # A view or a virtual table of that name would be somebody's program.
            query = "SELECT sql FROM sqlite_master WHERE name='Packages' AND type='table'"
            found = database.execute(query).fetchone()
            if not found or "virtual" in str(found[0]).lower():
                raise Invalid("the database of rpm has no packages")
            for (blob,) in database.execute("SELECT blob FROM Packages"):
                if isinstance(blob, bytes):
                    yield blob
    except (sqlite3.Error, OverflowError, MemoryError) as error:
        raise Invalid(f"the database of rpm is damaged: {error}") from error


def _read_ndb(data: bytes) -> Iterator[bytes]:
    if len(data) < 32:
        raise Invalid("the database of rpm is damaged: it is too short")
    _, version, _, pages = _SLOT.unpack_from(data)
    if version != 0 or pages * _PAGE > len(data):
        raise Invalid(f"the database of rpm is damaged, or of unknown version {version}")
    for place in range(32, pages * _PAGE, _SLOT.size):
        magic, index, block, count = _SLOT.unpack_from(data, place)
        start = block * _BLOCK
        if magic != _SLOT_MAGIC or not block or start + _SLOT.size > len(data):
            continue
        head, same, _, length = _SLOT.unpack_from(data, start)
        if head == _BLOB_MAGIC and same == index and length <= count * _BLOCK and length <= _MAX_BLOB:
            yield data[start + _SLOT.size : start + _SLOT.size + length]


def parse_header(blob: bytes, path: str) -> Package | None:
    """The package of one header; None if it is damaged."""
    if len(blob) < 8:
        return None
    count, size = struct.unpack_from(">II", blob)
    start = 8 + count * _ENTRY.size
    if count > _MAX_ENTRIES or start + size > len(blob):
        return None
    store = blob[start : start + size]
    texts: dict[int, str] = {}
    epoch = ""
    for number in range(count):
        tag, kind, offset, _ = _ENTRY.unpack_from(blob, 8 + number * _ENTRY.size)
        # No others: tens of thousands of tags may stand for the same long text.
        if tag in _TEXTS and kind in (_STRING, _I18N) and offset < len(store) and tag not in texts:
            end = store.find(b"\0", offset)
            texts[tag] = store[offset : end if end >= 0 else len(store)][:4096].decode("utf-8", "replace")
        elif tag == _EPOCH and kind == _INT32 and offset + 4 <= len(store):
            epoch = str(int.from_bytes(store[offset : offset + 4], "big"))
    release = texts.get(_RELEASE, "")
    return Package(
        "rpm",
        texts.get(_NAME, ""),
        texts.get(_VERSION, "") + (f"-{release}" if release else ""),
        path,
        license=clip(texts.get(_LICENSE, "")),
        supplier=clip(texts.get(_VENDOR, "")),
        homepage=clip(texts.get(_URL, "")),
        qualifiers={
            "arch": clip(texts.get(_ARCH, "")),
            "epoch": epoch if epoch != "0" else "",
            "upstream": clip(texts.get(_SOURCE, "")),
        },
    )
