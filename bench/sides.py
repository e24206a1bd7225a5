"""The engines that are measured: how each is started, stopped and spoken to."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CAIS = Path(sys.executable).parent / "cais"


def wait_until(condition, what: str, seconds: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    """Poll ``condition``; RuntimeError after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"timed out: {what}")
        time.sleep(0.01)


def in_namespace(command: list[str], memory: str = "") -> list[str]:
    """``command`` in a network namespace of its own, loopback up; with a tmpfs of its own at the folder
    ``memory``."""
    script = 'ip link set lo up && if [ -n "$1" ]; then mount -t tmpfs tmpfs "$1"; fi && shift && exec "$@"'
    return ["unshare", "--net", "--mount", "sh", "-c", script, "sh", memory, *command]


class Side:
    """One engine: ``name`` for the report, ``socket`` of its API, ``docker`` the client."""

    name = ""
    in_memory = False
    """Whether the root folder is on a tmpfs that ends with the engine."""

    def __init__(self, base: Path, docker: Path) -> None:
        self.base = base
        self.docker_binary = docker
        self.pid = 0
        """The engine's process, in whose network namespace it lives."""
        self.socket = base / "docker.sock"
        self.environment = {**os.environ, "DOCKER_CONFIG": str(base), "DOCKER_HOST": f"unix://{self.socket}"}
        self.environment["CAIS_HOST"] = self.environment["DOCKER_HOST"]

    def docker(self, *args: str, stdin: Path | None = None, timeout: float = 300) -> str:
        """Run the docker client to its end; its output. RuntimeError when it fails."""
        return self.command([str(self.docker_binary), *args], stdin, timeout)

    def command(self, command: list[str], stdin: Path | None = None, timeout: float = 300) -> str:
        """Run a command with this side's environment."""
        with (stdin or Path("/dev/null")).open("rb") as source:
            result = subprocess.run(
                command, stdin=source, capture_output=True, env=self.environment, timeout=timeout, check=False
            )
        if result.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {result.stderr.decode(errors='replace')}")
        return result.stdout.decode(errors="replace")

    def timed(self, *args: str, stdin: Path | None = None) -> float:
        """Seconds of one docker command, start to exit."""
        start = time.perf_counter()
        self.docker(*args, stdin=stdin)
        return time.perf_counter() - start

    def renew(self) -> None:
        """A new engine on an empty folder in memory."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        """All processes of the engine, containers' own ones not included."""
        raise NotImplementedError

    def pss(self) -> int:
        """Bytes of memory of the engine's processes, shared pages counted in proportion."""
        return sum(pss(pid) for pid in self.pids())


def pss(pid: int) -> int:
    """Proportional set size of one process, in bytes."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))


def descendants(pid: int) -> list[int]:
    """``pid`` and the processes below it."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


class Cais(Side):
    """The engine of this checkout."""

    name = "cais"

    def start(self) -> None:
        """Start; returns when it answers."""
        memory = self.base / "memory"
        memory.mkdir(parents=True, exist_ok=True)
        root = memory / "root" if self.in_memory else self.base / "root"
        flags = ["--root", str(root), "--run", str(self.base / "run"), "--host", f"unix://{self.socket}"]
        words = [str(CAIS), "daemon", *flags, "--cgroup-parent", "cais-bench"]
        command = in_namespace(words, str(memory) if self.in_memory else "")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.pid = self._process.pid

    def pids(self) -> list[int]:
        """Engine, workers, keeper."""
        mark = f"{self.base}/run".encode()
        keepers = [p for p in descendants(self.pid) if mark in Path(f"/proc/{p}/cmdline").read_bytes()]
        return sorted({self.pid, *keepers, *self._workers()})

    def _workers(self) -> list[int]:
        lines = ((p, Path(f"/proc/{p}/cmdline").read_bytes()) for p in descendants(self.pid))
        return [p for p, line in lines if b"cais.store" in line]

    def restart(self) -> None:
        """A new engine on the same folder."""
        self._end()
        self.start()

    def renew(self) -> None:
        """A new engine on an empty folder in memory."""
        self.in_memory = True
        self.restart()

    def _end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def stop(self) -> None:
        """End the engine and remove its folder."""
        for id in self.docker("ps", "-aq").split():
            self.docker("rm", "-f", id)
        self._end()
        shutil.rmtree(self.base, ignore_errors=True)


class Dockerd(Side):
    """dockerd of the rivals' root, in its own network namespace."""

    name = "dockerd"

    def __init__(self, base: Path, docker: Path, tool: str, rivals: Path) -> None:
        super().__init__(base, docker)
        self.tool, self.rivals = tool, rivals
        self.socket = rivals / "share" / "docker.sock"
        self.environment["DOCKER_HOST"] = f"unix://{self.socket}"

    def start(self) -> None:
        """Start; returns when it answers."""
        self.base.mkdir(parents=True, exist_ok=True)
        # the rivals' /run is a tmpfs of each start's own
        data = "/run/docker-bench" if self.in_memory else "/var/lib/docker-bench"
        command = [self.tool, "dockerd", str(self.rivals), "--data-root", data]
        subprocess.run(in_namespace(command), check=True)
        wait_until(self._answers, "dockerd")
        self.pid = int((self.rivals / "share" / "docker.pid").read_text())

    def _answers(self) -> bool:
        try:
            self.docker("version")
        except RuntimeError:
            return False
        return True

    def pids(self) -> list[int]:
        """dockerd, containerd, and the shims, which leave the family tree."""
        shims = [
            int(p.name)
            for p in Path("/proc").glob("[0-9]*")
            if b"containerd-shim" in _comm(p) and b"docker-rival" in _cmdline(p)
        ]
        return sorted({*descendants(self.pid), *shims})

    def renew(self) -> None:
        """A new engine on an empty folder in memory."""
        self._end()
        self.in_memory = True
        self.start()

    def _end(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{self.pid}").exists(), "dockerd's end")

    def stop(self) -> None:
        """End it and remove what it kept."""
        for id in self.docker("ps", "-aq").split():
            self.docker("rm", "-f", id)
        self._end()
        for path in (self.rivals / "root" / "var" / "lib").glob("docker-bench*"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.base, ignore_errors=True)


def _cmdline(path: Path) -> bytes:
    try:
        return (path / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _comm(path: Path) -> bytes:
    return _cmdline(path).split(b"\0")[0]
