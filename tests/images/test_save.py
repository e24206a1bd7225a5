"""Saving images: complete, without doubles, the same bytes every time."""

import io
import json
import tarfile
from typing import Any

import pytest

from cais.errors import Invalid, NotFound

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
