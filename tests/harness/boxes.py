"""A keeper of a test's own, and short ways to run something with it."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cais.linux.cgroups.detect import detect
from cais.runtime.base import LogOptions, TaskExit, TaskStart, TaskState
from cais.runtime.client import KeeperDriver
from cais.spec.runtimespec import Capabilities, Linux, Mount, Namespace, Process, RootMount, Spec, User

DEADLINE = 20.0
LOOP = ("sh", "-c", 'trap "echo term; exit 5" TERM; while true; do echo tick; sleep 0.02; done')
MOUNTS = (
    Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    Mount(
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid", "noexec", "nodev")),
    Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    Mount("/dev/shm", "shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777", "size=67108864")),
)
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")
CAPABILITIES = ("CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_MKNOD")
MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/sys/firmware")
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass
class Box:
    """A keeper's driver, and what a test's containers are made of."""

    driver: KeeperDriver
    base: Path
    root: Path
    cgroup: str
    exits: asyncio.Queue[TaskExit] = field(default_factory=asyncio.Queue)

    def spec(self, id: str, *args: str, mounts: tuple[Mount, ...] = (), **process: object) -> Spec:
        """A runtime specification as tight as the tests need it."""
        held = Capabilities(bounding=CAPABILITIES, effective=CAPABILITIES, permitted=CAPABILITIES)
        values: dict[str, object] = {"env": ("PATH=/bin",), "capabilities": held, "user": User(), **process}
        namespaces = tuple(Namespace(kind) for kind in NAMESPACES)
        linux = Linux(
            namespaces=namespaces,
            cgroups_path=f"{self.cgroup}/{id}",
            masked_paths=MASKED,
            readonly_paths=READONLY,
        )
        return Spec(hostname="box", process=Process(args=args, **values), mounts=MOUNTS + mounts, linux=linux)  # type: ignore[arg-type]

    def request(self, id: str, spec: Spec, **options: object) -> TaskStart:
        """A start request with a fresh writable layer and a json-file log."""
        folder = self.base / id
        for name in ("upper", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        root = RootMount("overlay", (str(self.root),), str(folder / "upper"), str(folder / "work"))
        return replace(TaskStart(id, spec, root, log=LogOptions("json-file", str(folder / "log"))), **options)  # type: ignore[arg-type]

    async def start(self, id: str, *args: str, **process: object) -> TaskState:
        """Start ``args``."""
        return await self.driver.start(self.request(id, self.spec(id, *args, **process)))  # type: ignore[arg-type]

    async def start_loop(self, id: str = "run") -> TaskState:
        """Start something that ticks until SIGTERM, on which it ends with 5; returns once it handles that."""
        sock = await self.driver.attach(id, "", stdin=False, stdout=True, stderr=True)
        state = await self.start(id, *LOOP)
        assert b"tick" in await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 100), DEADLINE)
        sock.close()
        return state

    async def ended(self) -> TaskExit:
        """The next exit, acknowledged."""
        result = await asyncio.wait_for(self.exits.get(), DEADLINE)
        await self.driver.acknowledge(result.id, result.exec_id)
        return result

    async def run(self, *args: str, id: str = "run", **process: object) -> tuple[int, str]:
        """Run ``args`` to the end: exit code and output of both streams."""
        return await self.run_spec(self.request(id, self.spec(id, *args, **process)))  # type: ignore[arg-type]

    async def run_spec(self, request: TaskStart) -> tuple[int, str]:
        """Like ``run``, for a whole request."""
        sock = await self.driver.attach(request.id, "", stdin=False, stdout=True, stderr=True)
        try:
            await self.driver.start(request)
            output = await read_all(sock)
        finally:
            sock.close()
        text = output if request.spec.process.terminal else b"".join(data for _, data in frames(output))
        return (await self.ended()).code, text.decode(errors="replace")


async def read_all(sock: socket.socket) -> bytes:
    """Everything until end of file."""
    loop, chunks = asyncio.get_running_loop(), []
    while chunk := await asyncio.wait_for(loop.sock_recv(sock, 1 << 16), DEADLINE):
        chunks.append(chunk)
    return b"".join(chunks)


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Docker's multiplexed frames: stream number and bytes."""
    found = []
    while data:
        size = int.from_bytes(data[4:8], "big")
        found.append((data[0], data[8 : 8 + size]))
        data = data[8 + size :]
    return found


@asynccontextmanager
async def open_box(base: Path, root: Path, cgroup: str) -> AsyncIterator[Box]:
    """A keeper; afterwards no task, no keeper and no cgroup is left."""
    driver = KeeperDriver(base / "run", cgroup)
    await driver.open()
    box = Box(driver, base, root, cgroup)
    driver.subscribe(box.exits.put_nowait)
    try:
        yield box
    finally:
        for task in await driver.list():
            if task.exit is None and not task.exec_id:
                await driver.kill_all(task.id)
        while tasks := await driver.list():
            for task in tasks:
                await driver.acknowledge(task.id, task.exec_id)
            await asyncio.sleep(0)
        pid = driver.pid
        keeper = os.pidfd_open(pid)
        await driver.close()
        await wait_readable(keeper)
        os.close(keeper)
        detect().remove(cgroup, timeout=5)


async def wait_readable(fd: int) -> None:
    """Until ``fd`` is readable."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await asyncio.wait_for(ready, DEADLINE)
    finally:
        loop.remove_reader(fd)
