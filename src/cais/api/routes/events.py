"""The event stream."""

import asyncio
import time
from collections.abc import AsyncIterator

from aiohttp import web

from cais.api.call import Call
from cais.api.replies import cancelled_when_gone, json_bytes, start_stream
from cais.api.router import Route
from cais.api.times import parse_unix_time
from cais.api.wire.events import FILTERS, event_message, is_wanted
from cais.errors import Invalid
from cais.events import Bus, Event


class EventRoutes:
    """``/events``."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def routes(self) -> list[Route]:
        """The table's part."""
        return [Route("GET", "/events", self.events)]

    async def events(self, call: Call) -> web.StreamResponse:
        """Past events from ``since``, then those to come, to ``until`` or for ever. One JSON value a line."""
        since = parse_unix_time(call.text("since"), "since")
        until = parse_unix_time(call.text("until"), "until")
        if until and until < since:
            raise Invalid(
                f"`since` time ({call.text('since')}) cannot be after `until` time ({call.text('until')})"
            )
        filters = call.filters()
        unknown = next((key for key in filters if key not in FILTERS), None)
        if unknown is not None:
            raise Invalid(f"invalid filter '{unknown}'")
        reply = await start_stream(call)
        # Subscribed before the history is read: an event in between comes in neither twice nor not at all,
        # for nothing runs between the two.
        with self._bus.subscribe() as live:
            past = self._bus.history(since) if since or until else []
            for event in past:
                if (not until or event.time_ns <= until) and is_wanted(event, filters):
                    await reply.write(json_bytes(event_message(event, call.version)))
            await self._follow(call, reply, live, until, filters)
        await reply.write_eof()
        return reply

    async def _follow(
        self,
        call: Call,
        reply: web.StreamResponse,
        live: AsyncIterator[Event],
        until: int,
        filters: dict[str, list[str]],
    ) -> None:
        seconds = (until - time.time_ns()) / 1e9 if until else None
        if seconds is not None and seconds <= 0:
            return
        try:
            with cancelled_when_gone(call):
                async with asyncio.timeout(seconds):
                    async for event in live:
                        if is_wanted(event, filters):
                            await reply.write(json_bytes(event_message(event, call.version)))
        except TimeoutError:
            return
