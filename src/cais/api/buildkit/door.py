"""All of BuildKit's API in one object: one for each engine, a server for each connection."""

from collections.abc import Mapping
from pathlib import Path

from cais.api.buildkit.control import Control
from cais.api.buildkit.failure import explain
from cais.api.buildkit.history import History
from cais.api.buildkit.jobs import Jobs
from cais.api.buildkit.posted import PostedBuilds
from cais.api.buildkit.sessions import Sessions
from cais.api.buildkit.solving import Solving
from cais.build.builder import Builder
from cais.grpc.calls import Call, Server
from cais.grpc.http2 import Connection

_HEALTH = "/grpc.health.v1.Health/Check"


class BuildkitDoor:
    """``root`` is the engine's; ``labels`` describe the worker."""

    def __init__(self, builder: Builder, root: Path, labels: Mapping[str, str]) -> None:
        self.sessions = Sessions()
        self.jobs = Jobs()
        self.solving = Solving(builder, self.sessions, self.jobs, builder.synced)
        self.history = History(root, builder.unpacker.content)
        self.control = Control(self.solving, self.sessions, self.jobs, self.history, labels)
        self.posted = PostedBuilds(self.control, self.jobs, self.sessions)
        self._servers: set[Server] = set()
        self._handlers = {**self.control.handlers, _HEALTH: _healthy}

    def accept(self) -> Connection:
        """The protocol of a new connection whose client calls us."""
        server = Server(self._handlers, explain=explain, on_lost=lambda: self._servers.discard(server))
        self._servers.add(server)
        return server.connection

    async def close(self) -> None:
        """End all connections, and with them all builds."""
        for server in list(self._servers):
            server.connection.close()
        self.sessions.close()
        await self.jobs.settle()
        await self.history.settle()


async def _healthy(call: Call) -> None:
    """``HealthCheckResponse``: SERVING."""
    await call.receive()
    await call.send(b"\x08\x01")
