"""A pull that did not end well goes on from the bytes it has: after a failure, a cancellation, a dead engine."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cais.errors import CaisError, Corrupt, Unavailable
from cais.spec.digest import Digest
from harness.engines import until
from harness.pulling import BIG, BLOBS, Pulling, digest_of
from harness.registry import Fault, sha256

pytestmark = pytest.mark.kernel

PULLER = """
import asyncio, sys
from pathlib import Path
from cais.events import Bus
from cais.images.images import Images
from cais.images.pull import PullRequest
from cais.remotes.client import Remotes
from cais.remotes.hosts import Hosts
from cais.spec.reference import parse_reference
from cais.store.content import Content
from cais.store.layers.layers import Layers
from cais.store.metadata import Metadata
from cais.store.workers import Workers

async def main(root, name):
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    content, metadata, workers = Content(root / "content"), Metadata(root / "cais.db"), Workers(2)
    images = Images(content, Layers(root), metadata, workers, Bus(), root=root, remotes=Remotes(Hosts()))
    await images.sweep()
    async for event in images.pull(PullRequest(parse_reference(name))):
        pass
    await images.close()
    await workers.close()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""
CUT = 2 << 20


def layer_of(archives: Any) -> Digest:
    """The digest of the archive's largest blob."""
    return digest_of(sha256(max(archives.blobs.values(), key=len)))


def partial(pulling: Pulling, archives: Any) -> Path:
    """Where the first bytes of that blob wait."""
    path: Path = pulling.store.content.ingest.path(layer_of(archives))
    return path


async def fail_at(pulling: Pulling, archives: Any, size: int) -> None:
    """Push an image of one big layer, and pull until its line is dead after ``size`` bytes of it."""
    pulling.push(archives, archives.manifest("x", size=BIG))
    gone = Fault(str(layer_of(archives)), times=99, status=404)
    pulling.proxy.faults = [Fault(str(layer_of(archives)), cut=size), gone]
    with pytest.raises(CaisError):
        await pulling.pull()
    pulling.proxy.faults = []
    pulling.proxy.seen.clear()
    pulling.proxy.sent = 0


async def test_a_pull_goes_on_where_a_failed_one_stopped(pulling: Pulling, archives: Any) -> None:
    """Only what is missing is asked for, by range, even by a next engine; the image is whole, nothing is left over."""
    await fail_at(pulling, archives, CUT)
    assert partial(pulling, archives).stat().st_size == CUT
    await pulling.store.images.sweep()
    await pulling.pull()
    ranges = [headers.get("Range") for line, headers in pulling.proxy.seen if str(layer_of(archives)) in line]
    assert ranges == [f"bytes={CUT}-"] and pulling.proxy.sent < BIG - CUT + 100_000
    assert await pulling.read() == ["x"]
    assert not list((pulling.store.root / "content/ingest").iterdir())


async def test_a_cancelled_pull_goes_on(pulling: Pulling, archives: Any) -> None:
    """A client that leaves in the middle of a slow line loses nothing of what had come."""
    pulling.push(archives, archives.manifest("x", size=BIG))
    pulling.proxy.faults = [Fault(str(layer_of(archives)), rate=8 << 20)]
    task = asyncio.create_task(pulling.pull())
    path = partial(pulling, archives)
    await until(lambda: path.exists() and path.stat().st_size >= CUT)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    had, pulling.proxy.sent = path.stat().st_size, 0
    await pulling.pull()
    assert pulling.proxy.sent < BIG - had + 100_000 and await pulling.read() == ["x"]


@pytest.mark.parametrize("change", ["flip", "longer", "zeros"])
async def test_bytes_that_were_damaged_meanwhile_are_fetched_again(
    pulling: Pulling, archives: Any, change: str
) -> None:
    """What lies on the disk is not trusted: the layer is fetched as a whole once more, and is right."""
    await fail_at(pulling, archives, CUT)
    path = partial(pulling, archives)
    data = bytearray(path.read_bytes())
    data[1000] ^= change == "flip"
    path.write_bytes({"flip": data, "longer": data + bytes(BIG), "zeros": bytes(CUT)}[change])
    await pulling.pull()
    assert await pulling.read() == ["x"]
    ranges = [headers.get("Range") for line, headers in pulling.proxy.seen if str(layer_of(archives)) in line]
    assert ranges == [None] if change == "longer" else [f"bytes={CUT}-", None]


async def test_a_shorter_blob_at_the_registry_is_corrupt(pulling: Pulling, archives: Any) -> None:
    """A range that the server cannot have (416) ends in Corrupt, and the bytes are not tried a third time."""
    await fail_at(pulling, archives, CUT)
    pulling.proxy.faults = [Fault(BLOBS, status=416, times=1), Fault(BLOBS, shorten=1000, times=9)]
    with pytest.raises(Corrupt, match="has 1000 bytes, its manifest says"):
        await pulling.pull()
    assert not partial(pulling, archives).exists()


async def test_two_pulls_of_one_blob_do_not_share_a_file(pulling: Pulling, archives: Any) -> None:
    """Told of different sizes, they are different pulls: the lie fails, the truth comes whole."""
    target = archives.manifest("x", size=BIG)
    pulling.push(archives, target)
    lied = archives.blobs[target["digest"]].replace(
        str(len(archives.layer("x", BIG))).encode(), str(len(archives.layer("x", BIG)) - 1).encode()
    )
    for data in archives.blobs.values():
        pulling.registry.put_blob(f"{pulling.repository}/liar", data)
    headers = {"Content-Type": target["mediaType"]}
    pulling.proxy.faults = [
        Fault("liar/manifests", status=200, body=lied, headers=headers, times=9),
        Fault(f"{layer_of(archives)}", rate=20 << 20, times=9),
    ]
    name = pulling.name.replace(":1", "").replace(pulling.repository, f"{pulling.repository}/liar")
    lie, truth = asyncio.create_task(pulling.pull(f"{name}:1")), asyncio.create_task(pulling.pull())
    with pytest.raises(Corrupt, match="its manifest says"):
        await lie
    await truth
    assert await pulling.read() == ["x"]


