"""Unpacking into containers: what dockerd does with the same tars, and never a byte outside."""

import asyncio
import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard

from cais.containers.archiveroot import mount_root
from cais.containers.archivewrite import CopyWish, Target, extract
from cais.containers.pulled import Pulled
from cais.errors import CaisError, Conflict, Invalid, NotFound
from cais.spec.container import HostConfig
from cais.spec.runtimespec import Mount, RootMount
from cais.store.layers.compare import opened
from harness.engines import Engine
from harness.exchanging import attempts, exchanging

pytestmark = pytest.mark.kernel

Item = tuple[str, bytes, str]
"""Name, kind of member, and a file's content or a link's target."""


def make_tar(*items: Item, **fields: object) -> bytes:
    """A tar of these members, owned by 7:8, with mode 0640 and an old time unless ``fields`` say otherwise."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, text in items:
            entry = tarfile.TarInfo(name)
            entry.type, entry.uid, entry.gid, entry.mode, entry.mtime = kind, 7, 8, 0o640, 1000
            for field, value in fields.items():
                setattr(entry, field, value)
            data = text.encode() if kind == tarfile.REGTYPE else b""
            entry.size = len(data)
            entry.linkname = "" if data else text
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def file(name: str, text: str = "new") -> Item:
    """A regular file."""
    return name, tarfile.REGTYPE, text


async def once(data: bytes, size: int = 7000) -> AsyncIterator[bytes]:
    """The body of a request."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def unpack(root: Path, data: bytes, path: str = "/w", **wish: bool) -> None:
    """As the engine does for a folder of ``root``."""
    with opened(os.open(root, os.O_RDONLY)) as fd:
        pulled = Pulled(once(data), asyncio.get_running_loop())
        await asyncio.to_thread(extract, Target(fd, "cc", "app"), CopyWish(path, **wish), pulled)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a folder to write to, beside a folder that is the host's."""
    (tmp_path / "outside").mkdir()
    for name in ("w/sub", "etc"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "root/w/f").write_text("old")
    (tmp_path / "root/etc/passwd").write_text("app:x:70:80::/:/bin/sh\n")
    return tmp_path / "root"


def untouched(root: Path) -> bool:
    """Nothing was written beside the root."""
    return sorted(os.listdir(root.parent)) == ["outside", "root"] and not os.listdir(root.parent / "outside")


async def test_every_kind_with_its_attributes(root: Path) -> None:
    """Contents, folders, links, nodes; owner, mode and time are the tar's, the folder's time too."""
    data = make_tar(
        ("d", tarfile.DIRTYPE, ""),
        file("d/x", "y" * 100_000),
        ("d/s", tarfile.SYMTYPE, "../../../../x"),
        ("d/h", tarfile.LNKTYPE, "d/x"),
        ("d/p", tarfile.FIFOTYPE, ""),
        ("d/null", tarfile.CHRTYPE, ""),
        mode=0o4751,
        devmajor=1,
        devminor=3,
        pax_headers={"SCHILY.xattr.user.note": "word"},
    )
    await unpack(root, data)
    folder = root / "w/d"
    assert (folder / "x").read_text() == "y" * 100_000 and os.readlink(folder / "s") == "../../../../x"
    assert (folder / "h").stat().st_ino == (folder / "x").stat().st_ino
    assert (folder / "null").stat().st_rdev == os.makedev(1, 3) and (folder / "p").is_fifo()
    for path in (folder, folder / "x", folder / "s", folder / "p", folder / "null"):
        found = path.lstat()
        assert (found.st_uid, found.st_gid, found.st_mtime) == (7, 8, 1000), path
        assert path.is_symlink() or stat.S_IMODE(found.st_mode) == 0o4751
    assert os.getxattr(folder / "x", "user.note") == b"word"


async def test_files_are_replaced_and_folders_merged(root: Path) -> None:
    """A new file has the name; who has the old one open keeps it; what else is in a folder stays."""
    (root / "w/sub/kept").touch()
    old = (root / "w/f").stat().st_ino
    with (root / "w/f").open() as held:
        await unpack(root, make_tar(file("f"), ("sub", tarfile.DIRTYPE, ""), file("sub/x"), mode=0o750))
        assert held.read() == "old"
    assert (root / "w/f").read_text() == "new" and (root / "w/f").stat().st_ino != old
    assert sorted(os.listdir(root / "w/sub")) == ["kept", "x"]
    assert stat.S_IMODE((root / "w/sub").stat().st_mode) == 0o750


async def test_the_folder_itself_stays_as_it_is(root: Path) -> None:
    """``./`` in a tar is no wish about it."""
    (root / "w").chmod(0o711)
    await unpack(root, make_tar(("./", tarfile.DIRTYPE, ""), file("./x")))
    assert stat.S_IMODE((root / "w").stat().st_mode) == 0o711 and (root / "w/x").exists()


