"""Loading archives of every kind; and that wrong ones leave nothing."""

import asyncio
import bz2
import gzip
import json
import lzma
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from cais.errors import CaisError, Corrupt, Invalid, NotFound

pytestmark = pytest.mark.kernel

BIG = 3 << 20


def read(lowers: tuple[str, ...]) -> list[str]:
    """The text of etc/name in each layer, top first."""
    return [Path(lower, "etc/name").read_text() for lower in lowers]


async def test_a_docker_archive_of_20_10_is_loaded(store: Any, archives: Any) -> None:
    """Names, order of layers and the layer that came as a symlink are right."""
    archive = archives.docker({"base": ["a:1", "b:2"], "base+top": ["c:3"]})
    assert await store.texts(archive) == ["Loaded image: a:1", "Loaded image: b:2", "Loaded image: c:3"]
    image = await store.images.resolve("c:3")
    assert read(await store.images.root_lowers(image)) == ["top", "base"]
    assert image.config.config.cmd == ("sh",)


@pytest.mark.parametrize("codec", ["", "+gzip", "+zstd"])
async def test_an_oci_archive_is_loaded(store: Any, archives: Any, codec: str) -> None:
    """Layers of every codec unpack; the image's ID is its manifest's digest, untouched."""
    target = archives.manifest("low", "high", codec=codec, size=BIG)
    await store.load(archives.oci((target, "docker.io/library/app:1")))
    image = await store.images.resolve("app:1")
    assert image.id == target["digest"]
    assert image.digests == (f"docker.io/library/app@{target['digest']}",)
    assert read(await store.images.root_lowers(image)) == ["high", "low"]


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lambda data: lzma.compress(data, preset=0), zstandard.compress],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
async def test_the_whole_stream_may_be_compressed(
    store: Any, archives: Any, compress: Callable[[bytes], bytes]
) -> None:
    """What ``docker load`` takes from a compressed file is taken here too."""
    assert await store.texts(compress(archives.docker({"x": ["x:1"]}))) == ["Loaded image: x:1"]


async def test_entries_may_come_in_any_order(store: Any, archives: Any, make_tar: Any) -> None:
    """The index may be first or last, a link before its target."""
    files = archives.docker_files({"base": ["a:1"], "base+top": ["c:3"]}, size=BIG)
    random.Random(7).shuffle(files)
    assert sorted(await store.texts(make_tar(files))) == ["Loaded image: a:1", "Loaded image: c:3"]


async def test_an_image_without_name_is_kept_by_its_id(store: Any, archives: Any) -> None:
    """The text names the ID, as docker's does, and the image is dangling."""
    target = archives.manifest("x")
    assert await store.texts(archives.oci((target, ""))) == [f"Loaded image ID: {target['digest']}"]
    (image,) = await store.images.list({"dangling": ["true"]})
    assert image.id == target["digest"] and image.names == ()


async def test_a_packed_layout_folder_gives_the_repository(store: Any, archives: Any, make_tar: Any) -> None:
    """umoci's tags are no full names: the folder's name completes them."""
    target = {**archives.manifest("x"), "annotations": {"org.opencontainers.image.ref.name": "v1"}}
    files = [(f"mine/{name}", data) for name, data in archives.oci_files((target, ""))]
    assert await store.texts(make_tar(files)) == ["Loaded image: mine:v1"]


async def test_all_platforms_are_kept_and_the_host_is_chosen(store: Any, archives: Any) -> None:
    """An index keeps its digest and its manifests; what runs is the host's."""
    other = {
        **archives.manifest("other", architecture="s390x"),
        "platform": {"os": "linux", "architecture": "s390x"},
    }
    mine = {**archives.manifest("mine"), "platform": {"os": "linux", "architecture": "amd64"}}
    index = archives.index(other, mine)
    await store.load(archives.oci((index, "docker.io/library/multi:1")))
    image = await store.images.resolve("multi:1")
    assert image.id == index["digest"]
    assert [str(one.platform) for one in image.platforms] == ["linux/s390x", "linux/amd64"]
    assert read(await store.images.root_lowers(image)) == ["mine"]


async def test_a_missing_foreign_platform_is_no_error(store: Any, archives: Any) -> None:
    """A partial save of an index loads, as long as one platform is whole."""
    other = {
        **archives.manifest("other", architecture="s390x"),
        "platform": {"os": "linux", "architecture": "s390x"},
    }
    archives.blobs.clear()
    mine = {**archives.manifest("mine"), "platform": {"os": "linux", "architecture": "amd64"}}
    await store.load(archives.oci((archives.index(other, mine), "docker.io/library/multi:1")))
    image = await store.images.resolve("multi:1")
    assert [str(one.platform) for one in image.platforms] == ["linux/amd64"]


async def test_a_name_moves_and_the_old_image_stays_nameless(store: Any, archives: Any) -> None:
    """Loading another image of the same name leaves the first one dangling."""
    first, second = archives.manifest("first"), archives.manifest("second")
    await store.load(archives.oci((first, "docker.io/library/a:1")))
    await store.load(archives.oci((second, "docker.io/library/a:1")))
    assert (await store.images.resolve("a:1")).id == second["digest"]
    assert [image.id for image in await store.images.list({"dangling": ["1"]})] == [first["digest"]]


async def test_loading_twice_changes_nothing(store: Any, archives: Any) -> None:
    """The same archive again is the same image, and no blob is doubled."""
    archive = archives.docker({"x": ["x:1"]}, size=BIG)
    await store.load(archive)
    before = sorted(store.leftovers())
    await store.load(archive)
    assert sorted(store.leftovers()) == before


