"""The store of layers: nothing half-made is visible, nothing is left over."""

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cais.errors import Corrupt, Invalid, NotFound
from cais.spec.digest import Digest, chain_ids, digest_bytes
from cais.store.layers.layers import Layers, ensure_layers, unpack_layer

pytestmark = pytest.mark.kernel

Add = Callable[..., Digest]


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    """An empty store."""
    return Layers(tmp_path / "root")


@pytest.fixture
def add(tmp_path: Path, tar: Any, layers: Layers) -> Add:
    """``add(member, …, on=[…])`` unpacks a layer and returns its diff_id."""

    def add_layer(*members: Any, on: Any = ()) -> Digest:
        data = tar.make(*members)
        (tmp_path / "blob").write_bytes(data)
        layers.ensure(tmp_path / "blob", digest_bytes(data), on)
        return digest_bytes(data)

    return add_layer


def names(tmp_path: Path) -> list[str]:
    """What lies in the store's folder."""
    return sorted(os.listdir(tmp_path / "root" / "layers"))


def test_a_layer_is_unpacked_once(tmp_path: Path, tar: Any, layers: Layers, add: Add) -> None:
    """The second time the blob is not even opened."""
    diff_id = add(tar.file("f", b"x"))
    layers.ensure(tmp_path / "no such blob", diff_id, ())
    assert layers.has(diff_id) and layers.list() == [diff_id] and layers.size(diff_id) == 1
    assert (layers.path(diff_id) / "f").read_bytes() == b"x"
    assert layers.lower_paths([diff_id]) == (str(layers.path(diff_id)),)
    assert names(tmp_path) == [diff_id.replace(":", "-")]


def test_layers_are_listed_from_the_top(tar: Any, layers: Layers, add: Add) -> None:
    """overlayfs wants the topmost layer first; the input is the other way round."""
    one = add(tar.file("a"))
    two = add(tar.file("b"), on=[one])
    assert layers.lower_paths([one, two]) == (str(layers.path(two)), str(layers.path(one)))
    assert layers.lower_paths([]) == ()


def test_nobody_but_root_can_walk_in(tmp_path: Path, layers: Layers) -> None:
    """Layers hold setuid programs (CVE-2021-41091); a folder that somebody opened up is shut again."""
    folder = tmp_path / "root" / "layers"
    folder.chmod(0o755)
    Layers(tmp_path / "root")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["truncated", "wrong digest", "escaping", "no blob"])
def test_a_failure_leaves_nothing(tmp_path: Path, tar: Any, layers: Layers, damage: str) -> None:
    """Neither a layer nor a temporary folder."""
    data = tar.make(tar.file("a", b"x" * 5000), tar.file("../b" if damage == "escaping" else "b"))
    blob, diff_id = tmp_path / "blob", digest_bytes(data)
    blob.write_bytes(data[:3000] if damage == "truncated" else data)
    if damage == "wrong digest":
        diff_id = digest_bytes(b"other")
    if damage == "no blob":
        blob.unlink()
    with pytest.raises((Corrupt, Invalid, FileNotFoundError)):
        layers.ensure(blob, diff_id, ())
    assert names(tmp_path) == [] and not layers.has(diff_id)
    with pytest.raises(NotFound, match="no such layer: sha256:"):
        layers.lower_paths([diff_id])


def test_several_at_once_make_one(tmp_path: Path, tar: Any, layers: Layers) -> None:
    """Workers that unpack the same layer do not disturb each other."""
    data = tar.make(*(tar.file(f"f{n}", b"x" * 100) for n in range(200)))
    (tmp_path / "blob").write_bytes(data)
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(unpack_layer, tmp_path / "root", tmp_path / "blob", digest_bytes(data))
            for _ in range(8)
        ]
        assert [job.result() for job in jobs] == [None] * 8
    assert len(os.listdir(layers.path(digest_bytes(data)))) == 200
    assert len(names(tmp_path)) == 1


def test_layers_unpacked_in_any_order_fit_afterwards(tmp_path: Path, tar: Any, layers: Layers) -> None:
    """unpack needs no parents; ensure_layers makes the stack whole."""
    blobs = [tar.make(tar.folder("d", mode=0o700)), tar.make(tar.file("d/f"))]
    diff_ids = [digest_bytes(data) for data in blobs]
    paths = [tmp_path / "0", tmp_path / "1"]
    for path, data, diff_id in reversed(list(zip(paths, blobs, diff_ids, strict=True))):
        path.write_bytes(data)
        layers.unpack(path, diff_id)
    with pytest.raises(NotFound):
        layers.lower_paths(diff_ids)
    ensure_layers(tmp_path / "root", paths, diff_ids)
    assert len(layers.lower_paths(diff_ids)) == 3


