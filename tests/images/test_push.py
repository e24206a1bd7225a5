"""Pushing to a real registry: what arrives there, what is said, and what stays after a failure."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from cais.errors import CaisError, Conflict, Corrupt, Denied, Invalid, NotFound, Unavailable
from cais.images.image import Pushed, PushedInstead, PushEvent
from cais.images.pull import PullRequest
from cais.images.push import PushRequest
from cais.remotes.client import Remotes
from cais.remotes.hosts import Hosts
from cais.remotes.inspect import inspect_remote
from cais.spec.digest import parse_digest
from cais.spec.platform import parse_platform
from cais.spec.reference import parse_reference
from harness.engines import until
from harness.pushing import PushFault, PushProxy, start_push_proxy
from harness.registry import Registry, running_registry

pytestmark = pytest.mark.kernel

BIG = 3 << 20
RELATIVE = {"host": "", "relativeurls": True}


@pytest.fixture(scope="session")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for all tests here, whose addresses lead back through the proxy."""
    with running_registry(tmp_path_factory.mktemp("destination") / "r", http=RELATIVE) as registry:
        yield registry


class Pushing:
    """One test's repository, reached through a proxy."""

    def __init__(self, store: Any, archives: Any, proxy: PushProxy, path: str) -> None:
        self.store = store
        self.archives = archives
        self.proxy = proxy
        self.path = path
        self.name = f"{proxy.address}/{path}:1"

    async def load(self, target: dict[str, Any], name: str = "") -> Any:
        """Have an image here; the image."""
        await self.store.load(self.archives.oci((target, name or self.name)))
        return await self.store.images.resolve(name or self.name)

    async def push(self, name: str = "", platform: str = "", compression: str = "none") -> list[PushEvent]:
        """What the push said."""
        wanted = parse_platform(platform) if platform else None
        request = PushRequest(parse_reference(name or self.name), wanted, compression=compression)
        return [event async for event in self.store.images.push(request)]

    async def digest(self, name: str = "") -> str:
        """What the tag stands for in the registry."""
        return str(
            (await inspect_remote(Remotes(Hosts()), parse_reference(name or self.name))).descriptor.digest
        )

    async def read(self, make_store: Any, folder: Path, name: str = "") -> list[str]:
        """The text of etc/name in each layer, top first, as another machine pulls it."""
        folder.mkdir()
        other = make_store(folder)
        request = PushRequest(parse_reference(name or self.name))
        async for _ in other.images.pull(PullRequest(request.reference)):
            pass
        image = await other.images.resolve(name or self.name)
        return [Path(lower, "etc/name").read_text() for lower in await other.images.root_lowers(image)]


@pytest.fixture
async def pushing(store: Any, archives: Any, destination: Registry, tmp_path: Path) -> AsyncIterator[Pushing]:
    """Everything for one test."""
    async with AsyncExitStack() as stack:
        proxy = await start_push_proxy(destination.address, stack.push_async_callback)
        yield Pushing(store, archives, proxy, f"t/{tmp_path.name.lower().replace('_', '-')}")


def ends(events: list[PushEvent]) -> list[str]:
    """The last word about each layer."""
    return [*{event.id: event.status for event in events if event.is_layer}.values()]


@pytest.mark.parametrize("codec", ["+gzip", "+zstd"])
async def test_an_image_is_pushed_as_it_is(
    pushing: Pushing, make_store: Any, tmp_path: Path, codec: str
) -> None:
    """The registry's digest is the image's ID, the stream is docker's, and others can pull it."""
    image = await pushing.load(pushing.archives.manifest("low", "high", codec=codec, size=BIG))
    events = await pushing.push(compression="gzip")
    assert await pushing.digest() == image.id
    repository = pushing.name.removesuffix(":1")
    assert events[0].status == f"The push refers to repository [{repository}]"
    assert ends(events) == ["Pushed", "Pushed"]
    size = image.descriptor.size
    assert events[-2].status == f"1: digest: {image.id} size: {size}"
    assert events[-1].result == Pushed("1", image.id, size)
    assert (await pushing.store.images.resolve(pushing.name)).digests == (f"{repository}@{image.id}",)
    assert await pushing.read(make_store, tmp_path / "other") == ["high", "low"]


