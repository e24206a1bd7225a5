"""Removing what a container left, however it is nested."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cais.store.snapshots.base import Trash
from cais.store.snapshots.remove import remove_tree
from cais.store.snapshots.tree import measure


def nest(folder: Path, depth: int) -> None:
    """Folders in folders, with a file at the bottom; made by descriptors, for paths end at 4096 bytes."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("x" * 20, dir_fd=here)
        below = os.open("x" * 20, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that is gone afterwards also when the test failed: pytest's own clean-up ends in a RecursionError."""
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path], check=True)


def test_everything_goes(tmp_path: Path) -> None:
    """Files, links to folders outside (which stay), folders without rights, and the folder itself."""
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    victim = tmp_path / "victim"
    (victim / "a/b/c").mkdir(parents=True)
    (victim / "a/b/file").touch()
    (victim / "a/link").symlink_to(outside)
    (victim / "a/b").chmod(0)
    remove_tree(str(victim))
    assert not victim.exists() and (outside / "kept").is_dir()
    remove_tree(str(victim))


def test_deep_nesting(place: Path) -> None:
    """Deeper than recursion, descriptors and paths reach: measured without an error, and removed."""
    (place / "victim").mkdir()
    nest(place / "victim", 1200)
    assert measure(str(place / "victim")) == 0
    trash = Trash(place / "trash")
    trash.put(place / "victim")
    trash.empty()
    assert os.listdir(place / "trash") == []


def test_link_in_place_of_the_folder(tmp_path: Path) -> None:
    """The folder itself is not followed when it is a link."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").touch()
    (tmp_path / "victim").symlink_to(tmp_path / "outside")
    with pytest.raises(NotADirectoryError):
        remove_tree(str(tmp_path / "victim"))
    assert (tmp_path / "outside/kept").exists()
