"""Pulling from a real registry: what arrives, what is refused, and what stays after a failure."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from cais.errors import CaisError, Corrupt, Invalid, NotFound, Unavailable, Unsupported
from cais.images.image import PullEvent
from cais.images.pull import choose_child
from cais.spec.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor, Index
from cais.spec.digest import digest_bytes
from cais.spec.platform import parse_platform
from harness.engines import until
from harness.pulling import BIG, BLOBS, Pulling, digest_of
from harness.registry import Fault, sha256

pytestmark = pytest.mark.kernel

OCI = "application/vnd.oci.image."


@pytest.mark.parametrize("codec", ["", "+gzip", "+zstd"])
async def test_an_image_is_pulled(pulling: Pulling, archives: Any, codec: str) -> None:
    """Its layers are unpacked, its ID is the registry's digest, and the stream is docker's."""
    target = archives.manifest("low", "high", codec=codec, size=BIG)
    pulling.push(archives, target)
    events = await pulling.pull()
    assert await pulling.read() == ["high", "low"]
    assert (await pulling.store.images.resolve(pulling.name)).id == target["digest"]
    assert events[0] == PullEvent(f"Pulling from {pulling.repository}", "1")
    assert [event.status for event in events[-2:]] == [
        f"Digest: {target['digest']}",
        f"Status: Downloaded newer image for {pulling.name}",
    ]
    assert sum(event.status == "Pull complete" for event in events) == 2


async def test_a_second_pull_fetches_nothing(pulling: Pulling, archives: Any) -> None:
    """One HEAD is all; the image is up to date."""
    pulling.push(archives, archives.manifest("x"))
    await pulling.pull()
    pulling.proxy.seen.clear()
    events = await pulling.pull()
    assert [event.status for event in events if event.is_layer] == ["Already exists"]
    assert events[-1].status == f"Status: Image is up to date for {pulling.name}"
    assert [line.split()[0] for line, _ in pulling.proxy.seen if "/v2/" in line] == ["HEAD"]


async def test_only_what_is_new_is_fetched(pulling: Pulling, archives: Any) -> None:
    """A layer that another image has is not sent again."""
    pulling.push(archives, archives.manifest("base"))
    await pulling.pull()
    pulling.push(archives, archives.manifest("base", "top"), "2")
    pulling.proxy.seen.clear()
    await pulling.pull(f"{pulling.name[:-2]}:2")
    assert pulling.proxy.count(BLOBS) == 2  # the configuration and the layer on top
    assert await pulling.read(f"{pulling.name[:-2]}:2") == ["top", "base"]


async def test_a_name_by_digest_has_no_tag(pulling: Pulling, archives: Any) -> None:
    """It is found by digest, listed as dangling-free digest, and removed by that name."""
    target = archives.manifest("x")
    pulling.push(archives, target)
    name = f"{pulling.name[:-2]}@{target['digest']}"
    await pulling.pull(name)
    image = await pulling.store.images.resolve(name)
    assert image.names == () and image.digests == (name,)
    await pulling.store.images.remove(name)
    assert await pulling.store.images.list() == []


async def test_a_platform_of_an_index_is_chosen(pulling: Pulling, archives: Any) -> None:
    """The host's without a wish; the ID is the index's; only one platform's layers come."""
    mine = archives.manifest("mine") | {"platform": {"os": "linux", "architecture": "amd64"}}
    other = archives.manifest("other", architecture="arm64")
    other |= {"platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}
    target = archives.index(other, mine)
    pulling.push(archives, target)
    await pulling.pull()
    image = await pulling.store.images.resolve(pulling.name)
    assert image.id == target["digest"] and len(image.platforms) == 1
    assert await pulling.read() == ["mine"]
    await pulling.pull(platform="linux/arm64")
    image = await pulling.store.images.resolve(pulling.name, platform=parse_platform("linux/arm64"))
    assert image.config.architecture == "arm64" and len(image.platforms) == 2
    with pytest.raises(NotFound, match="no matching manifest for linux/s390x in the manifest list entries"):
        await pulling.pull(platform="linux/s390x")


def put_artifact(archives: Any) -> dict[str, Any]:
    """An attestation as buildx writes it: its config is an image's, its layer is none."""
    layer = archives.put(b'{"predicateType": "x"}' * 9, "application/vnd.in-toto+json")
    config = archives.put(b'{"architecture":"unknown","os":"unknown","rootfs":{}}', OCI + "config.v1+json")
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
    found: dict[str, Any] = archives.put(json.dumps(document).encode(), OCI_MANIFEST)
    note = {"vnd.docker.reference.type": "attestation-manifest"}
    return found | {"platform": {"os": "unknown", "architecture": "unknown"}, "annotations": note}


@pytest.mark.parametrize("mine", ["amd64", "arm64"])
async def test_all_platforms_come_as_a_whole(pulling: Pulling, archives: Any, mine: str) -> None:
    """Every blob that the index leads to, attestations too, is here and stays; one image is unpacked, also if none is
    for this machine; a second time nothing is fetched."""
    first = archives.manifest("one", architecture=mine) | {"platform": {"os": "linux", "architecture": mine}}
    other = archives.manifest("other", architecture="s390x")
    other |= {"platform": {"os": "linux", "architecture": "s390x"}}
    inner = archives.index(other)
    target = archives.index(first, inner, put_artifact(archives))
    pulling.push(archives, target)
    await pulling.pull(all_platforms=True)
    await pulling.store.images.collect()
    assert {str(digest) for digest in pulling.store.content.list()} == set(archives.blobs)
    assert len(pulling.store.layers.list()) == 1
    image = await pulling.store.images.resolve(pulling.name, platform=parse_platform("linux/s390x"))
    lowers = await pulling.store.images.root_lowers(image)
    assert Path(lowers[0], "etc/name").read_text() == "other"
    pulling.proxy.seen.clear()
    await pulling.pull(all_platforms=True)
    assert not pulling.proxy.count("GET .*/v2/.+")


async def test_all_platforms_or_nothing(pulling: Pulling, archives: Any) -> None:
    """A blob of another platform that is missing, or of another size than announced: no name."""
    mine = archives.manifest("one") | {"platform": {"os": "linux", "architecture": "amd64"}}
    other = archives.manifest("two", architecture="s390x")
    pulling.push(archives, archives.index(mine, other))
    gone = sha256(archives.layer("two"))
    pulling.proxy.faults = [Fault(gone, status=404, times=9)]
    with pytest.raises(NotFound):
        await pulling.pull(all_platforms=True)
    pulling.proxy.faults = [Fault(gone, shorten=10, times=9)]
    with pytest.raises(Corrupt, match="has 10 bytes, its manifest says"):
        await pulling.pull(all_platforms=True)
    assert await pulling.store.images.list() == []


async def test_an_index_that_lies_about_a_manifest_is_corrupt(pulling: Pulling, archives: Any) -> None:
    """The size it announces is compared; nothing stays."""
    mine = archives.manifest("x") | {"platform": {"os": "linux", "architecture": "amd64"}}
    pulling.push(archives, archives.index(mine))
    target = archives.index({**mine, "size": int(str(mine["size"])) + 1})
    body, headers = archives.blobs[target["digest"]], {"Content-Type": OCI_INDEX}
    pulling.proxy.faults = [
        Fault("HEAD", status=404),
        Fault("/manifests/1", status=200, body=body, headers=headers),
    ]
    with pytest.raises(Corrupt, match="bytes, announced were"):
        await pulling.pull()
    assert await pulling.store.images.list() == []


async def test_another_platform_than_asked_for_is_refused(pulling: Pulling, archives: Any) -> None:
    """A single manifest tells by its configuration; nothing stays."""
    pulling.push(archives, archives.manifest("x"))
    with pytest.raises(NotFound, match=r"its platform \(linux/amd64\) does not match"):
        await pulling.pull(platform="linux/arm64")
    assert await pulling.store.images.list() == []


@pytest.mark.parametrize(
    "fault", [Fault(BLOBS, flip=2000, times=2), Fault("GET .*/manifests/", cut=40, times=2)]
)
async def test_what_a_bad_line_did_is_fetched_again(pulling: Pulling, archives: Any, fault: Fault) -> None:
    """A flipped bit in a layer, a cut manifest: the image is whole all the same."""
    pulling.push(archives, archives.manifest("x", codec="+gzip", size=BIG))
    pulling.proxy.faults = [Fault(BLOBS), fault]  # the first blob is the configuration
    fault.times = 1
    await pulling.pull()
    assert await pulling.read() == ["x"]


async def test_a_layer_that_stays_wrong_leaves_no_name(pulling: Pulling, archives: Any) -> None:
    """Corrupt, with the digest; neither blob nor folder of it is there."""
    pulling.push(archives, archives.manifest("x", size=BIG))
    pulling.proxy.faults = [Fault(BLOBS), Fault(BLOBS, flip=BIG // 2, times=9)]
    with pytest.raises(Corrupt, match="not what it claims"):
        await pulling.pull()
    assert await pulling.store.images.list() == [] and pulling.store.layers.list() == []


async def test_an_interrupted_pull_keeps_whole_layers(pulling: Pulling, archives: Any) -> None:
    """The next pull of the same name fetches only what was missing; a collection in between takes nothing."""
    target = archives.manifest("one", "two", size=BIG)
    pulling.push(archives, target)
    (last,) = [d for d, data in archives.blobs.items() if data == archives.layer("two", BIG)]
    pulling.proxy.faults = [Fault(last, status=404, times=9)]
    with pytest.raises(NotFound):
        await pulling.pull()
    assert await pulling.store.images.list() == []
    await pulling.store.images.collect()
    kept = {d for d in archives.blobs if pulling.store.content.has(digest_of(d))}
    pulling.proxy.faults, fetched = [], len(pulling.proxy.seen)
    await pulling.pull()
    again = {line.rpartition("/")[2] for line, _ in pulling.proxy.seen[fetched:] if "GET" in line}
    assert not kept & again and target["digest"] in kept and last in again
    assert await pulling.read() == ["two", "one"]


async def test_two_pulls_of_one_image_share_the_work(pulling: Pulling, archives: Any) -> None:
    """Each layer is fetched once, and the second goes on when the first one's client leaves."""
    pulling.push(archives, archives.manifest("one", "two", codec="+gzip", size=BIG))
    configs, layers = asyncio.Event(), asyncio.Event()
    pulling.proxy.faults = [Fault(BLOBS, times=2, gate=configs), Fault(BLOBS, times=9, gate=layers)]
    told: tuple[list[PullEvent], list[PullEvent]] = ([], [])

    async def follow(events: list[PullEvent]) -> None:
        async for event in pulling.store.images.pull(pulling.request()):
            events.append(event)

    def has_joined(events: list[PullEvent]) -> bool:
        return len({each.id for each in events if each.status in ("Downloading", "Waiting")}) == 2

    first, second = (asyncio.create_task(follow(events)) for events in told)
    # Both are held at the configuration: else the second might find the first one's in the store.
    await until(lambda: pulling.proxy.count(BLOBS) == 2)
    configs.set()
    await until(lambda: pulling.proxy.count(BLOBS) == 4 and all(map(has_joined, told)))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    layers.set()
    await second
    assert await pulling.read() == ["two", "one"] and pulling.proxy.count(BLOBS) == 4


async def test_a_client_that_leaves_leaves_nothing(pulling: Pulling, archives: Any) -> None:
    """The generator is closed in the middle: no name, no temporary file, no layer; whole blobs wait."""
    pulling.push(archives, archives.manifest("x", size=BIG))
    pulling.proxy.faults = [Fault(BLOBS), Fault(BLOBS, gate=asyncio.Event())]
    async with aclosing(pulling.store.images.pull(pulling.request())) as events:
        async for event in events:
            if event.status == "Downloading":
                break
    root = pulling.store.root
    assert not list((root / "content").glob(".tmp-*")) and not pulling.store.layers.list()
    assert await pulling.store.images.list() == []


async def test_a_manifest_that_lies_about_a_size_is_corrupt(pulling: Pulling, archives: Any) -> None:
    """More or less than the blob has: refused, and nothing stays."""
    for change in (-1, 1):
        target = archives.manifest("x", size=BIG)
        document = json.loads(archives.blobs.pop(target["digest"]))
        document["layers"][0]["size"] += change
        data = json.dumps(document).encode()
        pulling.proxy.faults = [
            Fault("HEAD", status=404),
            Fault("GET .*/manifests/", status=200, body=data, headers={"Content-Type": OCI_MANIFEST}),
        ]
        for blob in archives.blobs.values():
            pulling.registry.put_blob(pulling.repository, blob)
        with pytest.raises(Corrupt, match="its manifest says"):
            await pulling.pull()
    assert await pulling.store.images.list() == []


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (
            {"config": {"mediaType": "application/vnd.oci.empty.v1+json"}},
            Unsupported,
            "not an image but an artifact",
        ),
        ({"layers": []}, Invalid, "0 layers but 1 diff_ids"),
        ({"layers": [{"mediaType": "text/plain"}]}, Unsupported, "unknown type 'text/plain'"),
        ({"layers": [{"size": -1}]}, Invalid, "size of -1"),
        ({"schemaVersion": 1}, Unsupported, "schema version 1"),
        ({"manifests": []}, Invalid, "both manifests and config"),
    ],
)
async def test_what_is_no_image_is_refused(
    pulling: Pulling, archives: Any, change: dict[str, Any], kind: type[CaisError], words: str
) -> None:
    """Before a layer is fetched, with the reason."""
    target = archives.manifest("x")
    pulling.push(archives, target)
    document = json.loads(archives.blobs[target["digest"]])
    for key, value in change.items():
        if key == "layers":
            value = [document["layers"][0] | layer for layer in value]
        document[key] = document[key] | value if key == "config" else value
    body = json.dumps(document).encode()
    headers = {"Content-Type": OCI_MANIFEST}
    pulling.proxy.faults = [
        Fault("HEAD", status=404),
        Fault("/manifests/", status=200, body=body, headers=headers),
    ]
    with pytest.raises(kind, match=words):
        await pulling.pull()
    assert pulling.proxy.count(archives.manifest("x")["digest"]) == 0 and pulling.proxy.count(BLOBS) <= 1


async def test_names_that_are_not_there(pulling: Pulling) -> None:
    """Docker's words, and no trace."""
    with pytest.raises(NotFound, match=f"manifest for {pulling.name} not found: manifest unknown"):
        await pulling.pull()
    with pytest.raises(Unavailable, match="connection refused"):
        await pulling.pull("127.0.0.1:1/a:1")
    await pulling.store.wait_until_clean()


def entry(text: str, **more: Any) -> Descriptor:
    """A manifest's descriptor for a platform; empty: it does not say."""
    platform = parse_platform(text) if text else None
    return Descriptor(
        media_type=OCI_MANIFEST, digest=digest_bytes(text.encode()), size=1, platform=platform, **more
    )


@pytest.mark.parametrize(
    ("offered", "host", "wanted", "chosen"),
    [
        (("linux/arm64", "linux/amd64"), "linux/amd64", "", 1),
        (("linux/386", "linux/arm64"), "linux/amd64", "", 0),
        (("linux/amd64", "linux/arm/v6", "linux/arm/v7"), "linux/amd64", "linux/arm/v7", 2),
        (("linux/arm64",), "linux/amd64", "", None),
        (("",), "linux/amd64", "", 0),
        (("linux/amd64",), "linux/amd64", "windows/amd64", None),
    ],
)
def test_the_choice_of_a_platform(
    offered: tuple[str, ...], host: str, wanted: str, chosen: int | None
) -> None:
    """The wish, else the best that the host runs; attestations are never chosen."""
    attestation = entry("linux/amd64", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    index = Index(manifests=(attestation, *map(entry, offered)))
    wish = parse_platform(wanted) if wanted else None
    if chosen is None:
        with pytest.raises(NotFound, match="no matching manifest for"):
            choose_child(index, parse_platform(host), wish)
    else:
        assert choose_child(index, parse_platform(host), wish) is index.manifests[chosen + 1]