async def test_a_second_push_sends_nothing(pushing: Pushing) -> None:
    """It asks, and no byte goes."""
    await pushing.load(pushing.archives.manifest("a", "b", codec="+gzip"))
    await pushing.push()
    pushing.proxy.seen.clear()
    events = await pushing.push()
    assert ends(events) == ["Layer already exists"] * 2
    assert {line.split()[0] for line, _ in pushing.proxy.seen} == {"HEAD"}


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_plain_layers_are_compressed_once(
    pushing: Pushing, make_store: Any, tmp_path: Path, codec: str
) -> None:
    """What arrives is compressed, has the same contents, and is known here by the registry's digest; the second push,
    and one to another name, make and send nothing."""
    image = await pushing.load(pushing.archives.manifest("low", "high", size=BIG))
    events = await pushing.push(compression=codec)
    digest = await pushing.digest()
    assert digest != image.id and events[-1].result.digest == digest  # type: ignore[union-attr]
    manifest = json.loads(pushing.store.content.read(events[-1].result.digest))  # type: ignore[union-attr]
    assert {layer["mediaType"].rpartition("+")[2] for layer in manifest["layers"]} == {codec}
    assert pushing.proxy.received < BIG
    again = await pushing.store.images.resolve(pushing.name)
    assert again.id == image.id and again.digests == (f"{pushing.name[:-2]}@{digest}",)
    assert (await pushing.store.images.resolve(f"{pushing.name[:-2]}@{digest}")).id == image.id
    await pushing.store.images.collect()
    blobs = set(pushing.store.content.list())
    pushing.proxy.seen.clear()
    assert ends(await pushing.push(compression=codec)) == ["Layer already exists"] * 2
    assert {line.split()[0] for line, _ in pushing.proxy.seen} == {"HEAD"}
    assert set(pushing.store.content.list()) == blobs
    assert await pushing.read(make_store, tmp_path / "other") == ["high", "low"]


async def test_what_was_compressed_goes_with_its_image(pushing: Pushing) -> None:
    """Nothing of it is left when the image is removed."""
    await pushing.load(pushing.archives.manifest("x", size=BIG))
    await pushing.push(compression="gzip")
    await pushing.store.images.remove(pushing.name)
    await pushing.store.wait_until_clean()
    assert pushing.store.metadata.list_forms() == []


async def test_what_was_compressed_outlives_a_failed_push(pushing: Pushing) -> None:
    """The next one does not do it again; a collection in between takes nothing."""
    image = await pushing.load(pushing.archives.manifest("x", size=BIG))
    pushing.proxy.faults = [PushFault("PUT .*/manifests/", status=403)]
    with pytest.raises(Denied):
        await pushing.push(compression="gzip")
    await pushing.store.images.collect()
    before = {path: path.stat().st_ino for path in (pushing.store.root / "content/blobs/sha256").iterdir()}
    ((plain, packed),) = pushing.store.metadata._db.execute("SELECT plain, digest FROM packed_layers")
    assert plain == image.manifest.layers[0].digest and pushing.store.content.has(parse_digest(packed))
    await pushing.push(compression="gzip")
    after = {path: path.stat().st_ino for path in (pushing.store.root / "content/blobs/sha256").iterdir()}
    assert before.items() <= after.items()


async def test_nothing_is_compressed_for_who_may_not_push(pushing: Pushing) -> None:
    """The first small blob finds out."""
    await pushing.load(pushing.archives.manifest("x", size=BIG))
    before = set(pushing.store.content.list())
    pushing.proxy.faults = [PushFault("POST", times=9, status=403)]
    with pytest.raises(Denied, match="push access denied for"):
        await pushing.push(compression="gzip")
    assert set(pushing.store.content.list()) == before


