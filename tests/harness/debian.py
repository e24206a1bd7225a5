"""An engine whose builds can install packages: an image of the machine's Debian, and a way to its mirror."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.live import SOURCES, LiveEngine, living_engine, load_busybox
from harness.mirror import can_reach_mirror, open_way_out


@dataclass(frozen=True)
class DebianEngine:
    """``proxy``: a URL that containers of the engine's bridge reach."""

    engine: LiveEngine
    proxy: str


@contextmanager
def debian_engine(folder: Path) -> Iterator[DebianEngine]:
    """One with ``debian`` and ``busybox``; skips where no mirror or no mmdebstrap is."""
    if not can_reach_mirror():
        pytest.skip("no package mirror of this machine's apt can be reached")
    with living_engine(folder) as engine, open_way_out(engine.netns.pid) as port:
        load_busybox(engine, folder)
        # The engine asks on loopback when it makes an image, its containers ask at their gateway.
        engine.stop()
        engine.extra_environment["http_proxy"] = f"http://127.0.0.1:{port}"
        engine.start()
        environment = {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": f"unix://{engine.socket}"}
        command = [sys.executable, "-m", "cais", "image", "bootstrap", "debian"]
        done = subprocess.run(command, capture_output=True, env=environment, timeout=300, check=False)
        if b"mmdebstrap" in done.stderr and done.returncode:
            pytest.skip(done.stderr.decode().strip())
        assert done.returncode == 0, done.stderr.decode()
        with contextlib.closing(engine.client()) as client:
            gateway = client.api.inspect_network("bridge")["IPAM"]["Config"][0]["Gateway"]
        yield DebianEngine(engine, f"http://{gateway}:{port}")
