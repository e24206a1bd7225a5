"""The hub, put together top to bottom; and the work that it does by itself."""

import asyncio
import contextlib
import functools
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Self, TextIO

from cais.hub import schema as hub_schema
from cais.hub.api.app import PREFIXES, ApiApp
from cais.hub.api.services import Services
from cais.hub.attachments import Attachments
from cais.hub.audit import Audit
from cais.hub.clock import WallClock
from cais.hub.config import HubConfig
from cais.hub.courier import Courier
from cais.hub.files import Files
from cais.hub.gate import AccountGate
from cais.hub.images import Images
from cais.hub.metrics import Metrics
from cais.hub.pages.pages import Pages
from cais.hub.pages.site import Services as PageServices
from cais.hub.passwords import Passwords
from cais.hub.people import People
from cais.hub.repositories import Repositories
from cais.hub.search import Labels, Search
from cais.hub.server import Answer, Measures, Server, local_hosts, parse_own_origin, parse_proxies
from cais.hub.tokens import Signer, load_key
from cais.hub.webhooks import Webhooks
from cais.registry import schema as registry_schema
from cais.registry.base import Gate
from cais.registry.catalog import SqliteCatalog
from cais.registry.collect import Collector, Scrubber
from cais.registry.database import Database
from cais.registry.files import FileBlobs
from cais.registry.gates import OpenGate
from cais.registry.http.app import RegistryApp
from cais.registry.leases import collecting, holding_root
from cais.registry.origins import parse_origin
from cais.registry.registry import Registry
from cais.registry.retention import apply as apply_retention
from cais.registry.upstreams import Upstreams

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
        self.people = People.open(
            database,
            self.passwords,
            signup=config.signup,
            htpasswd=config.htpasswd,
            admins=config.admin,
            taken=[text.partition("=")[0].partition("/")[0] for text in config.upstream],
        )
        origin = parse_own_origin(config.origin)
        signer = Signer(load_key(config.root / "hub.key"), SERVICE)
        self.guard = AccountGate(
            self.people, database, signer, anonymous=config.anonymous_pull, origin=origin
        )
        self.gate: Gate = OpenGate() if config.open else self.guard
        self.registry = Registry(
            FileBlobs(config.root, config.share),
            SqliteCatalog(database),
            drops_untagged=config.collect_untagged,
        )
        self.upstreams: Upstreams | None = None
        if config.upstream:
            self.upstreams = Upstreams(
                self.registry,
                [parse_origin(text) for text in config.upstream],
                expiry=config.upstream_expiry,
                allow_private=config.allow_private,
            )
            self.registry.upstreams = self.upstreams
            self.guard.find_origin = self.upstreams.find_origin
        self.collector = Collector(
            self.registry,
            config.grace,
            config.upload_age,
            lease=functools.partial(collecting, config.root),
        )
        self.scrubber = Scrubber(self.registry)
        self.search = Search(database)
        self.repositories = Repositories(database, self.people.namespaces)
        self.images = Images(database, self.registry)
        self.attachments = Attachments(self.registry)
        self.files = Files(self.registry)
        self.audit = Audit(database)
        self.webhooks = Webhooks(database, self.people.namespaces, allow_private=config.allow_private)
        self.courier = Courier(database, allow_private=config.allow_private)
        self.registry.after_push.append(Labels(database, self.registry).learn)
        self.measures = Measures()
        self._clock = WallClock()
        self.invitation = ""
        self._stack = contextlib.ExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.server = self._make_server(origin)

    def _make_server(self, origin: str) -> Server:
        config = self.config
        registry = RegistryApp(self.registry, self.gate, max_blob=config.max_blob)
        rooms: list[tuple[str, str, Answer]] = [
            ("/v2/", "registry", registry),
            ("/token", "token", self.guard.token),
            ("/metrics", "metrics", Metrics(self.measures, self.gate, open=config.open_metrics)),
            *self._api_rooms(registry),
            ("/", "pages", self._make_pages()),
        ]
        log_file: TextIO = sys.stderr
        if config.access_log:
            log_file = self._stack.enter_context(config.access_log.open("a", buffering=1, encoding="utf-8"))
        return Server(
            rooms,
            self.measures,
            log_file,
            proxies=parse_proxies(config.proxies),
            hosts=local_hosts(config.listen, origin) if config.open else None,
        )

    def _make_pages(self) -> Pages:
        return Pages(
            PageServices(
                name=self.config.name,
                people=self.people,
                guard=None if self.config.open else self.guard,
                search=self.search,
                registry=self.registry,
                database=self.database,
                collector=self.collector,
                webhooks=self.webhooks,
                images=self.images,
                attachments=self.attachments,
                files=self.files,
                repositories=self.repositories,
                audit=self.audit,
                anonymous=self.config.anonymous_pull,
            )
        )

    def _api_rooms(self, registry: Answer) -> list[tuple[str, str, Answer]]:
        services = Services(
            config=self.config,
            database=self.database,
            people=self.people,
            gate=self.gate,
            guard=self.guard,
            registry=self.registry,
            search=self.search,
            repositories=self.repositories,
            images=self.images,
            attachments=self.attachments,
            files=self.files,
            audit=self.audit,
            webhooks=self.webhooks,
            collector=self.collector,
            scrubber=self.scrubber,
        )
        api = ApiApp(services, registry)
        return [(prefix, "api", api) for prefix in PREFIXES]

    @classmethod
    async def start(cls, config: HubConfig) -> Self:
        """Open the folder and begin the work. Raises Conflict: another hub has it open."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(holding_root(config.root))
            schemas = {"registry": registry_schema.STEPS, "hub": hub_schema.STEPS}
            database = Database(config.root / "hub.db", schemas)
            stack.callback(database.close)
            hub = cls(config, database)
            hub._stack.push(stack.pop_all())
        hub._stack.callback(hub.passwords.close)
        await hub.registry.recover()
        if not config.open:
            await hub.people.accounts.prepare()
            hub.invitation = hub.people.accounts.invitation() or ""
        hub._every(FLUSH_EVERY, hub.registry.flush, "counts of pulls")
        hub._every(FLUSH_EVERY, hub.people.tokens.flush, "uses of tokens")
        hub._tasks.append(asyncio.create_task(hub.courier.run(), name="webhooks"))
        hub._every(config.collect_every, hub._collect, "collection")
        hub._every(config.scrub_every / SCRUB_STEPS, hub._scrub, "scrub")
        return hub

    async def stop(self) -> None:
        """Finish what was begun and close."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.upstreams is not None:
            await self.upstreams.close()
        await self.registry.flush()
        await self.people.tokens.flush()
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
        removed = []
        if self._clock.is_steady():
            removed = await apply_retention(self.registry, self.database, time.time_ns())
        done = await self.collector.collect()
        await self.registry.blobs.settle()
        log.info("collected %s; %d tags by rules of retention", done, len(removed))

    async def _scrub(self) -> None:
        rows = self.database.read("SELECT COUNT(*) FROM blobs")
        await self.scrubber.scrub(1 + rows[0][0] // SCRUB_STEPS, self.config.scrub_every)
