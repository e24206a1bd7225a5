"""Routes of exec: create, start (hijacked), inspect, resize."""

from aiohttp import web

from cais.api.call import Call
from cais.api.detach import DetachScanner, parse_detach_keys
from cais.api.hijack import Hijacked, Relay, hijack_head
from cais.api.replies import empty_reply, json_reply
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire.exec import exec_reply
from cais.errors import CaisError
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

        A program that cannot be started is reported in the stream, as dockerd does; the CLI then asks for the exit
        code.
        """
        options = await call.body(ExecStartConfig)
        found = self._containers.exec_check(call.name)
        size = options.console_size if call.version >= (1, 42) and found.config.tty else None
        if options.detach:
            await self._containers.exec_start(call.name, detach=True, console_size=size)
            return empty_reply(200)
        tty = found.config.tty
        scanner = DetachScanner(parse_detach_keys(found.config.detach_keys)) if tty else None
        relay = Relay(call, scanner=scanner)
        # Before the program is started: docker-py drops what comes in one piece with the headers.
        relay.open(hijack_head(call, multiplexed=not tty))
        try:
            stream = await self._containers.exec_start(call.name, console_size=size)
            assert stream is not None
        except (CaisError, OSError) as error:
            message = f"{error}\r\n".encode()
            await relay.send(message if tty else format_frame(STDOUT, message))
            relay.close()
            return Hijacked()
        except BaseException:
            relay.close()
            raise
        await relay.run(stream, found.over)
        return Hijacked()
