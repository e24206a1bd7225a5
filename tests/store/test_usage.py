"""The root folder's bytes: as du counts them, and whose they are."""

import os
import subprocess
from pathlib import Path

import pytest

from cais.store.usage import measure_root


def du(root: Path) -> int:
    """What du says, in bytes."""
    return int(subprocess.check_output(["du", "-s", "--block-size=1", root], text=True).split()[0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Some of everything that an engine keeps."""
    for name in (
        "content/blobs/sha256",
        "layers/sha256-1/fs/d",
        "containers/c1/upper/x/y",
        "volumes/v/_data",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "content/blobs/sha256/aa").write_bytes(b"x" * 10_000)
    (tmp_path / "content/index.json").write_bytes(b"x")
    (tmp_path / "layers/sha256-1/fs/d/file").write_bytes(b"x" * 5000)
    os.link(tmp_path / "layers/sha256-1/fs/d/file", tmp_path / "layers/sha256-1/fs/twin")
    (tmp_path / "containers/c1/upper/x/y/f").write_bytes(b"x" * 5000)
    (tmp_path / "containers/c1/c1-json.log").write_bytes(b"x")
    os.truncate(tmp_path / "containers/c1/c1-json.log", 1 << 20)
    (tmp_path / "cais.db").write_bytes(b"x")
    (tmp_path / "link").symlink_to("/")
    return tmp_path


def test_the_sum_is_dus(root: Path) -> None:
    """To the block: hard links once, holes not at all, folders too, symlinks not followed."""
    assert sum(measure_root(root).values()) == du(root)


def test_places(root: Path) -> None:
    """Each byte belongs to the blob, layer, container's part, volume or file that it is of."""
    blocks = measure_root(root)
    assert set(blocks) == {
        *("", "cais.db", "link", "content", "content/blobs", "content/blobs/sha256"),
        *("content/blobs/sha256/aa", "content/index.json", "layers", "layers/sha256-1"),
        *("containers", "containers/c1", "containers/c1/upper", "containers/c1/c1-json.log"),
        *("volumes", "volumes/v"),
    }
    assert blocks["layers/sha256-1"] == du(root / "layers/sha256-1")
    assert blocks["containers/c1/upper"] == du(root / "containers/c1/upper")


def test_deeper_than_paths_go(root: Path) -> None:
    """A container may nest folders without end; they are all counted."""
    here = os.open(root / "containers/c1/upper", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert sum(measure_root(root).values()) == du(root)
    subprocess.run(["rm", "-rf", root / "containers"], check=True)
