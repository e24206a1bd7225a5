"""What the API's routes work with, and one request to them."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from cais.errors import Denied, NotFound
from cais.hub.attachments import Attachments
from cais.hub.audit import Audit
from cais.hub.config import HubConfig
from cais.hub.files import Files
from cais.hub.gate import AccountGate
from cais.hub.images import Images
from cais.hub.people import People
from cais.hub.repositories import Repositories
from cais.hub.search import Repository, Search
from cais.hub.webhooks import Webhooks
from cais.registry.base import Caller, Gate
from cais.registry.collect import Collector, Scrubber
from cais.registry.database import Database
from cais.registry.registry import Registry


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a hub. ``gate`` says who asks, ``guard`` what it may do."""

    config: HubConfig
    database: Database
    people: People
    gate: Gate
    guard: AccountGate
    registry: Registry
    search: Search
    repositories: Repositories
    images: Images
    attachments: Attachments
    files: Files
    audit: Audit
    webhooks: Webhooks
    collector: Collector
    scrubber: Scrubber


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request that fits its route: parameters and body have the types that the table says."""

    services: Services
    request: web.BaseRequest
    caller: Caller
    path: Mapping[str, Any]
    query: Mapping[str, Any]
    body: Any = None
    document: msgspec.Raw
    """The API's own description."""

    def get_repository(self, right: str = "pull") -> Repository:
        """The one that the path names. Raises NotFound for what is not there or that the caller may not know of;
        Denied where it may know, but not do this."""
        name = self.path["name"]
        found = self.services.search.find(name)
        may = self.services.guard.may
        if found is None or not (may(self.caller, name, "pull") or may(self.caller, name, right)):
            raise NotFound(f"no such repository: {name}")
        if not may(self.caller, name, right):
            raise Denied(f"you may not do this with {name}")
        return found

    async def only_visible(self, found: list[Repository]) -> list[Repository]:
        """Those that the caller may pull: a token with limits knows less than its account."""
        names = set(await self.services.gate.visible(self.caller, [one.name for one in found]))
        return [one for one in found if one.name in names]
