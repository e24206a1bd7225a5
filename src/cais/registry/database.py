"""SQLite for a server: reads on the event loop, writes in one thread that commits many at once.

Readers and the writer do not wait for one another (write-ahead log). The writer takes all acts that are waiting, runs
each in a savepoint of its own, and commits them together: one sync of the disk for a burst of pushes.
"""

import asyncio
import errno
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

from cais.errors import Conflict, Corrupt, Unsupported

T = TypeVar("T")
Act = Callable[[sqlite3.Connection], Any]
Row = tuple[Any, ...]


class Database:
    """One file. ``schemas``: each room's scripts, one per version, appended to and never changed."""

    def __init__(self, path: Path, schemas: Mapping[str, Sequence[str]]) -> None:
        """Open or make it. Raises Corrupt; Unsupported: written by a newer Cais; Conflict: in use; OSError: the disk
        is full."""
        self.path = path
        try:
            self._writer = _connect(path)
            _migrate(self._writer, path, schemas)
            self._reader = _connect(path)
            self._reader.execute("PRAGMA query_only=ON")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise Conflict(f"database {path} is in use by another process") from error
            raise _told(error) from None
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"{path} is not a usable database: {error}") from error
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)
        self._thread.start()

    def read(self, sql: str, *values: Any) -> list[Row]:
        """All rows; on the event loop, so only what an index answers."""
        return self._reader.execute(sql, values).fetchall()

    def read_one(self, sql: str, *values: Any) -> Row | None:
        """The first row, if any."""
        return cast("Row | None", self._reader.execute(sql, values).fetchone())

    async def write(self, act: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """Run ``act`` in a transaction: all of it happens, or, if it raises, nothing. ``durable``: return when it
        would survive a crash of the machine; others survive one of the process, and come in order. Raises OSError when
        the disk is full."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Work(act, durable, future))
        # Shielded: a client that goes away must not leave half of what follows an act undone.
        return await asyncio.shield(future)

    def close(self) -> None:
        """Finish what is queued and let go of the file. Idempotent."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._reader.close()
        self._writer.close()

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            batch: list[_Work] = []
            while work is not None:
                batch.append(work)
                try:
                    work = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._commit(batch)
            if work is None:
                return

    def _commit(self, batch: "list[_Work]") -> None:
        durable = any(work.durable for work in batch)
        try:
            self._writer.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._writer.execute("BEGIN IMMEDIATE")
            for work in batch:
                work.run(self._writer)
            self._writer.execute("COMMIT")
        except BaseException as error:  # of the commit: a full disk; nobody's act has happened
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            for work in batch:
                work.error, work.answer = _told(error), None
        for work in batch:
            work.tell()


class _Work:
    """An act in the queue."""

    def __init__(self, act: Act, durable: bool, future: asyncio.Future[Any]) -> None:
        self.act = act
        self.durable = durable
        self.answer: Any = None
        self.error: BaseException | None = None
        self._future = future

    def run(self, db: sqlite3.Connection) -> None:
        """In a savepoint: its failure undoes nothing of the others."""
        db.execute("SAVEPOINT act")
        try:
            self.answer = self.act(db)
        except BaseException as error:
            if not db.in_transaction:
                raise  # SQLite has undone all of it by itself, the others' acts too: a full disk
            self.error = error
            db.execute("ROLLBACK TO act")
        db.execute("RELEASE act")

    def tell(self) -> None:
        """Wake who waits, on its own loop."""
        loop = self._future.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self._future.done():
            return
        if self.error is not None:
            self._future.set_exception(self.error)
        else:
            self._future.set_result(self.answer)


def _told(error: BaseException) -> BaseException:
    """The error in the terms of who called: a full disk is one whoever notices it."""
    full = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
    if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in full:
        return OSError(errno.ENOSPC, f"no space left for the database: {error}")
    return error


def copy_database(source: Path, target: Path, *, is_still: bool = False) -> None:
    """Copy a database as it is at one moment, in use or not. ``is_still``: nobody writes to it, so it may be where
    nobody can write. Raises sqlite3.Error, OSError."""
    how = "mode=ro&immutable=1" if is_still else "mode=rw"
    name = f"file:{quote(str(source))}?{how}"
    with closing(sqlite3.connect(name, uri=True)) as db, closing(sqlite3.connect(target)) as copy:
        db.backup(copy)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA foreign_keys=ON")
    db.execute("PRAGMA cache_size=-16000")
    return db


def _migrate(db: sqlite3.Connection, path: Path, schemas: Mapping[str, Sequence[str]]) -> None:
    if _is_current(db, schemas):
        return  # nothing is written then: a hub starts on a full disk too
    db.execute("BEGIN IMMEDIATE")
    db.execute("CREATE TABLE IF NOT EXISTS schemas (room TEXT PRIMARY KEY, version INTEGER NOT NULL)")
    for room, steps in schemas.items():
        row = db.execute("SELECT version FROM schemas WHERE room = ?", (room,)).fetchone()
        version = row[0] if row else 0
        if version > len(steps):
            raise Unsupported(f"{path} was written by a newer Cais ({room} {version}): upgrade Cais")
        for step in steps[version:]:
            # Not executescript: that commits first, and a half-made schema would stay behind.
            for statement in filter(str.strip, step.split("\n\n")):
                db.execute(statement)
        db.execute("INSERT OR REPLACE INTO schemas VALUES (?, ?)", (room, len(steps)))
    db.execute("COMMIT")


def _is_current(db: sqlite3.Connection, schemas: Mapping[str, Sequence[str]]) -> bool:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'schemas'").fetchone():
        return False
    known = dict(db.execute("SELECT room, version FROM schemas"))
    return all(known.get(room) == len(steps) for room, steps in schemas.items())
