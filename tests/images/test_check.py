"""Damage in the store is found, named and mended: by the registry, by the layer's blob, or by taking it away."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cais.images.check import Damage, Standing
from cais.spec.digest import Digest
from harness.pulling import Pulling, digest_of
from harness.registry import sha256

pytestmark = pytest.mark.kernel

Harm = Callable[[Path], object]


@pytest.fixture
async def pulled(pulling: Pulling, archives: Any) -> Pulling:
    """With an image of two gzip layers below an index, pulled."""
    image = archives.manifest("low", "high", codec="+gzip", size=200_000)
    target = archives.index(image | {"platform": {"os": "linux", "architecture": "amd64"}})
    pulling.push(archives, target)
    await pulling.pull()
    return pulling


async def check(pulling: Pulling, *standing: Standing, **options: bool) -> list[Damage]:
    """One check."""
    return list(await pulling.store.images.check(standing, **options))


def flip(path: Path) -> None:
    """Change one bit in the middle, as a bad disk does: no time changes."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def blobs_of(archives: Any) -> dict[str, Digest]:
    """The image's blobs by what they are."""
    names: dict[str, Digest] = {}
    for digest, data in archives.blobs.items():
        kind = next(
            (word for word in ("manifests", "rootfs", "layers") if f'"{word}"'.encode() in data), "layer"
        )
        names[{"manifests": "index", "layers": "manifest", "rootfs": "config"}.get(kind, kind)] = digest_of(
            digest
        )
    return names


async def test_a_healthy_store_is_healthy(pulled: Pulling) -> None:
    """Nothing is found, deep or not, and a repair does nothing."""
    assert await check(pulled) == await check(pulled, deep=True) == await check(pulled, repair=True) == []


@pytest.mark.parametrize("what", ["index", "manifest", "config", "layer"])
@pytest.mark.parametrize("harm", [flip, Path.unlink])
async def test_a_blob_is_fetched_again(pulled: Pulling, archives: Any, what: str, harm: Harm) -> None:
    """One flipped bit, or a missing file: named with the image that needs it, and whole again afterwards."""
    digest = blobs_of(archives)[what]
    path = pulled.store.content.path(digest)
    harm(path)
    (found,) = await check(pulled)
    assert (found.kind, found.name, found.names, found.repair) == ("blob", digest, (pulled.name,), "")
    assert ("missing" if harm is Path.unlink else "damaged") in found.problem
    (mended,) = await check(pulled, repair=True)
    assert mended.repair == f"fetched again from {pulled.proxy.address}"
    assert path.read_bytes() == archives.blobs[digest] and await check(pulled) == []


async def test_all_blobs_at_once(pulled: Pulling, archives: Any) -> None:
    """What only the mended index shows to be missing is mended too."""
    for digest in archives.blobs:
        pulled.store.content.path(digest_of(digest)).unlink()
    mended = await check(pulled, repair=True)
    assert {damage.name for damage in mended} == set(archives.blobs)
    assert all(damage.repair.startswith("fetched") for damage in mended) and await check(pulled) == []
    assert await pulled.read() == ["high", "low"]


async def test_a_blob_that_nobody_has_stays_and_is_told_of(pulled: Pulling, archives: Any) -> None:
    """With the registry's reason. One that nothing needs is removed."""
    digest = blobs_of(archives)["layer"]
    flip(pulled.store.content.path(digest))
    await pulled.store.images.tag(pulled.name, "127.0.0.1:1/gone", "1")
    await pulled.store.images.remove(pulled.name)
    loose = pulled.store.content.put(b"loose")
    pulled.store.content.path(loose).write_bytes(b"l00se")
    mended = {damage.name: damage.repair for damage in await check(pulled, repair=True)}
    assert mended[digest].startswith("not repaired: ") and "connection refused" in mended[digest]
    assert mended[loose] == "removed: nothing needs it" and not pulled.store.content.has(loose)
    assert pulled.store.content.has(digest)


def alter(path: Path) -> None:
    """Other contents of the same size."""
    path.write_bytes(path.read_bytes().swapcase())


HARMS: dict[str, tuple[Harm, str]] = {
    "other contents": (alter, "/etc/name has other contents"),
    "removed": (Path.unlink, "/etc/name is missing"),
    "mode": (lambda path: path.chmod(0o4777), "/etc/name has mode 4777, want 755"),
    "owner": (lambda path: os.chown(path, 7, 7), "/etc/name has another owner"),
    "longer": (lambda path: path.write_bytes(b"longer than that"), "/etc/name has 16 bytes, want 3"),
    "kind": (lambda path: (path.unlink(), path.symlink_to("x")), "/etc/name has become another kind of file"),
    "time": (lambda path: os.utime(path, (1, 1)), "/etc/name has another time"),
    "xattr": (lambda path: os.setxattr(path, "trusted.x", b"1"), "/etc/name has other extended attributes"),
    "extra": (lambda path: (path.parent / "x").touch(), "/etc/x does not belong there"),
}


