"""Routes of containers: create, look at, change, end, remove."""

import time

from aiohttp import web

from cais.api.call import Call
from cais.api.filters import Filters, check_filters, has_any_label, has_labels
from cais.api.legacy import adapt_create
from cais.api.replies import empty_reply, json_bytes, json_reply, start_stream, wait_while_connected
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire.containers import inspect_reply, legacy_config, summary_reply
from cais.containers.record import Record
from cais.errors import CaisError, Invalid
from cais.images.filters import parse_moment_ns
from cais.spec.container import CreateRequest, ResourceUpdate
from cais.spec.platform import parse_platform

_PRUNE_FILTERS = frozenset(("label", "label!", "until"))
_CONDITIONS = ("not-running", "next-exit", "removed")


class ContainerRoutes:
    """``/containers``."""

    def __init__(self, services: Services) -> None:
        self._containers = services.containers
        self._images = services.images

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("GET", "/containers/json", self.list),
            Route("POST", "/containers/create", self.create),
            Route("POST", "/containers/prune", self.prune),
            Route("GET", "/containers/*/json", self.inspect),
            Route("GET", "/containers/*/top", self.top),
            Route("POST", "/containers/*/start", self.start),
            Route("POST", "/containers/*/stop", self.stop),
            Route("POST", "/containers/*/restart", self.restart),
            Route("POST", "/containers/*/kill", self.kill),
            Route("POST", "/containers/*/pause", self.pause),
            Route("POST", "/containers/*/unpause", self.unpause),
            Route("POST", "/containers/*/wait", self.wait),
            Route("POST", "/containers/*/rename", self.rename),
            Route("POST", "/containers/*/update", self.update),
            Route("POST", "/containers/*/resize", self.resize),
            Route("DELETE", "/containers/*", self.remove),
        ]

    async def create(self, call: Call) -> web.Response:
        """A new container; it does not run yet."""
        request, notes = adapt_create(await call.body(CreateRequest), call.version)
        text = call.text("platform") if call.version >= (1, 41) else ""
        platform = parse_platform(text) if text else None
        id, warnings = await self._containers.create(call.text("name"), request, platform=platform)
        return json_reply({"Id": id, "Warnings": [*notes, *warnings]}, status=201)

    async def list(self, call: Call) -> web.Response:
        """Running ones, or all that pass the filters."""
        found = await self._containers.list(
            all=call.flag("all"),
            limit=call.number("limit") or 0,
            filters=call.filters(),
            size=call.flag("size"),
        )
        now = time.time_ns()
        names = {}
        for record in (each.record for each in found):
            key = record.config.image, record.image_id
            if key not in names:
                names[key] = await self._shown_image(record)
        return json_reply(
            [
                summary_reply(each, names[each.record.config.image, each.record.image_id], now)
                for each in found
            ]
        )

    async def inspect(self, call: Call) -> web.Response:
        """One."""
        found = await self._containers.inspect(call.name, size=call.flag("size"))
        return json_reply(legacy_config(inspect_reply(found), call.version))

    async def top(self, call: Call) -> web.Response:
        """Its processes, by ``ps`` arguments."""
        titles, rows = await self._containers.top(call.name, call.text("ps_args"))
        return json_reply({"Processes": rows, "Titles": titles})

    async def start(self, call: Call) -> web.Response:
        """Run it."""
        length = call.request.content_length
        if length is not None and length > 7:
            raise Invalid(
                "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
            )
        if call.text("checkpoint"):
            raise Invalid("checkpoint is only supported in experimental mode")
        await self._containers.start(call.name)
        return empty_reply()

    async def stop(self, call: Call) -> web.Response:
        """Ask it to end, then make it."""
        signal, timeout = _stop_options(call)
        await self._containers.stop(call.name, signal, timeout)
        return empty_reply()

    async def restart(self, call: Call) -> web.Response:
        """Stop and start."""
        signal, timeout = _stop_options(call)
        await self._containers.restart(call.name, signal, timeout)
        return empty_reply()

    async def kill(self, call: Call) -> web.Response:
        """Send it a signal."""
        await self._containers.kill(call.name, call.text("signal"))
        return empty_reply()

    async def pause(self, call: Call) -> web.Response:
        """Freeze it."""
        await self._containers.pause(call.name)
        return empty_reply()

    async def unpause(self, call: Call) -> web.Response:
        """Let it go on."""
        await self._containers.unpause(call.name)
        return empty_reply()

    async def wait(self, call: Call) -> web.StreamResponse:
        """Its exit code, once it has one.

        Status and headers go at once (since API 1.30): the CLI waits for them before it starts the container,
        so that no end is missed; the waiting must have begun by then.
        """
        condition = call.text("condition") if call.version >= (1, 30) else ""
        if condition and condition not in _CONDITIONS:
            raise Invalid(f'invalid condition: "{condition}"')
        ended = self._containers.wait(call.name, condition)
        if call.version < (1, 30):
            code, _ = await wait_while_connected(call, ended)
            return json_reply({"StatusCode": code})
        reply = await start_stream(call)
        # dockerd's Error is for a removal that failed, not for a start: the CLI prints it beside the start's own.
        code, _ = await wait_while_connected(call, ended)
        await reply.write_eof(json_bytes({"StatusCode": code}))
        return reply

    async def rename(self, call: Call) -> web.Response:
        """Another name."""
        await self._containers.rename(call.name, call.text("name"))
        return empty_reply()

    async def update(self, call: Call) -> web.Response:
        """Other limits, another restart policy."""
        warnings = await self._containers.update(call.name, await call.body(ResourceUpdate))
        return json_reply({"Warnings": warnings or None})

    async def resize(self, call: Call) -> web.Response:
        """Another terminal size."""
        height, width = call.size("h", "height"), call.size("w", "width")
        await self._containers.resize(call.name, height, width)
        return empty_reply(200)

    async def remove(self, call: Call) -> web.Response:
        """Make it go."""
        await self._containers.remove(
            call.name, force=call.flag("force"), volumes=call.flag("v"), link=call.flag("link")
        )
        return empty_reply()

    async def prune(self, call: Call) -> web.Response:
        """Remove all that do not run. ``dry-run`` is ours: only tell which."""
        filters = call.filters()
        check_filters(filters, _PRUNE_FILTERS)
        now = time.time_ns()
        limit = min((parse_moment_ns(text, now) for text in filters.get("until", [])), default=now)
        removed: list[str] = []
        freed = 0
        for record in self._containers.records():
            if not _is_prunable(record, filters, limit):
                continue
            try:
                size = (await self._containers.inspect(record.id, size=True)).size_rw or 0
                if not call.flag("dry-run"):
                    await self._containers.remove(record.id)
            except CaisError:
                # Started or removed by somebody else meanwhile: not ours to report.
                continue
            removed.append(record.id)
            freed += size
        return json_reply({"ContainersDeleted": removed or None, "SpaceReclaimed": freed})

    async def _shown_image(self, record: Record) -> str:
        """The name it was made with, unless that means another image by now: then the image's id, as
        dockerd."""
        name = record.config.image
        try:
            same = (await self._images.resolve(name)).id == record.image_id
        except CaisError:
            same = False
        return name if same else record.image_id


def _is_prunable(record: Record, filters: Filters, created_before_ns: int) -> bool:
    labels = record.config.labels
    return (
        not record.state.running
        and record.created_ns <= created_before_ns
        and has_labels(labels, filters.get("label", []))
        and not has_any_label(labels, filters.get("label!", []))
    )


def _stop_options(call: Call) -> tuple[str, int | None]:
    signal = call.text("signal") if call.version >= (1, 42) else ""
    return signal, call.number("t")
