"""The route of what the engine's objects take on disk."""

import asyncio
import time
from typing import Any

from aiohttp import web

from cais.api.call import Call
from cais.api.replies import json_reply
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire.containers import SummaryReply, summary_reply
from cais.api.wire.images import ImageSummary, image_summary
from cais.api.wire.system import DiskUsageReply
from cais.api.wire.volumes import UsageData, VolumeReply, volume_reply
from cais.errors import Invalid

_KINDS = frozenset(("container", "image", "volume", "build-cache"))


class UsageRoutes:
    """``/system/df``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The table's part."""
        return [Route("GET", "/system/df", self.usage)]

    async def usage(self, call: Call) -> web.Response:
        """Images, containers and volumes with their sizes, or only the kinds asked for."""
        kinds = frozenset(call.texts("type")) if call.version >= (1, 42) and call.has("type") else _KINDS
        unknown = sorted(kinds - _KINDS)
        if unknown:
            raise Invalid(f"unknown object type: {unknown[0]}")
        images = await self._images(call) if "image" in kinds else None
        reply = DiskUsageReply(
            layers_size=sum(image.size for image in images or ()),
            images=images,
            containers=await self._containers() if "container" in kinds else None,
            volumes=await asyncio.to_thread(self._volumes) if "volume" in kinds else None,
        )
        return json_reply(reply)

    async def _images(self, call: Call) -> tuple[ImageSummary, ...]:
        containers = self._services.containers
        images = await self._services.images.list()
        return tuple(
            image_summary(image, call.version, len(containers.image_users(image.id))) for image in images
        )

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
