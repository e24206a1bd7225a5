"""``kill -9`` in the middle of a load: the image is there as a whole, or nothing is."""

import asyncio
import os
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
    async for event in images.load(pieces(archive)):
        print("event", flush=True)
    print("done", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


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
    deadline = time.monotonic() + 10
    while store.leftovers():  # an orphaned worker may still be at its last layer
        assert time.monotonic() < deadline, store.leftovers()
        await asyncio.sleep(0.05)
        await store.images.collect()
