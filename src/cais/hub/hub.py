"""The hub, put together top to bottom; and the work that it does by itself."""

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Self

from aiohttp import web

from cais.errors import Conflict
from cais.hub import schema as hub_schema
from cais.hub.accounts import Accounts
from cais.hub.config import HubConfig
from cais.hub.gate import AccountGate
from cais.hub.passwords import Passwords
from cais.hub.search import Labels, Search
from cais.hub.server import Answer, Measures, Server
from cais.hub.tokens import Signer, load_key
from cais.registry import schema as registry_schema
from cais.registry.base import Gate
from cais.registry.catalog import Catalog
from cais.registry.collect import Collector, Scrubber
from cais.registry.database import Database
from cais.registry.files import FileBlobs
from cais.registry.gates import OpenGate
from cais.registry.http.app import RegistryApp
from cais.registry.registry import Registry

log = logging.getLogger(__name__)
SERVICE = "cais-hub"
"""What registry tokens are for."""
FLUSH_EVERY = 5.0
SCRUB_STEPS = 24
"""Parts of ``scrub_every`` in which a part of the blobs is read."""


class Hub:
    """One process's hub on one root folder. Made by ``start``."""

    def __init__(self, config: HubConfig, database: Database) -> None:
        self.config = config
        self.database = database
        self.passwords = Passwords()
        self.accounts = Accounts(database, self.passwords, signup=config.signup, htpasswd=config.htpasswd)
        signer = Signer(load_key(config.root / "hub.key"), SERVICE)
        self.guard = AccountGate(self.accounts, database, signer, anonymous=config.anonymous_pull)
        self.gate: Gate = OpenGate() if config.open else self.guard
        self.registry = Registry(FileBlobs(config.root, config.share), Catalog(database))
        self.collector = Collector(
            self.registry, config.grace, config.upload_age, untagged=config.collect_untagged
        )
        self.scrubber = Scrubber(self.registry)
        self.search = Search(database)
        self.registry.after_push.append(Labels(database, self.registry).learn)
        self.measures = Measures()
        self.invitation = ""
        self._stack = contextlib.ExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        registry = RegistryApp(self.registry, self.gate, max_blob=config.max_blob)
        rooms: list[tuple[str, str, Answer]] = [
            ("/v2/", "registry", registry),
            ("/token", "token", self.guard.token),
            ("/metrics", "metrics", self._metrics),
            ("/", "pages", self._nothing),
        ]
        log_file = (
            self._stack.enter_context(config.access_log.open("a", buffering=1))
            if config.access_log
            else sys.stderr
        )
        self.server = Server(rooms, self.measures, log_file)

    @classmethod
    async def start(cls, config: HubConfig) -> Self:
        """Open the folder and begin the work. Raises Conflict: another hub has it open."""
        config.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(config.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Conflict(f"{config.root} is in use by another hub") from None
        database = Database(
            config.root / "hub.db", {"registry": registry_schema.STEPS, "hub": hub_schema.STEPS}
        )
        hub = cls(config, database)
        hub._stack.callback(os.close, lock)
        hub._stack.callback(database.close)
        hub._stack.callback(hub.passwords.close)
        if not config.open:
            await hub.accounts.prepare()
            hub.invitation = hub.accounts.invitation() or ""
        hub._every(FLUSH_EVERY, hub.registry.flush, "counts of pulls")
        hub._every(config.collect_every, hub._collect, "collection")
        hub._every(config.scrub_every / SCRUB_STEPS, hub._scrub, "scrub")
        return hub

    async def stop(self) -> None:
        """Finish what was begun and close."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.registry.flush()
        self._stack.close()

    def _every(self, seconds: float, act: Callable[[], Awaitable[object]], what: str) -> None:
        async def run() -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await act()
                except Exception:
                    log.exception("%s failed", what)

        self._tasks.append(asyncio.create_task(run(), name=what))

    async def _collect(self) -> None:
        done = await self.collector.collect()
        log.info("collected %s", done)

    async def _scrub(self) -> None:
        rows = self.database.read("SELECT COUNT(*) FROM blobs")
        await self.scrubber.scrub(1 + rows[0][0] // SCRUB_STEPS, self.config.scrub_every)

    async def _metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=self.measures.format(), content_type="text/plain", charset="utf-8")

    async def _nothing(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=404, text="not found\n")
