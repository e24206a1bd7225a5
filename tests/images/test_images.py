"""Names, IDs, tags, removal, history and filters of images that are really there."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cais.errors import Conflict, Invalid, NotFound
from cais.images.image import Deleted, Untagged
from cais.spec.platform import Platform

pytestmark = pytest.mark.kernel


@pytest.fixture
async def target(store: Any, archives: Any) -> str:
    """The ID of an image with two layers, called app:1."""
    made = archives.manifest("low", "high", config={"Labels": {"color": "red"}, "Cmd": ["sh"]})
    await store.load(archives.oci((made, "docker.io/library/app:1")))
    return str(made["digest"])


async def test_an_image_is_found_by_all_its_names(store: Any, target: str) -> None:
    """Name, full name, digest, ID, short ID with and without algorithm lead to the same image."""
    texts = ["app:1", "docker.io/library/app:1", f"app@{target}", f"app:1@{target}", target, target[7:]]
    for text in [*texts, target[:15], target[7:15]]:
        assert (await store.images.resolve(text)).id == target


@pytest.mark.parametrize(
    "text", ["app", "app:2", "other:1", "sha256:" + "0" * 64, "abcdef", "app@sha256:" + "0" * 64]
)
async def test_what_is_not_there_is_not_found(store: Any, target: str, text: str) -> None:
    """The message is Docker's, with the tag that was meant."""
    shown = "app:latest" if text == "app" else "abcdef:latest" if text == "abcdef" else text
    with pytest.raises(NotFound, match=f"^No such image: {shown}"):
        await store.images.resolve(text)


@pytest.mark.parametrize("text", ["APP", "a b", "", "app@sha256:12", "sha256:xyz"])
async def test_what_can_be_no_name_is_invalid(store: Any, target: str, text: str) -> None:
    """Wrong characters are told from absent images."""
    with pytest.raises(Invalid):
        await store.images.resolve(text)


async def test_an_ambiguous_short_id_is_refused(store: Any, archives: Any) -> None:
    """A prefix that two IDs share is nobody's."""
    first: dict[str, int] = {}
    number = 0
    while True:
        made = archives.manifest(f"n{number}")
        letter = str(made["digest"])[7]
        if letter in first:
            break
        first[letter] = number
        number += 1
    names = [(archives.manifest(f"n{other}"), "") for other in (first[letter], number)]
    await store.load(archives.oci(*names))
    with pytest.raises(Invalid, match=f"ambiguous reference: sha256:{letter}"):
        await store.images.resolve(f"sha256:{letter}")


async def test_a_tag_is_one_more_name(store: Any, target: str) -> None:
    """The image has both names, the bus hears of it, and the index of the layout folder knows it."""
    assert await store.images.tag("app:1", "registry.example:5000/x/y") == "registry.example:5000/x/y:latest"
    image = await store.images.resolve(target)
    assert image.names == ("docker.io/library/app:1", "registry.example:5000/x/y:latest")
    event = store.bus.history(0)[-1]
    assert (event.action, event.attributes) == (
        "tag",
        {"color": "red", "name": "registry.example:5000/x/y:latest"},
    )
    index = json.loads((store.root / "content" / "index.json").read_text())
    assert len(index["manifests"]) == 2


async def test_a_tag_by_digest_is_refused(store: Any, target: str) -> None:
    """A digest is what an image is, not what it is called."""
    with pytest.raises(Invalid, match="refusing to create a tag with a digest reference"):
        await store.images.tag("app:1", f"x@{target}")


async def test_tagging_a_nameless_image_gives_it_a_name(store: Any, archives: Any) -> None:
    """It is no longer dangling, and removing the name removes it."""
    made = archives.manifest("x")
    await store.load(archives.oci((made, "")))
    await store.images.tag(str(made["digest"]), "x", "1")
    assert (await store.images.resolve("x:1")).names == ("docker.io/library/x:1",)
    await store.images.remove("x:1")
    assert store.leftovers() == []


