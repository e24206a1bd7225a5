"""What one layer's entries become on disk."""

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cais.errors import Corrupt, Invalid
from cais.spec.digest import digest_bytes
from cais.store.layers.apply import apply_layer
from cais.store.layers.limits import Limits

pytestmark = pytest.mark.kernel

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, revision 2


def test_files_get_content_owner_mode_and_time(tar: Any, layer: Any) -> None:
    """Content, numeric owner, all twelve mode bits and nanoseconds survive."""
    times = {"mtime": "1234567890.123456789"}
    path, applied = layer(
        tar.folder("d", mode=0o2775, gid=7),
        tar.file("d/f", b"data", mode=0o4711, uid=1000, gid=2**31, pax_headers=times),
        tar.file("empty"),
    )
    status = (path / "d/f").stat()
    assert (path / "d/f").read_bytes() == b"data" and (path / "empty").read_bytes() == b""
    assert stat.S_IMODE(status.st_mode) == 0o4711
    assert (status.st_uid, status.st_gid) == (1000, 2**31)
    assert status.st_mtime_ns == 1234567890_123456789
    assert (applied.size, applied.entries) == (4, 3)


def test_a_setgid_folder_does_not_pass_on_its_group(tar: Any, layer: Any) -> None:
    """Children keep the owner that the tar says, though the kernel would let them inherit."""
    path, _ = layer(
        tar.folder("d", mode=0o2775, gid=7), tar.file("d/f"), tar.folder("d/e"), tar.symlink("d/s", "x")
    )
    assert {(path / name).lstat().st_gid for name in ("d/f", "d/e", "d/s")} == {0}
    assert stat.S_IMODE((path / "d/e").stat().st_mode) == 0o755


def test_folder_times_survive_their_children(tar: Any, layer: Any) -> None:
    """A folder's time is set after everything in it was made."""
    path, _ = layer(
        tar.folder("a", mtime=5), tar.folder("a/b", mtime=6), tar.file("a/b/f"), tar.folder("./", mtime=7)
    )
    assert [(path / name).stat().st_mtime for name in ("a", "a/b", ".")] == [5, 6, 7]


def test_links_nodes_and_fifos(tar: Any, layer: Any, tree: Any) -> None:
    """Every kind of object that an image may have."""
    path, _ = layer(
        tar.file("f", b"x", mode=0o600),
        tar.link("hard", "f"),
        tar.symlink("soft", "/etc/passwd", uid=5, mtime=9),
        tar.link("hardsoft", "soft"),
        tar.member("char", "null", devmajor=1, devminor=3, mode=0o666),
        tar.member("block", "disk", devmajor=8, devminor=300, mode=0o660, gid=6),
        tar.member("fifo", "pipe", mode=0o622),
    )
    assert tree(path) == {
        "f": "= x",
        "hard": "= x",
        "soft": "-> /etc/passwd",
        "hardsoft": "-> /etc/passwd",
        "null": "char",
        "disk": "block",
        "pipe": "fifo",
    }
    assert (path / "f").stat().st_nlink == 2 and (path / "hardsoft").lstat().st_nlink == 2
    assert ((path / "soft").lstat().st_uid, (path / "soft").lstat().st_mtime) == (5, 9)
    disk = (path / "disk").stat()
    assert disk.st_rdev == os.makedev(8, 300) and stat.S_IMODE(disk.st_mode) == 0o660 and disk.st_gid == 6
    assert stat.S_IMODE((path / "pipe").stat().st_mode) == 0o622


def test_extended_attributes(tar: Any, layer: Any) -> None:
    """File capabilities, user attributes and empty values survive on files, folders and links."""
    path, _ = layer(
        tar.file("f", uid=1, pax_headers={"SCHILY.xattr.user.a": "b", "SCHILY.xattr.user.empty": ""}),
        tar.folder("d", pax_headers={"SCHILY.xattr.user.a": "c"}),
        tar.file("l", pax_headers={"LIBARCHIVE.xattr.user.%61": "Yg=="}),
    )
    assert {name: os.getxattr(path / "f", name) for name in os.listxattr(path / "f")} == {
        "user.a": b"b",
        "user.empty": b"",
    }
    assert os.getxattr(path / "d", "user.a") == b"c"
    assert os.getxattr(path / "l", "user.a") == b"b"


