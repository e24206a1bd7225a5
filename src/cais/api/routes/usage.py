"""The route of what the engine's objects take on disk."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from cais.api.call import Call
from cais.api.replies import json_reply
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire.build import build_cache_reply
from cais.api.wire.containers import SummaryReply, summary_reply
from cais.api.wire.images import ImageSummary, image_summary
from cais.api.wire.system import DiskUsageReply
from cais.api.wire.usage import Accounts, make_accounts
from cais.api.wire.volumes import UsageData, VolumeReply, volume_reply
from cais.errors import Invalid
from cais.images.image import Image
from cais.images.sizes import shared_sizes, total_size
from cais.spec.digest import Digest
from cais.store.usage import measure_root

_KINDS = frozenset(("container", "image", "volume", "build-cache"))


class UsageRoutes:
    """``/system/df``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The table's part."""
        return [Route("GET", "/system/df", self.usage)]

    async def usage(self, call: Call) -> web.Response:
        """Images, containers and volumes with their sizes, or only the kinds asked for. ``accounts`` is ours: every
        block of the root folder, too."""
        kinds = frozenset(call.texts("type")) if call.version >= (1, 42) and call.has("type") else _KINDS
        unknown = sorted(kinds - _KINDS)
        if unknown:
            raise Invalid(f"unknown object type: {unknown[0]}")
        found = await self._services.images.list() if "image" in kinds else ()
        stacks = self._services.images.stacks(found)
        reply = DiskUsageReply(
            layers_size=total_size(stacks),
            images=self._images(call, found, shared_sizes(stacks)) if "image" in kinds else None,
            containers=await self._containers() if "container" in kinds else None,
            volumes=await asyncio.to_thread(self._volumes) if "volume" in kinds else None,
            build_cache=await asyncio.to_thread(self._builds) if "build-cache" in kinds else (),
            accounts=await self._accounts() if call.flag("accounts") else msgspec.UNSET,
        )
        return json_reply(reply)

    def _images(
        self, call: Call, images: Sequence[Image], shared: Mapping[Digest, int]
    ) -> tuple[ImageSummary, ...]:
        users = self._services.containers.image_users
        return tuple(
            image_summary(image, call.version, len(users(image.id)), shared_size=shared[image.id])
            for image in images
        )

    async def _accounts(self) -> Accounts:
        services = self._services
        blocks = await asyncio.to_thread(measure_root, services.config.root)
        images = await services.images.list()
        volumes = [volume.name for volume in services.volumes.list()]
        needs = services.images.places(images)
        return make_accounts(blocks, images, needs, services.containers.records(), volumes)

    def _builds(self) -> tuple[dict[str, Any], ...]:
        return tuple(map(build_cache_reply, self._services.builder.usage()))

    async def _containers(self) -> tuple[SummaryReply, ...]:
        found = await self._services.containers.list(all=True, size=True)
        now = time.time_ns()
        return tuple(summary_reply(each, each.record.config.image, now) for each in found)

    def _volumes(self) -> tuple[VolumeReply, ...]:
        volumes, containers = self._services.volumes, self._services.containers
        replies: list[Any] = []
        for volume in volumes.list():
            users = len(containers.volume_users(volume.name))
            usage = UsageData(ref_count=users, size=volumes.usage(volume.name))
            replies.append(volume_reply(volume, str(volumes.path(volume.name)), usage))
        return tuple(replies)
