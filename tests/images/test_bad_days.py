"""Bad days: every step of a pull meets every fault, and manifests lie. Nothing half-made is ever visible, and the error
names what it is about."""

import json
import re
import time
from dataclasses import replace
from typing import Any

import pytest

from cais.errors import CaisError, Corrupt, Invalid
from harness.pulling import Pulling
from harness.registry import Fault, sha256

pytestmark = pytest.mark.kernel

OCI = "application/vnd.oci.image."
SIZE = 300_000
STEPS = ("HEAD tag", "GET tag", "index", "manifest", "config", "low", "high")
FAULTS = {
    "cut at once": Fault("", cut=0),
    "cut in the middle": Fault("", cut=100),
    "shorter": Fault("", shorten=50),
    "another bit": Fault("", flip=30),
    "slow": Fault("", rate=1 << 20),
    "401": Fault("", status=401),
    "403": Fault("", status=403, body=b'{"errors":[{"code":"DENIED","message":"no"}]}'),
    "404": Fault("", status=404),
    "429": Fault("", status=429, headers={"Retry-After": "0"}),
    "500": Fault("", status=500, body=b"<html>\x1b[31m"),
    "302 in circles": Fault("", status=302, headers={"Location": "/v2/"}),
    "other words": Fault(
        "", status=200, body=b"<html>please pay</html>", headers={"Content-Type": "text/html"}
    ),
    "a range nobody asked for": Fault(
        "", status=206, body=b"x" * 60, headers={"Content-Range": "bytes 7-66/9"}
    ),
    "no answer that is one": Fault("", status=204),
}


class Route:
    """An image of two layers below an index, and the requests that its pull makes."""

    def __init__(self, archives: Any) -> None:
        image = archives.manifest("low", "high", codec="+gzip", size=SIZE)
        image |= {"platform": {"os": "linux", "architecture": "amd64"}}
        self.target = archives.index(image)
        document = json.loads(archives.blobs[image["digest"]])
        low, high = (layer["digest"] for layer in document["layers"])
        self.where = {
            "HEAD tag": "HEAD .*/manifests/1",
            "GET tag": "GET .*/manifests/1",
            "index": f"GET .*/manifests/{self.target['digest']}",
            "manifest": f"GET .*/manifests/{image['digest']}",
            "config": f"GET .*/blobs/{document['config']['digest']}",
            "low": f"GET .*/blobs/{low}",
            "high": f"GET .*/blobs/{high}",
        }


@pytest.mark.parametrize("step", STEPS)
async def test_every_fault_at_every_step(pulling: Pulling, archives: Any, step: str) -> None:
    """Once: the pull succeeds, or says why not. Always: it fails, or the step is one that it can do without. After
    either nothing half-made is to be seen, and the next pull of a healthy registry succeeds."""
    route = Route(archives)
    pulling.push(archives, route.target)
    begun = time.monotonic()
    for name, fault in FAULTS.items():
        for times in (1, 99):
            pulling.proxy.faults = [replace(fault, where=route.where[step], times=times)]
            if step == "GET tag":  # it is asked only where HEAD says nothing
                pulling.proxy.faults.append(Fault("HEAD", status=405, times=99))
            await try_to_pull(pulling, f"{step}, {name}")
            pulling.proxy.faults = []
            await pulling.pull()
            assert await pulling.read() == ["high", "low"]
            await pulling.store.images.remove(pulling.name)
            await pulling.store.wait_until_clean()
    assert time.monotonic() - begun < 60


async def try_to_pull(pulling: Pulling, what: str) -> None:
    """One pull on a bad day: what it came to is whole or not there."""
    try:
        await pulling.pull()
    except CaisError as error:
        text = str(error)
        assert pulling.repository in text or pulling.proxy.address in text or "sha256:" in text, (
            f"{what}: {text}"
        )
        assert text.isprintable(), what
        assert await pulling.store.images.list() == [], what
        assert all(damage.kind != "layer" for damage in await pulling.store.images.check((), deep=True)), what
    else:
        assert await pulling.read() == ["high", "low"], what


def offer(pulling: Pulling, archives: Any, document: bytes, kind: str) -> None:
    """Let the registry say that this is what the tag stands for."""
    for blob in archives.blobs.values():
        pulling.registry.put_blob(pulling.repository, blob)
    found = {sha256(document): document, **archives.blobs}
    pulling.proxy.faults = [Fault("HEAD", status=404, times=99)]
    for digest, data in found.items():
        where = "manifests/1$" if digest == sha256(document) else f"manifests/{digest}"
        headers = {"Content-Type": kind if digest == sha256(document) else json_type(data)}
        pulling.proxy.faults.append(Fault(where, status=200, body=data, headers=headers, times=9))


def json_type(data: bytes) -> str:
    """The media type that a document says."""
    found = re.search(rb'"mediaType": ?"([^"]*)"', data[:200])
    return found[1].decode() if found else "application/octet-stream"