@pytest.mark.parametrize("harm", HARMS)
async def test_a_layer_is_unpacked_again(pulled: Pulling, archives: Any, harm: str) -> None:
    """Whatever was done to a file in it is found without a deep look, said of the file, and undone."""
    act, problem = HARMS[harm]
    diff_id = digest_of(sha256(archives.layer("low", 200_000)))
    act(pulled.store.layers.path(diff_id) / "etc/name")
    (found,) = await check(pulled)
    assert (found.kind, found.name, found.problem, found.names) == ("layer", diff_id, problem, (pulled.name,))
    (mended,) = await check(pulled, repair=True)
    assert mended.repair == "unpacked again from its blob" and await check(pulled, deep=True) == []
    assert await pulled.read() == ["high", "low"]


async def test_what_a_bad_disk_did_is_found_by_a_deep_look(pulled: Pulling, archives: Any) -> None:
    """It leaves no time behind; here the record is made younger than the damage."""
    folder = pulled.store.layers.path(digest_of(sha256(archives.layer("high", 200_000))))
    flip(folder / "etc/high")
    record = folder.parent / "layer.json"
    record.write_bytes(record.read_bytes())
    assert await check(pulled) == []
    assert [damage.problem for damage in await check(pulled, deep=True)] == ["/etc/high has other contents"]


async def test_new_times_alone_are_no_damage(pulled: Pulling, archives: Any) -> None:
    """As after a restored backup: the layer is compared, and found well."""
    folder = pulled.store.layers.path(digest_of(sha256(archives.layer("high", 200_000))))
    (folder / "etc/name").chmod(0o755)
    assert await check(pulled) == []


async def test_a_layer_in_use_is_left_alone(pulled: Pulling, archives: Any) -> None:
    """A running container stands on it; one that has ended does not hold it back."""
    diff_id = digest_of(sha256(archives.layer("low", 200_000)))
    path = pulled.store.layers.path(diff_id)
    (path / "etc/name").unlink()
    (found,) = await check(pulled, Standing("box", (str(path),), True), repair=True)
    assert found.repair == "not repaired: box runs on it, stop it first" and not (path / "etc/name").exists()
    (found,) = await check(pulled, Standing("box", (str(path),), False), repair=True)
    assert found.repair == "unpacked again from its blob"


async def test_a_layer_that_a_container_misses_comes_back(pulled: Pulling, archives: Any) -> None:
    """The whole folder is gone."""
    path = pulled.store.layers.path(digest_of(sha256(archives.layer("low", 200_000))))
    shutil.rmtree(path.parent)
    standing = Standing("box", (str(path),), False)
    (found,) = await check(pulled, standing)
    assert found.problem == "is missing, and a container stands on it"
    (mended,) = await check(pulled, standing, repair=True)
    assert mended.repair == "unpacked again from its blob" and (path / "etc/name").read_text() == "low"


async def test_a_layer_without_a_record_is_made_anew(pulled: Pulling, archives: Any) -> None:
    """Its folder would be in the way of the real one for ever."""
    path = pulled.store.layers.path(digest_of(sha256(archives.layer("low", 200_000))))
    (path.parent / "layer.json").unlink()
    (found,) = await check(pulled)
    assert found.problem == "has no record"
    await check(pulled, repair=True)
    assert await check(pulled, deep=True) == [] and await pulled.read() == ["high", "low"]


async def test_left_overs_are_named_and_removed(pulled: Pulling) -> None:
    """In every place where something may be left; the bytes of an interrupted pull are none."""
    root = pulled.store.root
    partial = root / "content/ingest" / f"sha256-{sha256(b'x')[7:]}"
    (root / "content/ingest").mkdir(exist_ok=True)
    partial.write_bytes(b"first bytes")
    left = [
        root / "content/.tmp-1", root / "content/blobs/sha256/README", root / "content/ingest/.tmp-2",
        root / "layers/.tmp-3", root / "layers/.trash-4",
    ]  # fmt: skip
    for path in left[:3]:
        path.write_bytes(b"x")
    for path in left[3:]:
        (path / "fs").mkdir(parents=True)
    stranger = root / "layers/sha256-zz"
    stranger.mkdir()
    found = await check(pulled)
    assert {damage.name for damage in found} == {*map(str, left), "sha256:zz"}
    mended = await check(pulled, repair=True)
    assert all(damage.repair.startswith("removed") for damage in mended)
    assert not any(path.exists() for path in (*left, stranger)) and partial.exists()
    assert await check(pulled) == []


async def test_a_stranger_among_the_layers_stops_nothing(pulled: Pulling) -> None:
    """Collections pass over it, or take it; pulls and removals go on."""
    (pulled.store.root / "layers/not-a-layer").mkdir()
    await pulled.store.images.collect()
    await pulled.store.images.remove(pulled.name)
    assert pulled.store.layers.list() == []


@pytest.mark.slow
async def test_random_damage_is_mended(pulled: Pulling, archives: Any) -> None:
    """Whatever bits flip wherever, a deep repair leaves a store that is as the registry has it."""
    luck = random.Random(3)
    root = pulled.store.root
    for _ in range(8):
        files = [*root.glob("content/blobs/sha256/*"), *root.glob("layers/*/fs/etc/*")]
        for path in luck.sample(files, 3):
            flip(path)
        assert await check(pulled, deep=True, repair=True)
        assert await check(pulled, deep=True) == []
        assert await pulled.read() == ["high", "low"]


def test_the_index_of_the_layout_is_no_stray(tmp_path: Path, make_store: Any) -> None:
    """A fresh store has nothing that belongs to nothing."""
    content = make_store(tmp_path).content
    assert content.strays() == [] and json.loads((tmp_path / "content/index.json").read_bytes())
