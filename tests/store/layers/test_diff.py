"""A container's changes as a layer: on top of the same layers it shows exactly what the container saw."""

import io
import os
import shutil
import socket
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cais.errors import Invalid
from cais.linux.overlay import make_overlay
from cais.spec.runtimespec import RootMount
from cais.store.layers.apply import apply_layer
from cais.store.layers.compare import list_below
from cais.store.layers.diff import DiffSource, NeedsMerged, diff_snapshot, diff_trees
from cais.store.layers.pack import END
from cais.store.snapshots.base import Trash
from cais.store.snapshots.native import Native

pytestmark = pytest.mark.kernel

STUBS = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
FOLDERS = ("dev", "proc", "sys")


class Box:
    """A container's root without a container: two layers, and a writable mount over them at ``path``."""

    def __init__(self, folder: Path, *options: str, kind: str = "overlay") -> None:
        self.folder = folder
        self.lowers = tuple(str(folder / name) for name in ("high", "low"))
        for name in ("high", "low", "upper", "work", "made"):
            (folder / name).mkdir(mode=0o755)
        fill(folder / "low", folder / "high")
        upper, work = str(folder / "upper"), str(folder / "work")
        if kind == "native":
            native = Native(folder / "engine", Trash(folder / "trash"))
            mount = native.prepare("c", self.lowers)
            self.fd = os.open(mount.lower[0], os.O_RDONLY | os.O_DIRECTORY)
            self.root = RootMount(type="bind", lower=mount.lower)
        else:
            self.fd = make_overlay(self.lowers, upper, work, options)
            self.root = RootMount(type="overlay", lower=self.lowers, upper=upper, work=work)
        self.path = Path(f"/proc/self/fd/{self.fd}")

    def source(self) -> DiffSource:
        """What the engine would give."""
        return DiffSource(self.root, self.lowers, frozenset(STUBS), frozenset(FOLDERS))

    def tar(self, make: Callable[[DiffSource], Iterator[bytes]] = diff_snapshot) -> bytes:
        """The layer."""
        return b"".join(make(self.source())) + END

    def names(self, make: Callable[[DiffSource], Iterator[bytes]] = diff_snapshot) -> list[str]:
        """The layer's members."""
        with tarfile.open(fileobj=io.BytesIO(self.tar(make))) as opened:
            return [info.name for info in opened]

    def rebuilt(self, tar: bytes) -> dict[str, Any]:
        """What a container made from the new image sees."""
        made = self.folder / "made"
        shutil.rmtree(made)
        made.mkdir(mode=0o755)
        apply_layer(io.BytesIO(tar), made)
        fd = make_overlay([str(made), *self.lowers], "", "")
        try:
            return look(Path(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Unmount."""
        os.close(self.fd)


def fill(low: Path, high: Path) -> None:
    """Two layers: files, folders, links, a deletion and a hidden folder."""
    for name in ("etc", "d", "d/e", "gone", "bin"):
        (low / name).mkdir()
    for name in ("a", "b", "d/f", "d/e/g", "gone/x", "bin/tool"):
        (low / name).write_bytes(name.encode() * 400)
    (low / "l").symlink_to("d/f")
    os.link(low / "a", low / "a2")
    (high / "d").mkdir()
    (high / "d/h").write_bytes(b"high")
    os.mknod(high / "b", stat.S_IFCHR, 0)
    (high / "gone").mkdir()
    os.setxattr(high / "gone", "trusted.overlay.opaque", b"y")
    for path in (low, high):
        for folder, _, files in os.walk(path):
            for name in (*files, "."):
                os.utime(Path(folder, name), (10**9, 10**9), follow_symlinks=False)


def look(root: Path) -> dict[str, Any]:
    """Everything that can be told of a tree but the times of folders, which an unpacked layer takes from the tar too
    but a lazily written one cannot have for its parents."""
    found: dict[str, Any] = {}
    inodes: dict[int, str] = {}
    for folder, folders, files in os.walk(f"{root}/."):
        for name in sorted((*folders, *files)):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            short = os.path.relpath(path, f"{root}/.")
            if stat.S_ISSOCK(status.st_mode):
                continue
            kind, body = stat.S_IFMT(status.st_mode), b""
            if stat.S_ISREG(status.st_mode):
                body = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                body = os.readlink(path).encode()
            xattrs = [
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in sorted(os.listxattr(path, follow_symlinks=False))
                if not key.startswith("trusted.overlay")
            ]
            twin = inodes.setdefault(status.st_ino, short) if status.st_nlink > 1 and body else ""
            time = 0 if kind == stat.S_IFDIR else int(status.st_mtime)
            found[short] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                time,
                body,
                xattrs,
                twin,
            )
    return found


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """An overlay that nobody has written to yet."""
    made = Box(tmp_path)
    yield made
    made.close()


def change(root: Path) -> None:
    """Some of everything."""
    (root / "new").mkdir()
    (root / "new/file").write_bytes(b"x" * 300_000)
    (root / "a").write_bytes(b"changed")
    (root / "d/f").unlink()
    shutil.rmtree(root / "d/e")
    (root / "d/e").mkdir()  # hides what was in it
    (root / "d/e/other").write_bytes(b"")
    shutil.rmtree(root / "gone")
    (root / "bin/tool").chmod(0o4755)
    (root / "link").symlink_to("/nowhere/at all")
    os.link(root / "new/file", root / "new/twin")
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (root / ("n" * 200)).write_bytes(b"long")
    (root / "ümlaut").write_bytes(b"name")
    os.chown(root / "new", 3_000_000, 70_000)
    # A file capability, as setcap writes it (vfs_cap_data, version 2): cap_net_raw+ep.
    cap = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(root / "new/file", "security.capability", cap)
    os.setxattr(root / "new/file", "user.note", b"\x00\xff")


def test_the_layer_shows_what_the_container_saw(box: Box) -> None:
    """New, changed, deleted, replaced, linked, special, with capabilities and long names: all of it comes back."""
    change(box.path)
    assert box.rebuilt(box.tar()) == look(box.path)


def test_the_same_changes_give_the_same_bytes(box: Box) -> None:
    """The order of a folder on disk does not show."""
    change(box.path)
    assert box.tar() == box.tar()


def test_only_changes_are_in_it(box: Box) -> None:
    """Deletions come before their folder's files, as image-spec wants it; nothing untouched is listed."""
    (box.path / "d/f").unlink()
    (box.path / "d/a").write_bytes(b"")
    assert box.names() == ["d", "d/.wh.f", "d/a"]


def test_hidden_folders_are_marked_once(box: Box) -> None:
    """A folder made anew hides the old one; one that is simply new hides nothing, whatever the kernel notes."""
    shutil.rmtree(box.path / "d")
    (box.path / "d").mkdir()
    (box.path / "fresh").mkdir()
    os.setxattr(box.folder / "upper/fresh", "trusted.overlay.opaque", b"y")
    assert box.names() == ["d", "d/.wh..wh..opq", "fresh"]


def test_nothing_changed_is_no_layer(box: Box) -> None:
    """Also when the engine has made the targets of its mounts, even in folders that it had to make."""
    assert b"".join(diff_snapshot(box.source())) == b""
    for name in FOLDERS:
        (box.path / name).mkdir()
    for name in STUBS:
        (box.path / name).touch(0o644)
    assert b"".join(diff_snapshot(box.source())) == b""
    (box.path / "etc/mine").touch()
    assert box.names() == ["etc", "etc/mine"]


def test_what_was_written_to_a_stub_is_a_change(box: Box) -> None:
    """A file at a mount's target that is not as the engine makes it is the container's."""
    (box.path / "etc/hosts").write_text("mine")
    (box.path / "proc").mkdir(mode=0o700)
    assert box.names() == ["etc", "etc/hosts", "proc"]


def test_the_roots_attributes(box: Box) -> None:
    """A chmod of / is kept, by an entry for the root, and only then there is one."""
    box.path.joinpath(".").chmod(0o711)
    assert box.names() == ["."]
    apply_layer(io.BytesIO(box.tar()), box.folder / "made")
    assert stat.S_IMODE((box.folder / "made").stat().st_mode) == 0o711


def test_sockets_are_left_out(box: Box) -> None:
    """As Docker does: a socket means nothing without its process."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{box.fd}/socket")
    assert box.names() == []


def test_holes_stay_holes(box: Box) -> None:
    """A sparse file costs its data in the tar and on disk, and others read it too."""
    with (box.path / "sparse").open("wb") as file:
        for offset in (1 << 20, 40 << 20):
            file.seek(offset)
            file.write(b"data")
        file.truncate(64 << 20)
    (box.path / "hole").touch()
    os.truncate(box.path / "hole", 1 << 20)
    tar = box.tar()
    assert len(tar) < 1 << 20
    assert box.rebuilt(tar) == look(box.path)
    assert (box.folder / "made/sparse").stat().st_blocks * 512 < 1 << 20
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        body = opened.extractfile("sparse")
        assert body and body.read() == (box.path / "sparse").read_bytes()


def test_a_name_that_means_deletion_is_refused(box: Box) -> None:
    """A file called .wh.bin would delete bin in the image: an error that names it, not a wrong image."""
    (box.path / "d/.wh.h").touch()
    with pytest.raises(Invalid, match=r"d/\.wh\.h"):
        box.tar()


@pytest.mark.parametrize("name", ["BZh91", "\x1f\x8bfile", "(\udcb5/\udcfd"])
def test_a_first_name_that_looks_compressed(box: Box, name: str) -> None:
    """A plain tar whose first bytes are a codec's magic number is still a plain tar to every reader."""
    (box.path / name).parent.mkdir(exist_ok=True)
    (box.path / name).write_bytes(b"x")
    assert box.rebuilt(box.tar()) == look(box.path)


def test_folders_that_were_moved_by_reference(tmp_path: Path) -> None:
    """With redirect_dir the upper folder says "the rest is over there": then the whole trees are compared."""
    box = Box(tmp_path, "redirect_dir=on", "metacopy=on")
    try:
        os.rename(box.path / "d", box.path / "moved")
        (box.path / "a").chmod(0o600)
        with pytest.raises(NeedsMerged):
            box.tar()
        assert box.rebuilt(box.tar(diff_trees)) == look(box.path)
    finally:
        box.close()


@pytest.mark.parametrize("kind", ["overlay", "native"])
def test_comparing_trees(tmp_path: Path, kind: str) -> None:
    """Without an overlay's marks the comparison finds the same changes, and a file whose old time was put back."""
    box = Box(tmp_path, kind=kind)
    try:
        assert box.names(diff_trees) == []
        tool = box.path / "bin/tool"
        before = tool.stat()
        tool.write_bytes(b"n" * before.st_size)
        os.utime(tool, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.utime(box.path / "bin", (10**9, 10**9))
        assert "bin/tool" in box.names(diff_trees)
        change(box.path)
        saw = look(box.path)
        made = box.rebuilt(box.tar(diff_trees))
        # A name that is new for an old file is stored as a file of its own.
        assert {name: each[:-1] for name, each in made.items()} == {n: each[:-1] for n, each in saw.items()}
    finally:
        box.close()


def test_the_merged_listing(box: Box) -> None:
    """Names of a folder as overlayfs lists them: deleted and hidden ones are not there."""
    for path in (b"", b"d", b"gone", b"d/e", b"absent", b"a"):
        target = box.path / os.fsdecode(path)
        want = sorted(map(os.fsencode, os.listdir(target))) if target.is_dir() else []
        assert sorted(list_below(box.lowers, path)) == want


NAMES = st.sampled_from(["a", "b", "d", "d/f", "d/e", "d/e/g", "d/h", "gone", "gone/x", "bin", "n", "n/m"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "mkdir", "remove", "rename", "symlink", "link", "chmod", "xattr", "fifo"]),
        NAMES,
        NAMES,
    ),
    max_size=12,
)


def step(root: Path, what: str, one: str, two: str) -> None:
    """One change, if it can be made."""
    path, other = root / one, root / two
    with suppress(OSError, shutil.Error):
        match what:
            case "write":
                path.write_bytes(two.encode() * 3)
            case "mkdir":
                path.mkdir()
            case "remove":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            case "rename":
                path.rename(other)
            case "symlink":
                path.symlink_to(two)
            case "link":
                os.link(path, other, follow_symlinks=False)
            case "chmod":
                path.lstat()
                os.chmod(path, 0o700) if not path.is_symlink() else None
            case "xattr":
                os.setxattr(path, "user.x", two.encode(), follow_symlinks=False)
            case "fifo":
                os.mkfifo(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, redirect=st.booleans())
def test_any_changes(tmp_path_factory: pytest.TempPathFactory, steps: Any, redirect: bool) -> None:
    """Whatever was done, and however the kernel noted it, the layer shows the same tree."""
    folder = tmp_path_factory.mktemp("box")
    box = Box(folder, *(("redirect_dir=on",) if redirect else ()))
    try:
        for each in steps:
            step(box.path, *each)
        try:
            tar = box.tar()
        except NeedsMerged:
            assert redirect
        else:
            assert box.rebuilt(tar) == look(box.path)
        saw = {name: each[:-1] for name, each in look(box.path).items()}
        assert {name: each[:-1] for name, each in box.rebuilt(box.tar(diff_trees)).items()} == saw
    finally:
        box.close()
        shutil.rmtree(folder)