async def test_folders_that_are_not_listed_are_made(root: Path) -> None:
    """As root's, for everybody to enter."""
    await unpack(root, make_tar(file("a/b/c")))
    found = (root / "w/a/b").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o755) and (root / "w/a/b/c").exists()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
async def test_compressions(root: Path, pack: object) -> None:
    """All that Docker takes."""
    assert callable(pack)
    await unpack(root, pack(make_tar(file("x"))))
    assert (root / "w/x").read_text() == "new"


async def test_a_sparse_file_and_a_name_of_a_whiteout(root: Path) -> None:
    """Holes stay holes; ``.wh.sub`` is a file, and removes nothing."""
    (root.parent / "sparse").mkdir()
    hole = root.parent / "sparse/hole"
    with hole.open("wb") as made:
        made.truncate(10 << 20)
        made.seek(5 << 20)
        made.write(b"x")
    process = await asyncio.create_subprocess_exec(
        "tar", "-cS", "-C", str(hole.parent), "hole", stdout=asyncio.subprocess.PIPE
    )
    data, _ = await process.communicate()
    await unpack(root, data)
    found = (root / "w/hole").stat()
    assert found.st_size == 10 << 20 and found.st_blocks < 1000
    assert (root / "w/hole").read_bytes() == hole.read_bytes()
    await unpack(root, make_tar(file(".wh.sub")))
    assert (root / "w/sub").is_dir() and (root / "w/.wh.sub").read_text() == "new"


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([file("../esc")], 'invalid entry name "../esc"'),
        ([file("a/../../esc")], 'invalid entry name "a/../../esc"'),
        ([("h", tarfile.LNKTYPE, "../etc/passwd")], 'invalid hardlink target "../etc/passwd"'),
        ([("h", tarfile.LNKTYPE, ".")], 'invalid hardlink target "."'),
        ([("h", tarfile.LNKTYPE, "nothere")], "h: no such file or directory"),
        ([("l", tarfile.SYMTYPE, "/outside"), file("l/x")], "no such file or directory"),
        ([("l", tarfile.SYMTYPE, "../../outside"), file("l/x")], "no such file or directory"),
    ],
)
async def test_what_leads_out_is_refused(root: Path, items: list[Item], words: str) -> None:
    """By its name, by a hard link's, or by a link that the tar itself brings."""
    with pytest.raises(Invalid) as error:
        await unpack(root, make_tar(*items))
    assert words in str(error.value)
    assert untouched(root) and not (root / "esc").exists() and os.listdir(root / "etc") == ["passwd"]


async def test_absolute_names_and_links_count_from_the_folder(root: Path) -> None:
    """As dockerd takes them."""
    await unpack(root, make_tar(file("/abs"), ("l", tarfile.SYMTYPE, "/sub"), file("l/x")))
    assert (root / "w/abs").exists() and (root / "w/sub/x").exists() and untouched(root)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (file("sub"), 'cannot overwrite directory "sub" with non-directory "/w"'),
        (("f", tarfile.DIRTYPE, ""), 'cannot overwrite non-directory "f" with directory "/w"'),
    ],
)
async def test_a_folder_for_a_file(root: Path, item: Item, words: str) -> None:
    """Refused if asked, with nothing changed; otherwise one takes the other's place."""
    (root / "w/sub/deep").mkdir()
    with pytest.raises(Invalid) as error:
        await unpack(root, make_tar(item), same_kinds=True)
    assert str(error.value) == words and (root / "w/sub/deep").is_dir() and (root / "w/f").is_file()
    await unpack(root, make_tar(item))
    assert (root / "w" / item[0]).is_dir() == (item[1] == tarfile.DIRTYPE)


async def test_a_tar_that_is_cut(root: Path) -> None:
    """An error; what came before stays."""
    data = make_tar(file("first"), file("second", "x" * 5000))
    with pytest.raises(Invalid, match="unexpected EOF"):
        await unpack(root, data[: data.index(b"xxx") + 700])
    assert (root / "w/first").read_text() == "new"


async def test_no_tar(root: Path) -> None:
    """An error that says so."""
    with pytest.raises(Invalid, match="tar header"):
        await unpack(root, b"#!/bin/sh\n" * 100)


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/nope", NotFound, "Could not find the file /nope in container cc"),
        ("/w/f", Invalid, "extraction point is not a directory"),
        ("/w/f/x", Invalid, "not a directory"),
    ],
)
async def test_places_that_are_no_folder(root: Path, path: str, kind: type[CaisError], words: str) -> None:
    """In dockerd's words."""
    with pytest.raises(kind) as error:
        await unpack(root, make_tar(file("x")), path)
    assert str(error.value) == words


