"""Saving images: complete, without doubles, the same bytes every time."""

import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cais.errors import Invalid, NotFound
from cais.spec.platform import parse_platform

pytestmark = pytest.mark.kernel


async def save(store: Any, *names: str) -> bytes:
    """The archive of ``names``."""
    return b"".join([chunk async for chunk in store.images.save(names)])


def names_in(archive: bytes) -> list[str]:
    """The entries' names."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return opened.getnames()


@pytest.fixture
async def two(store: Any, archives: Any) -> None:
    """Two images that share a layer."""
    await store.load(archives.docker({"base+one": ["one:1", "one:2"], "base+two": ["two:1"]}, size=1 << 21))


async def test_what_was_saved_can_be_loaded(store: Any, two: None) -> None:
    """Load of save gives the same IDs, names and layers."""
    before = [(image.id, image.names) for image in await store.images.list()]
    archive = await save(store, "one", "two:1")
    for name in ("one:1", "one:2", "two:1"):
        await store.images.remove(name)
    assert store.leftovers() == []
    await store.load(archive)
    assert sorted((image.id, image.names) for image in await store.images.list()) == sorted(before)


async def test_the_same_images_give_the_same_bytes(store: Any, two: None) -> None:
    """Saving twice gives one archive; a shared blob is in it once."""
    archive = await save(store, "one:1", "two:1")
    assert archive == await save(store, "one:1", "two:1")
    names = names_in(archive)
    assert len(names) == len(set(names))
    assert len([name for name in names if name.startswith("blobs/sha256/")]) == 3 + 2 + 2


async def test_names_are_what_was_asked_for(store: Any, two: None) -> None:
    """A full name is saved alone, a bare repository with all tags, an ID without a name."""
    image = await store.images.resolve("one:1")
    for text, want in [("one:1", ["one:1"]), ("one", ["one:1", "one:2"]), (image.id, None)]:
        with tarfile.open(fileobj=io.BytesIO(await save(store, text))) as archive:
            member = archive.extractfile("manifest.json")
            assert member
            (entry,) = json.load(member)
        assert (entry["RepoTags"] or None) == want


async def test_an_unknown_name_is_refused_before_the_first_byte(store: Any, two: None) -> None:
    """Nothing is sent if one of the names is wrong."""
    with pytest.raises(NotFound, match="No such image: three:latest"):
        store.images.save(["one:1", "three"])
    with pytest.raises(Invalid):
        store.images.save([])


async def test_another_engine_saves_the_same_bytes(
    make_store: Any, store: Any, two: None, tmp_path: Path
) -> None:
    """An archive that went through another engine comes out as it was."""
    archive = await save(store, "one:1", "one:2", "two:1")
    (tmp_path / "other").mkdir()
    other = make_store(tmp_path / "other")
    await other.load(archive)
    assert await save(other, "one:1", "one:2", "two:1") == archive


async def test_the_plain_oci_layout(store: Any, two: None) -> None:
    """Nothing but the layout: what a validator of OCI layouts expects, and what loads again with the same ID."""
    archive = b"".join([chunk async for chunk in store.images.save(["one:1"], docker=False)])
    names = [name for name in names_in(archive) if not name.startswith("blobs")]
    assert names == ["index.json", "oci-layout"]
    image = await store.images.resolve("one:1")
    await store.images.remove("one:1")
    await store.load(archive)
    assert (await store.images.resolve("one:1")).id == image.id


@pytest.fixture
async def multi(store: Any, archives: Any) -> str:
    """An image for two platforms; its ID."""
    index = archives.index(
        *(
            {
                **archives.manifest(name, architecture=name),
                "platform": {"os": "linux", "architecture": name},
            }
            for name in ("amd64", "arm64")
        )
    )
    await store.load(archives.oci((index, "docker.io/library/multi:1")))
    return str(index["digest"])


async def test_one_platform(make_store: Any, store: Any, multi: str, tmp_path: Path) -> None:
    """Only its blobs, under its own digest: the archive is whole for whoever loads it."""
    arm = parse_platform("linux/arm64")
    archive = b"".join([chunk async for chunk in store.images.save(["multi:1"], platform=arm)])
    assert len([name for name in names_in(archive) if name.startswith("blobs/sha256/")]) == 3
    (tmp_path / "other").mkdir()
    other = make_store(tmp_path / "other")
    await other.load(archive)
    image = await other.images.resolve("multi:1")
    assert image.config.architecture == "arm64" and image.id != multi
    whole = await save(store, "multi:1")
    assert len([name for name in names_in(whole) if name.startswith("blobs/sha256/")]) == 7
    with pytest.raises(NotFound, match="linux/s390x"):
        store.images.save(["multi:1"], platform=parse_platform("linux/s390x"))


async def test_loading_one_platform(make_store: Any, store: Any, multi: str, tmp_path: Path) -> None:
    """The platform asked for is checked and made ready; one that is not in the archive is an error that says what is,
    and nothing stays."""
    archive = await save(store, "multi:1")
    (tmp_path / "other").mkdir()
    other = make_store(tmp_path / "other")
    with pytest.raises(NotFound, match=r"linux/amd64, linux/arm64, not for linux/s390x"):
        async for _ in other.images.load(pieces(archive), platform=parse_platform("linux/s390x")):
            pass
    await other.wait_until_clean()
    async for _ in other.images.load(pieces(archive), platform=parse_platform("linux/arm64")):
        pass
    image = await other.images.resolve("multi:1", platform=parse_platform("linux/arm64"))
    assert other.layers.has(image.diff_ids[0]) and image.id == multi


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    """``data`` as a client would send it."""
    yield data
