"""Snapshots as overlay mounts: an empty upper folder over the shared layers."""

import json
import os
import shutil
from pathlib import Path

from cais.errors import AlreadyExists, Conflict, Corrupt, NotFound
from cais.spec.runtimespec import RootMount
from cais.store.snapshots.base import Trash
from cais.store.snapshots.tree import check_key, copy_attributes, measure

MAX_LOWERS = 499
"""The kernel's OVL_MAX_STACK is 500, the upper layer included."""


class Overlay:
    """The snapshotter for kernels with overlayfs: ``prepare`` costs a few mkdirs, whatever the image's
    size."""

    def __init__(self, root: Path, trash: Trash) -> None:
        self._root = root
        self._containers = root / "containers"
        self._trash = trash
        self._containers.mkdir(mode=0o710, parents=True, exist_ok=True)

    def prepare(self, key: str, lowers: tuple[str, ...]) -> RootMount:
        """Snapshots.prepare. Raises Conflict for more layers than the kernel can stack."""
        if len(lowers) > MAX_LOWERS:
            raise Conflict(f"max depth exceeded: {len(lowers)} layers, overlayfs stacks {MAX_LOWERS}")
        folder = self._folder(key)
        folder.mkdir(mode=0o710, exist_ok=True)
        upper, work, record = folder / "upper", folder / "work", folder / "lower"
        if record.exists():
            raise AlreadyExists(f"snapshot {key} exists")
        for path in (upper, work):
            # An earlier call that was killed before its record was written may have left these.
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(mode=0o755)
        self._make_root(upper, lowers)
        # The record is the name: it comes last, whole, or not at all.
        temporary = folder / f"lower.{os.getpid()}"
        temporary.write_text(json.dumps([self._short(path) for path in lowers]))
        temporary.rename(record)
        return self._mount(folder, lowers)

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
