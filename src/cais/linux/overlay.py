"""Overlay file systems as detached mounts (Documentation/filesystems/overlayfs.rst), on new kernels and old ones."""

import os
import re
from collections.abc import Sequence

from cais.linux.mounts import clone_tree, make_file_system, mount_over, own_mounts

_ONE_BY_ONE = (6, 5)
"""The kernel that first took layers one by one (``lowerdir+``), whatever bytes a path holds, and 500 of them."""
_STAGE = "/proc"
"""Where the old way does its work: there everywhere, and nothing that a layer's path leads through."""


def make_overlay(lower: Sequence[str], upper: str, work: str, options: Sequence[str] = ()) -> int:
    """A detached overlay of ``lower`` (top first) and, when given, ``upper``. Absolute paths."""
    if kernel_version(os.uname().release) >= _ONE_BY_ONE:
        tail = (f"upperdir={upper}", f"workdir={work}") if upper else ()
        layers = [f"lowerdir+={path}" for path in lower]
        return make_file_system("overlay", (*options, *layers, *tail), source="overlay")
    return make_overlay_at_once(lower, upper, work, options)


def make_overlay_at_once(lower: Sequence[str], upper: str, work: str, options: Sequence[str] = ()) -> int:
    """The same on older kernels, which want all layers in one option. Of that fsconfig(2) takes 255 bytes, which is two
    layers, and mount(2) a page: room for 500 that go by short names. Those, and the mount before it is copied, stand in
    a mount namespace that ends with this call."""
    with own_mounts():
        return _mount_staged(lower, upper, work, options)


def _mount_staged(lower: Sequence[str], upper: str, work: str, options: Sequence[str]) -> int:
    mount_over("tmpfs", "tmpfs", _STAGE)
    os.chdir(_STAGE)
    os.mkdir("merged")
    for number, path in enumerate(lower):
        os.symlink(path, str(number))
    words = [*options, f"lowerdir={':'.join(map(str, range(len(lower))))}"]
    if upper:
        os.symlink(upper, "upper")
        os.symlink(work, "work")
        words += ["upperdir=upper", "workdir=work"]
    mount_over("overlay", "overlay", f"{_STAGE}/merged", ",".join(words))
    return clone_tree(f"{_STAGE}/merged", recursive=False)


def kernel_version(release: str) -> tuple[int, int]:
    """The first two numbers of uname(2)'s release; what has none is as old as can be."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