async def test_removing_the_last_name_removes_everything(store: Any, target: str) -> None:
    """Blobs and layers go, Docker's records and events come."""
    image = await store.images.resolve("app:1")
    done = await store.images.remove("app:1")
    assert done[:2] == [Untagged("app:1"), Deleted(target)]
    assert len(done) == 2 + len(image.diff_ids)
    assert store.leftovers() == []
    assert [event.action for event in store.bus.history(0)][-2:] == ["untag", "delete"]
    with pytest.raises(NotFound):
        await store.images.resolve(target)


async def test_removing_one_of_two_names_keeps_the_image(store: Any, target: str) -> None:
    """Only the name goes; what is shared stays whole."""
    await store.images.tag("app:1", "app", "2")
    assert await store.images.remove("app:1") == [Untagged("app:1")]
    image = await store.images.resolve("app:2")
    assert all(Path(lower).exists() for lower in await store.images.root_lowers(image))


async def test_a_damaged_image_can_be_removed(store: Any, target: str) -> None:
    """What cannot be read any more is not in the way for ever."""
    (store.root / "content/blobs/sha256" / target[7:]).write_bytes(b"damaged")
    store.images._catalog.forget()
    assert await store.images.list() == []
    assert await store.images.remove("app:1") == [Untagged("app:1"), Deleted(target)]
    assert store.leftovers() == []


async def test_nameless_parents_go_with_their_last_child(store: Any, archives: Any) -> None:
    """As Docker prunes: unless it is told not to, or somebody needs them."""
    parent, child = archives.manifest("parent"), archives.manifest("parent", "child")
    await store.load(archives.oci((parent, ""), (child, "docker.io/library/child:1")))
    row = store.metadata.find_image("docker.io/library/child:1")
    store.metadata.set_image(replace(row, parent=str(parent["digest"])))
    with pytest.raises(Conflict, match="image has dependent child images"):
        await store.images.remove(str(parent["digest"]), force=True)
    done = await store.images.remove("child:1")
    assert [record.digest for record in done if isinstance(record, Deleted)][:1] == [child["digest"]]
    assert Deleted(str(parent["digest"])) in done
    assert store.leftovers() == []


async def test_a_shared_layer_stays_with_the_other_image(store: Any, archives: Any) -> None:
    """Removing one image takes only the layers that no other image has."""
    await store.load(archives.docker({"base+one": ["one:1"], "base+two": ["two:1"]}))
    done = await store.images.remove("one:1")
    assert len([record for record in done if isinstance(record, Deleted)]) == 2
    image = await store.images.resolve("two:1")
    assert [Path(lower, "etc/name").read_text() for lower in await store.images.root_lowers(image)] == [
        "two",
        "base",
    ]


async def test_a_container_keeps_its_layers_through_a_forced_removal(store: Any, target: str) -> None:
    """The name and the image are gone from the list, the container's root stays mountable."""
    image = await store.images.resolve("app:1")
    lowers = await store.images.root_lowers(image)
    store.metadata.put_container("c" * 64, "web", json.dumps({"image_id": target}).encode())
    with pytest.raises(Conflict, match="is using its referenced image"):
        await store.images.remove("app:1", in_use=lambda _: ["c" * 64], running=lambda _: False)
    await store.images.remove("app:1", force=True, in_use=lambda _: ["c" * 64], running=lambda _: False)
    assert await store.images.list() == []
    assert all(Path(lower, "etc/name").exists() for lower in lowers)
    store.metadata.delete_container("c" * 64)
    await store.images.collect()
    assert store.leftovers() == []


async def test_an_acquired_image_outlives_its_name(store: Any, target: str) -> None:
    """Between resolving an image and recording the container its layers cannot vanish."""
    image = await store.images.resolve("app:1")
    async with store.images.acquire(image):
        lowers = await store.images.root_lowers(image)
        await store.images.remove("app:1")
        assert all(Path(lower, "etc/name").exists() for lower in lowers)
    await store.images.collect()
    assert store.leftovers() == []


async def test_a_removed_image_cannot_be_acquired(store: Any, target: str) -> None:
    """Whoever comes too late is told, instead of getting folders that vanish."""
    image = await store.images.resolve("app:1")
    await store.images.remove("app:1")
    with pytest.raises(NotFound):
        async with store.images.acquire(image):
            pass


