"""A real server on a real unix socket, with the routes a test gives it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from cais.api.app import App
from cais.api.connection import Listener
from cais.api.router import Route

Serve = Callable[[list[Route]], Awaitable[str]]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop the engine runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """``await serve(routes)`` starts a server and returns its socket's path."""
    servers: list[tuple[asyncio.Server, Listener]] = []

    async def start(routes: list[Route]) -> str:
        path = str(tmp_path / f"{len(servers)}.sock")
        listener = Listener(App(routes), access_log=None)
        server = await asyncio.get_running_loop().create_unix_server(listener, path)
        servers.append((server, listener))
        return path

    yield start
    for server, listener in servers:
        server.close()
        await listener.shutdown(1)


async def exchange(path: str, *parts: bytes, half_close: bool = True) -> bytes:
    """Send ``parts``, each in a write of its own, and return all that comes back until the server closes."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if half_close:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.fixture(name="exchange")
def exchange_fixture() -> Callable[..., Awaitable[bytes]]:
    """The function above: test modules have no package to import it from."""
    return exchange
