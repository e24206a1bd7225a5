"""``cais hub serve``: flags, listeners, signals; the hub itself is put together in ``hub.py``."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Sequence

import uvloop
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from cais.errors import CaisError, Invalid
from cais.hub.config import HubConfig, parse_config
from cais.hub.hub import Hub
from cais.hub.tls import ensure_certificate, load_context
from cais.linux.heap import keep_freed_memory

log = logging.getLogger("cais.hub")
READ_BUFFER = 1 << 20
"""Bytes of a body that may wait in memory: uploads are written in pieces of about this size."""
BACKLOG = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the hub until SIGTERM or SIGINT. The exit status: 0, or 1 after a message on standard error."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("aiohttp.server").addFilter(_is_worth_a_line)
    try:
        keep_freed_memory(64 << 20, 32 << 20, 4 << 20)  # a push of a megabyte takes a third less time for it
        config = parse_config(sys.argv[1:] if arguments is None else arguments)
        uvloop.run(serve(config))
    except (CaisError, OSError) as error:
        sys.stderr.write(f"cais hub: {error}\n")
        return 1
    return 0


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Not what is no HTTP at all: aiohttp would write a traceback for it, and anybody could fill the log with them."""
    return not (record.exc_info and isinstance(record.exc_info[1], BadHttpMessage))


async def serve(config: HubConfig) -> None:
    """Listen, say so, and wait for the signal to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        sockets = [_listen(text) for text in config.listen]
        for each in sockets:
            stack.callback(each.close)
        context = _make_tls(config)
        hub = await Hub.start(config)
        stack.push_async_callback(hub.stop)
        await stack.enter_async_context(_listening(hub, sockets, context))
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        scheme = "https" if context else "http"
        addresses = ", ".join(f"{scheme}://{_show(each)}" for each in sockets)
        sys.stdout.write(f"cais hub: ready on {addresses}\n")
        if hub.invitation:
            sys.stdout.write(
                f"cais hub: make the first account at {scheme}://{_show(sockets[0])}/signup?code={hub.invitation}\n"
            )
        sys.stdout.flush()
        await stop.wait()


@contextlib.asynccontextmanager
async def _listening(
    hub: Hub, sockets: Sequence[socket.socket], context: ssl.SSLContext | None
) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    listener = web.Server(
        hub.server, access_log=None, auto_decompress=False, read_bufsize=READ_BUFFER, lingering_time=0
    )
    servers = [
        await loop.create_server(listener, sock=each, ssl=context, backlog=BACKLOG) for each in sockets
    ]
    try:
        yield
    finally:
        for server in servers:
            server.close()
        await listener.shutdown(1.0)


def _make_tls(config: HubConfig) -> ssl.SSLContext | None:
    if config.tls_cert and config.tls_key:
        return load_context(config.tls_cert, config.tls_key)
    if config.tls_self_signed:
        hosts = {text.rpartition(":")[0].strip("[]") for text in config.listen} - {"", "0.0.0.0", "::"}
        return load_context(*ensure_certificate(config.root / "tls", hosts))
    return None


def _listen(text: str) -> socket.socket:
    host, _, port = text.rpartition(":")
    if not port.isdigit():
        raise Invalid(f"--listen {text!r}: want address:port")
    host = host.strip("[]") or "127.0.0.1"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Invalid(f"cannot listen on {text}: {error.strerror or error}") from None


def _show(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