async def test_a_layer_is_mounted_from_where_it_was_pushed_or_pulled(
    pushing: Pushing, make_store: Any, tmp_path: Path
) -> None:
    """No byte of it is sent to the second repository; a repository that has lost it is asked once only."""
    await pushing.load(pushing.archives.manifest("x", codec="+gzip", size=BIG))
    await pushing.push()
    second = pushing.name.replace(":1", "/second:1")
    await pushing.store.images.tag(pushing.name, second.removesuffix(":1"), "1")
    assert ends(await pushing.push(second)) == [f"Mounted from {pushing.path}"]
    (tmp_path / "other").mkdir()
    other = make_store(tmp_path / "other")
    async for _ in other.images.pull(PullRequest(parse_reference(second))):
        pass
    third = pushing.name.replace(":1", "/third:1")
    await other.images.tag(second, third.removesuffix(":1"), "1")
    events = [event async for event in other.images.push(PushRequest(parse_reference(third)))]
    assert ends(events) == [f"Mounted from {pushing.path}/second"]
    lost = pushing.name.replace(":1", "/lost:1")
    await other.images.tag(second, lost.removesuffix(":1"), "1")
    pushing.proxy.faults = [PushFault("POST .*mount=", times=9, status=404)]
    events = [event async for event in other.images.push(PushRequest(parse_reference(lost)))]
    assert ends(events) == ["Pushed"]
    layer = (await other.images.resolve(lost)).manifest.layers[0].digest
    assert other.metadata.list_places(layer) == [lost.removesuffix(":1")]


def platform(name: str, **more: str) -> dict[str, Any]:
    """An index entry's platform."""
    return {"platform": {"os": "linux", "architecture": name, **more}}


async def test_an_index_goes_whole_when_it_is_here(pushing: Pushing) -> None:
    """Children first, the index last, under its own digest; its attestations too."""
    archives = pushing.archives
    mine, other = (
        archives.manifest("m", codec="+gzip"),
        archives.manifest("o", codec="+gzip", architecture="arm64"),
    )
    attestation = archives.manifest("t", codec="+gzip", os="unknown", architecture="unknown")
    attestation |= {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    index = archives.index(mine | platform("amd64"), other | platform("arm64"), attestation)
    image = await pushing.load(index)
    await pushing.push()
    assert await pushing.digest() == image.id
    lines = [line for line, _ in pushing.proxy.seen if line.startswith("PUT") and "/manifests/" in line]
    puts = [line.rpartition("/")[2] for line in lines]
    assert puts == [mine["digest"], other["digest"], attestation["digest"], "1"]


async def test_an_index_of_plain_layers_is_rewritten_as_a_whole(
    pushing: Pushing, make_store: Any, tmp_path: Path
) -> None:
    """The manifests, the index over them, and what an attestation says it is about."""
    archives = pushing.archives
    mine, other = archives.manifest("m"), archives.manifest("o", architecture="arm64")
    notes = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": mine["digest"],
    }
    attestation = archives.manifest("t", codec="+gzip", os="unknown", architecture="unknown")
    index = archives.index(
        mine | platform("amd64"), other | platform("arm64"), attestation | {"annotations": notes}
    )
    await pushing.load(index)
    events = await pushing.push(compression="gzip")
    sent = json.loads(pushing.store.content.read(events[-1].result.digest))["manifests"]  # type: ignore[union-attr]
    assert sent[2]["annotations"]["vnd.docker.reference.digest"] == sent[0]["digest"] != mine["digest"]
    assert sent[2]["digest"] == attestation["digest"] and sent[0]["platform"] == platform("amd64")["platform"]
    assert await pushing.read(make_store, tmp_path / "other") == ["m"]


