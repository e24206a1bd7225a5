"""A real engine of the tests' own: own network namespace, folders, bridge and cgroup; nothing is left at the end."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

SOURCES = Path(__file__).parents[2] / "src"
DEADLINE = 20.0


def wait_until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Return once ``condition`` holds; an AssertionError after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


@dataclass
class LiveEngine:
    """One ``cais daemon`` process. ``netns``: the process whose network namespace it runs in."""

    folder: Path
    netns: subprocess.Popen[bytes]
    flags: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None
    extra_environment: dict[str, str] = field(default_factory=dict)
    cgroup: str = field(default_factory=lambda: f"cais-test-{uuid.uuid4().hex[:12]}")
    """The group all its containers are in."""

    @property
    def socket(self) -> str:
        """Where it listens."""
        return f"{self.folder}/cais.sock"

    @property
    def pid(self) -> int:
        """The engine's process id."""
        assert self.process is not None
        return self.process.pid

    def command(self) -> list[str]:
        """What is executed, in the tests' network namespace."""
        own = ["--root", f"{self.folder}/root", "--run", f"{self.folder}/run", "-H", f"unix://{self.socket}"]
        own += ["--bridge", "caistest0", "--cgroup-parent", self.cgroup, "--config-file", self._no_config()]
        enter = ["nsenter", f"--net=/proc/{self.netns.pid}/ns/net"]
        return [*enter, sys.executable, "-m", "cais.daemon.main", *own, *self.flags]

    def _no_config(self) -> str:
        path = self.folder / "daemon.json"
        path.touch()
        return str(path)

    def start(self) -> str:
        """Start it and wait for the ready line, which is returned."""
        if self.process is not None:
            with self.process:
                self.process.wait(DEADLINE)
        environment = {**os.environ, "PYTHONPATH": str(SOURCES), **self.extra_environment}
        with (self.folder / "engine.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("cais: ready on "), (self.folder / "engine.log").read_text()
        return line

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        with self.process:
            return self.process.wait(DEADLINE)

    def client(self) -> docker.DockerClient:
        """docker-py, connected; the caller closes it."""
        return docker.DockerClient(base_url=f"unix://{self.socket}", timeout=60)

    def request(self, request: bytes) -> bytes:
        """Raw bytes there and all that comes back until the engine closes."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE)
            connection.connect(self.socket)
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))

    def processes(self) -> list[str]:
        """Command lines of all processes that have our folder in theirs: engine, keeper, workers."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    if str(self.folder).encode() in line:
                        found.append(line.replace(b"\0", b" ").decode())
        return found

    def leftovers(self) -> list[str]:
        """Everything of ours that is still on the machine after the end."""
        found = self.processes()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [line for line in mounts if str(self.folder) in line]
        for group in _cgroups(self.cgroup):
            found += [str(child) for child in group.iterdir() if child.is_dir()]
        return found


def _cgroups(name: str) -> list[Path]:
    base = Path("/sys/fs/cgroup")
    return [path for path in (base / name, *(each / name for each in base.iterdir())) if path.is_dir()]


@contextlib.contextmanager
def living_engine(folder: Path, *flags: str) -> Iterator[LiveEngine]:
    """A started engine; afterwards all containers are removed and nothing may be left."""
    netns = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
        stdout=subprocess.PIPE,
    )
    with netns:
        try:
            assert netns.stdout is not None and netns.stdout.readline() == b"up\n"
            engine = LiveEngine(folder, netns, flags)
            engine.start()
            try:
                yield engine
            finally:
                _end(engine)
        finally:
            netns.kill()


def _end(engine: LiveEngine) -> None:
    if engine.process is None or engine.process.poll() is not None:
        # The test has stopped or killed it: the next one finds everything again, and clears it away.
        engine.start()
    with contextlib.closing(engine.client()) as client:
        for container in client.containers.list(all=True, ignore_removed=True):
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True, v=True)
    answer = engine.request(b"GET /cais/system/check HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
    status = engine.stop()
    try:
        wait_until(lambda: not engine.processes())
    finally:
        # Before anything is judged: what is wrong must not spoil the next run.
        left = engine.leftovers()
        for group in _cgroups(engine.cgroup):
            with contextlib.suppress(OSError):
                group.rmdir()
    assert status == 0, (engine.folder / "engine.log").read_text()
    assert not any(json.loads(answer.partition(b"\r\n\r\n")[2])["Leaks"].values()), answer
    assert not left, left


def load_busybox(engine: LiveEngine, folder: Path) -> None:
    """Import a root made of the machine's static busybox; skips where there is none (package
    busybox-static)."""
    path = shutil.which("busybox") or "/bin/busybox"
    if not Path(path).exists():
        pytest.skip("needs /bin/busybox: install busybox-static")
    names = subprocess.run([path, "--list"], capture_output=True, text=True, check=True).stdout.split()
    archive = folder / "busybox.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("bin", "etc", "root", "tmp", "var"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        tar.add(path, "bin/busybox")
        for name in names:
            if name != "busybox":
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        _add_text(
            folder, tar, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
        )
        _add_text(folder, tar, "etc/group", "root:x:0:\nnobody:x:65534:\n")
    with contextlib.closing(engine.client()) as client:
        client.api.import_image_from_file(str(archive), "busybox", "latest", changes=['CMD ["sh"]'])


def _add_text(folder: Path, tar: tarfile.TarFile, name: str, text: str) -> None:
    path = folder / "text"
    path.write_text(text)
    path.chmod(0o644)
    tar.add(path, name)
