"""A second copy of a registry's folder, made while it is in use, and a folder made of such a copy.

The database is copied first, as it is at one moment; then every blob that it names. Blobs never change, and the
collector removes none meanwhile, so the copy is whole: what is pushed during the copying is simply not in it. The new
database is put in place last, so a copy that is cut leaves the one before it as it was. Blobs are hard links where the
file system allows, which costs no room; ``copies`` makes files of their own, which also survive a disk that spoils the
bytes of the first.
"""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from cais.errors import Conflict, Corrupt, Invalid, NotFound
from cais.registry.database import copy_database
from cais.registry.files import try_link
from cais.registry.leases import COLLECT_LOCK, ROOT_LOCK, holding_root, keeping_blobs
from cais.spec.digest import Digest, parse_digest

DATABASE = "hub.db"
_NEW = "hub.db.new"
_MARK = "restoring"
_OWN = {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", _NEW, f"{_NEW}-wal", f"{_NEW}-shm"}
_OWN |= {"content", "uploads", "damaged", ROOT_LOCK, COLLECT_LOCK, _MARK}
"""What is not copied as it is; all else in the folder (keys, certificates) is."""
_PART = ".part"


class Copied(msgspec.Struct):
    """What was done. ``kept``: blobs that were there from an earlier time; sizes in bytes."""

    blobs: int = 0
    size: int = 0
    linked: int = 0
    copied: int = 0
    kept: int = 0
    removed: int = 0
    """Blobs of earlier backups that are not in this one."""
    missing: dict[str, str] = {}
    """Blobs on record whose bytes are absent or damaged, with the reason."""


def backup(root: Path, target: Path, *, copies: bool = False) -> Copied:
    """Copy the registry in ``root``, in use or not, to ``target``; an earlier backup there becomes this one.

    Raises NotFound: there is no registry; Invalid: one folder is within the other; Conflict: another backup writes to
    ``target``; OSError.
    """
    _check_folders(root, target)
    done = Copied()
    with holding_root(target), keeping_blobs(root):
        new = target / _NEW
        _remove(new)
        copy_database(root / DATABASE, new)
        named = _list_blobs(new)
        for digest, size in named.items():
            _copy_blob(root, target, digest, size, done, copies=copies)
        _copy_others(root, target)
        _commit(target)
        _remove_others(target, named, done)
    return done


def restore(source: Path, root: Path, *, copies: bool = False) -> Copied:
    """Make a registry in ``root``, which must be empty, of the backup ``source``; every blob is read through. One that
    is damaged is on record as such: whoever has it can push it again. What was cut short can be done again.

    Raises NotFound: there is no backup; Invalid; Conflict: there is something in ``root``; Corrupt: the database
    is; OSError.
    """
    _check_folders(source, root)
    if root.exists() and not (root / _MARK).exists() and any(root.iterdir()):
        raise Conflict(f"{root} is not empty: restore into a new folder")
    done = Copied()
    with holding_root(root):
        (root / _MARK).touch()
        new = root / _NEW
        _remove(new)
        _copy_checked(source / DATABASE, new)
        for digest, size in _list_blobs(new).items():
            _restore_blob(source, root, digest, size, done, copies=copies)
        _note_damaged(new, done.missing)
        _copy_others(source, root)
        _commit(root)
        (root / _MARK).unlink()
    return done


def _check_folders(source: Path, target: Path) -> None:
    if not (source / DATABASE).is_file():
        raise NotFound(f"there is no registry in {source}: it has no {DATABASE}")
    one, other = source.resolve(), target.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise Invalid(f"{source} and {target} must be two folders, neither in the other")


# Blobs


def _blob_path(root: Path, digest: Digest) -> Path:
    return root / "content" / "blobs" / digest.algorithm / digest.hex


def _copy_blob(root: Path, target: Path, digest: Digest, size: int, done: Copied, *, copies: bool) -> None:
    source, place = _blob_path(root, digest), _blob_path(target, digest)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if place.stat().st_size == size and not (copies and place.samefile(source)):
            done.kept += 1
            _count(done, size)
            return
    part = place.with_name(place.name + _PART)
    part.unlink(missing_ok=True)
    try:
        if (found := source.stat().st_size) != size:
            done.missing[digest] = f"has {found} bytes instead of {size}"
            return
        if not copies and try_link(source, part):
            done.linked += 1
        else:
            shutil.copyfile(source, part)
            done.copied += 1
    except FileNotFoundError:
        done.missing[digest] = "absent"
        return
    part.replace(place)
    _count(done, size)


def _count(done: Copied, size: int) -> None:
    done.blobs += 1
    done.size += size


def _restore_blob(source: Path, root: Path, digest: Digest, size: int, done: Copied, *, copies: bool) -> None:
    place = _blob_path(root, digest)
    if place.exists() and _find_damage(place, digest):
        place.unlink()  # of a restore that was cut
    _copy_blob(source, root, digest, size, done, copies=copies)
    # What is read is what will be served, not what it was copied from.
    if digest not in done.missing and (reason := _find_damage(place, digest)):
        done.missing[digest] = reason
        place.unlink()
        done.blobs -= 1
        done.size -= size


def _find_damage(path: Path, digest: Digest) -> str:
    """What is wrong with a blob; empty: nothing."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, digest.algorithm).hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if found == digest.hex else f"its digest is {digest.algorithm}:{found}"


def _remove_others(target: Path, named: dict[Digest, int], done: Copied) -> None:
    """Blobs that only earlier backups had: after the database that named them."""
    wanted = {_blob_path(target, digest) for digest in named}
    for path in (target / "content" / "blobs").glob("*/*"):
        if path not in wanted:
            path.unlink()
            done.removed += not path.name.endswith(_PART)


# The database and the rest


def _list_blobs(database: Path) -> dict[Digest, int]:
    with _opened(database) as db:
        rows = db.execute("SELECT digest, size FROM blobs WHERE NOT damaged").fetchall()
    return {parse_digest(digest): size for digest, size in rows}


def _copy_checked(source: Path, target: Path) -> None:
    # A backup may be on a disk that nobody can write to, where SQLite opens only what is said to be still.
    is_still = not source.with_name(f"{source.name}-wal").exists()
    try:
        copy_database(source, target, is_still=is_still)
        with _opened(target) as db:
            (said,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        raise Corrupt(f"the backup's database is damaged: {said}")


def _note_damaged(path: Path, missing: Iterable[str]) -> None:
    with _opened(path) as db:
        db.executemany("UPDATE blobs SET damaged = 1 WHERE digest = ?", [(digest,) for digest in missing])
        db.commit()


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as db:
        yield db


def _copy_others(source: Path, target: Path) -> None:
    """Keys, certificates, and whatever else somebody has put there; with their modes."""
    for path in source.iterdir():
        if path.name in _OWN:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target / path.name, symlinks=True, dirs_exist_ok=True)
        elif path.is_file() or path.is_symlink():
            (target / path.name).unlink(missing_ok=True)
            shutil.copy2(path, target / path.name, follow_symlinks=False)


def _commit(target: Path) -> None:
    """All of it is on the disk before the database that names it is in place."""
    os.sync()
    for ending in ("-wal", "-shm"):  # of the database that goes: they must not be taken for the new one's
        (target / f"{DATABASE}{ending}").unlink(missing_ok=True)
    (target / _NEW).replace(target / DATABASE)
    os.sync()


def _remove(database: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        database.with_name(database.name + ending).unlink(missing_ok=True)
