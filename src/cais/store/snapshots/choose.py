"""Which snapshotter this machine gets."""

import os
import shutil
from pathlib import Path

from cais.linux.overlay import make_overlay
from cais.store.snapshots.base import Snapshots, Trash
from cais.store.snapshots.native import Native
from cais.store.snapshots.overlay import Overlay


def open_snapshots(root: Path, trash: Trash) -> Snapshots:
    """Overlay where it works below ``root``, else copies. Once chosen, ``root`` keeps its kind of
    snapshots."""
    return Overlay(root, trash) if is_overlay_usable(root) else Native(root, trash)


def is_overlay_usable(root: Path) -> bool:
    """Whether overlay mounts work with upper folders below ``root``: tries one, detached, seen by nobody."""
    probe = root / "tmp" / f"overlay-{os.urandom(8).hex()}"
    folders = [probe / name for name in ("lower", "upper", "work")]
    try:
        for path in folders:
            path.mkdir(mode=0o700, parents=True)
        os.close(make_overlay([str(folders[0])], str(folders[1]), str(folders[2])))
    except OSError:
        return False
    else:
        return True
    finally:
        shutil.rmtree(probe, ignore_errors=True)
