"""Locks on files, by which processes that share a registry's folder keep out of each other's way. The kernel lets go of
them when their holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cais.errors import Conflict

ROOT_LOCK = "lock"
COLLECT_LOCK = "collect.lock"
"""The collector has it alone, backups have it together: no bytes go while one of these reads them."""


@contextmanager
def holding_root(root: Path) -> Iterator[None]:
    """Be the only one who works in ``root``, which is made if it is not there. Raises Conflict: a hub does."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locking(root / ROOT_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_ours:
        if not is_ours:
            raise Conflict(f"{root} is in use by another hub")
        yield


@contextmanager
def collecting(root: Path) -> Iterator[bool]:
    """Whether blobs may be removed; until the block ends no backup begins. False: one is under way."""
    with _locking(root / COLLECT_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_ours:
        yield is_ours


@contextmanager
def keeping_blobs(root: Path) -> Iterator[None]:
    """No blob is removed until the block ends. Waits for a collection that is under way."""
    with _locking(root / COLLECT_LOCK, fcntl.LOCK_SH):
        yield


@contextmanager
def _locking(path: Path, how: int) -> Iterator[bool]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how)
    except BlockingIOError:
        os.close(fd)
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)
