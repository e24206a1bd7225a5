"""Overlays, made as new kernels have them made and as old ones do: the same file system."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cais.linux.overlay import kernel_version, make_overlay, make_overlay_at_once

pytestmark = pytest.mark.kernel
Make = Callable[..., int]
BOTH = pytest.mark.parametrize("make", [make_overlay, make_overlay_at_once])


def layers(base: Path, count: int) -> list[str]:
    """Folders with names as long and odd as can be, top first; each has a file of its own, and all have one."""
    found = []
    for number in range(count):
        folder = base / f"a:b,c\\d =e{number:03}{'x' * 150}"
        folder.mkdir()
        (folder / f"own{number}").write_text(str(number))
        (folder / "all").write_text(str(number))
        found.append(str(folder))
    return found


def read(fd: int, name: str) -> str:
    """A file of the mount."""
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=fd)) as file:
        return file.read()


def surroundings() -> tuple[str, str, str]:
    """What must be as it was."""
    table = Path("/proc/thread-self/mountinfo").read_text()
    return table, os.readlink("/proc/thread-self/ns/mnt"), os.getcwd()


@BOTH
@pytest.mark.parametrize("count", [1, 3, 200])
def test_layers_lie_on_each_other(make: Make, count: int, tmp_path: Path) -> None:
    """However many, whatever their names; what is written goes to the upper folder."""
    lower = layers(tmp_path, count)
    upper, work = tmp_path / "up,per", tmp_path / "w:ork"
    upper.mkdir()
    work.mkdir()
    before = surroundings()
    fd = make(lower, str(upper), str(work))
    try:
        assert surroundings() == before
        assert read(fd, "all") == "0"
        assert [read(fd, f"own{number}") for number in range(count)] == list(map(str, range(count)))
        with os.fdopen(os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "w") as file:
            file.write("new")
    finally:
        os.close(fd)
    assert (upper / "new").read_text() == "new"


@BOTH
def test_without_an_upper_folder_nothing_can_be_written(make: Make, tmp_path: Path) -> None:
    """It is a view."""
    fd = make(layers(tmp_path, 2), "", "", ("redirect_dir=follow", "metacopy=on"))
    with pytest.raises(OSError, match="Read-only"):
        os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
    os.close(fd)


@BOTH
def test_a_layer_that_is_not_there(make: Make, tmp_path: Path) -> None:
    """Is told, and everything is as it was."""
    before, fds = surroundings(), os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        make([*layers(tmp_path, 2), str(tmp_path / "none")], "", "")
    assert surroundings() == before
    assert os.listdir("/proc/self/fd") == fds


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-fc", (6, 18)),
        ("6.1.0-56-cloud-amd64", (6, 1)),
        ("5.15", (5, 15)),
        ("7.0-rc1", (7, 0)),
        ("", (0, 0)),
    ],
)
def test_versions_of_kernels(release: str, version: tuple[int, int]) -> None:
    """As uname(2) tells them."""
    assert kernel_version(release) == version