async def test_what_waits_has_its_time(pulling: Pulling, archives: Any) -> None:
    """Bytes and whole blobs of a failed pull stay for a day, and the first collection after that takes them."""
    await fail_at(pulling, archives, CUT)
    await pulling.store.images.collect()
    assert pulling.store.content.ingest.size() == CUT and len(pulling.store.content.list()) == 2
    for path in (pulling.store.root / "content/ingest").iterdir():
        os.utime(path, (time.time() - 86_500,) * 2)
    await pulling.store.images.collect()
    assert pulling.store.leftovers() == []


async def test_who_prunes_need_not_wait(pulling: Pulling, archives: Any) -> None:
    """All of it goes at once, but for the bytes that a running pull is writing."""
    await fail_at(pulling, archives, CUT)
    assert await pulling.store.images.drop_partials() >= CUT
    assert pulling.store.leftovers() == []
    pulling.proxy.faults = [Fault(str(layer_of(archives)), rate=8 << 20)]
    task = asyncio.create_task(pulling.pull())
    path = partial(pulling, archives)
    await until(lambda: path.exists() and path.stat().st_size >= CUT)
    await pulling.store.images.drop_partials()
    await task
    assert await pulling.read() == ["x"]


async def run(*words: str) -> None:
    """A command, which must succeed."""
    process = await asyncio.create_subprocess_exec(*words)
    assert await process.wait() == 0, words


async def test_a_full_disk_is_not_kept_full(pulling: Pulling, archives: Any) -> None:
    """What came before the disk was full is dropped: whoever has to make room must not have to look for it."""
    pulling.push(archives, archives.manifest("x", size=BIG))
    content = pulling.store.root / "content"
    (content / "ingest").mkdir()
    await run("mount", "-t", "tmpfs", "-o", "size=2M", "none", str(content / "ingest"))
    try:
        with pytest.raises(Unavailable, match=f"no space left on device: {pulling.store.root}"):
            await pulling.pull()
        assert not partial(pulling, archives).exists()
    finally:
        await run("umount", str(content / "ingest"))
    await pulling.pull()
    assert await pulling.read() == ["x"]


def puller(root: Path, name: str) -> "subprocess.Popen[bytes]":
    """An engine's images in a process of its own, pulling ``name``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", PULLER, str(root), name], env=environment)


async def test_a_killed_engine_has_not_pulled_in_vain(
    pulling: Pulling, archives: Any, make_store: Any
) -> None:
    """kill -9 in the middle of the second layer, start, pull: the server sends less than 1.2 times the image."""
    size = 8 << 20
    pulling.push(archives, archives.manifest("low", "high", size=size))
    slow, fast = (
        digest_of(sha256(archives.layer("high", size))),
        digest_of(sha256(archives.layer("low", size))),
    )
    pulling.proxy.faults = [Fault(str(slow), rate=8 << 20)]
    root = pulling.store.root / "other"
    process = puller(root, pulling.name)
    path = root / "content/ingest" / f"sha256-{slow.hex}"
    whole = root / "content/blobs/sha256" / fast.hex
    with process:
        await until(lambda: whole.exists() and path.exists() and path.stat().st_size > size // 2)
        process.send_signal(signal.SIGKILL)
    assert pulling.proxy.sent < 2 * size
    with puller(root, pulling.name) as second:
        await asyncio.to_thread(second.wait)
    assert second.returncode == 0 and pulling.proxy.sent < 1.2 * 2 * size
    store = make_store(root)
    image = await store.images.resolve(pulling.name)
    lowers = await store.images.root_lowers(image)
    assert [Path(lower, "etc/name").read_text() for lower in lowers] == ["high", "low"]
    assert not list((root / "content/ingest").iterdir())


def check_all_or_nothing(root: Path) -> bool:
    """Whether the image is there; if it is, with all its layers."""
    names = json.loads((root / "content/index.json").read_bytes())["manifests"]
    found = sorted(path.read_text() for path in root.glob("layers/sha256-*/fs/etc/name"))
    assert not names or found == ["a", "b", "c"]
    return bool(names)


@pytest.mark.slow
async def test_kills_at_random_moments_of_a_pull(pulling: Pulling, archives: Any) -> None:
    """However often the engine dies, the image is there as a whole or not at all; in the end it is, and no remains."""
    kills, luck = int(os.environ.get("CAIS_TEST_KILLS", "20")), random.Random(7)
    pulling.push(archives, archives.manifest("a", "b", "c", codec="+gzip", size=6 << 20))
    root = pulling.store.root / "other"
    for _ in range(kills):
        pulling.proxy.faults = [Fault(BLOBS, rate=luck.choice([20 << 10, 100 << 10, 0]), times=9)]
        with puller(root, pulling.name) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, luck.uniform(0.15, 0.8))
            process.send_signal(signal.SIGKILL)
        if (root / "content/index.json").exists() and check_all_or_nothing(root):
            await asyncio.to_thread(shutil.rmtree, root)
    pulling.proxy.faults = []
    with puller(root, pulling.name) as process:
        await asyncio.to_thread(process.wait)
    assert process.returncode == 0 and check_all_or_nothing(root)
    assert not [*root.glob("content/ingest/*"), *root.glob("content/.tmp-*")]
    await until(lambda: not [*root.glob("layers/.*")])  # an orphaned worker may still be clearing up
