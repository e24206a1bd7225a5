"""Filling a volume from an image: everything arrives as it was, nothing from outside, nothing outside."""

import os
import stat
from pathlib import Path

import pytest

from cais.volumes.copyup import copy_up

pytestmark = pytest.mark.kernel


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A layer with a folder of everything."""
    data = tmp_path / "image" / "data"
    (data / "sub").mkdir(parents=True)
    (data / "file").write_text("text")
    os.link(data / "file", data / "sub" / "again")
    (data / "link").symlink_to("/etc/passwd")
    os.mkfifo(data / "fifo")
    os.chown(data / "file", 12, 34)
    (data / "file").chmod(0o4711)
    os.setxattr(data / "file", "user.note", b"x")
    os.chown(data, 56, 78)
    data.chmod(0o1777)
    os.utime(data / "sub", ns=(1, 1_000_000_005))
    return tmp_path / "image"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty volume."""
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def test_everything_arrives_as_it_was(image: Path, target: Path) -> None:
    """Owner, mode with set-id bits, times, xattrs, hard links, links, FIFOs; and the folder's own owner and mode."""
    copy_up((str(image),), "/data", str(target))
    found = (target / "file").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12, 34, 0o4711)
    assert os.getxattr(target / "file", "user.note") == b"x"
    assert (target / "sub" / "again").stat().st_ino == found.st_ino
    assert os.readlink(target / "link") == "/etc/passwd"
    assert stat.S_ISFIFO((target / "fifo").stat().st_mode)
    assert (target / "sub").stat().st_mtime_ns == 1_000_000_005
    assert (target.stat().st_uid, stat.S_IMODE(target.stat().st_mode)) == (56, 0o1777)


def test_upper_layers_win_and_whiteouts_hide(image: Path, target: Path, tmp_path: Path) -> None:
    """What is copied is the image's root, not one layer's."""
    upper = tmp_path / "upper"
    (upper / "data").mkdir(parents=True)
    (upper / "data" / "new").write_text("n")
    os.mknod(upper / "data" / "fifo", stat.S_IFCHR, os.makedev(0, 0))
    copy_up((str(upper), str(image)), "/data", str(target))
    assert sorted(os.listdir(target)) == ["file", "link", "new", "sub"]


def test_a_link_at_the_mount_point_stays_inside_the_image(image: Path, target: Path, tmp_path: Path) -> None:
    """An image whose /data is a link to /etc of the host gives its own /etc, or nothing (CVE-2018-15664)."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    (image / "abs").symlink_to(tmp_path / "outside")
    (image / "rel").symlink_to("../" * 20 + str(tmp_path / "outside"))
    for path in ("/abs", "/rel", "/abs/secret", "/../../outside"):
        copy_up((str(image),), path, str(target))
    assert os.listdir(target) == []


def test_a_link_inside_the_image_is_followed(image: Path, target: Path) -> None:
    """/var/data → /data is ordinary."""
    (image / "var").mkdir()
    (image / "var" / "data").symlink_to("/data")
    copy_up((str(image),), "/var/data", str(target))
    assert (target / "file").read_text() == "text"


def test_files_and_absent_folders_are_nothing_to_copy(image: Path, target: Path) -> None:
    """The volume stays empty."""
    copy_up((str(image),), "/data/file", str(target))
    copy_up((str(image),), "/nope", str(target))
    assert os.listdir(target) == []


def test_no_mount_is_left(image: Path, target: Path, tmp_path: Path) -> None:
    """Neither during nor after: the table does not change."""
    before = Path("/proc/self/mountinfo").read_text()
    (tmp_path / "other").mkdir()
    copy_up((str(tmp_path / "other"), str(image)), "/data", str(target))
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_failure_leaves_the_volume_empty(image: Path, target: Path) -> None:
    """So that the next container tries again, instead of finding half."""
    (image / "data" / "zz").write_text("z")
    (target / "zz").write_text("already here")
    with pytest.raises(FileExistsError):
        copy_up((str(image),), "/data", str(target))
    assert os.listdir(target) == []
