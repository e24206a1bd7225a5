"""Folders for what must not reach a disk: the secrets of a step, and the sockets of its agents."""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cais.linux.syscalls import file_system_type

MEMORY = Path("/dev/shm")
_TMPFS = 0x01021994
"""TMPFS_MAGIC of linux/magic.h."""


class Vault:
    """One engine's. A folder is open to root alone and gone with its block; what a killed engine left is swept when the
    next one starts."""

    def __init__(self, owner: Path, memory: Path = MEMORY) -> None:
        """``owner``: a path that no other running engine has."""
        name = hashlib.sha256(os.fsencode(owner)).hexdigest()[:12]
        self.prefix = f"cais-build-{name}-"
        """What the names of its folders begin with."""
        self._memory = memory if _is_memory(memory) else None
        if self._memory:
            for path in self._memory.glob(f"{self.prefix}*"):
                found = path.lstat()
                # Everybody may make names here: only what is ours is touched.
                if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                    _wipe(path)

    @contextmanager
    def folder(self, fallback: Path) -> Iterator[Path]:
        """A folder in memory; on a machine without such a place a new one below ``fallback``."""
        path = Path(tempfile.mkdtemp(prefix=self.prefix, dir=self._memory or fallback))
        try:
            yield path
        finally:
            _wipe(path)


def _is_memory(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return file_system_type(fd) == _TMPFS
    finally:
        os.close(fd)


def _wipe(folder: Path) -> None:
    """Overwrite the files, then remove everything. No program has written here: only we make names. Idempotent."""
    for path in folder.glob("*"):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode):
            with suppress(OSError), path.open("r+b", buffering=0) as file:
                file.write(bytes(found.st_size))
    shutil.rmtree(folder, ignore_errors=True)
