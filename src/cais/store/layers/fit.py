"""How a layer that was unpacked by itself is made to fit on the layers of one chain."""

import os
import stat
from enum import Enum
from pathlib import Path

from cais.store.layers.lower import (
    FOLDER_FLAGS,
    Found,
    LowerView,
    open_below,
    read_xattrs,
    walk_names,
)
from cais.store.layers.record import LayerRecord
from cais.store.layers.tree import copy_attributes


class Fit(Enum):
    """What a layer needs on top of a chain.

    SAME: nothing, the shared folder is right. ATTRIBUTES: a thin layer above it that only repeats the implied folders,
    with owner, mode and xattrs of the layers below (overlayfs takes them from the topmost folder). COPY: the layer
    unpacked once more with the layers below in view.
    """

    SAME = "same"
    ATTRIBUTES = "attributes"
    COPY = "copy"


def choose_fit(record: LayerRecord, own: Path, below: LowerView) -> tuple[Fit, list[bytes]]:
    """The fit, and for ATTRIBUTES the folders whose attributes differ."""
    if record.needs_lower:
        return Fit.COPY, []
    for path in map(os.fsencode, record.whiteouts):
        found = below.find(path)
        if found is None or not found.is_folder:
            # overlayfs does not filter whiteouts of a folder that only one layer has: they would be listed.
            return Fit.COPY, []
    folders = []
    implied = set(record.implied)
    for path in map(os.fsencode, (*record.implied, *record.assumed)):
        found = below.find(path)
        if found is None:
            continue
        if not found.is_folder:
            return Fit.COPY, []  # a symlink: the layer's files belong where it leads
        if os.fsdecode(path) in implied and _attributes(str(own), path) != _attributes(found.layer, path):
            folders.append(path)
    return (Fit.ATTRIBUTES if folders else Fit.SAME), folders


def make_attribute_folders(
    target: Path, folders: list[bytes], own: Path, record: LayerRecord, below: LowerView
) -> None:
    """Fill ``target`` with ``folders`` and all folders above them, each as the merged view is to show it."""
    implied = {os.fsencode(path) for path in record.implied}
    needed = sorted({above for path in folders for above in walk_names(path)})
    for path in needed:
        if path:
            os.mkdir(os.path.join(os.fsencode(target), path))
    for path in reversed(needed):  # children first: making them changed their parents' times
        found: Found | None = below.find(path) if path in implied else None
        source = found.layer if found and found.is_folder else str(own)
        fd = open_below(str(target), path, FOLDER_FLAGS)
        try:
            copy_attributes(source, path, fd)
        finally:
            os.close(fd)


def _attributes(layer: str, path: bytes) -> tuple[int, int, int, dict[str, bytes]]:
    fd = open_below(layer, path, FOLDER_FLAGS)
    try:
        status = os.fstat(fd)
        return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, read_xattrs(fd)
    finally:
        os.close(fd)
