"""Comparing images: what differs is named, what does not is not read."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import msgspec.structs
import pytest
from msgspec.structs import replace

from cais.build.export.compare import MOST, FileDifference, compare_configs, compare_images
from cais.build.export.export import export
from cais.build.request import Option
from cais.images.image import Image
from cais.spec.image import ContainerDefaults
from harness.exporting import Received, Yard, config_of, open_yard, pack

pytestmark = pytest.mark.kernel


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """Empty stores."""
    async with open_yard(tmp_path / "one") as made:
        yield made


async def image(yard: Yard, *tars: bytes, created: str = "") -> Image:
    """An image of these layers."""
    result = yard.result(*tars)
    if created:
        result = msgspec.structs.replace(result, config=replace(result.config, created=created))
    response = await export([result], Option("image"), Received(yard.root), yard.tools())
    return await yard.images.resolve(response["containerimage.digest"])


async def test_the_same_layers_are_the_same_image(yard: Yard) -> None:
    """But for times, unless those count, too."""
    one = await image(yard, pack({"a": "x"}))
    two = await image(yard, pack({"a": "x"}), created="2024-01-01T00:00:00Z")
    assert one.id != two.id
    assert (await compare_images(yard.images, yard.unpacker, one, two)).is_same
    found = await compare_images(yard.images, yard.unpacker, one, two, times=True)
    assert [field.name for field in found.fields] == ["created"] and not found.is_same


async def test_files_that_differ_are_named(yard: Yard) -> None:
    """Each by what differs of it; folders that only one has are named once."""
    base = {"d/": "", "d/same": "s", "content": "aa", "size": "a", "kind": "k", "link": "-> x", "gone/": ""}
    one = await image(yard, pack({**base, "gone/in": ""}))
    changed = {**base, "content": "bb", "size": "abc", "kind": "-> k", "link": "-> y", "new": ""}
    del changed["gone/"]
    two = await image(yard, pack(changed), pack({"d/": "", "d/time": ""}, mtime=9))
    found = await compare_images(yard.images, yard.unpacker, one, two)
    assert [layer.index for layer in found.layers] == [0, 1] and found.layers[1].first == ""
    assert found.files == (
        FileDifference("/content", "content"),
        FileDifference("/d", "time"),
        FileDifference("/gone", "only in the first"),
        FileDifference("/kind", "kind"),
        FileDifference("/link", "link"),
        FileDifference("/new", "only in the second"),
        FileDifference("/size", "size"),
        FileDifference("/d/time", "only in the second"),
    )
    assert not found.more


async def test_owners_modes_and_times_count(yard: Yard) -> None:
    """The content is the same."""
    one = await image(yard, pack({"a": "x"}))
    two = await image(yard, pack({"a": "x"}, uid=7, mode=0o600, mtime=6))
    found = await compare_images(yard.images, yard.unpacker, one, two)
    assert found.files == (FileDifference("/a", "mode, owner, time"),)


async def test_only_the_first_files_are_named(yard: Yard) -> None:
    """And that there are more is said."""
    one = await image(yard, pack({f"{n:03}": "1" for n in range(MOST + 5)}))
    two = await image(yard, pack({f"{n:03}": "2" for n in range(MOST + 5)}))
    found = await compare_images(yard.images, yard.unpacker, one, two)
    assert len(found.files) == MOST and found.more and found.files[0].path == "/000"


async def test_other_layers_with_the_same_files_differ_in_no_file(yard: Yard) -> None:
    """One layer, or two with the same in them."""
    one = await image(yard, pack({"a": "x", "b": "y"}))
    two = await image(yard, pack({"a": "x"}), pack({"b": "y"}))
    found = await compare_images(yard.images, yard.unpacker, one, two)
    assert found.layers and not found.files and not found.is_same


def test_fields_of_the_configuration_are_named() -> None:
    """By their names in the JSON; objects by their fields."""
    one = config_of([])
    two = replace(one, config=ContainerDefaults(cmd=("sh", "-c"), env=("PATH=/bin",), labels={"a": "b"}))
    found = compare_configs(one, two, times=False)
    assert [(each.name, each.first, each.second) for each in found] == [
        ("config.Cmd", '["sh"]', '["sh","-c"]'),
        ("config.Labels.a", "", '"b"'),
    ]
