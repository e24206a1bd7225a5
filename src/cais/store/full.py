"""A full disk, in whatever words it is told."""

import errno
import sqlite3

DISK_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


def is_full(error: BaseException) -> bool:
    """Whether there was no room for something: a file's bytes, a folder, a row of the database."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL


def explain_full(error: BaseException, place: object = "") -> str:
    """What to tell people: where there is no room."""
    found = place or (error.filename if isinstance(error, OSError) else "") or "the engine's root folder"
    return f"no space left on device: {found}"
