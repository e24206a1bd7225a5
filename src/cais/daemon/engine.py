"""The engine: every object built by hand, from the bottom to the top."""

import asyncio
import logging
from contextlib import AsyncExitStack

from cais.api.app import App
from cais.api.buildkit.door import BuildkitDoor
from cais.api.routes.table import make_routes
from cais.api.services import Services
from cais.build.builder import Builder
from cais.build.cache import BuildCache
from cais.config import Config
from cais.containers.containers import Containers
from cais.containers.labels import Profiles
from cais.containers.machine import read_machine
from cais.containers.seccomp import SeccompFilters
from cais.containers.services import Rooms
from cais.daemon.machine import find_facts
from cais.events import Bus
from cais.images.budget import Budgeter
from cais.images.images import Images
from cais.linux.cgroups.detect import detect
from cais.network.networks import Networks
from cais.remotes.client import Remotes
from cais.remotes.hosts import Hosts
from cais.runtime.client import KeeperDriver
from cais.store.content import Content
from cais.store.layers.layers import Layers
from cais.store.layers.limits import Limits
from cais.store.metadata import Metadata
from cais.store.snapshots.base import Trash
from cais.store.snapshots.choose import open_snapshots
from cais.store.snapshots.overlay import Overlay
from cais.store.workers import Workers
from cais.volumes.local import Volumes

log = logging.getLogger(__name__)


class Engine:
    """All services of one root folder, started; ``app`` answers the API."""

    def __init__(self, app: App, services: Services, stack: AsyncExitStack) -> None:
        self.app = app
        self.services = services
        self._stack = stack

    @classmethod
    async def start(cls, config: Config) -> "Engine":
        """Build and start everything and find again what an earlier engine left. On failure what was started
        is stopped again."""
        async with AsyncExitStack() as stack:
            services = await _build(config, stack)
            app = App(make_routes(services))
            return cls(app, services, stack.pop_all())

    async def stop(self) -> None:
        """Stop in the reverse order; containers as ``live_restore`` says."""
        await self._stack.aclose()


async def _build(config: Config, stack: AsyncExitStack) -> Services:
    # Row 0 and 1: the bus, the machine.
    bus = Bus()
    cgroups = detect()
    # Row 2: the store.
    root = config.root
    metadata = Metadata(root / "cais.db")
    stack.callback(metadata.close)
    content = Content(root / "content")
    limits = Limits(
        max_entries=config.layer_max_entries,
        max_bytes=config.layer_max_bytes,
        max_ratio=config.layer_max_ratio,
    )
    layers = Layers(root, limits=limits)
    workers = Workers(config.workers)
    stack.push_async_callback(workers.close)
    trash = Trash(root / "trash")
    snapshots = open_snapshots(root, trash)
    # Row 3: networks, volumes, the keeper.
    networks = Networks(config)
    await networks.start()
    stack.push_async_callback(networks.stop)
    volumes = Volumes(root, metadata, trash, bus)
    driver = KeeperDriver(config.run, config.cgroup_parent)
    await driver.open()
    stack.push_async_callback(driver.close)
    # Row 4 and 5: images, containers.
    images = _make_images(config, content, layers, metadata, workers, bus)
    stack.push_async_callback(images.close)
    cache = BuildCache(root)
    images.keep_also(cache.digests)
    # Before containers start again: after a crash of the machine it finds layers that never reached the disk.
    await images.sweep()
    machine = read_machine()
    containers = Containers(config, machine, metadata, snapshots, images, networks, volumes, driver, bus)
    stack.push_async_callback(containers.shutdown)
    await containers.restore()
    # Row 6: builds.
    filters = SeccompFilters(root / "seccomp", config.seccomp_profile)
    rooms = Rooms(
        config, machine, metadata, snapshots, images, networks, volumes, driver, bus, filters, Profiles()
    )
    builder = Builder(rooms, images, images.unpacker, cache, images.remotes)
    stack.push_async_callback(builder.close)
    door = BuildkitDoor(builder, root, _worker_labels(machine.hostname))
    stack.push_async_callback(door.close)
    driver_name = "overlayfs" if isinstance(snapshots, Overlay) else "native"
    facts = find_facts(config, cgroups, storage_driver=driver_name)
    budgeter = Budgeter(images, config.budget, containers.image_users, bus)
    if config.budget.is_set:
        stack.push_async_callback(_cancel, asyncio.create_task(budgeter.watch()))
    cleaner = asyncio.create_task(_clean(trash))
    stack.push_async_callback(_cancel, cleaner)
    return Services(
        config=config,
        facts=facts,
        bus=bus,
        images=images,
        containers=containers,
        networks=networks,
        volumes=volumes,
        snapshots=snapshots,
        driver=driver,
        cgroups=cgroups,
        budgeter=budgeter,
        builder=builder,
        buildkit=door,
    )


def _make_images(
    config: Config, content: Content, layers: Layers, metadata: Metadata, workers: Workers, bus: Bus
) -> Images:
    hosts = Hosts(config.registry_mirrors, config.insecure_registries, registries=config.registries)
    return Images(
        content,
        layers,
        metadata,
        workers,
        bus,
        root=config.root,
        remotes=Remotes(hosts),
        downloads=config.max_concurrent_downloads,
        uploads=config.max_concurrent_uploads,
        commit_compression=config.commit_compression,
        push_compression=config.push_compression,
    )


def _worker_labels(hostname: str) -> dict[str, str]:
    """What clients of BuildKit's API read of this engine; the snapshotter says that images of several platforms are
    possible (docker/buildx driver/docker/driver.go)."""
    prefix = "org.mobyproject.buildkit.worker."
    return {
        "id": f"cais-{hostname}",
        f"{prefix}executor": "cais",
        f"{prefix}hostname": hostname,
        f"{prefix}snapshotter": "overlayfs",
    }


TRASH_SECONDS = 10.0
"""Between two looks into the trash."""


async def _clean(trash: Trash) -> None:
    """Free what was removed, again and again. A failure is logged: the engine works without it."""
    while True:
        try:
            await asyncio.to_thread(trash.empty)
        except Exception:
            log.exception("emptying the trash failed")
        await asyncio.sleep(TRASH_SECONDS)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
