"""Routes of exec: create, start (hijacked), inspect, resize."""

import socket

from aiohttp import web

from cais.api.call import Call
from cais.api.detach import DetachScanner, parse_detach_keys
from cais.api.hijack import Hijacked, Relay, hijack_head
from cais.api.replies import empty_reply, json_reply
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire.exec import exec_reply
from cais.errors import Invalid, TaskFailed
from cais.spec.container import ExecConfig, ExecStartConfig
from cais.spec.multiplex import STDOUT, format_frame


class ExecRoutes:
    """``/containers/{id}/exec`` and ``/exec``."""

    def __init__(self, services: Services) -> None:
        self._containers = services.containers

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("POST", "/containers/*/exec", self.create),
            Route("POST", "/exec/*/start", self.start),
            Route("POST", "/exec/*/resize", self.resize),
            Route("GET", "/exec/*/json", self.inspect),
        ]

    async def create(self, call: Call) -> web.Response:
        """Prepare one; nothing runs yet."""
        config = await call.body(ExecConfig)
        parse_detach_keys(config.detach_keys)
        return json_reply({"Id": self._containers.exec_create(call.name, config)}, status=201)

    async def inspect(self, call: Call) -> web.Response:
        """Its configuration, and its exit code once it has ended."""
        return json_reply(exec_reply(self._containers.exec_inspect(call.name)))

    async def resize(self, call: Call) -> web.Response:
        """Set the terminal's size."""
        height, width = call.size("h", "height"), call.size("w", "width")
        await self._containers.exec_resize(call.name, height, width)
        return empty_reply(200)

    async def start(self, call: Call) -> web.StreamResponse:
        """Run it: detached, or on this connection, which leaves HTTP for that.

        A program that cannot be started is reported in the stream, as dockerd does; the CLI then asks for the
        exit code.
        """
        options = await call.body(ExecStartConfig)
        found = self._containers.exec_inspect(call.name)
        if options.tty != found.config.tty and not options.detach and options.tty:
            raise Invalid("exec was created without a terminal")
        size = options.console_size if call.version >= (1, 42) and found.config.tty else None
        if options.detach:
            await self._containers.exec_start(call.name, detach=True, console_size=size)
            return empty_reply(200)
        tty = found.config.tty
        try:
            stream = await self._containers.exec_start(call.name, detach=False, console_size=size)
        except TaskFailed as error:
            return await self._fail(call, f"{error}\r\n".encode(), tty=tty)
        assert stream is not None
        return await self._join(call, stream, found.config)

    async def _fail(self, call: Call, message: bytes, *, tty: bool) -> Hijacked:
        relay = Relay(call)
        relay.open(hijack_head(call, multiplexed=not tty))
        await relay.send(message if tty else format_frame(STDOUT, message))
        relay.close()
        return Hijacked()

    async def _join(self, call: Call, stream: socket.socket, config: ExecConfig) -> Hijacked:
        scanner = DetachScanner(parse_detach_keys(config.detach_keys)) if config.tty else None
        relay = Relay(call, scanner=scanner)
        try:
            relay.open(hijack_head(call, multiplexed=not config.tty))
        except BaseException:
            stream.close()
            raise
        await relay.run(stream)
        return Hijacked()
