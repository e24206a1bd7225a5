"""The route of what a container uses."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from cais.api.call import Call
from cais.api.replies import cancelled_when_gone, json_reply, stream_json
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire.stats import Sample, StatsReply, parse_system_time, stats_reply
from cais.containers.record import Record
from cais.containers.runspec import cgroup_path
from cais.linux.cgroups.base import Stats

INTERVAL = 1.0
"""Seconds between two samples."""

_TICKS = os.sysconf("SC_CLK_TCK")


class StatsRoutes:
    """``/containers/{id}/stats``."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._containers = services.containers

    def routes(self) -> list[Route]:
        """The table's part."""
        return [Route("GET", "/containers/*/stats", self.stats)]

    async def stats(self, call: Call) -> web.StreamResponse:
        """One answer, or (``stream``) one a second until the container is removed. An answer holds two samples, unless
        ``one-shot`` asks for the first alone."""
        record = self._containers.record(call.name)
        if call.flag("stream", True):
            with cancelled_when_gone(call):
                return await stream_json(call, self._follow(record.id))
        now = await self._sample(record)
        before = Sample()
        if not (call.version >= (1, 41) and call.flag("one-shot")) and now.time_ns:
            await asyncio.sleep(INTERVAL)
            before, now = now, await self._sample(record)
        return json_reply(self._reply(record, now, before))

    async def _follow(self, id: str) -> AsyncIterator[StatsReply]:
        before = Sample()
        while any(record.id == id for record in self._containers.records()):
            record = self._containers.record(id)
            now = await self._sample(record)
            yield self._reply(record, now, before)
            before = now
            await asyncio.sleep(INTERVAL)

    def _reply(self, record: Record, now: Sample, before: Sample) -> StatsReply:
        return stats_reply(record.name, record.id, now, before, self._services.facts.memory)

    async def _sample(self, record: Record) -> Sample:
        """The numbers now; an empty sample of a container that does not run."""
        if not record.state.live:
            return Sample()
        try:
            stats, system_ns = await asyncio.to_thread(self._read, record)
        except FileNotFoundError:
            # It ended since its record was read.
            return Sample()
        endpoint = next(iter(record.endpoints), None)
        return Sample(
            time_ns=time.time_ns(),
            stats=stats,
            system_ns=system_ns,
            cpus=self._services.facts.cpus,
            traffic=await self._services.networks.find_counters(endpoint) if endpoint else None,
        )

    def _read(self, record: Record) -> tuple[Stats, int]:
        path = cgroup_path(record, self._services.config)
        stat = Path("/proc/stat").read_text(encoding="ascii", errors="replace")
        return self._services.cgroups.stats(path), parse_system_time(stat, _TICKS)