async def test_the_containers_user(root: Path) -> None:
    """With ``own_user`` the tar's owners do not count, but the container's own account file does."""
    await unpack(root, make_tar(file("x")), own_user=True)
    found = (root / "w/x").stat()
    assert (found.st_uid, found.st_gid) == (70, 80)
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("/etc/passwd")
    with pytest.raises(Invalid, match="unable to find user app"):
        await unpack(root, make_tar(file("x")), own_user=True)


async def test_engine_attributes_are_not_taken(root: Path) -> None:
    """overlayfs's own attributes in a tar would hide or redirect folders."""
    data = make_tar(("d", tarfile.DIRTYPE, ""), pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})
    await unpack(root, data)
    assert os.listxattr(root / "w/d") == []


@pytest.mark.parametrize("climb", ["", "/.." * 12])
async def test_a_folder_that_becomes_a_link_is_not_followed_out(root: Path, climb: str) -> None:
    """Whatever is exchanged on the way, nothing is written, linked or removed outside (CVE-2018-15664)."""
    outside = root.parent / "outside"
    (root / "w/a").mkdir()
    (root / "w/link").symlink_to(climb + str(outside))
    (root.parent / "outside/kept").mkdir()
    items = [
        ("a", tarfile.DIRTYPE, ""),
        file("a/x"),
        ("a/d", tarfile.DIRTYPE, ""),
        file("a/d/y"),
        file("a/kept"),
    ]
    written: list[bytes] = []
    with exchanging(root / "w/a", root / "w/link"):
        for _ in attempts(written):
            for data in (make_tar(*items[1:2]), make_tar(*items[2:])):
                try:
                    await unpack(root, data)
                except (CaisError, OSError):
                    continue
                written.append(data)
    assert os.listdir(outside) == ["kept"] and not os.listdir(outside / "kept")


@pytest.mark.parametrize("climb", ["", "/.." * 12])
async def test_a_destination_that_becomes_a_link_is_not_followed_out(root: Path, climb: str) -> None:
    """The same for the folder that was asked for."""
    (root / "w/a").mkdir()
    (root / "w/link").symlink_to(climb + str(root.parent / "outside"))
    written: list[bytes] = []
    data = make_tar(file("x"), ("d", tarfile.DIRTYPE, ""), file("d/y"))
    with exchanging(root / "w/a", root / "w/link"):
        for _ in attempts(written):
            try:
                await unpack(root, data, "/w/a")
            except (CaisError, OSError):
                continue
            written.append(data)
    assert untouched(root)


async def test_a_mounted_root(tmp_path: Path) -> None:
    """What is written to a root made for it stands in the writable folder and in the volume; read-only ones refuse."""
    for name in ("lower", "upper", "work", "volume", "fixed"):
        (tmp_path / name).mkdir()
    overlay = RootMount(
        "overlay", (str(tmp_path / "lower"),), str(tmp_path / "upper"), str(tmp_path / "work")
    )
    places = [
        Mount(destination="/v", type="bind", source=str(tmp_path / "volume"), options=("rbind",)),
        Mount(destination="/ro", type="bind", source=str(tmp_path / "fixed"), options=("rbind", "rro")),
    ]
    for readonly in (False, True):
        fd = mount_root(overlay, places, writable=True, readonly=readonly)
        with opened(fd):
            here = Path(f"/proc/self/fd/{fd}")
            await unpack(here, make_tar(file("x")), "/v")
            with pytest.raises(Invalid, match="mounted volume is marked read-only"):
                await unpack(here, make_tar(file("x")), "/ro")
            refusal = "container rootfs" if readonly else "mounted volume"
            with pytest.raises(Invalid, match=f"{refusal} is marked read-only"):
                await unpack(here, make_tar(file("y"), file("ro/x")), "/")
    assert sorted(os.listdir(tmp_path / "upper")) == ["ro", "v", "y"]
    assert os.listdir(tmp_path / "volume") == ["x"] and os.listdir(tmp_path / "fixed") == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


async def test_a_start_waits_for_the_copy(real: Engine) -> None:
    """The container cannot start while something is copied into its stopped root; then it finds it."""
    id = await real.create(
        "box", HostConfig(binds=("things:/data",)), cmd=("sh", "-c", "test -e /data/x && test -e /y")
    )
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        data = make_tar(file("data/x"), file("y"))
        yield data[:600]
        begun.set()
        await gate.wait()
        yield data[600:]

    copy = asyncio.create_task(real.containers.write_path(id, CopyWish("/"), slow()))
    await begun.wait()
    start = asyncio.create_task(real.containers.start(id))
    done, _ = await asyncio.wait((start,), timeout=0.2)
    assert not done and real.status(id) == "created"
    gate.set()
    await copy
    await start
    assert (await real.containers.wait(id))[0] == 0
    assert "extract-to-dir" in real.actions()


