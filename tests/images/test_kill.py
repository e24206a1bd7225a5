"""``kill -9`` in the middle of a load or a removal: the image is there as a whole, or nothing is."""

import asyncio
import contextlib
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

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

LOADER = """
import asyncio, sys
from pathlib import Path
from cais.events import Bus
from cais.images.images import Images
from cais.remotes.client import Remotes
from cais.remotes.hosts import Hosts
from cais.store.content import Content
from cais.store.layers.layers import Layers
from cais.store.metadata import Metadata
from cais.store.workers import Workers

async def pieces(path):
    with open(path, "rb") as file:
        while data := file.read(1 << 17):
            yield data

async def main(root, archive):
    content, metadata = Content(root / "content"), Metadata(root / "cais.db")
    images = Images(content, Layers(root), metadata, Workers(2), Bus(), root=root, remotes=Remotes(Hosts()))
    if archive:
        async for event in images.load(pieces(archive)):
            print("event", flush=True)
    else:
        await images.sweep()
        print("event", flush=True)
        for image in await images.list():
            await images.remove(image.id, force=True)
    print("done", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""
KILLS = int(os.environ.get("CAIS_TEST_KILLS", "15"))


def kill_after(root: Path, archive: Path, lines: int) -> None:
    """Load ``archive`` in another process and kill that once it has said ``lines`` lines."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LOADER, str(root), str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        for _ in range(lines):
            if process.stdout.readline() == b"done\n":
                break
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("lines", [0, 2, 5, 9, 10, 11, 12, 99])
async def test_a_killed_load_leaves_all_or_nothing(
    make_store: Any, archives: Any, tmp_path: Path, lines: int
) -> None:
    """The next engine finds the whole image or an empty store, at whatever moment the first one died."""
    target = archives.manifest("low", "high", size=4 << 20)
    archive = tmp_path / "archive.tar"
    archive.write_bytes(archives.oci((target, "docker.io/library/x:1")))
    root = tmp_path / "root"
    (root / "tmp").mkdir(parents=True)
    await asyncio.to_thread(kill_after, root, archive, lines)
    store = make_store(root)
    await store.images.sweep()
    if found := await store.images.list():
        lowers = await store.images.root_lowers(found[0])
        assert [Path(lower, "etc/name").read_text() for lower in lowers] == ["high", "low"]
        return
    await collect_all(store)


async def collect_all(store: Any) -> None:
    """Until the store is empty: an orphaned worker may still be at its last layer."""
    deadline = time.monotonic() + 10
    while store.leftovers():
        assert time.monotonic() < deadline, store.leftovers()
        await asyncio.sleep(0.05)
        await store.images.collect()


def start(root: Path, archive: str) -> "subprocess.Popen[bytes]":
    """Another engine that loads ``archive``, or without one removes every image."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LOADER, str(root), archive]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


def kill_within(root: Path, archive: str, seconds: float) -> None:
    """Kill it that long after it has begun."""
    with start(root, archive) as process:
        assert process.stdout and process.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("removes", [False, True])
async def test_kills_at_random_moments(make_store: Any, archives: Any, tmp_path: Path, removes: bool) -> None:
    """Of loads, and of removals after them: both images, or one, or none, but each that is listed as a whole."""
    luck, archive = random.Random(removes), tmp_path / "archive.tar"
    targets = [archives.manifest(*names, size=2 << 20, codec="+gzip") for names in (("a", "b"), ("a", "c"))]
    archive.write_bytes(
        archives.oci((targets[0], "docker.io/library/x:1"), (targets[1], "docker.io/library/y:1"))
    )
    for number in range(KILLS):
        root = tmp_path / f"root{number}"
        (root / "tmp").mkdir(parents=True)
        if removes:
            await asyncio.to_thread(kill_after, root, archive, 99)
            await asyncio.to_thread(kill_within, root, "", luck.uniform(0, 0.03))
        else:
            await asyncio.to_thread(kill_within, root, str(archive), luck.uniform(0, 0.3))
        store = make_store(root)
        await store.images.sweep()
        found = await store.images.list()
        for image in found:
            lowers = await store.images.root_lowers(image)
            assert [Path(lower, "etc/name").read_text() for lower in lowers] in (["b", "a"], ["c", "a"])
        deadline = time.monotonic() + 10
        while damage := await store.images.check((), deep=True):
            # That worker's folder belongs to nothing, as long as it is there.
            assert time.monotonic() < deadline and all(one.kind == "left-over" for one in damage), damage
        for image in found:
            await store.images.remove(image.id, force=True)
        await collect_all(store)
        await asyncio.to_thread(shutil.rmtree, root)
