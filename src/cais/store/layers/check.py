"""Is an unpacked layer still what its blob says? The quick look is at change times, the thorough one at everything."""

import filecmp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cais.errors import CaisError
from cais.spec.digest import Digest
from cais.store.layers.apply import apply_layer
from cais.store.layers.fit import Fit
from cais.store.layers.layers import Layers
from cais.store.layers.record import parse_record

_LABEL = "security.selinux"
_RECORD = "layer.json"


def check_layer(root: Path, name: str, diff_id: Digest | None, blob: Path | None, deep: bool) -> str:
    """What is wrong with the folder ``name`` below ``<root>/layers``; empty if nothing is. For a worker.

    Nothing in a layer ever changes once its record is written, and every change of a file or folder leaves a new
    change time (inode(7)). So that alone is looked at, but with ``deep`` or when one is new the layer is unpacked
    from ``blob`` once more and compared file by file: a restored backup has new times too, and is well.
    """
    folder = root / "layers" / name
    try:
        record = parse_record((folder / _RECORD).read_bytes())
    except (OSError, CaisError):
        return "has no record"
    if record.needs_lower or record.fit == Fit.SAME.value:
        return ""  # it has no files of its own
    changed = find_changed(folder)
    if not (deep or changed):
        return ""
    if diff_id is None or blob is None or not blob.exists():
        return f"{changed} was changed or removed since it was unpacked" if changed else ""
    with Layers(root).scratch() as scratch:
        target = scratch / "fs"
        target.mkdir(0o755)
        target.chmod(0o755)
        try:
            apply_layer(blob, target, diff_id=diff_id)
        except CaisError:
            # The blob is wrong, and is told of by itself.
            return f"{changed} was changed or removed since it was unpacked" if changed else ""
        return compare_trees(os.fsencode(target), os.fsencode(folder / "fs"))


def find_changed(folder: Path) -> str:
    """The first path in ``folder/fs`` with a change time after the record's; empty if there is none."""
    base = os.fsencode(folder / "fs")
    try:
        made = (folder / _RECORD).stat().st_ctime_ns
        for path, status in _walk(base):
            if status.st_ctime_ns > made:
                return _show(path, base)
    except FileNotFoundError:
        return "/"
    return ""


def compare_trees(want: bytes, have: bytes) -> str:
    """The first difference of two trees at rest, in words; empty if there is none. Folders' times are not compared:
    those that no entry listed have the moment of their making."""
    wanted = {_show(path, want): (path, status) for path, status in _walk(want)}
    found = {_show(path, have): (path, status) for path, status in _walk(have)}
    for name, (path, status) in wanted.items():
        if name not in found:
            return f"{name} is missing"
        if difference := _compare(path, status, *found[name]):
            return f"{name} has {difference}"
    extra = sorted(found.keys() - wanted.keys())
    return f"{extra[0]} does not belong there" if extra else ""


def _compare(want: bytes, wanted: os.stat_result, have: bytes, found: os.stat_result) -> str:
    if stat.S_IFMT(wanted.st_mode) != stat.S_IFMT(found.st_mode) or wanted.st_rdev != found.st_rdev:
        return "become another kind of file"
    if wanted.st_mode != found.st_mode:
        return f"mode {stat.S_IMODE(found.st_mode):o}, want {stat.S_IMODE(wanted.st_mode):o}"
    if (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid):
        return "another owner"
    if _xattrs(want) != _xattrs(have):
        return "other extended attributes"
    if stat.S_ISDIR(wanted.st_mode):
        return ""
    if stat.S_ISLNK(wanted.st_mode) and os.readlink(want) != os.readlink(have):
        return "another target"
    if stat.S_ISREG(wanted.st_mode):
        if wanted.st_size != found.st_size:
            return f"{found.st_size} bytes, want {wanted.st_size}"
        if not filecmp.cmp(want, have, shallow=False):
            return "other contents"
    return "another time" if wanted.st_mtime_ns != found.st_mtime_ns else ""


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if name != _LABEL}


def _walk(base: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    yield base, os.lstat(base)
    folders = [base]
    while folders:
        for entry in os.scandir(folders.pop()):
            yield entry.path, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)


def _show(path: bytes, base: bytes) -> str:
    return path[len(base) :].decode("utf-8", "backslashreplace") or "/"
