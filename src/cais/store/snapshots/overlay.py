"""Snapshots as overlay mounts: an empty upper folder over the shared layers."""

import json
import os
import shutil
from collections import deque
from contextlib import suppress
from pathlib import Path

from cais.errors import AlreadyExists, Conflict, Corrupt, NotFound
from cais.spec.runtimespec import RootMount
from cais.store.snapshots.base import Trash
from cais.store.snapshots.tree import check_key, copy_attributes, measure

MAX_LOWERS = 499
"""The kernel's OVL_MAX_STACK is 500, the upper layer included."""


_NEW_RECORD = "lower.new"


class Overlay:
    """The snapshotter for kernels with overlayfs: ``prepare`` costs a few mkdirs, whatever the image's
    size."""

    def __init__(self, root: Path, trash: Trash) -> None:
        self._root = root
        self._containers = root / "containers"
        self._trash = trash
        self._containers.mkdir(mode=0o710, parents=True, exist_ok=True)
        self._ahead = root / "ahead"
        self._ready: deque[Path] = deque()
        trash.put(self._ahead)  # an earlier engine's: what a killed one was making may be half made

    def prepare(self, key: str, lowers: tuple[str, ...]) -> RootMount:
        """Snapshots.prepare. Raises Conflict for more layers than the kernel can stack."""
        if len(lowers) > MAX_LOWERS:
            raise Conflict(f"max depth exceeded: {len(lowers)} layers, overlayfs stacks {MAX_LOWERS}")
        folder = self._folder(key)
        if (folder / "lower").exists():
            raise AlreadyExists(f"snapshot {key} exists")
        try:
            self._make(folder, lowers)
        except BaseException:
            self._trash.put(folder)  # a full disk must not be left with what is no snapshot
            raise
        return self._mount(folder, lowers)

    def _make(self, folder: Path, lowers: tuple[str, ...]) -> None:
        if not self._take(folder):
            folder.mkdir(mode=0o710, exist_ok=True)
            for path in (folder / "upper", folder / "work"):
                # An earlier call that was killed before its record was written may have left these.
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(mode=0o755)
        self._make_root(folder / "upper", lowers)
        # The record is the name: it comes last, whole, or not at all.
        temporary = folder / _NEW_RECORD
        temporary.write_text(json.dumps([self._short(path) for path in lowers]))
        temporary.rename(folder / "lower")

    def stock(self, count: int, files: tuple[str, ...]) -> None:
        """Snapshots.stock."""
        while len(self._ready) < count:
            folder = self._ahead / os.urandom(8).hex()
            for path in (folder, folder / "upper", folder / "work"):
                path.mkdir(mode=0o710 if path == folder else 0o755, parents=True)
            for name in (_NEW_RECORD, *files):
                (folder / name).touch(mode=0o644)
            self._ready.append(folder)
        if not count:
            self._ready.clear()
            self._trash.put(self._ahead)

    def _take(self, folder: Path) -> bool:
        """Name one that was made ahead; False when there is none, or the name is taken by what is left of another."""
        with suppress(IndexError, OSError):
            self._ready.popleft().rename(folder)
            return True
        return False

    def mounts(self, key: str) -> RootMount:
        """Snapshots.mounts."""
        folder = self._folder(key)
        try:
            paths = json.loads((folder / "lower").read_text())
            lowers = tuple(os.path.join(self._root, path) for path in paths)
        except FileNotFoundError:
            raise NotFound(f"no such snapshot: {key}") from None
        except (ValueError, TypeError) as error:
            raise Corrupt(f"snapshot {key} has an unreadable list of layers") from error
        return self._mount(folder, lowers)

    def usage(self, key: str) -> int:
        """Snapshots.usage."""
        folder = self._folder(key)
        if not (folder / "lower").exists():
            raise NotFound(f"no such snapshot: {key}")
        return measure(str(folder / "upper"))

    def remove(self, key: str) -> None:
        """Snapshots.remove."""
        self._trash.put(self._folder(key))

    def _make_root(self, upper: Path, lowers: tuple[str, ...]) -> None:
        """The merged root shows the upper folder's attributes: take over those of the image's own root."""
        if lowers:
            copy_attributes(lowers[0], str(upper))

    def _short(self, path: str) -> str:
        """Paths below the root are kept relative, so that a root folder can be moved."""
        return str(Path(path).relative_to(self._root)) if Path(path).is_relative_to(self._root) else path

    def _folder(self, key: str) -> Path:
        return self._containers / check_key(key)

    def _mount(self, folder: Path, lowers: tuple[str, ...]) -> RootMount:
        return RootMount(type="overlay", lower=lowers, upper=str(folder / "upper"), work=str(folder / "work"))