async def test_into_a_running_container(real: Engine) -> None:
    """It sees the files at once, in its tmpfs too."""
    host = HostConfig(tmpfs={"/quick": ""}, readonly_rootfs=True)
    script = "until test -e /quick/go; do sleep 0.02; done; cat /quick/go; exit 5"
    id = await real.run("box", host, cmd=("sh", "-c", script))
    with pytest.raises(Invalid, match="container rootfs is marked read-only"):
        await real.containers.write_path(id, CopyWish("/etc"), once(make_tar(file("x"))))
    await real.containers.write_path(id, CopyWish("/quick"), once(make_tar(file("go"))))
    assert (await real.containers.wait(id))[0] == 5


async def test_a_container_that_ends_ends_the_copy(real: Engine) -> None:
    """Nobody goes on writing below a root that the next start mounts anew."""
    id = await real.run("box", cmd=("sleep", "1000"))
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield make_tar(file("x"))[:600]
        begun.set()
        await asyncio.Event().wait()

    copy = asyncio.create_task(real.containers.write_path(id, CopyWish("/tmp"), endless()))
    await begun.wait()
    live = real.containers._fleet.find(id)
    assert live.copies
    await real.containers.kill(id)
    with pytest.raises(Conflict, match="ended while it was copied to"):
        await copy
    assert not live.copies


async def test_a_start_waits_for_what_still_writes(real: Engine) -> None:
    """A copy that the end of the container has stopped may not be over yet."""
    id = await real.create("box", cmd=("true",))
    gate = asyncio.Event()

    async def copy() -> None:
        await gate.wait()

    copies = real.containers._fleet.find(id).copies
    copies.add(asyncio.create_task(copy()))
    start = asyncio.create_task(real.containers.start(id))
    done, _ = await asyncio.wait((start,), timeout=0.2)
    assert not done
    gate.set()
    await start
    copies.clear()


async def test_a_link_in_a_folders_place(root: Path) -> None:
    """What comes behind it goes where it leads, inside."""
    link = ("a", tarfile.SYMTYPE, "sub")
    await unpack(root, make_tar(("a", tarfile.DIRTYPE, ""), file("a/x"), link, file("a/y")))
    assert os.listdir(root / "w/sub") == ["y"] and os.readlink(root / "w/a") == "sub"


@pytest.mark.parametrize("running", [True, False])
async def test_a_client_that_goes_away(real: Engine, running: bool) -> None:
    """Cancelled in the middle: the thread ends, the container can be started and removed."""
    id = await (real.run if running else real.create)("box", cmd=("sleep", "1000"))
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield make_tar(file("x"))[:600]
        begun.set()
        await asyncio.Event().wait()

    copy = asyncio.create_task(real.containers.write_path(id, CopyWish("/tmp"), endless()))
    await begun.wait()
    copy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copy
    if not running:
        await real.containers.start(id)
    assert real.status(id) == "running"


@pytest.mark.parametrize("running", [True, False])
async def test_nothing_is_left_open(real: Engine, running: bool) -> None:
    """Whatever was copied, refused or given up: no descriptor stays, and no mount."""
    host = HostConfig(binds=("things:/data",))
    id = await (real.run if running else real.create)("box", host, cmd=("sleep", "1000"))

    async def everything() -> None:
        await real.containers.stat_path(id, "/data")
        _, parts = await real.containers.read_path(id, "/")
        assert [part async for part in parts]
        _, parts = await real.containers.read_path(id, "/")
        assert isinstance(parts, AsyncGenerator)
        await anext(parts)
        await parts.aclose()
        await real.containers.write_path(
            id, CopyWish("/data"), once(make_tar(file("x"), ("d", tarfile.DIRTYPE, "")))
        )
        for data in (make_tar(file("../x")), b"", make_tar(file("d"))):
            with suppress(Invalid):
                await real.containers.write_path(id, CopyWish("/data", same_kinds=True), once(data))
        for path in ("/nope", "/etc/passwd"):
            with pytest.raises(CaisError):
                await real.containers.write_path(id, CopyWish(path), once(b""))
        with pytest.raises(NotFound):
            await real.containers.read_path(id, "/nope")
        await real.containers.changes(id)

    await everything()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await everything()
    assert len(os.listdir("/proc/self/fd")) == before
    assert str(real.root / "containers") not in Path("/proc/self/mountinfo").read_text()
