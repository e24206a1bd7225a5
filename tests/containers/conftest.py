"""Engines of the tests' own."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cais.config import Config
from cais.errors import TaskFailed
from harness.boxes import open_box
from harness.engines import Engine


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """An engine that has just been started."""
    engine = await Engine(tmp_path).open()
    yield engine
    await engine.containers.shutdown()
    engine.metadata.close()


@pytest.fixture
def failed() -> TaskFailed:
    """A program that is not there."""
    return TaskFailed('exec: "nope": executable file not found in $PATH', 127)


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with busybox, its commands as links, and the users root and app."""
    root = tmp_path_factory.mktemp("busybox")
    root.chmod(0o755)  # it becomes the container's root, and every user's
    for name in ("bin", "etc", "tmp", "proc", "root", "data"):
        (root / name).mkdir()
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    for name in subprocess.check_output([root / "bin/busybox", "--list"], text=True).split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:7:8::/app:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\napp:x:8:\nextra:x:9:app\n")
    (root / "data" / "file").write_text("of the image\n")
    return root


@pytest.fixture
async def real(tmp_path: Path, busybox: Path) -> AsyncIterator[Engine]:
    """An engine with a keeper of its own; containers are in no network unless a test says otherwise."""
    cgroup = f"cais-test-{os.getpid()}-{tmp_path.name}"
    async with open_box(tmp_path, busybox, cgroup) as box:
        engine = Engine(tmp_path, driver=box.driver, config=Config(cgroup_parent=cgroup), layer=busybox)
        await engine.open()
        yield engine
        for record in engine.containers.records():
            await engine.containers.remove(record.id, force=True)
        await engine.containers.shutdown()
        engine.metadata.close()