def test_file_capabilities_outlive_the_chown(tmp_path: Path, tar: Any) -> None:
    """chown clears security.capability, so it must come first."""
    name = "SCHILY.xattr.security.capability"
    value = CAPABILITY.decode("latin-1")  # this one is ASCII only
    blob = tar.make(tar.file("f", b"x", uid=3, mode=0o755, pax_headers={name: value}))
    apply_layer(io.BytesIO(blob), tmp_path)
    assert os.getxattr(tmp_path / "f", "security.capability") == CAPABILITY


def test_overlay_attributes_are_dropped(tar: Any, layer: Any) -> None:
    """A layer must not make redirects or opaque folders of its own."""
    names = ("trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.opaque", "trusted.x")
    headers = {f"SCHILY.xattr.{name}": "y" for name in names}
    path, _ = layer(tar.folder("d", pax_headers=headers), tar.file("f", pax_headers=headers))
    assert os.listxattr(path / "d") == os.listxattr(path / "f") == []


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_in_every_format(tmp_path: Path, tar: Any, format: int) -> None:
    """GNU long names, pax paths and ustar prefixes all work."""
    name = "/".join(["d" * 60, "e" * 60, "f" * 90])
    to = "t" * (300 if format != tarfile.USTAR_FORMAT else 100)
    blob = tar.make(tar.file(name, b"x"), tar.symlink("s", to), tar.link("h", name[:100]), format=format)
    if format == tarfile.USTAR_FORMAT:
        blob = tar.make(tar.file(name, b"x"), tar.symlink("s", to), format=format)
    else:
        blob = tar.make(tar.file(name, b"x"), tar.symlink("s", to), tar.link("h", name), format=format)
    apply_layer(io.BytesIO(blob), tmp_path)
    assert (tmp_path / name).read_bytes() == b"x"
    assert os.readlink(tmp_path / "s") == to


def test_names_that_are_no_text(tmp_path: Path, tar: Any) -> None:
    """Bytes that are no UTF-8 are names like any other."""
    blob = tar.make(tar.file("a\udcff/\udcfe", b"x"), format=tarfile.GNU_FORMAT)
    applied = apply_layer(io.BytesIO(blob), tmp_path)
    assert os.listdir(os.fsencode(tmp_path) + b"/a\xff") == [b"\xfe"]
    assert applied.implied == ("", "a\udcff")


def test_later_entries_replace_earlier_ones(tar: Any, layer: Any, tree: Any) -> None:
    """A file takes a folder's place with all that is in it; a folder on a folder keeps the content."""
    path, _ = layer(
        tar.file("a/deep/f", b"1"),
        tar.file("b", b"1"),
        tar.file("k/f", b"1"),
        tar.file("a", b"2"),
        tar.folder("b"),
        tar.file("b/f", b"2"),
        tar.folder("k", mode=0o700),
        tar.symlink("s", "k"),
        tar.file("s", b"3"),
        tar.file("k/f", b"4"),
    )
    assert tree(path) == {"a": "= 2", "b": "folder", "b/f": "= 2", "k": "folder", "k/f": "= 4", "s": "= 3"}
    assert stat.S_IMODE((path / "k").stat().st_mode) == 0o700


def test_a_hard_link_to_itself_is_nothing_new(tar: Any, layer: Any, tree: Any) -> None:
    """The file must not be removed to make room for itself."""
    path, _ = layer(
        tar.file("a/f", b"x"), tar.symlink("b", "a"), tar.link("b/f", "a/f"), tar.link("./a/f", "a/f")
    )
    assert tree(path) == {"a": "folder", "a/f": "= x", "b": "-> a"}


def test_entries_through_symlinks_land_in_the_layer(tar: Any, layer: Any, tree: Any) -> None:
    """lib -> usr/lib is resolved as in a container: relative, absolute, chained, missing targets are made."""
    path, applied = layer(
        tar.symlink("lib", "usr/lib"),
        tar.file("lib/x", b"1"),
        tar.symlink("usr/lib/up", "../../../../top"),
        tar.file("usr/lib/up/y", b"2"),
        tar.symlink("d/abs", "/lib/in"),
        tar.file("d/abs/z", b"3"),
        tar.link("lib/h", "d/abs/z"),
    )
    found = tree(path)
    assert (found["usr/lib/x"], found["top/y"], found["usr/lib/in/z"], found["usr/lib/h"]) == (
        "= 1",
        "= 2",
        "= 3",
        "= 3",
    )
    assert applied.implied == ("", "usr", "usr/lib", "top", "d", "usr/lib/in")


