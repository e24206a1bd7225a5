"""``cais daemon``: flags, locks, listeners, signals; the engine itself is built in ``engine.py``."""

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import uvloop

from cais.api.connection import Listener
from cais.api.guard import Guard
from cais.api.version import ENGINE_VERSION
from cais.config import Config
from cais.daemon.engine import Engine
from cais.daemon.listen import Door, open_doors
from cais.daemon.lock import locked, pid_file
from cais.daemon.notify import notify
from cais.daemon.options import OPTIONS
from cais.daemon.settings import load_config
from cais.daemon.tls import TlsConnection
from cais.errors import CaisError

log = logging.getLogger("cais")

GC_THRESHOLDS = (50_000, 20, 50)
"""Requests make few cycles: collecting after every 700 objects costs more than it finds."""

FORCE_AFTER = 3
"""Signals to stop until the engine ends at once; dockerd's number."""

HEADER_LIMIT = 32 << 10
"""Bytes of one header line; X-Registry-Auth of many registries is a few kilobytes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the engine until SIGTERM or SIGINT. The exit status: 0, or 1 after a message on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in words or "-h" in words:
        sys.stdout.write(usage())
        return 0
    if words in (["--version"], ["-v"]):
        sys.stdout.write(f"Cais version {ENGINE_VERSION}\n")
        return 0
    try:
        config, only_check = load_config(words)
        if only_check:
            sys.stderr.write("configuration OK\n")
            return 0
        start_logging(debug=config.debug)
        with run_alone(config):
            uvloop.run(serve(config))
    except (CaisError, OSError) as error:
        sys.stderr.write(f"cais daemon: {error}\n")
        return 1
    return 0


@contextlib.contextmanager
def run_alone(config: Config) -> Iterator[None]:
    """The folders are there and ours; another engine with one of them is a ``Conflict``."""
    with contextlib.ExitStack() as stack:
        for folder, mode, purpose in ((config.root, 0o710, "root folder"), (config.run, 0o711, "run folder")):
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
            stack.enter_context(locked(folder, purpose))
        stack.enter_context(pid_file(config.pidfile))
        yield


def start_logging(*, debug: bool) -> None:
    """Lines on standard error, for the service manager to keep."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)


async def serve(config: Config) -> None:
    """Build the engine, open the doors, say so, and wait for the signal to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    patience = itertools.count(1)

    def on_signal() -> None:
        stop.set()
        if next(patience) >= FORCE_AFTER:
            # Whoever asks for the third time does not want to wait; being killed is something we survive.
            os._exit(1)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(
        signal.SIGHUP, lambda: log.info("SIGHUP: the configuration is read at start only")
    )
    async with contextlib.AsyncExitStack() as stack:
        # Doors first: a wrong address is found before anything is started, and early clients wait in the
        # backlog.
        doors = open_doors(config, os.environ)
        for door in doors:
            stack.callback(door.close)
        engine = await Engine.start(config)
        stack.push_async_callback(engine.stop)
        await stack.enter_async_context(listening(engine, doors))
        freeze_memory()
        addresses = ", ".join(door.address for door in doors)
        sys.stdout.write(f"cais: ready on {addresses}\n")
        sys.stdout.flush()
        notify("READY=1", os.environ)
        await stop.wait()
        notify("STOPPING=1", os.environ)
        log.info("stopping")


@contextlib.asynccontextmanager
async def listening(engine: Engine, doors: Sequence[Door]) -> AsyncIterator[None]:
    """Answer on every door; at the end no new connections, and open ones are cut."""
    loop = asyncio.get_running_loop()
    servers: list[tuple[asyncio.Server, Listener]] = []
    for door in doors:
        handler = Guard(engine.app, any_host=door.tls is not None) if door.is_tcp else engine.app
        listener = Listener(
            handler,
            access_log=None,
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
            auto_decompress=False,
            tcp_keepalive=door.is_tcp and door.tls is None,
            lingering_time=0,
        )
        listener.make_http2 = engine.services.buildkit.accept
        serve: Callable[[], asyncio.Protocol] = listener
        if door.tls is not None:
            serve = functools.partial(TlsConnection, door.tls, listener)
        if door.is_tcp:
            server = await loop.create_server(serve, sock=door.socket)
        else:
            server = await loop.create_unix_server(serve, sock=door.socket)
        servers.append((server, listener))
    try:
        yield
    finally:
        for server, _ in servers:
            server.close()
        await asyncio.gather(*(listener.shutdown(1.0) for _, listener in servers))


def freeze_memory() -> None:
    """What start-up made stays: keep the collector from walking it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def usage() -> str:
    """The help text: one line a flag."""
    lines = ["Usage: cais daemon [OPTIONS]", "", "Run the engine in the foreground.", "", "Options:"]
    for option in sorted(OPTIONS, key=lambda each: each.flag):
        if option.refuse:
            continue
        short = f"-{option.short}, " if option.short else "    "
        kind = "" if option.is_bool else " VALUE"
        also = "".join(f" (also --{alias})" for alias in option.aliases)
        repeated = " (may be repeated)" if option.many else ""
        lines.append(f"  {short}--{option.flag}{kind}{also}{repeated}")
    lines += [
        "",
        "Example: cais daemon --host unix:///run/cais/cais.sock --root /var/lib/cais --run /run/cais",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
