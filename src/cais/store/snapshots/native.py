"""Snapshots as plain copies, for kernels and file systems on which overlayfs does not work."""

import os
import shutil
import stat
from pathlib import Path

from cais.errors import AlreadyExists, NotFound
from cais.spec.runtimespec import RootMount
from cais.store.snapshots.base import Trash
from cais.store.snapshots.tree import check_key, copy_attributes, measure

_OPAQUE = "trusted.overlay.opaque"


class Native:
    """The snapshotter that copies every layer, bottom first: slow, and right everywhere."""

    def __init__(self, root: Path, trash: Trash) -> None:
        self._containers = root / "containers"
        self._trash = trash
        self._containers.mkdir(mode=0o710, parents=True, exist_ok=True)

    def prepare(self, key: str, lowers: tuple[str, ...]) -> RootMount:
        """Snapshots.prepare."""
        folder = self._containers / check_key(key)
        folder.mkdir(mode=0o710, exist_ok=True)
        target, half = folder / "rootfs", folder / "rootfs.half"
        if target.exists():
            raise AlreadyExists(f"snapshot {key} exists")
        self._trash.put(half)  # an earlier call was killed in the middle
        half.mkdir(mode=0o755)
        try:
            for lower in reversed(lowers):
                _copy_over(lower, str(half))
        except BaseException:
            self._trash.put(half)
            raise
        half.rename(target)
        return RootMount(type="bind", lower=(str(target),))

    def stock(self, count: int, files: tuple[str, ...]) -> None:
        """Snapshots.stock: the copy is what takes time here, and that needs the image."""

    def mounts(self, key: str) -> RootMount:
        """Snapshots.mounts."""
        return RootMount(type="bind", lower=(str(self._target(key)),))

    def usage(self, key: str) -> int:
        """Snapshots.usage: the whole copy, for that is what it takes."""
        return measure(str(self._target(key)))

    def remove(self, key: str) -> None:
        """Snapshots.remove."""
        self._trash.put(self._containers / check_key(key))

    def _target(self, key: str) -> Path:
        target = self._containers / check_key(key) / "rootfs"
        if not target.exists():
            raise NotFound(f"no such snapshot: {key}")
        return target


def _copy_over(layer: str, target: str) -> None:
    """Apply the unpacked ``layer`` to ``target``: whiteouts delete, opaque folders clear, the rest replaces.

    Both trees are ours and at rest, and symlinks are never followed, so nothing can lead out of ``target``.
    """
    linked: dict[int, str] = {}
    folders = [""]
    finished: list[str] = []
    while folders:
        folder = folders.pop()
        finished.append(folder)
        source = os.path.join(layer, folder) if folder else layer
        goal = os.path.join(target, folder) if folder else target
        if _is_opaque(source):
            for name in os.listdir(goal):
                _delete(os.path.join(goal, name))
        for entry in os.scandir(source):
            if _copy_entry(entry, os.path.join(goal, entry.name), linked):
                folders.append(os.path.join(folder, entry.name))
    # Children first, and after their contents: writing into a folder changes its time.
    for folder in reversed(finished):
        source, goal = os.path.join(layer, folder), os.path.join(target, folder)
        copy_attributes(source, goal)


def _copy_entry(entry: os.DirEntry[str], goal: str, linked: dict[int, str]) -> bool:
    """Copy one thing; True if it is a folder whose contents are still to come."""
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        if not _is_folder(goal):
            _delete(goal)
            os.mkdir(goal, 0o700)
        return True
    _delete(goal)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return False  # an overlay whiteout: deleting was all
    if status.st_nlink > 1 and status.st_ino in linked:
        os.link(linked[status.st_ino], goal, follow_symlinks=False)
        return False
    linked[status.st_ino] = goal
    if stat.S_ISREG(status.st_mode):
        shutil.copyfile(entry.path, goal, follow_symlinks=False)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(entry.path), goal)
    else:
        os.mknod(goal, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev)
    copy_attributes(entry.path, goal)
    return False


def _delete(path: str) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _is_opaque(folder: str) -> bool:
    try:
        return os.getxattr(folder, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False
