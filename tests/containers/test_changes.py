"""What a container changed: as dockerd chooses and names it, from the writable folder alone."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from cais.containers.changes import list_changes, make_source
from cais.errors import Conflict, NotFound
from cais.spec.container import HostConfig
from cais.spec.runtimespec import RootMount
from cais.store.layers.diff import DiffSource
from harness.engines import Engine

pytestmark = pytest.mark.kernel

LETTERS = "CAD"


def listed(source: DiffSource) -> list[str]:
    """The changes as docker diff prints them."""
    return [f"{LETTERS[change.kind]} {change.path}" for change in list_changes(source)]


def layered(tmp_path: Path, *names: str) -> tuple[Path, Path, DiffSource]:
    """A layer with files of these names (folders with a slash at the end), and an empty writable folder."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for folder in (lower, upper):
        folder.mkdir()
    for name in names:
        path = lower / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("of the image")
    root = RootMount("overlay", (str(lower),), str(upper), str(tmp_path / "work"))
    return lower, upper, make_source(DiffSource(root, (str(lower),)), ("/srv/data",))


def copy_up(lower: Path, upper: Path, name: str) -> Path:
    """As overlayfs does before a write: the folders above too, with their times."""
    for folder in [*(lower / name).relative_to(lower).parents][-2::-1]:
        if not (upper / folder).exists():
            (upper / folder).mkdir()
            shutil.copystat(lower / folder, upper / folder)
    if (lower / name).is_dir():
        (upper / name).mkdir()
        shutil.copystat(lower / name, upper / name)
    else:
        shutil.copy2(lower / name, upper / name)
        for folder in [*(lower / name).relative_to(lower).parents][:-1]:
            shutil.copystat(lower / folder, upper / folder)
    return upper / name


def test_nothing(tmp_path: Path) -> None:
    """A copy of a folder that something was only read in is no change."""
    lower, upper, source = layered(tmp_path, "etc/sub/")
    copy_up(lower, upper, "etc/sub")
    os.utime(upper / "etc", ns=(0, (lower / "etc").stat().st_mtime_ns))
    assert listed(source) == []


def test_kinds_and_the_folders_above(tmp_path: Path) -> None:
    """Written, added and deleted; the folders above, however far, are modified, and stand before them."""
    lower, upper, source = layered(tmp_path, "a/b/file", "a/b/gone", "a/b/same", "keep/x")
    copy_up(lower, upper, "a/b/file").write_text("new")
    os.mknod(upper / "a/b/gone", stat.S_IFCHR, 0)
    (upper / "new/deep").mkdir(parents=True)
    (upper / "new/deep/file").touch()
    shutil.copystat(lower / "a/b", upper / "a/b")
    expected = ["C /a", "C /a/b", "C /a/b/file", "D /a/b/gone", "A /new", "A /new/deep", "A /new/deep/file"]
    assert listed(source) == expected


def test_attributes_of_folders(tmp_path: Path) -> None:
    """Another mode, or another time, is a change of the folder alone."""
    lower, upper, source = layered(tmp_path, "mode/", "time/", "plain/")
    for name in ("mode", "time", "plain"):
        copy_up(lower, upper, name)
    (upper / "mode").chmod(0o700)
    os.utime(upper / "time", (5, 5))
    assert listed(source) == ["C /mode", "C /time"]


def test_a_folder_that_was_made_anew(tmp_path: Path) -> None:
    """What stood in it is deleted, unless it is there again."""
    _, upper, source = layered(tmp_path, "var/old", "var/both", "var/sub/x")
    (upper / "var").mkdir()
    os.setxattr(upper / "var", "trusted.overlay.opaque", b"y")
    (upper / "var/both").touch()
    (upper / "var/new").touch()
    expected = ["C /var", "C /var/both", "A /var/new", "D /var/old", "D /var/sub"]
    assert listed(source) == expected


def test_kinds_that_changed(tmp_path: Path) -> None:
    """A folder in a file's place, and the other way round, is modified; what is in it is added."""
    _, upper, source = layered(tmp_path, "file", "folder/x")
    (upper / "file").mkdir()
    (upper / "file/y").touch()
    (upper / "folder").touch()
    assert listed(source) == ["C /file", "A /file/y", "C /folder"]


def test_what_the_engine_makes_does_not_show(tmp_path: Path) -> None:
    """Targets of mounts, and the time of the folder they are made in; but what the container did there does."""
    lower, upper, source = layered(tmp_path, "etc/passwd")
    copy_up(lower, upper, "etc")
    os.utime(upper / "etc", (5, 5))
    for name in ("etc/hosts", "etc/hostname", "etc/resolv.conf"):
        (upper / name).touch(0o644)
    for name in ("dev", "proc", "sys", "srv", "srv/data"):
        (upper / name).mkdir(0o755)
    assert listed(source) == []
    (upper / "srv/data/own").touch()
    (upper / "etc/hosts").write_text("own")
    assert listed(source) == ["C /etc", "A /etc/hosts", "A /srv", "A /srv/data", "A /srv/data/own"]


def test_a_whiteout_of_nothing(tmp_path: Path) -> None:
    """A mark that hides nothing is no deletion."""
    _, upper, source = layered(tmp_path)
    os.mknod(upper / "never", stat.S_IFCHR, 0)
    assert listed(source) == []


def test_a_plain_copy(tmp_path: Path) -> None:
    """Without overlayfs the whole tree is compared with the layers."""
    lower, _, _ = layered(tmp_path, "a/same", "a/written", "b/gone")
    tree = tmp_path / "tree"
    shutil.copytree(lower, tree)
    (tree / "a/written").write_text("new")
    (tree / "b/gone").unlink()
    source = make_source(DiffSource(RootMount("folder", (str(tree),)), (str(lower),)), ())
    assert listed(source) == ["C /a", "C /a/written", "C /b", "D /b/gone"]


async def test_a_running_and_a_stopped_container(real: Engine) -> None:
    """By what the kernel wrote: the same list while it runs and after, and no mount point in it."""
    host = HostConfig(binds=("things:/mnt/data",), tmpfs={"/quick": ""})
    script = (
        "echo x >> /etc/passwd; rm /bin/vi; rm -r /data; mkdir /data; echo > /data/y; touch /mnt/data/v; "
    )
    id = await real.run("box", host, cmd=("sh", "-c", script + "echo > /done; exec sleep 1000"))
    while not await _is_there(real, id, "/done"):
        continue
    running = [f"{LETTERS[change.kind]} {change.path}" for change in await real.containers.changes(id)]
    await real.containers.kill(id)
    await real.containers.wait(id)
    stopped = [f"{LETTERS[change.kind]} {change.path}" for change in await real.containers.changes(id)]
    expected = [
        "C /bin",
        "D /bin/vi",
        "C /data",
        "D /data/file",
        "A /data/y",
        "A /done",
        "C /etc",
        "C /etc/passwd",
    ]
    assert running == stopped == expected


async def test_a_container_that_is_being_removed(engine: Engine) -> None:
    """It is refused."""
    id = await engine.create("box")
    engine.containers._fleet.find(id).removing = True
    with pytest.raises(Conflict, match="box is being removed"):
        await engine.containers.changes("box")


async def _is_there(engine: Engine, id: str, path: str) -> bool:
    try:
        return (await engine.containers.stat_path(id, path)).size > 0
    except NotFound:
        return False
