"""Reading out of containers: names and stats as dockerd gives them, and nothing but the container's own files."""

import io
import os
import socket
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cais.containers.archivepath import clean_path, go_mode, last_name
from cais.containers.archiveread import read_path, stat_path
from cais.containers.archiveroot import mount_root
from cais.errors import CaisError, Invalid, NotFound
from cais.spec.container import HostConfig
from cais.spec.runtimespec import Mount, RootMount
from cais.store.layers.compare import opened
from harness.engines import Engine
from harness.exchanging import attempts, exchanging

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("asked", "path", "name"),
    [
        ("/w", "/w", "w"),
        ("/w/", "/w/", "w"),
        ("/w/.", "/w/.", "."),
        ("w/./", "/w/.", "."),
        ("/", "/", "/"),
        (".", "/.", "."),
        ("/w/../../x", "/x", "x"),
        ("//a//b/..", "/a", "a"),
    ],
)
def test_names_of_paths(asked: str, path: str, name: str) -> None:
    """A path is absolute and clean, and its end still says whether a link is followed."""
    assert (clean_path(asked), last_name(clean_path(asked))) == (path, name)


@pytest.mark.parametrize("asked", ["", "a\0b"])
def test_no_paths(asked: str) -> None:
    """Nothing, and what no system call takes, are refused."""
    with pytest.raises(Invalid):
        clean_path(asked)


@pytest.mark.parametrize(
    ("mode", "theirs"),
    [
        (stat.S_IFDIR | 0o755, 2147484141),
        (stat.S_IFREG | 0o4755, 8389101),
        (stat.S_IFLNK | 0o777, 134218239),
        (stat.S_IFIFO | 0o644, 33554852),
        (stat.S_IFDIR | 0o1777, 2148532735),
        (stat.S_IFCHR | 0o666, 69206454),
    ],
)
def test_modes_are_those_of_go(mode: int, theirs: int) -> None:
    """As a dockerd 28 told them."""
    assert go_mode(mode) == theirs


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """The tree that dockerd was asked about: below ``/w`` a file with two names, links, a FIFO, a folder."""
    tree = tmp_path / "root"
    (tree / "w/sub").mkdir(parents=True)
    (tree / "w/f").write_bytes(b"hi\n")
    (tree / "w/f").chmod(0o4755)
    os.link(tree / "w/f", tree / "w/hard")
    for name, target in (("l", "/w/sub"), ("broken", "nowhere/x"), ("lf", "../w/f"), ("loop", "loop")):
        (tree / "w" / name).symlink_to(target)
    os.mkfifo(tree / "w/p")
    with opened(os.open(tree, os.O_RDONLY)) as fd:
        yield fd


@pytest.mark.parametrize(
    ("path", "name", "size", "target"),
    [
        ("/w/f", "f", 3, ""),
        ("/w/l", "l", 6, "/w/sub"),
        ("/w/lf", "lf", 6, "/w/f"),
        ("/w/broken", "broken", 9, "/w/nowhere/x"),
        ("/w/../w/f", "f", 3, ""),
        ("/w/p", "p", 0, ""),
    ],
)
def test_stat(root: int, path: str, name: str, size: int, target: str) -> None:
    """Name, size and where a link leads are what dockerd told."""
    found = stat_path(root, path, "cc")
    assert (found.name, found.size, found.link_target) == (name, size, target)


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/nope", NotFound, "Could not find the file /nope in container cc"),
        ("/w/f/", Invalid, "lstat /w/f/: not a directory"),
        ("/w/f/x", Invalid, "lstat /w/f/x: not a directory"),
        ("/w/loop", Invalid, "too many links"),
    ],
)
def test_paths_that_are_not_there(root: int, path: str, kind: type[CaisError], words: str) -> None:
    """They are refused in dockerd's words."""
    with pytest.raises(kind, match=words):
        stat_path(root, path, "cc")


