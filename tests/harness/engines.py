"""A containers room whose processes, images and networks are fakes that keep the contracts' promises."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cais.config import Config
from cais.containers import capabilities
from cais.containers.containers import Containers
from cais.containers.limits import Machine
from cais.errors import Conflict, NotFound
from cais.events import Bus
from cais.network.base import Endpoint, EndpointRequest, NetworkInfo
from cais.runtime.base import ExecStart, TaskExit, TaskStart, TaskState
from cais.spec.container import CreateRequest, HostConfig
from cais.spec.image import ContainerDefaults, ImageConfig, RootFs
from cais.store.metadata import Metadata
from cais.store.snapshots.base import Trash
from cais.store.snapshots.overlay import Overlay
from cais.volumes.local import Volumes

MACHINE = Machine(
    cpu_count=4,
    cpus=frozenset(range(4)),
    capabilities=tuple(name for name in capabilities.KNOWN if name != "CAP_SYS_RESOURCE"),
    hostname="host-of-tests",
)


class FakeDriver:
    """Tasks that run until they are killed. ``fail``: what the next start raises. ``stubborn``: SIGTERM does nothing.
    It outlives an engine, as a keeper does."""

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, str], TaskState] = {}
        self.starts: list[TaskStart] = []
        self.execs: list[ExecStart] = []
        self.signals: list[tuple[str, int]] = []
        self.fail: Exception | None = None
        self.stubborn = False
        self.gate: asyncio.Event | None = None
        self._on_exit: Callable[[TaskExit], None] = lambda exit: None
        self._pids = iter(range(1000, 100000))

    def subscribe(self, on_exit: Callable[[TaskExit], None]) -> None:
        """Driver.subscribe."""
        self._on_exit = on_exit

    async def start(self, start: TaskStart) -> TaskState:
        """Driver.start; waits at ``gate`` if there is one."""
        self.starts.append(start)
        if self.gate:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.fail:
            error, self.fail = self.fail, None
            raise error
        if (start.id, "") in self.tasks:
            raise Conflict(f"task {start.id} runs")
        return self._add(start.id, "")

    async def exec(self, start: ExecStart) -> TaskState:
        """Driver.exec."""
        self.execs.append(start)
        if self.fail:
            error, self.fail = self.fail, None
            raise error
        return self._add(start.id, start.exec_id)

    def _add(self, id: str, exec_id: str) -> TaskState:
        state = TaskState(id, exec_id, next(self._pids), time.time_ns())
        self.tasks[id, exec_id] = state
        return state

    def end(self, id: str, code: int = 0, exec_id: str = "", *, oom: bool = False) -> None:
        """The process ends by itself."""
        state = self.tasks[id, exec_id]
        if state.exit:
            return
        exit = TaskExit(id, exec_id, code, time.time_ns(), oom)
        self.tasks[id, exec_id] = replace(state, exit=exit)
        self._on_exit(exit)

    async def kill(self, id: str, signal: int, exec_id: str = "") -> None:
        """Driver.kill."""
        state = self.tasks.get((id, exec_id))
        if state is None or state.exit:
            raise NotFound(f"no such task: {id}")
        self.signals.append((id, signal))
        if signal == 9 or (signal == 15 and not self.stubborn):
            asyncio.get_running_loop().call_soon(self.end, id, 128 + signal, exec_id)

    async def kill_all(self, id: str) -> None:
        """Driver.kill_all."""
        if (id, "") in self.tasks:
            self.end(id, 137)

    async def resize(self, id: str, exec_id: str, height: int, width: int) -> None:
        """Driver.resize."""
        raise Conflict(f"task {id} has no terminal")

    async def attach(
        self, id: str, exec_id: str, *, stdin: bool, stdout: bool, stderr: bool
    ) -> socket.socket:
        """Driver.attach; the other end is closed at once."""
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    async def pause(self, id: str) -> None:
        """Driver.pause."""
        self.tasks[id, ""] = replace(self.tasks[id, ""], paused=True)

    async def resume(self, id: str) -> None:
        """Driver.resume."""
        self.tasks[id, ""] = replace(self.tasks[id, ""], paused=False)

    async def update(self, id: str, resources: Any) -> None:
        """Driver.update."""

    async def sweep(self, ids: Sequence[str]) -> None:
        """Driver.sweep; nothing runs here without a task."""

    async def list(self) -> Sequence[TaskState]:
        """Driver.list."""
        return [*self.tasks.values()]

    async def acknowledge(self, id: str, exec_id: str = "") -> None:
        """Driver.acknowledge."""
        state = self.tasks.get((id, exec_id))
        if state and state.exit:
            del self.tasks[id, exec_id]

    async def forget(self, id: str) -> None:
        """Driver.forget; ``attach`` leaves nobody waiting."""

    async def pids(self, id: str) -> Sequence[int]:
        """Driver.pids."""
        return [self.tasks[id, ""].pid]


class FakeNetworks:
    """Hands out addresses and ports and knows which are taken."""

    def __init__(self) -> None:
        self.taken: dict[str, Endpoint] = {}
        self.restored: list[Endpoint] = []
        self._next = iter(range(2, 250))

    async def attach(self, request: EndpointRequest) -> tuple[Endpoint, int]:
        """Networks.attach; a fixed host port can be had once."""
        await asyncio.sleep(0)
        for port in request.ports:
            if any(port.host_port in [p.host_port for p in e.ports] for e in self.taken.values()):
                raise Conflict(f"port {port.host_port} is already allocated")
        id = f"{len(self.taken):064x}"
        if request.network in ("host", "none"):
            return Endpoint(request.network, "n" * 64, id, request.container_id), -1
        number = next(self._next)
        endpoint = Endpoint(
            request.network, "b" * 64, f"{number:064x}", request.container_id, f"172.29.0.{number}", 16,
            "172.29.0.1", "02:42:00:00:00:02", request.ports, f"veth{number}",
        )  # fmt: skip
        self.taken[endpoint.endpoint_id] = endpoint
        return endpoint, -1

    async def detach(self, endpoint: Endpoint) -> None:
        """Networks.detach."""
        await asyncio.sleep(0)
        self.taken.pop(endpoint.endpoint_id, None)

    async def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """Networks.restore."""
        self.restored = list(endpoints)
        self.taken = {endpoint.endpoint_id: endpoint for endpoint in self.restored}

    def inspect(self, name: str) -> NetworkInfo:
        """Networks.inspect."""
        if name not in ("bridge", "host", "none"):
            raise NotFound(f"network {name} not found")
        return NetworkInfo(name, name[0] * 64, "", name, subnets=(("172.29.0.0/16", "172.29.0.1"),))


class FakeImages:
    """One image, ``busybox``, of one layer."""

    def __init__(self, layer: Path) -> None:
        self.layer = layer
        self.defaults = ContainerDefaults(cmd=("sh",), env=("PATH=/bin", "A=image"))

    async def resolve(self, name_or_id: str, *, platform: Any = None) -> Any:
        """Images.resolve."""
        if name_or_id not in ("busybox", "busybox:latest"):
            raise NotFound(f"No such image: {name_or_id}")
        config = ImageConfig(os="linux", architecture="amd64", config=self.defaults, rootfs=RootFs())
        return SimpleNamespace(id="sha256:" + "1" * 64, config=config)

    async def root_lowers(self, image: Any) -> tuple[str, ...]:
        """Images.root_lowers."""
        return (str(self.layer),)

    def note_used(self, image_id: str) -> None:
        """Images.note_used."""

    @asynccontextmanager
    async def acquire(self, image: Any) -> AsyncIterator[Any]:
        """Images.acquire."""
        yield image


@dataclass
class Engine:
    """One engine's containers room; ``again`` is the next engine after a kill -9 of this one."""

    root: Path
    driver: FakeDriver = field(default_factory=FakeDriver)
    networks: FakeNetworks = field(default_factory=FakeNetworks)
    bus: Bus = field(default_factory=Bus)
    config: Config = field(default_factory=Config)
    layer: Path | None = None
    machine: Machine = MACHINE

    async def open(self) -> "Engine":
        """Read what an earlier engine left."""
        self.config = replace(self.config, root=self.root, run=self.root)
        if self.layer is None:
            self.layer = self.root / "layer"
            self.layer.mkdir(exist_ok=True)
        self.images = FakeImages(self.layer)
        self.metadata = Metadata(self.root / "cais.db")
        trash = Trash(self.root / "trash")
        self.volumes = Volumes(self.root, self.metadata, trash, self.bus)
        self.containers = Containers(
            self.config, self.machine, self.metadata, Overlay(self.root, trash), self.images,
            self.networks, self.volumes, self.driver, self.bus,
        )  # fmt: skip
        await self.containers.restore()
        return self

    async def again(self) -> "Engine":
        """As after kill -9: nothing of this one acts any more, the driver lives on."""
        self.deafen()
        await asyncio.sleep(0)  # what was to be written in this very moment
        self.metadata.close()
        other = Engine(self.root, self.driver, FakeNetworks(), config=self.config, layer=self.layer)
        return await other.open()

    def deafen(self) -> None:
        """This engine hears of no exit any more."""
        if isinstance(self.driver, FakeDriver):
            self.driver.subscribe(lambda exit: None)
        else:
            self.driver._listeners.clear()

    async def create(self, name: str = "", host: HostConfig | None = None, **config: Any) -> str:
        """A container of busybox."""
        request = CreateRequest(image="busybox", host_config=host or HostConfig(), **config)
        id, _ = await self.containers.create(name, request)
        return id

    async def run(self, name: str = "", host: HostConfig | None = None, **config: Any) -> str:
        """Created and started."""
        id = await self.create(name, host, **config)
        await self.containers.start(id)
        return id

    def status(self, id: str) -> str:
        """The container's status."""
        return self.containers.record(id).state.status

    def actions(self) -> list[str]:
        """What happened to containers, in order."""
        return [event.action for event in self.bus.history(0) if event.kind == "container"]


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.002)
