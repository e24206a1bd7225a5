"""An engine of the isolation tests' own, in its own network namespace, with the probe's image."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from cais.linux.cgroups.detect import detect
from harness import probe

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def probe_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | str]:
    """What the probe's image is made of; skips where it cannot be compiled."""
    if not (shutil.which("busybox") or Path("/bin/busybox").exists()):
        pytest.skip("needs /bin/busybox: install busybox-static")
    try:
        return probe.probe_root(tmp_path_factory.mktemp("probe"))
    except FileNotFoundError:
        pytest.skip("the probe needs a C compiler: install gcc and libc6-dev")


@contextlib.contextmanager
def running_engine(folder: Path) -> Iterator[str]:
    """A started ``cais daemon``; its address."""
    address = f"unix://{folder}/cais.sock"
    (folder / "daemon.json").write_text("{}")
    flags = ["--root", f"{folder}/root", "--run", f"{folder}/run", "-H", address]
    flags += ["--bridge", "caisprobe0", "--cgroup-parent", f"cais-test-{folder.name}"]
    flags += ["--config-file", f"{folder}/daemon.json"]
    enter = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    with (folder / "engine.log").open("ab") as log:
        engine = subprocess.Popen(
            [*enter, sys.executable, "-m", "cais.daemon.main", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        )
    with engine:
        try:
            assert engine.stdout is not None
            line = engine.stdout.readline()
            assert line.startswith("cais: ready on "), (folder / "engine.log").read_text()
            yield address
        finally:
            engine.send_signal(signal.SIGTERM)
            engine.wait(20)
            # The group that all containers were in is the engine's to keep for the next start.
            detect().remove(f"cais-test-{folder.name}", timeout=5)


@pytest.fixture(scope="session")
def client(
    tmp_path_factory: pytest.TempPathFactory, probe_files: dict[str, bytes | str]
) -> Iterator[docker.DockerClient]:
    """A client of a Cais that has the probe's image."""
    if os.geteuid() != 0:
        pytest.skip("a real engine needs root")
    folder = tmp_path_factory.mktemp("isolation")
    with (
        running_engine(folder) as address,
        contextlib.closing(docker.DockerClient(base_url=address, timeout=120)) as client,
    ):
        probe.add_image(client, probe.IMAGE, probe.pack(probe_files))
        yield client
        for container in client.containers.list(all=True):
            container.remove(force=True)