def test_an_implied_folder_keeps_everything_it_has_below(
    tar: Any, layers: Layers, add: Add, merged: Any
) -> None:
    """Mode, owner, xattrs and time, though the layer by itself is shared by all its chains."""
    headers = {"SCHILY.xattr.user.a": "b"}
    base = add(tar.folder("d", mode=0o2750, uid=3, gid=4, mtime=5, pax_headers=headers), tar.file("d/a"))
    other = add(tar.folder("d", mode=0o700))
    top = add(tar.file("d/f"), on=[base])
    assert add(tar.file("d/f"), on=[other]) == top
    with merged(*layers.lower_paths([base, top])) as path:
        status = (path / "d").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (
            0o2750,
            3,
            4,
            5,
        )
        assert os.getxattr(path / "d", "user.a") == b"b"
        assert sorted(os.listdir(path / "d")) == ["a", "f"]
    assert layers.lower_paths([base, top])[1] == layers.lower_paths([other, top])[1] == str(layers.path(top))


def test_implied_folders_that_are_alike_cost_nothing(tar: Any, layers: Layers, add: Add) -> None:
    """No folder is made for a chain if the plain mode is right."""
    base = add(tar.folder("./"), tar.folder("d"))
    top = add(tar.file("d/f"), on=[base])
    assert layers.lower_paths([base, top]) == (str(layers.path(top)), str(layers.path(base)))


def test_removing_a_layer_removes_what_was_made_from_it(
    tmp_path: Path, tar: Any, layers: Layers, add: Add
) -> None:
    """Chains too, the bytes are counted, and again is fine."""
    base = add(tar.folder("d", mode=0o700))
    top = add(tar.file("d/f", b"x" * 10), on=[base])
    assert len(names(tmp_path)) == 3
    assert layers.remove(top) == 10 and layers.remove(top) == 0
    assert names(tmp_path) == [base.replace(":", "-")]
    with pytest.raises(NotFound):
        layers.lower_paths([base, top])


def test_prune_keeps_whole_stacks(tmp_path: Path, tar: Any, layers: Layers, add: Add) -> None:
    """What no kept stack needs goes, chains of other stacks included."""
    base, other = add(tar.folder("d", mode=0o700)), add(tar.folder("d", mode=0o711))
    top = add(tar.file("d/f", b"x"), on=[base])
    add(tar.file("d/f", b"x"), on=[other])
    layers.prune([[base, top]])
    chain = chain_ids([base, top])[-1].replace(":", "-")
    assert names(tmp_path) == sorted([base.replace(":", "-"), top.replace(":", "-"), f"chain-{chain}"])
    assert len(layers.lower_paths([base, top])) == 3


def test_left_overs_are_swept(tmp_path: Path, tar: Any, layers: Layers, add: Add) -> None:
    """Temporary folders and trash of a killed process go, layers stay."""
    diff_id = add(tar.file("f"))
    for name in (".tmp-x/fs/deep", ".trash-y/fs"):
        (tmp_path / "root" / "layers" / name).mkdir(parents=True)
    Layers(tmp_path / "root").sweep()
    assert names(tmp_path) == [diff_id.replace(":", "-")]


def test_what_a_crash_of_the_machine_may_have_damaged_is_dropped(
    tmp_path: Path, tar: Any, layers: Layers, add: Add
) -> None:
    """Layers of an earlier boot stay only if they were settled; a record that cannot be read counts as damage."""
    settled = add(tar.file("a"))
    layers.settle()
    loose, broken = add(tar.file("b")), add(tar.file("c"))
    records = {diff_id: layers.path(diff_id).parent / "layer.json" for diff_id in (settled, loose, broken)}
    for diff_id in (settled, loose):
        text = records[diff_id].read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        records[diff_id].write_text(text.replace(boot, "an earlier one"))
    records[broken].write_bytes(b"")
    layers.sweep()
    assert layers.list() == [settled]
    assert names(tmp_path) == [settled.replace(":", "-")]


def test_a_hard_link_to_a_file_below_carries_the_file_along(
    tar: Any, layers: Layers, add: Add, merged: Any
) -> None:
    """Both names are one file again, with owner, mode, time and attributes; the layer below is untouched."""
    headers = {"SCHILY.xattr.user.a": "b"}
    base = add(tar.file("d/f", b"data", mode=0o4750, uid=5, mtime=9, pax_headers=headers))
    top = add(tar.link("h", "d/f"), on=[base])
    with merged(*layers.lower_paths([base, top])) as path:
        status = (path / "h").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o4750, 5, 9)
        assert (path / "h").read_bytes() == b"data" and os.getxattr(path / "h", "user.a") == b"b"
        assert status.st_ino == (path / "d/f").stat().st_ino
    assert (layers.path(base) / "d/f").stat().st_nlink == 1