async def test_the_part_of_an_index_that_is_here_is_pushed(pushing: Pushing) -> None:
    """And it is said so, as Docker 28 does; a platform that was asked for goes alone."""
    archives = pushing.archives
    mine, other = (
        archives.manifest("m", codec="+gzip"),
        archives.manifest("o", codec="+gzip", architecture="arm64"),
    )
    index = archives.index(mine | platform("amd64"), other | platform("arm64"))
    blob = json.loads(archives.blobs[other["digest"]])["layers"][0]["digest"]
    kept = archives.blobs.pop(blob)
    image = await pushing.load(index)
    events = await pushing.push()
    assert await pushing.digest() == mine["digest"]
    assert isinstance(events[-1].result, PushedInstead)
    assert (events[-1].result.index.digest, events[-1].result.manifest.digest) == (image.id, mine["digest"])
    with pytest.raises(NotFound, match="no image for linux/arm64 of it is on this machine"):
        await pushing.push(platform="linux/arm64")
    archives.blobs[blob] = kept
    await pushing.load(index)
    await pushing.push(platform="linux/arm64")
    assert await pushing.digest() == other["digest"]


async def test_several_parts_without_a_wish_are_refused(pushing: Pushing) -> None:
    """When none of them is for this machine: it would be a guess."""
    archives = pushing.archives
    names = ("s390x", "riscv64", "ppc64le")
    parts = [archives.manifest(name, codec="+gzip", architecture=name) | platform(name) for name in names]
    missing = json.loads(archives.blobs[parts[2]["digest"]])["layers"][0]["digest"]
    del archives.blobs[missing]
    await pushing.load(archives.index(*parts))
    with pytest.raises(Conflict, match="multiple matching manifests found"):
        await pushing.push()


async def test_all_tags_of_a_repository(pushing: Pushing) -> None:
    """Each to its own image, and nothing of other repositories."""
    one = await pushing.load(pushing.archives.manifest("a", codec="+gzip"))
    two = await pushing.load(pushing.archives.manifest("b", codec="+gzip"), pushing.name.replace(":1", ":2"))
    await pushing.load(pushing.archives.manifest("c", codec="+gzip"), pushing.name.replace(":1", "x:3"))
    events = await pushing.push(pushing.name.removesuffix(":1"))
    assert [event.result.tag for event in events if event.result] == ["1", "2"]  # type: ignore[union-attr]
    assert (
        await pushing.digest() == one.id and await pushing.digest(pushing.name.replace(":1", ":2")) == two.id
    )
    assert pushing.proxy.count(f"{pushing.path}x/") == 0


async def test_what_is_not_here_is_not_pushed(pushing: Pushing) -> None:
    """In dockerd's words."""
    with pytest.raises(NotFound, match="An image does not exist locally with the tag: "):
        await pushing.push()
    await pushing.load(pushing.archives.manifest("a"))
    with pytest.raises(NotFound, match="tag does not exist: "):
        await pushing.push(pushing.name.replace(":1", ":2"))
    with pytest.raises(Invalid, match="cannot push a digest reference"):
        await pushing.push(f"{pushing.name[:-2]}@sha256:{'0' * 64}")
    assert pushing.proxy.seen == []


async def test_a_damaged_blob_is_found(pushing: Pushing) -> None:
    """By the registry for what is sent as it is, by us for what is compressed; the tag stays as it was."""
    for codec, words in (("+gzip", "is damaged"), ("", "is damaged")):
        image = await pushing.load(pushing.archives.manifest("x", codec=codec, size=BIG))
        path = pushing.store.content.path(image.manifest.layers[0].digest)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(Corrupt, match=words):
            await pushing.push(compression="gzip")
    with pytest.raises(NotFound):
        await pushing.digest()


