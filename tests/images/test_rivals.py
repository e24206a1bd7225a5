"""Archives that other tools really write are loaded, and they load ours. Needs CAIS_RIVALS, a root made by
``rivals build``, and root rights."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RIVALS = os.environ.get("CAIS_RIVALS", "")
TOOL = os.environ.get("CAIS_RIVALS_TOOL", "rivals")

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.rival,
    pytest.mark.slow,
    pytest.mark.skipif(not RIVALS, reason="needs CAIS_RIVALS"),
]

COPY = "skopeo --insecure-policy copy -q docker-archive:in.tar"
PODMAN = "podman --root $PWD/st --runroot $PWD/run --storage-driver vfs"
WRITERS = {
    "skopeo-docker": f"{COPY} docker-archive:out.tar:app:1",
    "skopeo-oci": f"{COPY} oci-archive:out.tar:app:1",
    "skopeo-zstd": f"{COPY} --dest-compress-format zstd oci-archive:out.tar:app:1 2>&1",
    "skopeo-layout": f"{COPY} oci:layout:app:1 && tar cf out.tar -C layout .",
    "podman-docker": f"{PODMAN} load -q -i in.tar && {PODMAN} save -q -o out.tar app:1",
    "podman-oci": f"{PODMAN} load -q -i in.tar && {PODMAN} save -q --format oci-archive -o out.tar app:1",
    "umoci": f"{COPY} oci:app:1 && umoci config --image app:1 --author me && tar cf out.tar app",
}


@pytest.fixture
def share() -> Iterator[Path]:
    """A folder that both sides see."""
    folder = Path(RIVALS, "share", f"images-{os.getpid()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def run_inside(folder: Path, script: str) -> None:
    """A shell command inside the rivals' root."""
    command = [TOOL, "sh", RIVALS, "sh", "-ec", f"cd /share/{folder.name}; {script}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("writer", WRITERS)
async def test_what_others_write_is_loaded(
    store: Any, archives: Any, stream: Any, share: Path, writer: str
) -> None:
    """They read what we save, we read what they make of it, and the files are the same."""
    await store.load(archives.docker({"low+high": ["app:1"]}, size=1 << 20))
    with (share / "in.tar").open("wb") as file:
        async for chunk in store.images.save(["app:1"]):
            file.write(chunk)
    await store.images.remove("app:1")
    run_inside(share, WRITERS[writer])
    assert "Loaded image: app:1" in " ".join(await store.texts((share / "out.tar").read_bytes()))
    image = await store.images.resolve("app:1")
    lowers = await store.images.root_lowers(image)
    assert [Path(lower, "etc/name").read_text() for lower in lowers] == ["high", "low"]


@pytest.mark.parametrize(
    "reader",
    [
        f"{PODMAN} load -q -i in.tar && {PODMAN} image exists localhost/app:1",
        "skopeo inspect oci-archive:in.tar >out.tar",
        "mkdir l && tar xf in.tar -C l && umoci stat --image l:1 >out.tar",
    ],
)
async def test_they_read_the_plain_layout(store: Any, archives: Any, share: Path, reader: str) -> None:
    """An archive of the OCI form is one to every tool that knows the layout."""
    await store.load(archives.docker({"low+high": ["localhost/app:1"]}, size=1 << 20))
    with (share / "in.tar").open("wb") as file:
        async for chunk in store.images.save(["localhost/app:1"], docker=False):
            file.write(chunk)
    run_inside(share, reader)