async def test_progress_and_events_are_told(store: Any, archives: Any) -> None:
    """A big layer reports how far it is; the bus hears of the load with the image's ID."""
    target = archives.manifest("x", size=BIG)
    events = await store.load(archives.oci((target, "docker.io/library/x:1")), step=1 << 19)
    loading = [event for event in events if event.status == "Loading layer"]
    assert loading and all(0 < event.current <= event.total for event in loading)
    (event,) = [event for event in store.bus.history(0) if event.action == "load"]
    assert (event.kind, event.id, event.attributes["name"]) == ("image", target["digest"], target["digest"])


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
async def test_a_truncated_archive_leaves_nothing(store: Any, archives: Any, share: float) -> None:
    """Wherever the stream ends, no name, blob, layer or temporary file stays."""
    archive = archives.oci((archives.manifest("x", "y", size=BIG), "docker.io/library/x:1"))
    end = int((len(archive) - 10_240) * share)
    with pytest.raises(CaisError):
        await store.load(archive[:end])
    await store.wait_until_clean()
    assert await store.images.list() == []


async def test_a_wrong_layer_digest_leaves_nothing(store: Any, archives: Any) -> None:
    """One flipped bit in a blob is found while it streams in."""
    archive = bytearray(archives.oci((archives.manifest("x", size=BIG), "docker.io/library/x:1")))
    archive[archive.index(b"xxxxxxxx") + 1_000_000] ^= 1
    with pytest.raises(Corrupt):
        await store.load(bytes(archive))
    await store.wait_until_clean()


async def test_a_wrong_diff_id_leaves_nothing(store: Any, archives: Any, make_tar: Any) -> None:
    """A layer that is not what the configuration says is found by the unpacking."""
    layer = archives.layer("x", BIG)
    config = archives.config([archives.layer("other")])
    files = [("l.tar", layer), ("c.json", config)]
    files.append(
        (
            "manifest.json",
            json.dumps([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"]}]).encode(),
        )
    )
    with pytest.raises(Corrupt):
        await store.load(make_tar(files))
    await store.wait_until_clean()


async def test_too_many_layers_are_refused(store: Any, archives: Any) -> None:
    """More than Docker stacks could not be mounted everywhere."""
    target = archives.manifest(*["x"] * 126)
    with pytest.raises(Invalid, match="max depth exceeded"):
        await store.load(archives.oci((target, "docker.io/library/x:1")))
    await store.wait_until_clean()


async def test_a_missing_layer_is_refused(store: Any, archives: Any) -> None:
    """A manifest whose blob is nowhere is no image."""
    target = archives.manifest("x", size=BIG)
    archives.blobs.pop(max(archives.blobs, key=lambda digest: len(archives.blobs[digest])))
    with pytest.raises(NotFound, match=r"layer sha256:.* is missing"):
        await store.load(archives.oci((target, "docker.io/library/x:1")))
    await store.wait_until_clean()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
async def test_an_entry_cannot_escape(
    store: Any, archives: Any, make_tar: Any, name: str, tmp_path: Path
) -> None:
    """Names that climb out are refused, even though names never become paths."""
    with pytest.raises(Invalid, match="escapes"):
        await store.load(make_tar([(name, b"x"), *archives.docker_files({"x": ["x:1"]})]))
    await store.wait_until_clean()
    assert not list(tmp_path.parent.rglob("evil"))


async def test_a_link_cannot_leave_the_archive(store: Any, archives: Any, make_tar: Any) -> None:
    """A layer that is a symlink to a file of the host is not found (CVE-2014-9356)."""
    config = archives.config([archives.layer("x")])
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l/layer.tar"]}]).encode()
    for target in ("/etc/passwd", "../../../etc/passwd", "layer.tar"):
        with pytest.raises(Invalid):
            await store.load(
                make_tar([("c.json", config), ("l/layer.tar", target), ("manifest.json", manifest)])
            )
    await store.wait_until_clean()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("readme", b"hello")], "holds no image"),
        ([("manifest.json", b"{}")], "invalid manifest.json"),
        ([("manifest.json", b'[{"Config":"none.json","Layers":[]}]')], "no file none.json"),
        ([("index.json", b"[]"), ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')], "invalid manifest"),
        ([("index.json", b"{}"), ("oci-layout", b'{"imageLayoutVersion":"9"}')], "layout version '9'"),
    ],
)
async def test_what_is_no_image_is_refused(store: Any, make_tar: Any, files: Any, message: str) -> None:
    """The message says what is missing or wrong."""
    with pytest.raises(CaisError, match=message):
        await store.load(make_tar(files))
    await store.wait_until_clean()


async def test_a_client_that_goes_away_leaves_nothing(store: Any, archives: Any) -> None:
    """A load that is cancelled in the middle of a blob removes what it had."""
    archive = archives.oci((archives.manifest("x", size=BIG), "docker.io/library/x:1"))
    half = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield archive[: len(archive) * 2 // 3]
        half.set()
        await asyncio.Event().wait()

    async def load() -> None:
        async for _ in store.images.load(hanging()):
            pass

    task = asyncio.create_task(load())
    await half.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.wait_until_clean()


async def test_loads_and_removals_at_the_same_time_do_not_hurt_each_other(store: Any, archives: Any) -> None:
    """A collection never takes what a load has stored and not yet named, nor what two images share."""
    shared = [archives.docker({f"base+own{number}": [f"app:{number}"]}, size=1 << 20) for number in range(6)]

    async def cycle(number: int) -> None:
        for _ in range(3):
            await store.load(shared[number])
            image = await store.images.resolve(f"app:{number}")
            assert read(await store.images.root_lowers(image)) == [f"own{number}", "base"]
            await store.images.remove(f"app:{number}")

    await asyncio.gather(*map(cycle, range(6)))
    await store.wait_until_clean()
