"""A container's root as a tar, whatever the container does to it meanwhile."""

import io
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cais.containers.export import _content, _Walk, open_stopped_root, walk_tar
from cais.spec.runtimespec import RootMount
from cais.store.snapshots.remove import remove_tree

pytestmark = pytest.mark.kernel


def read(root: Path) -> dict[str, tarfile.TarInfo]:
    """The tar of a folder, by name."""
    fd = os.open(root, os.O_RDONLY)
    try:
        data = b"".join(walk_tar(fd))
    finally:
        os.close(fd)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {entry.name: entry for entry in tar}


def test_kinds(tmp_path: Path) -> None:
    """Every kind of file with its attributes; sockets are left out, hard links are links."""
    (tmp_path / "folder").mkdir(mode=0o1777)
    (tmp_path / "folder").chmod(0o1777)
    (tmp_path / "file").write_bytes(b"x" * 600)
    (tmp_path / "file").chmod(0o4755)
    os.setxattr(tmp_path / "file", "user.note", b"\xff\0")
    os.link(tmp_path / "file", tmp_path / "link")
    (tmp_path / "symlink").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "device", 0o600 | 0o020000, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    found = read(tmp_path)
    assert list(found) == ["device", "fifo", "file", "folder", "link", "symlink"]
    assert found["folder"].mode == 0o1777 and found["file"].mode == 0o4755 and found["file"].size == 600
    assert found["file"].pax_headers["SCHILY.xattr.user.note"] == "\udcff\0"
    assert found["link"].islnk() and found["link"].linkname == "file"
    assert found["symlink"].linkname == "/etc/passwd"
    assert (found["device"].devmajor, found["device"].devminor) == (1, 3)


def test_stopped_container(tmp_path: Path) -> None:
    """The overlay's view: what was removed is gone, what was added is there; nothing stays mounted."""
    for name in ("lower/etc", "upper/etc", "work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower/etc/kept").touch()
    (tmp_path / "lower/etc/removed").touch()
    os.mknod(tmp_path / "upper/etc/removed", 0o020000, 0)
    (tmp_path / "upper/etc/new").touch()
    paths = [str(tmp_path / name) for name in ("lower", "upper", "work")]
    fd = open_stopped_root(RootMount("overlay", (paths[0],), paths[1], paths[2]))
    data = b"".join(walk_tar(fd))
    os.close(fd)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["etc", "etc/kept", "etc/new"]
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_mounts_are_not_entered(tmp_path: Path) -> None:
    """Volumes, /proc and bind-mounted files show as the empty places that lie under them (no host file leaks)."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "hosts").touch()
    (tmp_path / "same").mkdir()
    script = """
mount -t tmpfs none "$0/volume"; echo secret > "$0/volume/file"
mount --bind /etc/passwd "$0/hosts"; mount --bind "$0/../other" "$0/same"
exec "$1" -c 'import os, sys; from cais.containers.export import walk_tar
sys.stdout.buffer.write(b"".join(walk_tar(os.open(sys.argv[1], os.O_RDONLY))))' "$0"
"""
    other = tmp_path.parent / "other"
    other.mkdir(exist_ok=True)
    (other / "secret").touch()
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        script,
        str(tmp_path),
        sys.executable,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    data = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["hosts", "same", "volume"] and tar.getmember("hosts").size == 0


def test_deeper_than_there_are_descriptors(tmp_path: Path) -> None:
    """A container may nest folders without end; the walk holds two open."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    found = len(read(tmp_path))
    # pytest's own clean-up cannot.
    remove_tree(str(tmp_path / "d"))
    assert found == 1500


def test_file_that_became_a_fifo(tmp_path: Path) -> None:
    """Looked at as a file, opened as a FIFO: skipped, not waited for."""
    path = tmp_path / "x"
    path.touch()
    found = path.lstat()
    path.unlink()
    os.mkfifo(path)
    root = os.open(tmp_path, os.O_RDONLY)
    walk = _Walk(root)
    assert list(walk._file("x", tarfile.TarInfo("x"), found)) == []
    os.close(root)
    os.close(walk._here)


def test_file_that_became_a_symlink(tmp_path: Path) -> None:
    """A link to a host file is not followed."""
    path = tmp_path / "x"
    path.touch()
    found = path.lstat()
    path.unlink()
    path.symlink_to("/etc/passwd")
    root = os.open(tmp_path, os.O_RDONLY)
    walk = _Walk(root)
    assert list(walk._file("x", tarfile.TarInfo("x"), found)) == []
    os.close(root)
    os.close(walk._here)


@pytest.mark.parametrize("real", [0, 100, 511, 2000])
def test_size_is_kept(tmp_path: Path, real: int) -> None:
    """A file that shrank is filled with zeros, one that grew is cut: the tar stays whole."""
    path = tmp_path / "x"
    path.write_bytes(b"x" * real)
    with path.open("rb") as file:
        data = b"".join(_content(file.fileno(), 600))
    assert len(data) == 1024 and data[: min(real, 600)] == b"x" * min(real, 600)
