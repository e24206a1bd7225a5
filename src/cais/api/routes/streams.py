"""Routes that move a container's bytes: attach (hijacked), logs, export."""

import asyncio
import time

from aiohttp import web

from cais.api.call import Call
from cais.api.detach import DetachScanner, parse_detach_keys
from cais.api.hijack import Hijacked, Relay, hijack_head
from cais.api.replies import (
    MULTIPLEXED_STREAM,
    RAW_STREAM,
    cancelled_when_gone,
    closing_parts,
    start_stream,
    stream_bytes,
)
from cais.api.router import Route
from cais.api.services import Services
from cais.api.times import parse_unix_time
from cais.containers.exportstream import export_root
from cais.containers.logs import LogsWanted
from cais.containers.record import Record
from cais.errors import Invalid
from cais.events import Event

HEAD_SECONDS = 0.003
"""Between the head of a hijacked answer and bytes that are at hand already."""


class StreamRoutes:
    """``/containers/{id}/attach``, ``logs`` and ``export``."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._containers = services.containers

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("POST", "/containers/*/attach", self.attach),
            Route("GET", "/containers/*/logs", self.logs),
            Route("GET", "/containers/*/export", self.export),
        ]

    async def attach(self, call: Call) -> web.StreamResponse:
        """The container's streams on this connection, which leaves HTTP: what was logged (``logs``), then
        what comes (``stream``)."""
        await call.read()
        record = self._containers.record(call.name)
        tty = record.config.tty
        keys = parse_detach_keys(call.text("detachKeys"))
        task = await self._containers.attach(
            record.id, stdin=call.flag("stdin"), stdout=call.flag("stdout"), stderr=call.flag("stderr")
        )
        relay = Relay(call, scanner=DetachScanner(keys) if tty else None)
        try:
            relay.open(hijack_head(call, multiplexed=not tty))
            if call.flag("logs"):
                # docker-py drops what comes in one piece with the headers: give it the time to read them.
                await asyncio.sleep(HEAD_SECONDS)
                await self._replay(call, relay, record)
        except BaseException:
            task.close()
            relay.close()
            raise
        if not call.flag("stream"):
            task.close()
            relay.close()
            return Hijacked()
        if await relay.run(task):
            attributes = {**record.config.labels, "image": record.config.image, "name": record.name}
            self._services.bus.publish(Event("container", "detach", record.id, time.time_ns(), attributes))
        return Hijacked()

    async def _replay(self, call: Call, relay: Relay, record: Record) -> None:
        wanted = LogsWanted(stdout=call.flag("stdout"), stderr=call.flag("stderr"))
        if record.host.log_config.type == "none" or not (wanted.stdout or wanted.stderr):
            return
        async with closing_parts(await self._containers.logs(record.id, wanted)) as parts:
            async for part in parts:
                await relay.send(part)

    async def logs(self, call: Call) -> web.StreamResponse:
        """What the container wrote, and with ``follow`` what it writes until it ends."""
        if not (call.flag("stdout") or call.flag("stderr")):
            raise Invalid("must specify at least one of 'stdout' or 'stderr'")
        until = call.text("until")
        wanted = LogsWanted(
            stdout=call.flag("stdout"),
            stderr=call.flag("stderr"),
            follow=call.flag("follow"),
            timestamps=call.flag("timestamps"),
            details=call.flag("details"),
            since_ns=parse_unix_time(call.text("since"), "since"),
            until_ns=parse_unix_time(until, "until") if until != "0" else 0,
            tail=_parse_tail(call.text("tail")),
        )
        record = self._containers.record(call.name)
        parts = await self._containers.logs(record.id, wanted)
        framed = not record.config.tty and call.version >= (1, 42)
        reply = await start_stream(call, MULTIPLEXED_STREAM if framed else RAW_STREAM)
        with cancelled_when_gone(call):
            async with closing_parts(parts):
                async for part in parts:
                    await reply.write(part)
        await reply.write_eof()
        return reply

    async def export(self, call: Call) -> web.StreamResponse:
        """The container's root as a tar."""
        record = self._containers.record(call.name)
        parts = export_root(record, self._services.snapshots, self._services.driver)
        return await stream_bytes(call, parts, "application/octet-stream")


def _parse_tail(text: str) -> int:
    """Lines from the end; -1 is all. What is no number means all, as with dockerd."""
    return int(text) if text.isascii() and text.isdecimal() else -1
