"""A registry in the test's own process: its application on a loop in a thread, with nothing of the hub around it."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from aiohttp import web

from cais.registry import schema
from cais.registry.catalog import SqliteCatalog
from cais.registry.database import Database
from cais.registry.files import FileBlobs
from cais.registry.gates import OpenGate
from cais.registry.http.app import RegistryApp
from cais.registry.registry import Registry

T = TypeVar("T")
DEADLINE = 20.0


@dataclass(frozen=True)
class Served:
    """A registry that listens on ``port`` of loopback, and its inside."""

    root: Path
    port: int
    registry: Registry
    database: Database
    loop: asyncio.AbstractEventLoop

    def run(self, act: Coroutine[Any, Any, T]) -> T:
        """Do something on the registry's own loop."""
        return asyncio.run_coroutine_threadsafe(act, self.loop).result(DEADLINE)

    def blob_path(self, digest: str) -> Path:
        """Where the bytes of a blob are."""
        algorithm, _, name = digest.partition(":")
        return self.root / "content" / "blobs" / algorithm / name


@contextlib.contextmanager
def serving(root: Path, *, max_blob: int = 0, neighbours: tuple[Path, ...] = ()) -> Iterator[Served]:
    """A registry on ``root``, open to everybody, on the loop that the hub uses."""
    root.mkdir(exist_ok=True)
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="registry")
    thread.start()
    try:
        database = Database(root / "hub.db", {"registry": schema.STEPS})
        registry = Registry(FileBlobs(root, neighbours), SqliteCatalog(database))
        app = RegistryApp(registry, OpenGate(), max_blob=max_blob)
        with contextlib.closing(socket.create_server(("127.0.0.1", 0), backlog=1024)) as listening:
            port = listening.getsockname()[1]
            served = Served(root, port, registry, database, loop)
            server, listener = served.run(_listen(app, listening))
            try:
                yield served
            finally:
                served.run(_stop(server, listener))
                database.close()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)
        loop.close()


async def _listen(app: RegistryApp, listening: socket.socket) -> tuple[asyncio.Server, web.Server]:
    listener = web.Server(app, access_log=None, auto_decompress=False, read_bufsize=1 << 20, lingering_time=0)
    return await asyncio.get_running_loop().create_server(listener, sock=listening), listener


async def _stop(server: asyncio.Server, listener: web.Server) -> None:
    server.close()
    await listener.shutdown(1.0)
