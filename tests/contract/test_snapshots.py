"""The contract of Snapshots, run by every snapshotter on the real kernel."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cais.errors import AlreadyExists, Invalid, NotFound
from cais.linux.overlay import make_overlay
from cais.spec.runtimespec import RootMount
from cais.store.snapshots.base import Snapshots, Trash
from cais.store.snapshots.native import Native
from cais.store.snapshots.overlay import Overlay

pytestmark = pytest.mark.kernel

KEY = "0123456789abcdef" * 4


@pytest.fixture
def trash(tmp_path: Path) -> Trash:
    """Where removed snapshots go."""
    return Trash(tmp_path / "trash")


def open_stocked(root: Path, trash: Trash) -> Overlay:
    """One whose next snapshots are made ahead."""
    snapshots = Overlay(root, trash)
    snapshots.stock(3, ("hosts",))
    return snapshots


@pytest.fixture(params=[Overlay, open_stocked, Native])
def make(request: pytest.FixtureRequest, tmp_path: Path, trash: Trash) -> Callable[[], Snapshots]:
    """Opens the snapshotter, as an engine does at its start."""
    return lambda: request.param(tmp_path, trash)


@pytest.fixture
def snapshots(make: Callable[[], Snapshots]) -> Snapshots:
    """The snapshotter under test."""
    return make()


@pytest.fixture
def lowers(tmp_path: Path) -> tuple[str, ...]:
    """Two layers: the upper one deletes ``gone``, replaces ``kept``, empties ``closed``."""
    top, bottom = tmp_path / "layers" / "top", tmp_path / "layers" / "bottom"
    (bottom / "closed").mkdir(parents=True)
    (bottom / "open").mkdir()
    for name in ("gone", "kept", "closed/old", "open/old"):
        (bottom / name).write_text("bottom")
    os.link(bottom / "kept", bottom / "link")
    (top / "closed").mkdir(parents=True)
    (top / "open").mkdir()
    os.setxattr(top / "closed", "trusted.overlay.opaque", b"y")
    os.mknod(top / "gone", stat.S_IFCHR, os.makedev(0, 0))
    (top / "kept").write_text("top")
    (top / "open" / "new").write_text("top")
    Path(top).chmod(0o751)
    os.chown(top, 12, 34)
    return str(top), str(bottom)


def look(mount: RootMount, read: Callable[[int], None]) -> None:
    """Call ``read`` with a descriptor of the mounted root; the mount is detached, so no mount table sees
    it."""
    if mount.type == "overlay":
        fd = make_overlay(list(mount.lower), mount.upper, mount.work)
    else:
        fd = os.open(mount.lower[0], os.O_PATH)
    try:
        read(fd)
    finally:
        os.close(fd)


def tree(fd: int) -> dict[str, str]:
    """Every file below ``fd`` with its text."""
    found = {}
    for folder, _, files, folder_fd in os.fwalk(".", dir_fd=fd):
        for name in files:
            with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder_fd)) as file:
                found[os.path.normpath(f"{folder}/{name}")] = file.read()
    return found


def test_the_root_shows_the_layers_merged(snapshots: Snapshots, lowers: tuple[str, ...]) -> None:
    """Whiteouts delete, opaque folders hide, upper files win, the rest shines through."""
    mount = snapshots.prepare(KEY, lowers)
    want = {"kept": "top", "link": "bottom", "open/old": "bottom", "open/new": "top"}
    look(mount, lambda fd: _equal(tree(fd), want))


def test_the_root_folder_has_the_image_owner_and_mode(snapshots: Snapshots, lowers: tuple[str, ...]) -> None:
    """``/`` in the container is what the image says, not what the engine's mkdir gave it."""
    mount = snapshots.prepare(KEY, lowers)

    def check(fd: int) -> None:
        status = os.stat(".", dir_fd=fd)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12, 34, 0o751)

    look(mount, check)


def test_writes_stay_in_the_snapshot(snapshots: Snapshots, lowers: tuple[str, ...]) -> None:
    """What one snapshot writes is in no layer and in no other snapshot."""
    mount, other = snapshots.prepare(KEY, lowers), snapshots.prepare("other", lowers)

    def write(fd: int) -> None:
        with os.fdopen(os.open("kept", os.O_WRONLY | os.O_TRUNC, dir_fd=fd), "w") as file:
            file.write("mine")

    look(mount, write)
    look(mount, lambda fd: _equal(tree(fd)["kept"], "mine"))
    look(other, lambda fd: _equal(tree(fd)["kept"], "top"))
    assert Path(lowers[0], "kept").read_text() == "top"


def test_mounts_are_found_again(
    make: Callable[[], Snapshots], snapshots: Snapshots, lowers: tuple[str, ...]
) -> None:
    """A new engine gets from ``mounts`` what the old one got from ``prepare``."""
    assert snapshots.prepare(KEY, lowers) == make().mounts(KEY)


