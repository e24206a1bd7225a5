"""What containers need of the other rooms, as protocols, and the bundle that holds them."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from cais.config import Config
from cais.containers.labels import Profiles
from cais.containers.limits import Machine
from cais.containers.seccomp import SeccompFilters
from cais.events import Bus
from cais.images.image import Image
from cais.network.base import Endpoint, EndpointRequest, NetworkInfo
from cais.runtime.base import Driver
from cais.spec.platform import Platform
from cais.store.metadata import Metadata
from cais.store.snapshots.base import Snapshots
from cais.volumes.local import Volumes


class Images(Protocol):
    """The images room."""

    async def resolve(self, name_or_id: str, *, platform: Platform | None = None) -> Image:
        """Raises NotFound ``No such image: x``."""
        ...

    async def root_lowers(self, image: Image) -> tuple[str, ...]:
        """Unpack what is missing; the layers' folders, top first."""
        ...

    def note_used(self, image_id: str) -> None:
        """A container made from the image was started."""
        ...

    def acquire(self, image: Image) -> AbstractAsyncContextManager[Image]:
        """Keep the image for the time of the block, even if its names are removed meanwhile."""
        ...


class Networks(Protocol):
    """The network room: all networks."""

    async def attach(self, request: EndpointRequest) -> tuple[Endpoint, int]:
        """Endpoint and descriptor of its namespace, which the caller closes (-1: none)."""
        ...

    async def detach(self, endpoint: Endpoint) -> None:
        """Free address, ports and interface. Idempotent."""
        ...

    async def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """These live on, nothing else does."""
        ...

    def inspect(self, name: str) -> NetworkInfo:
        """Raises NotFound ``network x not found``."""
        ...


class Rooms(msgspec.Struct, frozen=True):
    """Everything containers work with."""

    config: Config
    machine: Machine
    metadata: Metadata
    snapshots: Snapshots
    images: Images
    networks: Networks
    volumes: Volumes
    driver: Driver
    bus: Bus
    filters: SeccompFilters
    profiles: Profiles