async def test_a_bad_line_is_tried_again(pushing: Pushing) -> None:
    """A flipped bit on the way: the registry notices, and the blob here is good."""
    await pushing.load(pushing.archives.manifest("x", codec="+gzip", size=BIG))
    pushing.proxy.faults = [PushFault("PUT .*/uploads/", flip=100)]
    await pushing.push()
    assert await pushing.digest()


STEPS = ["HEAD .*/blobs/", "POST .*/uploads/", "PUT .*/uploads/", "HEAD .*/manifests/", "PUT .*/manifests/"]


@pytest.mark.parametrize("seed", range(4))
async def test_a_tag_never_stands_for_what_is_not_there(pushing: Pushing, seed: int) -> None:
    """Cuts at random bytes and bad answers at random steps: the push ends whole, or with an error that names what it
    could not push, and then the tag is not there."""
    dice = random.Random(seed)
    image = await pushing.load(pushing.archives.manifest("a", "b", "c", codec="+gzip", size=BIG))
    manifest = pushing.archives.blobs[str(image.id)]
    total = sum(layer["size"] for layer in json.loads(manifest)["layers"])
    whole = 0
    for turn in range(6):
        faults = []
        for _ in range(dice.randint(1, 4)):
            where, spare = dice.choice(STEPS), dice.randint(0, 3)
            if dice.random() < 0.5:
                faults.append(PushFault("PUT .*/uploads/", cut=dice.randrange(total), spare=spare))
            else:
                status = dice.choice([400, 401, 404, 429, 500, 503])
                faults.append(PushFault(where, status=status, spare=spare, times=dice.choice([1, 1, 9])))
        pushing.proxy.faults = faults
        name = f"{pushing.name[:-2]}/{turn}:1"
        await pushing.store.images.tag(pushing.name, name.removesuffix(":1"), "1")
        pushing.store.metadata._db.execute("DELETE FROM blob_places")
        try:
            await pushing.push(name)
            whole += 1
        except CaisError as error:
            assert "blob sha256:" in str(error) or "manifest " in str(error) or f"/{turn}" in str(error)
        pushing.proxy.faults = []
        request = Remotes(Hosts()).open(parse_reference(name))
        async with request as repository:
            if await repository.find_digest():
                for layer in image.manifest.layers:
                    assert len(b"".join([part async for part in repository.fetch_blob(layer)])) == layer.size
    assert whole


async def test_a_client_that_leaves_ends_its_push(pushing: Pushing) -> None:
    """In the middle of a layer: no tag, no temporary file, nothing goes on."""
    await pushing.load(pushing.archives.manifest("x", codec="+gzip", size=BIG))
    pushing.proxy.faults = [PushFault("PUT .*/uploads/", gate=asyncio.Event(), times=9)]
    request = PushRequest(parse_reference(pushing.name))
    async with aclosing(pushing.store.images.push(request)) as events:
        async for event in events:
            if event.status == "Pushing":
                break
    assert pushing.proxy.count("PUT .*/manifests/") == 0
    assert not list((pushing.store.root / "content").glob(".tmp-*"))


async def test_an_image_that_is_removed_meanwhile_is_pushed_whole(pushing: Pushing) -> None:
    """Its blobs are leased; they go when the push has ended."""
    image = await pushing.load(pushing.archives.manifest("x", codec="+gzip", size=BIG))
    gate = asyncio.Event()
    pushing.proxy.faults = [PushFault("POST", gate=gate)]
    task = asyncio.create_task(pushing.push())
    await until(lambda: pushing.proxy.count("POST") > 0)
    await pushing.store.images.remove(pushing.name)
    gate.set()
    await task
    assert await pushing.digest() == image.id
    await pushing.store.images.collect()
    await pushing.store.wait_until_clean()


async def test_nobody_there_is_told(pushing: Pushing) -> None:
    """With Go's words."""
    name = "127.0.0.1:1/x:1"
    await pushing.load(pushing.archives.manifest("x", codec="+gzip"), name)
    with pytest.raises(Unavailable, match="connect: connection refused"):
        await pushing.push(name)