def test_an_image_without_layers_gives_an_empty_root(snapshots: Snapshots) -> None:
    """No layers is a valid image: the root is empty and writable."""
    mount = snapshots.prepare(KEY, ())
    if mount.type == "overlay":
        assert mount.lower == ()
    assert snapshots.usage(KEY) == 0


def test_a_key_is_used_once(snapshots: Snapshots, lowers: tuple[str, ...]) -> None:
    """Preparing the same key again is refused and leaves the first one alone."""
    mount = snapshots.prepare(KEY, lowers)
    with pytest.raises(AlreadyExists):
        snapshots.prepare(KEY, ())
    assert snapshots.mounts(KEY) == mount


def test_a_half_made_snapshot_is_made_anew(
    snapshots: Snapshots, lowers: tuple[str, ...], tmp_path: Path
) -> None:
    """What a killed ``prepare`` left is no snapshot, and does not show in the next one."""
    folder = tmp_path / "containers" / KEY
    for name in ("upper", "work", "rootfs.half"):
        (folder / name).mkdir(parents=True)
        (folder / name / "junk").write_text("junk")
    with pytest.raises(NotFound):
        snapshots.mounts(KEY)
    look(snapshots.prepare(KEY, lowers), lambda fd: _equal("junk" in tree(fd), False))


def test_usage_counts_a_hard_linked_file_once(snapshots: Snapshots) -> None:
    """Usage is the sum of sizes of the files that the snapshot holds itself."""
    mount = snapshots.prepare(KEY, ())
    writable = Path(mount.upper or mount.lower[0])
    (writable / "folder").mkdir()
    (writable / "folder" / "a").write_bytes(b"x" * 1000)
    os.link(writable / "folder" / "a", writable / "b")
    (writable / "c").write_bytes(b"x" * 24)
    assert snapshots.usage(KEY) == 1024


def test_remove_is_immediate_and_idempotent(
    snapshots: Snapshots, lowers: tuple[str, ...], trash: Trash, tmp_path: Path
) -> None:
    """After remove the key is free; the bytes go with the trash; the layers stay."""
    snapshots.prepare(KEY, lowers)
    snapshots.remove(KEY)
    snapshots.remove(KEY)
    for call in (snapshots.mounts, snapshots.usage):
        with pytest.raises(NotFound):
            call(KEY)
    assert os.listdir(tmp_path / "trash")
    trash.empty()
    assert not os.listdir(tmp_path / "trash")
    assert Path(lowers[1], "gone").exists()
    snapshots.prepare(KEY, lowers)


@pytest.mark.parametrize("key", ["", ".", "..", "../x", "a/b", "a\0b", "x" * 129])
def test_a_key_cannot_name_another_folder(snapshots: Snapshots, key: str) -> None:
    """Keys come from ids, but a wrong one must not reach the file system."""
    for call in (lambda: snapshots.prepare(key, ()), lambda: snapshots.remove(key)):
        with pytest.raises(Invalid):
            call()


def _equal(value: object, want: object) -> None:
    assert value == want


def test_a_snapshot_takes_what_was_made_ahead(tmp_path: Path, trash: Trash, lowers: tuple[str, ...]) -> None:
    """The folder is renamed, not made: the inodes are those of the store, which one call fills again."""
    snapshots = open_stocked(tmp_path, trash)
    stored = {folder.stat().st_ino for folder in (tmp_path / "ahead").iterdir()}
    assert len(stored) == 3
    snapshots.prepare(KEY, lowers)
    folder = tmp_path / "containers" / KEY
    assert folder.stat().st_ino in stored
    assert sorted(path.name for path in folder.iterdir()) == ["hosts", "lower", "upper", "work"]
    assert len(list((tmp_path / "ahead").iterdir())) == 2
    snapshots.stock(3, ())
    assert len(list((tmp_path / "ahead").iterdir())) == 3


def test_nothing_made_ahead_stays(tmp_path: Path, trash: Trash, lowers: tuple[str, ...]) -> None:
    """An engine that ends clears its store, one that starts that of a killed one; snapshots work all the same."""
    snapshots = open_stocked(tmp_path, trash)
    snapshots.stock(0, ())
    assert not (tmp_path / "ahead").exists()
    snapshots.prepare(KEY, lowers)
    (tmp_path / "ahead" / "half").mkdir(parents=True)
    Overlay(tmp_path, trash)
    assert not (tmp_path / "ahead").exists()
    trash.empty()
    assert list((tmp_path / "trash").iterdir()) == []


def test_what_is_left_of_another_snapshot_is_no_obstacle(tmp_path: Path, trash: Trash) -> None:
    """A killed call may have left a folder of that name without a record."""
    snapshots = open_stocked(tmp_path, trash)
    left = tmp_path / "containers" / KEY / "upper" / "left"
    left.mkdir(parents=True)
    snapshots.prepare(KEY, ())
    assert snapshots.usage(KEY) == 0
    assert not left.exists()