def read(root: int, path: str) -> list[tarfile.TarInfo]:
    """The members of the tar."""
    _, parts = read_path(root, path, "cc")
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as tar:
        return tar.getmembers()


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/w", ["w", "w/broken", "w/f", "w/hard", "w/l", "w/lf", "w/loop", "w/p", "w/sub"]),
        ("/w/.", [".", "./broken", "./f", "./hard", "./l", "./lf", "./loop", "./p", "./sub"]),
        ("/w/f", ["f"]),
        ("/w/l", ["l"]),
        ("/w/l/", ["l"]),
        ("/w/l/.", ["."]),
        ("/w/p", ["p"]),
    ],
)
def test_names_in_the_tar(root: int, path: str, names: list[str]) -> None:
    """They begin with the path's last part, and a link at its end is followed behind a slash only."""
    members = read(root, path)
    assert [member.name for member in members] == names
    assert members[0].issym() == (path == "/w/l")


def test_hard_links_and_kinds(root: int) -> None:
    """A second name is a link to the first, within the tar; FIFOs and links are what they are."""
    found = {member.name: member for member in read(root, "/w")}
    assert found["w/hard"].islnk() and found["w/hard"].linkname == "w/f" and found["w/f"].mode == 0o4755
    assert found["w/p"].isfifo() and found["w/l"].linkname == "/w/sub"