@pytest.mark.slow
def test_sparse_files_keep_their_holes(tmp_path: Path) -> None:
    """GNU's old form and all three pax forms: content, size, and holes that take no disk."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        for index in range(40):
            file.seek(index << 20)
            file.write(bytes([65 + index % 26]) * 5000)
        file.truncate(64 << 20)
    want = digest_bytes((source / "sparse").read_bytes())
    for version in ("gnu", "0.0", "0.1", "1.0"):
        options = ["--format=gnu"] if version == "gnu" else ["--format=posix", f"--sparse-version={version}"]
        blob = tmp_path / "blob"
        subprocess.run(["tar", "-S", *options, "-cf", blob, "-C", source, "."], check=True)
        target = tmp_path / f"target-{version}"
        target.mkdir()
        apply_layer(blob, target)
        assert digest_bytes((target / "sparse").read_bytes()) == want, version
        assert (target / "sparse").stat().st_blocks * 512 < 4 << 20, version


def test_the_stream_is_what_the_diff_id_says(tmp_path: Path, tar: Any) -> None:
    """A wrong diff_id is Corrupt; bytes behind the tar's end belong to it."""
    blob = tar.make(tar.file("f", b"x")) + b"behind"
    assert apply_layer(io.BytesIO(blob), tmp_path).diff_id == digest_bytes(blob)
    with pytest.raises(Corrupt, match="diff_id"):
        apply_layer(io.BytesIO(blob), tmp_path, diff_id=digest_bytes(b""))


def test_every_truncation_is_noticed(tmp_path: Path, tar: Any) -> None:
    """A tar cut anywhere but between two members does not pass."""
    blob = tar.make(tar.file("f", b"x" * 600), tar.file("g", b"y", pax_headers={"comment": "c"}))
    for length in (1, 100, 511, 513, 1000, 1024, 1100, 1540, 2050, 2560, 3000):
        target = tmp_path / str(length)
        target.mkdir()
        with pytest.raises(Corrupt):
            apply_layer(io.BytesIO(blob[:length]), target)


def test_an_empty_stream_is_an_empty_layer(tmp_path: Path) -> None:
    """Nothing, and nothing but end blocks, are layers too."""
    for blob in (b"", bytes(1024)):
        assert apply_layer(io.BytesIO(blob), tmp_path, diff_id=digest_bytes(blob)).entries == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_entries=1), "b/c: layer has more than 1 entries"),
        (Limits(max_bytes=2000), "layer is larger than 2000 bytes"),
        (Limits(max_path=2), "b/c: name is longer than 2 bytes"),
    ],
)
def test_limits(tar: Any, layer: Any, limits: Limits, message: str) -> None:
    """A breach is Invalid and names the entry, if it is one's."""
    with pytest.raises(Invalid, match=message):
        layer(tar.file("a", b"x" * 3000), tar.file("b/c"), limits=limits)


def test_implied_folders_count_as_entries(tar: Any, layer: Any) -> None:
    """One entry with a deep name is many folders."""
    with pytest.raises(Invalid, match="more than 50 entries"):
        layer(tar.file("/".join("a" * 60)), tar.file("b"), limits=Limits(max_entries=50))


@pytest.mark.slow
def test_the_same_as_tar(tmp_path: Path) -> None:
    """A real tree comes out as GNU tar unpacks it: modes, owners, times, links, sizes, attributes, content."""
    subprocess.run(["tar", "-cf", tmp_path / "blob", "-C", "/", "etc", "usr/share/doc/bash"], check=True)
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    subprocess.run(["tar", "-xpf", tmp_path / "blob", "--xattrs", "-C", tmp_path / "theirs"], check=True)
    apply_layer(tmp_path / "blob", tmp_path / "ours")
    ours, theirs = (facts(tmp_path / name) for name in ("ours", "theirs"))
    del ours["usr"], theirs["usr"], ours["usr/share"], theirs["usr/share"]  # implied: no time of their own
    del ours["usr/share/doc"], theirs["usr/share/doc"]
    assert ours == theirs


def facts(root: Path) -> dict[str, object]:
    """All that is to be equal."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            content: object = Path(path).read_bytes() if kind == stat.S_IFREG else None
            found[os.path.relpath(path, root)] = (
                (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev),
                None if kind == stat.S_IFDIR else status.st_nlink,
                os.readlink(path) if kind == stat.S_IFLNK else content,
                {
                    key: os.getxattr(path, key, follow_symlinks=False)
                    for key in os.listxattr(path, follow_symlinks=False)
                },
            )
    return found
