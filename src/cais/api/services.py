"""What the routes are given: the engine's services and the facts about the machine."""

import msgspec

from cais.api.buildkit.door import BuildkitDoor
from cais.build.builder import Builder
from cais.config import Config
from cais.containers.containers import Containers
from cais.events import Bus
from cais.images.budget import Budgeter
from cais.images.images import Images
from cais.linux.cgroups.base import Cgroups
from cais.network.networks import Networks
from cais.runtime.base import Driver
from cais.store.snapshots.base import Snapshots
from cais.volumes.local import Volumes


class Facts(msgspec.Struct, frozen=True):
    """What ``info`` and ``version`` say of the machine; found once, at start. ``missing``: limits that the
    control groups here cannot keep (``Cgroups.missing``)."""

    engine_id: str
    hostname: str
    kernel: str
    operating_system: str
    os_version: str
    architecture: str
    go_architecture: str
    cpus: int
    memory: int
    cgroup_version: str
    storage_driver: str
    backing_filesystem: str
    missing: frozenset[str] = frozenset()
    security_options: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Services(msgspec.Struct, frozen=True):
    """Everything a route may use."""

    config: Config
    facts: Facts
    bus: Bus
    images: Images
    containers: Containers
    networks: Networks
    volumes: Volumes
    snapshots: Snapshots
    driver: Driver
    cgroups: Cgroups
    budgeter: Budgeter
    builder: Builder
    buildkit: BuildkitDoor