def test_everything_a_tar_can_hold(tmp_path: Path) -> None:
    """Contents, owners, times, xattrs, devices and names that are no UTF-8 arrive; a socket does not."""
    (tmp_path / "file").write_bytes(b"x" * 1_000_001)
    os.setxattr(tmp_path / "file", "user.note", b"\xff\0")
    os.chown(tmp_path / "file", 70_000, 3_000_000)
    os.utime(tmp_path / "file", (5, 5))
    os.mknod(tmp_path / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (tmp_path / os.fsdecode(b"\xff" * 120)).touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    with opened(os.open(tmp_path, os.O_RDONLY)) as fd:
        data = b"".join(read_path(fd, "/.", "cc")[1])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {member.name: member for member in tar}
        content = tar.extractfile("./file")
        assert content is not None and content.read() == b"x" * 1_000_001
    assert set(found) == {".", "./device", "./file", "./" + "\udcff" * 120}
    file = found["./file"]
    assert (file.uid, file.gid, file.mtime) == (70_000, 3_000_000, 5)
    assert file.pax_headers["SCHILY.xattr.user.note"] == "\udcff\0"
    assert (found["./device"].devmajor, found["./device"].devminor) == (1, 3)


@pytest.mark.parametrize("climb", ["", "/.." * 12])
@pytest.mark.parametrize("asked", ["/in", "/in/a/secret", "/in/a/."])
def test_a_folder_that_becomes_a_link_is_not_followed_out(tmp_path: Path, climb: str, asked: str) -> None:
    """Whatever is exchanged on the way or below, no file of the host is read (CVE-2018-15664)."""
    inside, outside = tmp_path / "root/in", tmp_path / "outside"
    for folder in (inside / "a", outside):
        folder.mkdir(parents=True)
        (folder / "secret").write_text("of the host" if folder == outside else "of the container")
    (inside / "link").symlink_to(climb + str(outside))
    whole: list[bytes] = []
    with exchanging(inside / "a", inside / "link"), opened(os.open(tmp_path / "root", os.O_RDONLY)) as fd:
        for _ in attempts(whole):
            try:
                data = b"".join(read_path(fd, asked, "cc")[1])
            except (CaisError, OSError):
                continue
            assert b"of the host" not in data
            if b"of the container" in data:
                whole.append(data)


def test_kernel_file_systems_are_empty(tmp_path: Path) -> None:
    """A procfs in the tree is a folder with nothing in it, and nobody is there who asks for what it holds."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    overlay = RootMount(
        "overlay", *((str(tmp_path / "lower"),), str(tmp_path / "upper"), str(tmp_path / "work"))
    )
    place = Mount(destination="/proc", type="bind", source="/proc", options=("rbind", "rprivate"))
    with opened(mount_root(overlay, [place], writable=False)) as fd:
        assert [member.name for member in read(fd, "/.")] == [".", "./proc"]
        with pytest.raises(NotFound):
            stat_path(fd, "/proc/self/environ", "cc")


def test_reading_a_stopped_root_changes_nothing(tmp_path: Path) -> None:
    """Volumes are seen where nothing was before; neither the writable folder nor the mount table shows it."""
    for name in ("lower/etc", "upper/etc", "work", "volume"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower/etc/kept").touch()
    (tmp_path / "lower/etc/removed").touch()
    os.mknod(tmp_path / "upper/etc/removed", stat.S_IFCHR, 0)
    (tmp_path / "volume/file").touch()
    (tmp_path / "hosts").write_text("127.0.0.1")
    overlay = RootMount(
        "overlay", *((str(tmp_path / "lower"),), str(tmp_path / "upper"), str(tmp_path / "work"))
    )
    places = [
        Mount(destination="/a/b", type="bind", source=str(tmp_path / "volume"), options=("rbind",)),
        Mount(destination="/etc/hosts", type="bind", source=str(tmp_path / "hosts"), options=("bind",)),
        Mount(destination="/gone", type="bind", source=str(tmp_path / "gone"), options=("bind",)),
    ]
    with opened(mount_root(overlay, places, writable=False)) as fd:
        names = [member.name.strip("/") for member in read(fd, "/")]
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert names == ["", "a", "a/b", "a/b/file", "etc", "etc/hosts", "etc/kept"]
    assert [path.name for path in (tmp_path / "upper").rglob("*")] == ["etc", "removed"]


def test_a_folder_that_was_moved_is_whole(tmp_path: Path) -> None:
    """Where the kernel moves folders by a mark in the writable folder, what lies below it is read."""
    (tmp_path / "lower/old").mkdir(parents=True)
    (tmp_path / "lower/old/file").touch()
    (tmp_path / "upper/new").mkdir(parents=True)
    os.setxattr(tmp_path / "upper/new", "trusted.overlay.redirect", b"/old")
    os.mknod(tmp_path / "upper/old", stat.S_IFCHR, 0)
    overlay = RootMount(
        "overlay", (str(tmp_path / "lower"),), str(tmp_path / "upper"), str(tmp_path / "work")
    )
    with opened(mount_root(overlay, [], writable=False)) as fd:
        assert [member.name.strip("/") for member in read(fd, "/")] == ["", "new", "new/file"]


async def test_a_running_container_and_its_volume(real: Engine) -> None:
    """What runs is seen as it sees itself, tmpfs included; the same container stopped without the tmpfs."""
    host = HostConfig(binds=("things:/data",), tmpfs={"/quick": ""})
    script = "echo v > /data/v; echo t > /quick/t; echo w > /w; exec sleep 1000"
    id = await real.run("box", host, cmd=("sh", "-c", script))
    await _until_there(real, id, "/w")
    assert {"data/file", "data/v"} <= set(await _names(real, id, "/data"))
    assert await _names(real, id, "/quick") == ["quick", "quick/t"]
    assert await _names(real, id, "/dev/null") == ["null"]
    await real.containers.kill(id)
    await real.containers.wait(id)
    assert {"data/file", "data/v"} <= set(await _names(real, id, "/data"))
    assert await _names(real, id, "/w") == ["w"]
    assert await _names(real, id, "/quick") == ["quick"]
    assert real.actions().count("archive-path") >= 5


async def test_a_container_that_never_ran(real: Engine) -> None:
    """Its volume is there, filled from the image, and the container is as new as before."""
    id = await real.create("box", HostConfig(binds=("things:/data",)))
    assert await _names(real, id, "/data") == ["data", "data/file"]
    assert await real.containers.changes(id) == []


async def _names(engine: Engine, id: str, path: str) -> list[str]:
    _, parts = await engine.containers.read_path(id, path)
    data = b"".join([part async for part in parts])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


async def _until_there(engine: Engine, id: str, path: str) -> None:
    while True:
        try:
            if (await engine.containers.stat_path(id, path)).size:
                return
        except NotFound:
            continue