async def test_an_absent_platform_is_told(store: Any, target: str) -> None:
    """The message says that the image is there, and what it lacks."""
    with pytest.raises(
        NotFound, match=r"app:1 was found but does not provide the specified platform \(linux/s390x\)"
    ):
        await store.images.resolve("app:1", platform=Platform(os="linux", architecture="s390x"))


async def test_a_sweep_spares_running_loads(store: Any, archives: Any) -> None:
    """Temporary files of a load that began first are not left-overs."""
    archive = archives.oci((archives.manifest("x", size=3 << 20), "docker.io/library/x:1"))
    half, go = asyncio.Event(), asyncio.Event()

    async def slow() -> Any:
        yield archive[: len(archive) // 2]
        half.set()
        await go.wait()
        yield archive[len(archive) // 2 :]

    async def load() -> None:
        async for _ in store.images.load(slow()):
            pass

    task = asyncio.create_task(load())
    await half.wait()
    await store.images.sweep()
    go.set()
    await task
    assert (await store.images.resolve("x:1")).names == ("docker.io/library/x:1",)


async def test_layers_that_are_gone_are_unpacked_again(store: Any, target: str) -> None:
    """The blobs are the truth; ``root_lowers`` makes what is missing."""
    image = await store.images.resolve("app:1")
    for diff_id in image.diff_ids:
        store.layers.remove(diff_id)
    lowers = await store.images.root_lowers(image)
    assert [Path(lower, "etc/name").read_text() for lower in lowers] == ["high", "low"]


async def test_a_sweep_removes_what_a_killed_engine_left(store: Any, target: str) -> None:
    """Blobs without a name go; what has one stays; a container's layers are made again if they are gone."""
    store.content.put(b"left behind")
    store.metadata.put_container("c" * 64, "web", json.dumps({"image_id": target}).encode())
    image = await store.images.resolve("app:1")
    before = sorted(store.leftovers())
    for diff_id in image.diff_ids:
        store.layers.remove(diff_id)
    await store.images.sweep()
    assert sorted(store.leftovers()) == [
        name for name in before if len(name) != 64 or name in image_blobs(image)
    ]


async def test_history_has_sizes_and_names_at_the_top(store: Any, target: str) -> None:
    """Newest first; the newest step carries ID and tags; sizes are those of the unpacked layers."""
    top, bottom = await store.images.history("app:1")
    assert (top.id, top.tags, bottom.id, bottom.tags) == (target, ("app:1",), "", ())
    assert (top.size, bottom.size) == (len("high") + 10, len("low") + 10)
    assert top.created_by == "step" and top.created_ns > 0


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, True),
        ({"dangling": ["true"]}, False),
        ({"dangling": ["false"]}, True),
        ({"label": ["color"]}, True),
        ({"label": ["color=red"]}, True),
        ({"label": ["color", "shape"]}, False),
        ({"reference": ["app"]}, True),
        ({"reference": ["a*:1"]}, True),
        ({"reference": ["*:2", "app:*"]}, True),
        ({"reference": ["*/app"]}, False),
        ({"until": ["2024-05-07"]}, True),
        ({"until": ["2024-05-06T07:08:09Z"]}, False),
        ({"until": ["24h"]}, True),
        ({"before": ["app:1"]}, False),
        ({"since": ["app:1"]}, False),
    ],
)
async def test_filters(store: Any, target: str, filters: dict[str, list[str]], found: bool) -> None:
    """Each of Docker's filters keeps what it should."""
    assert [image.id for image in await store.images.list(filters)] == ([target] if found else [])


@pytest.mark.parametrize("filters", [{"color": ["red"]}, {"dangling": ["maybe"]}, {"until": ["soon"]}])
async def test_wrong_filters_are_refused(store: Any, target: str, filters: dict[str, list[str]]) -> None:
    """A filter that does not exist, or a value that means nothing, is an error and not an empty list."""
    with pytest.raises(Invalid):
        await store.images.list(filters)


def image_blobs(image: Any) -> set[str]:
    """The file names of everything ``image`` consists of."""
    digests = [image.id, image.config_digest, *(layer.digest for layer in image.manifest.layers)]
    return {digest.hex for digest in digests}
