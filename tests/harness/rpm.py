"""Headers and databases as rpm writes them."""

import sqlite3
import struct
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path


def rpm_header(tags: Mapping[int, str | int]) -> bytes:
    """A header as rpm stores it."""
    entries, store = b"", b""
    for tag, value in tags.items():
        if isinstance(value, int):
            store += bytes(-len(store) % 4)
            entries += struct.pack(">IIII", tag, 4, len(store), 1)
            store += struct.pack(">I", value)
        else:
            entries += struct.pack(">IIII", tag, 6, len(store), 1)
            store += value.encode() + b"\0"
    return struct.pack(">II", len(tags), len(store)) + entries + store


BASH = rpm_header(
    {1000: "bash", 1001: "5.2", 1002: "3.fc40", 1003: 1, 1014: "GPL-3.0-or-later", 1022: "x86_64"}
)
KEY = rpm_header({1000: "gpg-pubkey", 1001: "1"})


def rpm_sqlite(path: Path, *blobs: bytes, sql: str = "") -> bytes:
    """rpm's SQLite database."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")  # as rpm does
        if sql:
            database.executescript(sql)
        else:
            database.execute(
                "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)"
            )
            database.executemany("INSERT INTO Packages (blob) VALUES (?)", [(blob,) for blob in blobs])
        database.commit()
    return path.read_bytes()


def rpm_ndb(*blobs: bytes) -> bytes:
    """rpm's own database: a page of slots, and blobs behind it."""
    slots = struct.pack("<4sIII", b"RpmP", 0, 1, 1) + bytes(16)
    body = b""
    for index, blob in enumerate(blobs, 1):
        whole = struct.pack("<4sIII", b"BlbS", index, 1, len(blob)) + blob
        whole += bytes(-len(whole) % 16)
        slots += struct.pack("<4sIII", b"Slot", index, (4096 + len(body)) // 16, len(whole) // 16)
        body += whole
    return slots.ljust(4096, b"\0") + body
