"""A busybox root and a keeper of the test's own."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness.boxes import Box, open_box


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with busybox, its commands as links, and users root, nobody and app."""
    root = tmp_path_factory.mktemp("busybox")
    for name in ("bin", "etc", "tmp", "proc", "root"):
        (root / name).mkdir()
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    for name in subprocess.check_output([root / "bin/busybox", "--list"], text=True).split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\napp:x:7:8::/app:/bin/sh\n"
    )
    (root / "etc/group").write_text("root:x:0:\napp:x:8:\nextra:x:9:app\n")
    return root


@pytest.fixture
async def box(tmp_path: Path, busybox: Path) -> AsyncIterator[Box]:
    """A keeper of the test's own."""
    async with open_box(tmp_path, busybox, f"cais-test-{os.getpid()}-{tmp_path.name}") as made:
        yield made
