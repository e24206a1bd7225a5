"""The contract of the snapshotters: a container's root file system as data, on top of unpacked layers."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from cais.spec.runtimespec import RootMount
from cais.store.snapshots.remove import remove_tree


class Snapshots(Protocol):
    """Writable snapshots below ``<root>/containers/<key>/``; a snapshotter describes mounts and mounts
    nothing.

    ``key`` is a container's id. ``lowers`` are the folders of unpacked layers from the top down, whiteouts as
    overlayfs wants them (a character device 0:0, ``trusted.overlay.opaque``). The folder of a key belongs
    to the containers' room too (it keeps its own files in it); it goes as a whole.
    """

    def prepare(self, key: str, lowers: tuple[str, ...]) -> RootMount:
        """Make the writable snapshot ``key``. Raises AlreadyExists. A failed or killed call leaves no
        snapshot."""
        ...

    def stock(self, count: int, files: tuple[str, ...]) -> None:
        """Make what the next ``count`` snapshots need whatever their image, with empty ``files`` for the containers'
        room; 0 throws away what is in store. For a thread, one call at a time; never needed, only sooner."""
        ...

    def mounts(self, key: str) -> RootMount:
        """What ``prepare`` returned, also after a restart of the engine. Raises NotFound."""
        ...

    def usage(self, key: str) -> int:
        """Bytes the snapshot holds itself: sizes of its files, a hard-linked one once. Raises NotFound."""
        ...

    def remove(self, key: str) -> None:
        """Make ``key`` vanish at once, with everything in its folder; ``Trash.empty`` frees it.
        Idempotent."""
        ...


class Trash:
    """Folders and files that are gone for everyone but still hold disk space.

    A rename is one step whatever is in the folder: a killed engine leaves a thing whole or gone, and the
    caller need not wait for thousands of unlinks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, victim: Path) -> None:
        """Rename ``victim`` in here, from the same file system. Idempotent: no such path is no error."""
        place = self._path / f"{os.getpid()}-{os.urandom(8).hex()}"
        try:
            victim.rename(place)
        except FileNotFoundError:
            return

    def empty(self) -> None:
        """Unlink everything in here; may take long, so call it from a thread. Never leaves the folder by a
        symlink."""
        for entry in list(os.scandir(self._path)):
            if entry.is_dir(follow_symlinks=False):
                # A second emptier may be at the same entry: what it took away is fine.
                with suppress(OSError):
                    remove_tree(entry.path)
            else:
                Path(entry.path).unlink(missing_ok=True)
