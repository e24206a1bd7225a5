"""The root of a container that does not run, with its volumes and binds in it, for the time of a copy.

What is mounted is a detached tree, which only its descriptor keeps: nothing of it stands in the host's mount table, and
a killed engine leaves nothing. To read, the writable folder is one more lower layer, and mount points
that are not there yet come from a layer below all others; to write, it is the overlay that a start would make, and the
caller holds the container's lock, because a second one over the same folder is undefined (overlayfs.rst).
"""

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from cais.containers.archiveread import INSIDE
from cais.containers.record import Record
from cais.containers.runspec import point_mount
from cais.errors import Conflict
from cais.linux.mounts import (
    ATTR_RDONLY,
    attach,
    clone_tree,
    mount_over,
    own_mounts,
    set_attributes,
)
from cais.linux.overlay import make_overlay
from cais.linux.syscalls import openat2
from cais.runtime.rootfs import open_bind
from cais.spec.runtimespec import Mount, RootMount
from cais.store.layers.compare import opened

_STAGE = "/sys"
"""Where the work is done: there everywhere, and nothing that a layer leads through."""
_ROOT = f"{_STAGE}/root"
_MAX_LAYERS = 500
_PLACE = os.O_PATH | os.O_CLOEXEC
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_ETC = ("hosts", "hostname", "resolv.conf")


def plan_places(record: Record, etc: str) -> tuple[Mount, ...]:
    """What is mounted: binds and volumes, parents first, then the files of folder ``etc``, which the engine writes at
    a start. A tmpfs has nothing as long as the container does not run."""
    points = [point for point in record.mounts if point.type != "tmpfs"]
    taken = {point.destination for point in points}
    files = [
        Mount(destination=f"/etc/{name}", type="bind", source=f"{etc}/{name}", options=("bind", "rprivate"))
        for name in _ETC
        if f"/etc/{name}" not in taken
    ]
    return (*(point_mount(point) for point in points), *files)


def mount_root(root: RootMount, places: Sequence[Mount], *, writable: bool, readonly: bool = False) -> int:
    """A descriptor of the root that ``root`` describes, with ``places`` in it; all of it goes when that is closed.
    ``readonly``: the root's own files may not be changed. Sources that are not there are left out. Raises Conflict
    when one cannot be mounted and somebody is to write."""
    with own_mounts(), ExitStack() as after:
        # Before anything covers what they lead through.
        sources = _open_sources(places, after)
        mount_over("tmpfs", "tmpfs", _STAGE)
        Path(_ROOT).mkdir()
        with opened(_make_tree(root, sources, writable)) as tree, opened(os.open(_ROOT, _PLACE)) as target:
            attach(tree, target)
            for source in sources:
                _mount_source(tree, source, writable)
            if readonly:
                set_attributes(tree, add=ATTR_RDONLY)
        return clone_tree(_ROOT, recursive=True)


class _Source(msgspec.Struct, frozen=True):
    """A detached mount and where it is to stand."""

    fd: int
    destination: str
    is_folder: bool


def _open_sources(places: Sequence[Mount], after: ExitStack) -> list[_Source]:
    found = []
    for place in places:
        try:
            fd = open_bind({"source": place.source, "options": list(place.options)})
        except FileNotFoundError:
            continue
        after.callback(os.close, fd)
        found.append(_Source(fd, place.destination, stat.S_ISDIR(os.fstat(fd).st_mode)))
    return found


def _make_tree(root: RootMount, sources: Sequence[_Source], writable: bool) -> int:
    if root.type != "overlay":
        return clone_tree(root.lower[0], recursive=False)
    if writable:
        return make_overlay(root.lower, root.upper, root.work)
    layers = [root.upper, *root.lower] if root.upper else list(root.lower)
    if len(layers) < _MAX_LAYERS:
        layers.append(_make_skeleton(sources))
    # What the writable folder says of things that are partly below (moved folders) counts one layer further down too.
    return make_overlay(layers, "", "", ("redirect_dir=follow", "metacopy=on"))


def _make_skeleton(sources: Sequence[_Source]) -> str:
    """A layer of nothing but mount points."""
    skeleton = Path(_STAGE, "skeleton")
    skeleton.mkdir()
    for source in sources:
        path = skeleton / source.destination.lstrip("/")
        folder = path if source.is_folder else path.parent
        folder.mkdir(0o755, parents=True, exist_ok=True)
        if not source.is_folder:
            path.touch(0o644)
    return str(skeleton)


def _mount_source(root: int, source: _Source, writable: bool) -> None:
    try:
        with opened(_open_target(root, source.destination, source.is_folder, make=writable)) as target:
            attach(source.fd, target)
    except OSError as error:
        if writable:
            # What is written there would lie under the mount, where the container never sees it.
            raise Conflict(f"cannot mount {source.destination}: {error.strerror}") from error


def _open_target(root: int, path: str, is_folder: bool, *, make: bool) -> int:
    """A descriptor of the mount point inside the root, made as a start would make it."""
    try:
        return openat2(root, path, _PLACE, INSIDE)
    except FileNotFoundError:
        if not make:
            raise
    above, _, name = path.rstrip("/").rpartition("/")
    with opened(_open_target(root, above or "/", True, make=True)) as parent:
        if is_folder:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, _NEW_FILE, 0o644, dir_fd=parent))
    return openat2(root, path, _PLACE, INSIDE)