def deep_json(archives: Any, depth: int) -> bytes:
    """A manifest with a deep annotation."""
    target = archives.manifest("x")
    text = archives.blobs[target["digest"]].decode()
    return (text[:-1] + ', "annotations": {"a": ' + "[" * depth + "]" * depth + "}}").encode()


async def test_deep_json_is_refused(pulling: Pulling, archives: Any) -> None:
    """Not a crash, not a hang: Invalid."""
    for depth in (1, 1000, 200_000):
        offer(pulling, archives, deep_json(archives, depth), OCI + "manifest.v1+json")
        with pytest.raises(Invalid):
            await pulling.pull()
    assert await pulling.store.images.list() == []


async def test_deep_json_in_a_config_is_refused(pulling: Pulling, archives: Any) -> None:
    """The configuration is as hostile as the manifest."""
    document = json.loads(archives.blobs[archives.manifest("x")["digest"]])
    deep = b'{"os":"linux","architecture":"amd64","rootfs":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    document["config"] = archives.put(deep, OCI + "config.v1+json")
    offer(pulling, archives, json.dumps(document).encode(), OCI + "manifest.v1+json")
    with pytest.raises(Invalid):
        await pulling.pull()


async def test_a_huge_manifest_is_refused(pulling: Pulling, archives: Any) -> None:
    """After four megabytes, not after all of it."""
    body = b'{"schemaVersion": 2, "x": "' + b"x" * (5 << 20) + b'"}'
    offer(pulling, archives, body, OCI + "manifest.v1+json")
    with pytest.raises(Invalid, match=f"manifest of {pulling.name} is larger than"):
        await pulling.pull()


async def test_ten_thousand_layers_are_refused(pulling: Pulling, archives: Any) -> None:
    """Before one is fetched; with as many diff_ids or not."""
    document = json.loads(archives.blobs[archives.manifest("x")["digest"]])
    document["layers"] *= 10_000
    config = json.loads(archives.config([archives.layer("x")] * 10_000))
    for counts, words in (
        (config, "max depth exceeded: 10000 layers"),
        (None, "10000 layers but 1 diff_ids"),
    ):
        if counts:
            document["config"] = archives.put(json.dumps(counts).encode(), OCI + "config.v1+json")
        else:
            document["config"] = archives.put(archives.config([archives.layer("x")]), OCI + "config.v1+json")
        offer(pulling, archives, json.dumps(document).encode(), OCI + "manifest.v1+json")
        with pytest.raises(Invalid, match=words):
            await pulling.pull()
    assert pulling.proxy.count(str(document["layers"][0]["digest"])) == 0


@pytest.mark.parametrize("everything", [False, True])
async def test_indexes_without_an_end_are_refused(pulling: Pulling, archives: Any, everything: bool) -> None:
    """A chain of twelve; and a ring, which can only be made by lying about a digest."""
    target = archives.manifest("x") | {"platform": {"os": "linux", "architecture": "amd64"}}
    for _ in range(12):
        target = archives.index(target)
    offer(pulling, archives, archives.blobs[target["digest"]], OCI + "index.v1+json")
    with pytest.raises(Invalid, match="nested too deeply"):
        await pulling.pull(all_platforms=everything)
    ring = archives.blobs[target["digest"]]
    pulling.proxy.faults = [
        Fault("HEAD", status=404, times=99),
        Fault("manifests/", status=200, body=ring, headers={"Content-Type": OCI + "index.v1+json"}, times=99),
    ]
    with pytest.raises(Corrupt, match="manifest verification failed for digest"):
        await pulling.pull(all_platforms=everything)
    assert await pulling.store.images.list() == []


async def test_an_index_of_thousands_is_refused(pulling: Pulling, archives: Any) -> None:
    """Or a single pull of all platforms would never end."""
    one = archives.manifest("x")
    target = archives.index(*[one] * 2000)
    offer(pulling, archives, archives.blobs[target["digest"]], OCI + "index.v1+json")
    pulling.proxy.faults[-1].times = pulling.proxy.faults[1].times = 9999
    with pytest.raises(Invalid, match="more than 1024 manifests"):
        await pulling.pull(all_platforms=True)
    assert pulling.proxy.count(f"GET .*/blobs/{sha256(archives.layer('x'))}") == 0


async def test_a_config_that_lies_about_a_layer_is_corrupt(pulling: Pulling, archives: Any) -> None:
    """The diff_id is that of other bytes: no name, no layer under either digest."""
    document = json.loads(archives.blobs[archives.manifest("x", size=SIZE)["digest"]])
    lie = archives.config([archives.layer("another", SIZE)])
    document["config"] = archives.put(lie, OCI + "config.v1+json")
    offer(pulling, archives, json.dumps(document).encode(), OCI + "manifest.v1+json")
    with pytest.raises(Corrupt, match="layer is not what its config says"):
        await pulling.pull()
    assert await pulling.store.images.list() == [] and pulling.store.layers.list() == []
